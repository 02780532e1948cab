// kernels/plane_conv_weight_f32.cpp -- f32 weight and bias gradients of frame-wise convolutions
//
// Math       d_w[o,k,i] = sum_p d_out[p,o] * x[q(p,k),i], as sums of outer products (tile_f32.h): lanes run over o,
//            broadcasts over the consecutive (kx,i) under one kernel row of a zero-padded band of x (plane_band.h).
// Parallel   over chunks of frames, each with its own sums, added in order at the end. Bands and chunks depend on the
//            shapes only, so the bits do not depend on the number of threads; more threads than chunks share a chunk by
//            lane groups.
// Numerics   f32 products and sums: within a band, then over the bands of a chunk, then over chunks
// Measured   one core of an AMD EPYC (AVX-512, multiply-add peak 256 GFLOP/s), 3x3, 16 frames, GFLOP/s of the best of
//            120 runs: 32x32x16 190, 32x32x24 216, 16x16x48 221, 8x8x64 204, 8x8x128 198
// Oracle     kernels/conv3d_cpu.cpp, compared in tests/kernels/conv3d_test.cpp
#include <algorithm>
#include <vector>

#include "kernels/pack_f32.h"
#include "kernels/plane_band.h"
#include "kernels/plane_conv_f32.h"
#include "kernels/scratch.h"
#include "kernels/threads.h"
#include "kernels/tile_f32.h"

namespace avid::kernels {
namespace {

using Index = std::int64_t;

constexpr Index kBandFloats = 20 * 1024;  // 80 KiB of x per band: long sums per tile beat the first-level cache
constexpr Index kSumFloats = 256 * 1024;  // 1 MiB for all chunks' sums, if that leaves at least two chunks
constexpr Index kMinChunks = 2, kMaxChunks = 16;

}  // namespace

void plane_conv_bwd_weight(
    const Conv3dSize& s, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
    float* d_bias) {
  const Index planes = s.B * s.out[0], num_positions = s.out_positions();
  if (!d_w) {
    if (d_bias) column_sums(d_out, num_positions, s.O, d_bias);
    return;
  }
  const Index C = s.I + s.I2, taps = s.taps(), kh = s.kernel[1], run_length = s.kernel[2] * C;
  const PlaneSource source{.x = x, .x2 = x2, .C = s.I, .C2 = s.I2, .H = s.in[1], .W = s.in[2]};
  const Extent columns{-s.padding[2], (s.out[2] - 1) * s.stride[2] - s.padding[2] + s.kernel[2]};
  const Index row_floats = std::max<Index>(1, columns.size() * C);
  const Index band_rows =
      std::clamp<Index>((kBandFloats / row_floats - kh) / s.stride[1] + 1, 4, std::max<Index>(4, s.out[1]));
  const EvenCut bands(s.out[1], band_rows), groups(blocks_of(s.O), kMaxTileBlocks);

  const Index width = blocks_of(s.O) * kLanes, sums_floats = width * kh * run_length;
  // A power of two: the usual numbers of threads then get equal shares.
  Index num_chunks = 1;
  while (num_chunks < kMaxChunks && num_chunks * 2 <= planes &&
         (num_chunks < kMinChunks || num_chunks * 2 * sums_floats <= kSumFloats)) {
    num_chunks *= 2;
  }
  const int threads = num_threads();
  const Index splits = threads > num_chunks ? groups.pieces : 1;  // lane groups that go to different threads

  const Index max_band_rows = (s.out[1] + bands.pieces - 1) / bands.pieces;
  const Index band_floats = (((max_band_rows - 1) * s.stride[1] + kh) * row_floats + kBandSlack + 15) / 16 * 16;
  const Index tail_floats = max_band_rows * s.out[2] * width;
  ScratchParts parts;
  const std::size_t sums_at = parts.take(num_chunks * sums_floats), bias_at = parts.take(num_chunks * width);
  const std::size_t bands_at = parts.take(band_floats * threads), tail_at = parts.take(tail_floats * threads);
  float* scratch = scratch_floats(parts.total());
  static const float one = 1.0f;

  parallel_for(num_chunks * splits, [&](Index item, int thread) {
    const Index chunk = item / splits, split = item % splits;
    const Index g_begin = splits == 1 ? 0 : split, g_end = splits == 1 ? groups.pieces : split + 1;
    float* sums = scratch + sums_at + static_cast<std::size_t>(chunk * sums_floats);  // [group][ky][kx,i][lanes]
    float* bias_sums = scratch + bias_at + static_cast<std::size_t>(chunk * width);
    float* band = scratch + bands_at + static_cast<std::size_t>(thread * band_floats);
    float* tail = scratch + tail_at + static_cast<std::size_t>(thread * tail_floats);
    std::fill(
        sums + groups.begin(g_begin) * kLanes * kh * run_length, sums + groups.begin(g_end) * kLanes * kh * run_length,
        0.0f);
    std::fill(bias_sums + groups.begin(g_begin) * kLanes, bias_sums + groups.begin(g_end) * kLanes, 0.0f);

    for (Index plane = planes * chunk / num_chunks; plane < planes * (chunk + 1) / num_chunks; ++plane) {
      for (Index b = 0; b < bands.pieces; ++b) {
        const Index u0 = bands.begin(b), u1 = bands.begin(b + 1);
        const Index first_row = u0 * s.stride[1] - s.padding[1];
        copy_band(source, plane, {first_row, (u1 - 1) * s.stride[1] - s.padding[1] + kh}, columns, band);
        OuterOperands in{
            .a = band,
            .a_row = s.stride[1] * row_floats,
            .a_step = s.stride[2] * C,
            .g = nullptr,
            .g_row = s.out[2] * d_out.pitch,
            .g_step = d_out.pitch,
            .rows = u1 - u0,
            .cols = s.out[2]};
        // Whole blocks of d_out are read. What lies behind a row's last channel only reaches lanes that are dropped at
        // the end; behind the last row there is no memory, so the rows at the end go through a copy.
        const Index first_position = (plane * s.out[1] + u0) * s.out[2],
                    end_position = first_position + (u1 - u0) * s.out[2];
        const float* g = d_out.row(first_position);
        if ((end_position - 1) * d_out.pitch + width > num_positions * d_out.pitch) {
          pack_straight(g, d_out.pitch, end_position - first_position, s.O, width, tail);
          g = tail;
          in.g_row = s.out[2] * width;
          in.g_step = width;
        }
        for (Index group = g_begin; group < g_end; ++group) {
          const Index block = groups.begin(group), group_width = groups.size(group) * kLanes;
          const int num_blocks = static_cast<int>(groups.size(group));
          in.g = g + block * kLanes;
          const int lanes_last = lanes_of_block(s.O, block + num_blocks - 1);
          const EvenCut tiles(run_length, max_tile_rows(num_blocks, lanes_last));
          for (Index ky = 0; ky < kh; ++ky) {
            for (Index t = 0; t < tiles.pieces; ++t) {
              in.a = band + ky * row_floats + tiles.begin(t);
              outer_tile(
                  static_cast<int>(tiles.size(t)), num_blocks, lanes_last, in,
                  sums + block * kLanes * kh * run_length + (ky * run_length + tiles.begin(t)) * group_width,
                  group_width);
            }
          }
          if (d_bias) {
            OuterOperands ones = in;
            ones.a = &one;
            ones.a_row = ones.a_step = 0;
            outer_tile(1, num_blocks, lanes_last, ones, bias_sums + block * kLanes, group_width);
          }
        }
      }
    }
  });

  // [chunk][group][tap][i][lanes] -> d_w[o][tap][i]
  parallel_for(blocks_of(s.O) * taps, [&](Index item, int) {
    const Index block = item / taps, tap = item % taps;
    Index group = 0;
    while (groups.begin(group + 1) <= block) ++group;
    const Index group_width = groups.size(group) * kLanes;
    const float* from = scratch + sums_at + groups.begin(group) * kLanes * kh * run_length + tap * C * group_width +
                        (block - groups.begin(group)) * kLanes;
    const Index lanes = std::min<Index>(kLanes, s.O - block * kLanes);
    for (Index i = 0; i < C; ++i, from += group_width) {
      float total[kLanes] = {};
      for (Index c = 0; c < num_chunks; ++c)
        for (int l = 0; l < kLanes; ++l) total[l] += from[c * sums_floats + l];
      for (Index l = 0; l < lanes; ++l) d_w.row((block * kLanes + l) * taps + tap)[i] = total[l];
    }
  });
  for (Index o = 0; d_bias && o < s.O; ++o) {
    float total = 0;
    for (Index c = 0; c < num_chunks; ++c) total += scratch[bias_at + static_cast<std::size_t>(c * width + o)];
    d_bias[o] = total;
  }
}

void column_sums(Rows<const float> rows, Index num_rows, Index num_cols, float* sums) {
  // Chunks of a fixed number of rows, so that the bits do not depend on the number of threads.
  const EvenCut chunks(std::max<Index>(1, num_rows), 4096);
  float* partial = scratch_floats(static_cast<std::size_t>(chunks.pieces * num_cols));
  parallel_for(chunks.pieces, [&](Index chunk, int) {
    float* into = partial + chunk * num_cols;
    std::fill_n(into, num_cols, 0.0f);
    for (Index r = num_rows * chunk / chunks.pieces; r < num_rows * (chunk + 1) / chunks.pieces; ++r) {
      const float* row = rows.row(r);
      for (Index c = 0; c < num_cols; ++c) into[c] += row[c];
    }
  });
  for (Index c = 0; c < num_cols; ++c) {
    float total = 0;
    for (Index chunk = 0; chunk < chunks.pieces; ++chunk) total += partial[chunk * num_cols + c];
    sums[c] = total;
  }
}

}  // namespace avid::kernels
