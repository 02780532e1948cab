// kernels/sim/rounding.h -- how tensor cores round their sums
//
// Nothing of it is documented; measured on A100 (Fasi, Higham, Mikaitis, Pranesh 2021, "Numerical behavior of NVIDIA
// tensor cores"): the products of a step and the accumulator are added with two or three bits more than f32 has, and
// the sum is cut, not rounded, to f32. A step is 8 products of two-byte elements, 4 of TF32. So a long sum in an
// accumulator shrinks, in proportion to the number of its steps. Here the addition of a step is exact, the cut is the
// same; wgmma is taken to do as mma does.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace avid::kernels::simulator {

inline constexpr int kTermsBf16 = 8, kTermsTf32 = 4;  ///< products of a step

/// The next float towards zero. NaN, the infinities and what becomes one stay.
inline float cut_to_float(double v) {
  const auto nearest = static_cast<float>(v);
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  const bool farther = std::abs(static_cast<double>(nearest)) > std::abs(v) && (bits & 0x7f800000u) != 0x7f800000u;
  return std::bit_cast<float>(bits - (farther ? 1u : 0u));
}

}  // namespace avid::kernels::simulator
