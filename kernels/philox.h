// kernels/philox.h -- Philox4x32-10 and arrays of uniform and normal numbers made from it
//
// Math       ten rounds of two 32 x 32 -> 64 bit products on four counter words, the key raised by a Weyl constant each
//            round
// Source     Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3 and figure
//            2. Box and Muller 1958 for the normal numbers. Deviations: none.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/device/backend.h"

namespace avid::kernels {

inline constexpr std::uint32_t kPhiloxMul0 = 0xD2511F53, kPhiloxMul1 = 0xCD9E8D57;
inline constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9, kPhiloxWeyl1 = 0xBB67AE85;

/// Four pseudo-random words, a bijection of the counter for every key.
inline std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{kPhiloxMul0} * c[0], product1 = std::uint64_t{kPhiloxMul1} * c[2];
    c = {
        static_cast<std::uint32_t>(product1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(product1),
        static_cast<std::uint32_t>(product0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(product0)};
    k = {k[0] + kPhiloxWeyl0, k[1] + kPhiloxWeyl1};
  }
  return c;
}

/// A stream of words: block i has counter (low(i), high(i) & 0xffff | tag << 16, low(step), high(step)).
struct PhiloxStream {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint16_t tag = 0;

  std::array<std::uint32_t, 4> block(std::uint64_t i) const {
    return philox4x32_10(
        {static_cast<std::uint32_t>(i), (static_cast<std::uint32_t>(i >> 32) & 0xffffu) | std::uint32_t{tag} << 16,
         static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32)},
        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  }
};

/// out[r * pitch + c] = normal number `first + r * cols + c` of the stream, for r < rows, c < cols; gaps untouched.
///
/// Words (w0, w1) of a block give numbers 0 and 1, words (w2, w3) numbers 2 and 3, by
///   u = (w0 + 1) / 2^32 in (0, 1],   angle = 2 pi w1 / 2^32,   r = sqrt(-2 ln u),   (r cos angle, r sin angle)
/// f64 evaluates this with the library; f32 with polynomials that differ from it by at most 2e-6 (largest |value| 6.7).
/// Every number depends on its position only: same bits for any thread count and any way of cutting the array.
void normal_fill(
    float* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first);
void normal_fill(
    double* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first);

/// out = low + (high - low) * (word >> 8) / 2^24, computed in f64, rounded, and kept below high.
void uniform_fill(
    float* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first, double low, double high);
void uniform_fill(
    double* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first, double low, double high);

// ---- on a device: Elem is float or BFloat16. f32: the CPU's numbers; bf16: those, rounded ----

template <class Backend, class Elem>
void normal_fill(
    const Stream& stream, Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch,
    const PhiloxStream& numbers, std::uint64_t first);
template <class Backend, class Elem>
void uniform_fill(
    const Stream& stream, Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch,
    const PhiloxStream& numbers, std::uint64_t first, double low, double high);

}  // namespace avid::kernels
