// kernels/rms_norm_film_silu_cpu_fast.cpp -- RMSNorm, FiLM, SiLU and residual: f32 with SIMD and threads
//
// Math       kernels/rms_norm_film_silu_cpu.cpp
// Layout     rows of P = pitch f32, gaps included: gamma, scale and shift are padded with zeros, so that a gap computes
//            to zero. A tile of rows is one run of memory, so everything element-wise runs over it in blocks of 16
//            whatever P is: the per-channel constants are repeated up to the `period` lcm(P, 16), the factors of rows
//            are spread over their elements (unless rows are whole blocks, P % 16 = 0). Only sums over a row go row by
//            row, with P a compile-time constant up to 64.
// Launch     one item per 1024 rows of a frame; inside, tiles of rows that fit the first-level cache
// Traffic    forward reads x (and residual), writes out; backward reads x and d_out, writes d_x; each once
// Numerics   column sums: f32 over at most 64 rows, then f64 in row order; items are added in order. Items do not
//            depend on the number of threads, so neither do the bits
// Measured   one thread of an EPYC with 512-bit SIMD, 64 frames x S x C with FiLM, best of 15 in ms (traffic above):
//            S 1024 C 24  forward 0.48 (26 GB/s), with residual 0.56 (33), backward 0.99 (19)
//            S 256 C 48   forward 0.23 (27), backward 0.42 (22);  S 1024 C 50  forward 1.74 (16), backward 3.7 (11)
//            memcpy of x at S 1024 C 24, in cache: 0.11 (111)
// Open       bound by arithmetic (one exp and one division per element), not by memory
// Oracle     kernels/rms_norm_film_silu_cpu.cpp, compared in tests/kernels/rms_norm_film_silu_test.cpp
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/rms_norm_film_silu.h"
#include "kernels/threads.h"
#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kItemRows = 1024;  // rows per work item
constexpr int kMaxTileRows = 64;          // rows per tile, and the most that are summed in f32
constexpr int kTileElements =
    2048;  // 8 KiB per operand: x, d_out, d_x and factors of a tile stay in the first-level cache
constexpr int kMaxFixedPitch = 64;  // widest row whose sums have their own instance
constexpr int kMaxQuadPitch = 64;   // widest row summed in quads (measured; wider rows sum in whole registers)
constexpr int kBlock = 16;          // elements per step of the element-wise loops: one 512-bit or two 256-bit registers

// Template parameter kPitch: the pitch, or one of these for pitches known at run time only.
constexpr int kAnyPitch = 0;
constexpr int kWholeBlocks = -1;  // a multiple of kBlock
constexpr bool whole_blocks(int pitch) { return pitch == kWholeBlocks || (pitch > 0 && pitch % kBlock == 0); }

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

/// How a row width is cut into blocks.
struct Tiling {
  int P, C;
  int period;  ///< smallest common multiple of P and kBlock
  int rows;    ///< of a tile; whole periods

  Tiling(std::int64_t pitch, std::int64_t channels)
      : P(static_cast<int>(pitch)), C(static_cast<int>(channels)), period(std::lcm(P, kBlock)) {
    const int group = period / P;
    rows = std::max(std::min(kTileElements / P, kMaxTileRows) / group, 1) * group;
  }
};

/// 64-byte aligned working memory of one item.
class Workspace {
 public:
  explicit Workspace(std::size_t num_floats) : storage_(num_floats + kBlock) {
    void* aligned = storage_.data();
    std::size_t space = storage_.size() * sizeof(float);
    next_ = static_cast<float*>(std::align(64, num_floats * sizeof(float), aligned, space));
  }
  /// The next `count` floats, zero; a multiple of 16 keeps what follows aligned.
  float* take(int count) { return std::exchange(next_, next_ + count); }

 private:
  std::vector<float> storage_;
  float* next_;
};

/// z = u * factor + shift for one frame, gaps zero, repeated over a period.
void frame_affine(const Args& p, const Tiling& tiling, std::int64_t frame, float* factor, float* shift) {
  const float* film = p.film ? p.film.row(frame) : nullptr;
  for (int start = 0; start < tiling.period; start += tiling.P) {
    for (int c = 0; c < tiling.C; ++c) {
      factor[start + c] = film != nullptr ? p.gamma[c] * (film[c] + 1.0f) : p.gamma[c];
      shift[start + c] = film != nullptr ? film[tiling.C + c] : 0.0f;
    }
  }
}

/// sum_c a b of each row.
template <int kPitch>
void row_dots(const float* a, const float* b, int rows, int pitch, float* dot) {
  if constexpr (kPitch > 0 && kPitch <= kMaxQuadPitch) {
    // Narrow rows: add up quads, then the four lanes of many rows at once. A horizontal sum per row would cost more
    // than the rest.
    alignas(64) float lanes[kMaxTileRows][4];
    for (int i = 0; i < rows; ++i) {
      float sum[4] = {};
      for (int c = 0; c < kPitch; c += 4)
#pragma omp simd
        for (int lane = 0; lane < 4; ++lane) sum[lane] += a[i * kPitch + c + lane] * b[i * kPitch + c + lane];
      std::copy_n(sum, 4, lanes[i]);
    }
#pragma omp simd
    for (int i = 0; i < rows; ++i) dot[i] = (lanes[i][0] + lanes[i][1]) + (lanes[i][2] + lanes[i][3]);
  } else {
    const int P = kPitch > 0 ? kPitch : pitch;
    for (int i = 0; i < rows; ++i) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int c = 0; c < P; ++c) sum += a[i * P + c] * b[i * P + c];
      dot[i] = sum;
    }
  }
}

/// spread[i * P + c] = value[i]
template <int kPitch>
void spread_rows(const float* value, int rows, int pitch, float* spread) {
  const int P = kPitch > 0 ? kPitch : pitch;
  for (int i = 0; i < rows; ++i)
    for (int c = 0; c < P; ++c) spread[i * P + c] = value[i];
}

/// A NaN row factor turns zero gaps into NaN; put the zeros back.
void clear_gaps(float* rows, int num_rows, const Tiling& tiling) {
  for (int i = 0; i < num_rows; ++i) std::fill(rows + i * tiling.P + tiling.C, rows + (i + 1) * tiling.P, 0.0f);
}

bool any_nan(const float* values, int count) {
  int num_nan = 0;
#pragma omp simd reduction(+ : num_nan)
  for (int i = 0; i < count; ++i) num_nan += values[i] != values[i];
  return num_nan > 0;
}

/// Calls block(offset, k, r) for every whole block of a tile of n elements, k the place in the period, r the row
/// factors to use: one per element, or the block's only one if rows are whole blocks. Returns where the rest begins.
template <int kPitch, class F>
int for_blocks(int n, int period, const float* row_factors, const float* spread_factors, F&& block) {
  int offset = 0;
  for (int i = 0; offset + period <= n; offset += period, ++i)
    for (int k = 0; k < period; k += kBlock)
      block(offset + k, k, whole_blocks(kPitch) ? row_factors + i : spread_factors + offset + k);
  for (int k = 0; offset + kBlock <= n; offset += kBlock, k += kBlock) block(offset, k, spread_factors + offset);
  return offset;
}

/// One block at the end of a tile that is shorter than kBlock: work on a copy. Inputs are read, outputs written back.
struct PartialBlock {
  alignas(64) float values[kBlock] = {};
  PartialBlock() = default;
  PartialBlock(const float* from, int count) { std::copy_n(from, count, values); }
  void store(float* to, int count) const { std::copy_n(values, count, to); }
};

/// kOneRow: r holds one factor for the block.
template <bool kResidual, bool kOneRow>
inline void forward_block(
    const float* __restrict__ x, const float* __restrict__ r, const float* __restrict__ factor,
    const float* __restrict__ shift, const float* __restrict__ residual, float* __restrict__ out) {
#pragma omp simd
  for (int k = 0; k < kBlock; ++k) {
    const float activated = silu_f32(x[k] * r[kOneRow ? 0 : k] * factor[k] + shift[k]);
    out[k] = kResidual ? activated + residual[k] : activated;
  }
}

template <int kPitch, bool kResidual>
void forward_item(const Args& p, const Tiling& tiling, const Item& item) {
  const int P = tiling.P, period = tiling.period;
  Workspace workspace(static_cast<std::size_t>(2 * period + tiling.rows * P));
  float *factor = workspace.take(period), *shift = workspace.take(period), *spread = workspace.take(tiling.rows * P);
  frame_affine(p, tiling, item.frame, factor, shift);
  const float root_c = std::sqrt(static_cast<float>(tiling.C)), floor = static_cast<float>(kRmsNormFloor);
  std::vector<float> r(static_cast<std::size_t>(tiling.rows));
  for (std::int64_t done = 0; done < item.rows; done += tiling.rows) {
    const int rows = static_cast<int>(std::min<std::int64_t>(tiling.rows, item.rows - done)), n = rows * P;
    const float* x = p.x.row(item.first + done);
    const float* residual = kResidual ? p.residual.row(item.first + done) : x;
    float* out = p.out.row(item.first + done);
    row_dots<kPitch>(x, x, rows, P, r.data());
#pragma omp simd
    for (int i = 0; i < rows; ++i) {
      const float norm = std::sqrt(r[i]);
      r[i] = root_c / (norm < floor ? floor : norm);  // this way round NaN stays NaN
    }
    if (!whole_blocks(kPitch)) spread_rows<kPitch>(r.data(), rows, P, spread);
    const int rest = for_blocks<kPitch>(n, period, r.data(), spread, [&](int at, int k, const float* factors) {
      forward_block<kResidual, whole_blocks(kPitch)>(x + at, factors, factor + k, shift + k, residual + at, out + at);
    });
    if (rest < n) {
      const int count = n - rest, k = rest % period;
      PartialBlock x_copy(x + rest, count), r_copy(spread + rest, count), residual_copy(residual + rest, count), result;
      forward_block<kResidual, false>(
          x_copy.values, r_copy.values, factor + k, shift + k, residual_copy.values, result.values);
      result.store(out + rest, count);
    }
    if (any_nan(r.data(), rows)) clear_gaps(out, rows, tiling);
  }
}

/// Adds to the sums and writes q = d_z * factor. kOneRow as above.
template <bool kOneRow>
inline void backward_block(
    const float* __restrict__ x, const float* __restrict__ d_out, const float* __restrict__ r,
    const float* __restrict__ factor, const float* __restrict__ shift, float* __restrict__ sum_dz,
    float* __restrict__ sum_dz_u, float* __restrict__ q) {
#pragma omp simd
  for (int k = 0; k < kBlock; ++k) {
    const float u = x[k] * r[kOneRow ? 0 : k], z = u * factor[k] + shift[k];
    const float s = 1.0f / (1.0f + exp_clamped_f32(-z));  // z below brings a NaN back
    const float dz = d_out[k] * s * (1.0f + z * (1.0f - s));
    sum_dz[k] += dz;
    sum_dz_u[k] += dz * u;
    q[k] = dz * factor[k];
  }
}

/// sums: [2][pitch] of sum d_z and sum d_z u, overwritten.
template <int kPitch>
void backward_item(const Args& p, const Grads& g, const Tiling& tiling, const Item& item, double* sums) {
  const int P = tiling.P, period = tiling.period, tile = tiling.rows * P;
  Workspace workspace(static_cast<std::size_t>(4 * period + 2 * tile));
  float *factor = workspace.take(period), *shift = workspace.take(period), *sum_dz = workspace.take(period);
  float *sum_dz_u = workspace.take(period), *spread = workspace.take(tile), *scratch = workspace.take(tile);
  frame_affine(p, tiling, item.frame, factor, shift);
  std::fill_n(sums, 2 * P, 0.0);
  const float root_c = std::sqrt(static_cast<float>(tiling.C)), floor = static_cast<float>(kRmsNormFloor);
  std::vector<float> row_values(static_cast<std::size_t>(3 * tiling.rows));
  float *r = row_values.data(), *inverse_squares = r + tiling.rows, *along = inverse_squares + tiling.rows;
  int summed_rows = 0;
  for (std::int64_t done = 0; done < item.rows; done += tiling.rows) {
    const int rows = static_cast<int>(std::min<std::int64_t>(tiling.rows, item.rows - done)), n = rows * P;
    const float* x = p.x.row(item.first + done);
    const float* d_out = g.d_out.row(item.first + done);
    float* q = g.d_x ? g.d_x.row(item.first + done) : scratch;  // q goes where d_x will be
    row_dots<kPitch>(x, x, rows, P, r);
#pragma omp simd
    for (int i = 0; i < rows; ++i) {
      const float norm = std::sqrt(r[i]), n_i = norm < floor ? floor : norm;
      inverse_squares[i] = norm < floor ? 0.0f : 1.0f / n_i / n_i;
      r[i] = root_c / n_i;
    }
    if (!whole_blocks(kPitch)) spread_rows<kPitch>(r, rows, P, spread);
    const int rest = for_blocks<kPitch>(n, period, r, spread, [&](int at, int k, const float* factors) {
      backward_block<whole_blocks(kPitch)>(
          x + at, d_out + at, factors, factor + k, shift + k, sum_dz + k, sum_dz_u + k, q + at);
    });
    if (rest < n) {
      const int count = n - rest, k = rest % period;
      PartialBlock x_copy(x + rest, count), d_out_copy(d_out + rest, count), r_copy(spread + rest, count), result;
      backward_block<false>(
          x_copy.values, d_out_copy.values, r_copy.values, factor + k, shift + k, sum_dz + k, sum_dz_u + k,
          result.values);
      result.store(q + rest, count);
    }
    if (g.d_x) {
      row_dots<kPitch>(q, x, rows, P, along);
      for (int i = 0; i < rows; ++i) {
        const float r_i = r[i], along_i = along[i] * r[i] * inverse_squares[i];
        along[i] = along_i;
        const int width = kPitch > 0 ? kPitch : P;
#pragma omp simd
        for (int c = 0; c < width; ++c) q[i * width + c] = r_i * q[i * width + c] - along_i * x[i * width + c];
      }
      if (any_nan(along, rows)) clear_gaps(q, rows, tiling);
    }
    summed_rows += rows;
    if (summed_rows + tiling.rows > kMaxTileRows || done + tiling.rows >= item.rows) {
      for (int start = 0; start < period; start += P) {
        for (int c = 0; c < P; ++c) {
          sums[c] += static_cast<double>(sum_dz[start + c]);
          sums[P + c] += static_cast<double>(sum_dz_u[start + c]);
        }
      }
      std::fill_n(sum_dz, period, 0.0f);
      std::fill_n(sum_dz_u, period, 0.0f);
      summed_rows = 0;
    }
  }
}

/// Calls f.operator()<kPitch>() with the pitch as a constant if it is a multiple of 4 up to kMaxFixedPitch.
template <class F>
void with_fixed_pitch(std::int64_t pitch, F&& f) {
  const bool found = [&]<int... kQuarters>(std::integer_sequence<int, kQuarters...>) {
    return ((pitch == 4 * (kQuarters + 1) ? (f.template operator()<4 * (kQuarters + 1)>(), true) : false) || ...);
  }
  (std::make_integer_sequence<int, kMaxFixedPitch / 4>());
  if (!found && pitch % kBlock == 0) f.template operator()<kWholeBlocks>();
  if (!found && pitch % kBlock != 0) f.template operator()<kAnyPitch>();
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
  const Tiling tiling(p.x.pitch, p.C);
  with_fixed_pitch(tiling.P, [&]<int kPitch>() {
    parallel_for(p.F * items_per_frame(p.S), [&](std::int64_t index, int) {
      if (p.residual)
        forward_item<kPitch, true>(p, tiling, item_of(p, index));
      else
        forward_item<kPitch, false>(p, tiling, item_of(p, index));
    });
  });
}

void rms_norm_film_silu_bwd(const RmsNormFilmSiluArgs<float>& args, const RmsNormFilmSiluGrads<float>& g) {
  const Args p = merged_frames(args);
  const Tiling tiling(p.x.pitch, p.C);
  const int pitch = tiling.P, C = tiling.C;
  const std::int64_t per_frame = items_per_frame(p.S);
  std::vector<double> sums(static_cast<std::size_t>(p.F * per_frame * 2 * pitch));  // [item][d_z | d_z u][pitch]
  with_fixed_pitch(pitch, [&]<int kPitch>() {
    parallel_for(p.F * per_frame, [&](std::int64_t index, int) {
      backward_item<kPitch>(p, g, tiling, item_of(p, index), sums.data() + index * 2 * pitch);
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
