// kernels/frames.h -- between bytes and [-1,1] (contract: tensor/ops/frames.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// out = u / 255 * 2 - 1 with a true division, in Elem (float or double)
template <class Elem>
void frames_from_u8(Rows<const std::uint8_t> u, std::int64_t num_rows, std::int64_t C, Rows<Elem> out);
/// out = trunc(clamp((x + 1) / 2 * 255, 0, 255)); NaN becomes 0
template <class Elem>
void frames_to_u8(Rows<const Elem> x, std::int64_t num_rows, std::int64_t C, Rows<std::uint8_t> out);

// ---- on a device: Elem is float or BFloat16; arithmetic is f32, so that f32 gives the bits of the CPU ----

/// Rows of out start at 16-byte boundaries; their gaps become zero.
template <class Backend, class Elem>
void frames_from_u8(
    const Stream& stream, Rows<const std::uint8_t> u, std::int64_t num_rows, std::int64_t C, Rows<Elem> out);
template <class Backend, class Elem>
void frames_to_u8(
    const Stream& stream, Rows<const Elem> x, std::int64_t num_rows, std::int64_t C, Rows<std::uint8_t> out);

}  // namespace avid::kernels
