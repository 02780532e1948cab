// kernels/accumulate.h -- into += from, the engine's sum of gradient contributions
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"

namespace avid::kernels {

/// into[i] += from[i] for i < n. Buffers of whole pitched rows: zero gaps stay zero.
void accumulate(float* into, const float* from, std::int64_t n);
void accumulate(double* into, const double* from, std::int64_t n);

/// The same on a device. Elem is float or BFloat16 (added in f32, rounded once).
template <class Backend, class Elem>
void accumulate(const Stream& stream, Elem* into, const Elem* from, std::int64_t n);

}  // namespace avid::kernels
