// kernels/philox_cpu.cpp -- arrays of random numbers, many Philox blocks at a time
//
// Layout     numbers are made in batches of 64 blocks (256 numbers), word i of all blocks side by side, so that every
//            step is one SIMD loop; a batch that sticks out of the array at either end is made whole and cut
// Traffic    writes the output once; bound by arithmetic (about 100 integer and 40 float operations per number)
// Numerics   f32 normal numbers never convert u near 1: ln u = log1p(-(2^32 - 1 - w0) / 2^32), where the integer is
//            small
#include "kernels/philox.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

constexpr int kBlocks = 64;             // Philox blocks per batch
constexpr int kBatch = 4 * kBlocks;     // numbers per batch
constexpr std::int64_t kChunkRows = 4;  // at least this many batches per thread before threads are used

/// Words of blocks first_block .. first_block + 63; word i of block b at words[i][b].
void philox_batch(const PhiloxStream& stream, std::uint64_t first_block, std::uint32_t (&words)[4][kBlocks]) {
  std::uint32_t(&c0)[kBlocks] = words[0], (&c1)[kBlocks] = words[1], (&c2)[kBlocks] = words[2],
  (&c3)[kBlocks] = words[3];
#pragma omp simd
  for (int b = 0; b < kBlocks; ++b) {
    const std::uint64_t block = first_block + static_cast<std::uint64_t>(b);
    c0[b] = static_cast<std::uint32_t>(block);
    c1[b] = (static_cast<std::uint32_t>(block >> 32) & 0xffffu) | std::uint32_t{stream.tag} << 16;
    c2[b] = static_cast<std::uint32_t>(stream.step);
    c3[b] = static_cast<std::uint32_t>(stream.step >> 32);
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(stream.seed), k1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int b = 0; b < kBlocks; ++b) {
      const std::uint64_t product0 = std::uint64_t{kPhiloxMul0} * c0[b], product1 = std::uint64_t{kPhiloxMul1} * c2[b];
      c0[b] = static_cast<std::uint32_t>(product1 >> 32) ^ c1[b] ^ k0;
      c2[b] = static_cast<std::uint32_t>(product0 >> 32) ^ c3[b] ^ k1;
      c1[b] = static_cast<std::uint32_t>(product1);
      c3[b] = static_cast<std::uint32_t>(product0);
    }
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
}

/// sqrt(-2 ln((w + 1) / 2^32))
inline float box_muller_radius(std::uint32_t w) {
  // Upper part of (0, 1]: f = u - 1 from the exact small integer 2^32 - 1 - w. Below sqrt(1/2): split off the exponent.
  const bool upper = w >= 0xB504F333u;
  const float near_one = static_cast<float>(static_cast<std::int32_t>(~w & 0x7fffffffu)) * -0x1p-32f;
  const float u = (static_cast<float>(static_cast<std::int32_t>(w >> 8)) * 256.0f +
                   static_cast<float>(static_cast<std::int32_t>(w & 0xffu) + 1)) *
                  0x1p-32f;
  const std::int32_t bits = std::bit_cast<std::int32_t>(u) - 0x3f3504f3;
  const float m = std::bit_cast<float>((bits & 0x7fffff) + 0x3f3504f3);
  const float f = upper ? near_one : m - 1.0f;
  const float exponent = upper ? 0.0f : static_cast<float>(bits >> 23);
  return std::sqrt(-2.0f * log1p_reduced_f32(f, exponent));
}

/// cos and sin of 2 pi w / 2^32
inline void box_muller_angle(std::uint32_t w, float& cosine, float& sine) {
  const std::uint32_t quadrant = (w + 0x20000000u) >> 30;  // nearest multiple of pi/2, modulo 4
  const auto rest = static_cast<std::int32_t>(w - (quadrant << 30));
  const float a = static_cast<float>(rest) * 1.4629180792671596e-09f;  // pi/2 / 2^30; |a| <= pi/4
  const float a2 = a * a;
  float s = -1.9515295891e-4f;  // minimax polynomials on [-pi/4, pi/4]
  s = std::fma(s, a2, 8.3321608736e-3f);
  s = std::fma(s, a2, -1.6666654611e-1f);
  s = std::fma(s * a2, a, a);
  float c = 2.443315711809948e-5f;
  c = std::fma(c, a2, -1.388731625493765e-3f);
  c = std::fma(c, a2, 4.166664568298827e-2f);
  c = std::fma(c * a2, a2, std::fma(a2, -0.5f, 1.0f));
  const bool swap = (quadrant & 1u) != 0;
  const float cos_part = swap ? s : c, sin_part = swap ? c : s;
  cosine = ((quadrant + 1u) & 2u) != 0 ? -cos_part : cos_part;  // quadrants 1 and 2
  sine = (quadrant & 2u) != 0 ? -sin_part : sin_part;           // quadrants 2 and 3
}

void normal_batch(const std::uint32_t (&words)[4][kBlocks], float* out) {
  float z[4][kBlocks];
  for (int pair = 0; pair < 4; pair += 2) {
    const std::uint32_t* radius_words = words[pair];
    const std::uint32_t* angle_words = words[pair + 1];
    float* first = z[pair];
    float* second = z[pair + 1];
#pragma omp simd
    for (int b = 0; b < kBlocks; ++b) {
      const float r = box_muller_radius(radius_words[b]);
      float cosine = 0, sine = 0;
      box_muller_angle(angle_words[b], cosine, sine);
      first[b] = r * cosine;
      second[b] = r * sine;
    }
  }
  for (int b = 0; b < kBlocks; ++b)
    for (int i = 0; i < 4; ++i) out[4 * b + i] = z[i][b];
}

void normal_batch(const std::uint32_t (&words)[4][kBlocks], double* out) {
  for (int b = 0; b < kBlocks; ++b) {
    for (int pair = 0; pair < 4; pair += 2) {
      const double w = words[pair][b];
      const double log_u = w >= 0x1p31 ? std::log1p((w + 1 - 0x1p32) * 0x1p-32) : std::log((w + 1) * 0x1p-32);
      const double r = std::sqrt(-2 * log_u), angle = 2 * std::numbers::pi * 0x1p-32 * words[pair + 1][b];
      out[4 * b + pair] = r * std::cos(angle);
      out[4 * b + pair + 1] = r * std::sin(angle);
    }
  }
}

/// Calls make(words, numbers) for every batch that overlaps [first, first + rows * cols) and copies the overlap into
/// the rows.
template <class Elem, class Make>
void fill_in_batches(
    Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first, Make&& make) {
  const std::int64_t count = rows * cols;
  if (count == 0) return;
  const std::uint64_t first_batch = first / kBatch;
  const auto num_batches =
      static_cast<std::int64_t>((first + static_cast<std::uint64_t>(count) - 1) / kBatch - first_batch) + 1;
#pragma omp parallel for schedule(static) if (num_batches >= 2 * kChunkRows)
  for (std::int64_t i = 0; i < num_batches; ++i) {
    const std::uint64_t batch = first_batch + static_cast<std::uint64_t>(i);
    alignas(64) std::uint32_t words[4][kBlocks];
    alignas(64) Elem numbers[kBatch];
    philox_batch(stream, batch * kBlocks, words);
    make(words, numbers);
    const std::int64_t offset =
        static_cast<std::int64_t>(batch * kBatch - first);  // array position of numbers[0], maybe < 0
    std::int64_t position = std::max<std::int64_t>(offset, 0);
    const std::int64_t end = std::min(offset + kBatch, count);
    while (position < end) {  // row by row
      const std::int64_t row = position / cols, col = position % cols;
      const std::int64_t length = std::min(cols - col, end - position);
      std::copy_n(numbers + (position - offset), length, out + row * pitch + col);
      position += length;
    }
  }
}

template <class Elem>
void normal_fill_rows(
    Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first) {
  fill_in_batches(out, rows, cols, pitch, stream, first, [](const std::uint32_t(&words)[4][kBlocks], Elem* numbers) {
    normal_batch(words, numbers);
  });
}

template <class Elem>
void uniform_fill_rows(
    Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first, double low, double high) {
  const double span = (high - low) * 0x1p-24;
  const Elem limit = static_cast<Elem>(high), below = std::nextafter(limit, static_cast<Elem>(low));
  fill_in_batches(out, rows, cols, pitch, stream, first, [=](const std::uint32_t(&words)[4][kBlocks], Elem* numbers) {
    for (int b = 0; b < kBlocks; ++b) {
      for (int i = 0; i < 4; ++i) {
        const auto v = static_cast<Elem>(low + span * (words[i][b] >> 8));
        numbers[4 * b + i] = v < limit ? v : below;
      }
    }
  });
}

}  // namespace

void normal_fill(
    float* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first) {
  normal_fill_rows(out, rows, cols, pitch, stream, first);
}
void normal_fill(
    double* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first) {
  normal_fill_rows(out, rows, cols, pitch, stream, first);
}
void uniform_fill(
    float* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first, double low, double high) {
  uniform_fill_rows(out, rows, cols, pitch, stream, first, low, high);
}
void uniform_fill(
    double* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, const PhiloxStream& stream,
    std::uint64_t first, double low, double high) {
  uniform_fill_rows(out, rows, cols, pitch, stream, first, low, high);
}

}  // namespace avid::kernels
