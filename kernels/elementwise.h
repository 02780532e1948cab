// kernels/elementwise.h -- activations, sum, multiple, over whole buffers (contract: tensor/ops/elementwise.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"

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
/// x = min(max(x, -1), 1) in place; NaN stays NaN.
template <class Elem>
void clamp_unit(Elem* x, std::int64_t n);
/// Whether no element is infinite or NaN.
template <class Elem>
bool all_finite(const Elem* x, std::int64_t n);

// ---- on a device: Elem is float or BFloat16, arithmetic is f32; buffers start at 16-byte boundaries ----

template <class Backend, class Elem>
void silu_fwd(const Stream& stream, const Elem* x, Elem* out, std::int64_t n);
template <class Backend, class Elem>
void silu_bwd(const Stream& stream, const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n);
template <class Backend, class Elem>
void gelu_fwd(const Stream& stream, const Elem* x, Elem* out, std::int64_t n);
template <class Backend, class Elem>
void gelu_bwd(const Stream& stream, const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n);
template <class Backend, class Elem>
void add_fwd(const Stream& stream, const Elem* a, const Elem* b, Elem* out, std::int64_t n);
template <class Backend, class Elem>
void scale_fwd(const Stream& stream, const Elem* x, float factor, Elem* out, std::int64_t n);
template <class Backend, class Elem>
void clamp_unit(const Stream& stream, Elem* x, std::int64_t n);
/// Sets *found (a device word, zero before) to 1 if some element is infinite or NaN.
template <class Backend, class Elem>
void find_non_finite(const Stream& stream, const Elem* x, std::int64_t n, std::int32_t* found);

}  // namespace avid::kernels
