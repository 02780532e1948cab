// kernels/elementwise.h -- activations, sum, multiple, over whole buffers (contract: tensor/ops/elementwise.h)
#pragma once

#include <cstdint>

namespace avid::kernels {

// Elem is float or double. `n` counts all elements of a buffer, gaps included: every function here maps zeros to zero.

template <class Elem>
void silu_fwd(const Elem* x, Elem* out, std::int64_t n);
template <class Elem>
void silu_bwd(const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n);
template <class Elem>
void gelu_fwd(const Elem* x, Elem* out, std::int64_t n);
template <class Elem>
void gelu_bwd(const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n);
template <class Elem>
void add_fwd(const Elem* a, const Elem* b, Elem* out, std::int64_t n);
template <class Elem>
void scale_fwd(const Elem* x, Elem factor, Elem* out, std::int64_t n);

}  // namespace avid::kernels
