// kernels/rms_norm_film_silu_cpu_fast.cpp -- RMSNorm, FiLM, SiLU and residual: f32 with SIMD and threads
//
// Math       kernels/rms_norm_film_silu_cpu.cpp
// Layout     rows of `pitch` f32, gaps included: gamma, scale and shift are padded with zeros, so that a gap computes to zero.
//            Pitches up to 64 are compile-time constants: the loops over channels become straight SIMD code.
// Launch     one item per 1024 rows of a frame; inside, tiles of rows that fit the first-level cache
// Traffic    forward reads x (and residual), writes out; backward reads x and d_out, writes d_x; each once
// Numerics   column sums: f32 over at most 64 rows, then f64 in row order; items are added in order. Items do not depend on the
//            number of threads, so neither do the bits
// Oracle     kernels/rms_norm_film_silu_cpu.cpp, compared in tests/kernels/rms_norm_film_silu_test.cpp
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/rms_norm_film_silu.h"
#include "kernels/threads.h"
#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kItemRows = 1024;  // rows per work item
constexpr int kMaxTileRows = 64;          // rows per tile, and the most that are summed in f32
constexpr int kTileElements = 2048;       // 8 KiB per operand: x, d_out and d_x of a tile stay in the first-level cache
constexpr int kMaxFixedPitch = 64;        // widest row with its own instance of the loops

using Args = RmsNormFilmSiluArgs<float>;
using Grads = RmsNormFilmSiluGrads<float>;

/// One work item: `rows` rows of one frame from row `first` on.
struct Item {
  std::int64_t frame, first, rows;
};

std::int64_t items_per_frame(std::int64_t S) { return (S + kItemRows - 1) / kItemRows; }

Item item_of(const Args& p, std::int64_t index) {
  const std::int64_t per_frame = items_per_frame(p.S), frame = index / per_frame, begin = index % per_frame * kItemRows;
  return {frame, frame * p.S + begin, std::min(kItemRows, p.S - begin)};
}

/// z = u * factor + shift for one frame, padded with zeros to the pitch.
struct FrameAffine {
  std::vector<float> factor, shift;

  FrameAffine(const Args& p, std::int64_t frame)
      : factor(static_cast<std::size_t>(p.x.pitch)), shift(static_cast<std::size_t>(p.x.pitch)) {
    const float* film = p.film ? p.film.row(frame) : nullptr;
    for (std::int64_t c = 0; c < p.C; ++c) {
      factor[static_cast<std::size_t>(c)] = film != nullptr ? p.gamma[c] * (film[c] + 1.0f) : p.gamma[c];
      shift[static_cast<std::size_t>(c)] = film != nullptr ? film[p.C + c] : 0.0f;
    }
  }
};

int tile_rows(int pitch) { return std::clamp(kTileElements / pitch, 4, kMaxTileRows); }

/// ||x|| of each row.
template <int kPitch> void row_norms(const float* x, int rows, int pitch, float* norm) {
  const int P = kPitch > 0 ? kPitch : pitch;
  for (int i = 0; i < rows; ++i) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < P; ++c) sum += x[i * P + c] * x[i * P + c];
    norm[i] = sum;
  }
#pragma omp simd
  for (int i = 0; i < rows; ++i) norm[i] = std::sqrt(norm[i]);
}

/// A NaN row factor turns zero gaps into NaN; put the zeros back.
void clear_gaps(float* rows, int num_rows, int pitch, int C) {
  for (int i = 0; i < num_rows; ++i) std::fill(rows + i * pitch + C, rows + (i + 1) * pitch, 0.0f);
}

template <int kPitch, bool kResidual> void forward_item(
    const float* x, const float* residual, float* out, std::int64_t rows, int pitch, int C, const float* factor, const float* shift) {
  const int P = kPitch > 0 ? kPitch : pitch;
  const int step = tile_rows(P);
  const float root_c = std::sqrt(static_cast<float>(C)), floor = static_cast<float>(kRmsNormFloor);
  for (std::int64_t done = 0; done < rows; done += step) {
    const int count = static_cast<int>(std::min<std::int64_t>(step, rows - done));
    const std::int64_t offset = done * P;
    float r[kMaxTileRows];
    row_norms<kPitch>(x + offset, count, P, r);
    int num_nan = 0;
#pragma omp simd reduction(+ : num_nan)
    for (int i = 0; i < count; ++i) {
      r[i] = root_c / (r[i] < floor ? floor : r[i]);
      num_nan += r[i] != r[i];
    }
    for (int i = 0; i < count; ++i) {
      const float* __restrict__ x_row = x + offset + i * P;
      const float* __restrict__ residual_row = residual + (kResidual ? offset + i * P : 0);
      float* __restrict__ out_row = out + offset + i * P;
#pragma omp simd
      for (int c = 0; c < P; ++c) {
        const float activated = silu_f32(x_row[c] * r[i] * factor[c] + shift[c]);
        out_row[c] = kResidual ? activated + residual_row[c] : activated;
      }
    }
    if (num_nan > 0) clear_gaps(out + offset, count, P, C);
  }
}

/// d_x may be null. sums: [2][pitch] of sum d_z and sum d_z u, overwritten.
template <int kPitch> void backward_item(
    const float* x, const float* d_out, float* d_x, std::int64_t rows, int pitch, int C, const float* factor, const float* shift,
    double* sums) {
  const int P = kPitch > 0 ? kPitch : pitch;
  const int step = tile_rows(P);
  const float root_c = std::sqrt(static_cast<float>(C)), floor = static_cast<float>(kRmsNormFloor);
  std::vector<float> scratch(static_cast<std::size_t>((2 + (d_x == nullptr ? step : 0)) * P));
  float* __restrict__ sum_dz = scratch.data();
  float* __restrict__ sum_dz_u = sum_dz + P;
  std::fill_n(sums, 2 * P, 0.0);
  int summed_rows = 0;
  for (std::int64_t done = 0; done < rows; done += step) {
    const int count = static_cast<int>(std::min<std::int64_t>(step, rows - done));
    const std::int64_t offset = done * P;
    float r[kMaxTileRows], along[kMaxTileRows];  // sqrt(C)/n;  1/n^2, later r sum(q x)/n^2
    row_norms<kPitch>(x + offset, count, P, r);
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const float n = r[i] < floor ? floor : r[i];
      along[i] = r[i] < floor ? 0.0f : 1.0f / n / n;
      r[i] = root_c / n;
    }
    // q = d_z * factor goes where d_x will be.
    float* q = d_x != nullptr ? d_x + offset : sum_dz + 2 * P;
    int num_nan = 0;
    for (int i = 0; i < count; ++i) {
      const float* __restrict__ x_row = x + offset + i * P;
      const float* __restrict__ d_out_row = d_out + offset + i * P;
      float* __restrict__ q_row = q + i * P;
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int c = 0; c < P; ++c) {
        const float u = x_row[c] * r[i], z = u * factor[c] + shift[c];
        const float s = sigmoid_f32(z);
        const float dz = d_out_row[c] * s * (1.0f + z * (1.0f - s));
        sum_dz[c] += dz;
        sum_dz_u[c] += dz * u;
        q_row[c] = dz * factor[c];
        dot += q_row[c] * x_row[c];
      }
      along[i] *= r[i] * dot;
      num_nan += along[i] != along[i];
    }
    if (d_x != nullptr) {
      for (int i = 0; i < count; ++i) {
        const float* __restrict__ x_row = x + offset + i * P;
        float* __restrict__ q_row = q + i * P;
#pragma omp simd
        for (int c = 0; c < P; ++c) q_row[c] = r[i] * q_row[c] - along[i] * x_row[c];
      }
      if (num_nan > 0) clear_gaps(q, count, P, C);
    }
    summed_rows += count;
    if (summed_rows + step > kMaxTileRows || done + step >= rows) {
      for (int c = 0; c < 2 * P; ++c) {
        sums[c] += static_cast<double>(sum_dz[c]);
        sum_dz[c] = 0;
      }
      summed_rows = 0;
    }
  }
}

/// Calls f.operator()<kPitch>() with the pitch as a constant if it is a multiple of 4 up to kMaxFixedPitch, else 0.
template <class F> void with_fixed_pitch(std::int64_t pitch, F&& f) {
  const bool found = [&]<int... kQuarters>(std::integer_sequence<int, kQuarters...>) {
    return ((pitch == 4 * (kQuarters + 1) ? (f.template operator()<4 * (kQuarters + 1)>(), true) : false) || ...);
  }(std::make_integer_sequence<int, kMaxFixedPitch / 4>());
  if (!found) f.template operator()<0>();
}

/// Without FiLM all frames are alike: one long frame makes better items.
Args merged_frames(const Args& p) {
  Args merged = p;
  if (!p.film) {
    merged.S = p.F * p.S;
    merged.F = merged.S > 0 ? 1 : 0;
  }
  return merged;
}

}  // namespace

void rms_norm_film_silu_fwd(const RmsNormFilmSiluArgs<float>& args) {
  const Args p = merged_frames(args);
  const int pitch = static_cast<int>(p.x.pitch), C = static_cast<int>(p.C);
  with_fixed_pitch(pitch, [&]<int kPitch>() {
    parallel_for(p.F * items_per_frame(p.S), [&](std::int64_t index, int) {
      const Item item = item_of(p, index);
      const FrameAffine affine(p, item.frame);
      const float* x = p.x.row(item.first);
      float* out = p.out.row(item.first);
      if (p.residual)
        forward_item<kPitch, true>(x, p.residual.row(item.first), out, item.rows, pitch, C, affine.factor.data(), affine.shift.data());
      else
        forward_item<kPitch, false>(x, nullptr, out, item.rows, pitch, C, affine.factor.data(), affine.shift.data());
    });
  });
}

void rms_norm_film_silu_bwd(const RmsNormFilmSiluArgs<float>& args, const RmsNormFilmSiluGrads<float>& g) {
  const Args p = merged_frames(args);
  const int pitch = static_cast<int>(p.x.pitch), C = static_cast<int>(p.C);
  const std::int64_t per_frame = items_per_frame(p.S);
  std::vector<double> sums(static_cast<std::size_t>(p.F * per_frame * 2 * pitch));  // [item][d_z | d_z u][pitch]
  with_fixed_pitch(pitch, [&]<int kPitch>() {
    parallel_for(p.F * per_frame, [&](std::int64_t index, int) {
      const Item item = item_of(p, index);
      const FrameAffine affine(p, item.frame);
      backward_item<kPitch>(p.x.row(item.first), g.d_out.row(item.first), g.d_x ? g.d_x.row(item.first) : nullptr, item.rows, pitch, C,
                            affine.factor.data(), affine.shift.data(), sums.data() + index * 2 * pitch);
    });
  });
  std::vector<double> d_gamma(static_cast<std::size_t>(C));
  for (std::int64_t frame = 0; frame < p.F; ++frame) {
    const double* frame_sums = sums.data() + frame * per_frame * 2 * pitch;
    const float* film = p.film ? p.film.row(frame) : nullptr;
    for (int c = 0; c < C; ++c) {
      double dz = 0, dz_u = 0;
      for (std::int64_t k = 0; k < per_frame; ++k) {
        dz += frame_sums[k * 2 * pitch + c];
        dz_u += frame_sums[k * 2 * pitch + pitch + c];
      }
      d_gamma[static_cast<std::size_t>(c)] += dz_u * (film != nullptr ? 1.0 + static_cast<double>(film[c]) : 1.0);
      if (!g.d_film) continue;
      g.d_film.row(frame)[c] = static_cast<float>(dz_u * static_cast<double>(p.gamma[c]));
      g.d_film.row(frame)[C + c] = static_cast<float>(dz);
    }
  }
  if (g.d_gamma != nullptr)
    for (int c = 0; c < C; ++c) g.d_gamma[c] = static_cast<float>(d_gamma[static_cast<std::size_t>(c)]);
}

}  // namespace avid::kernels
