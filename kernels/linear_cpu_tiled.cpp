// kernels/linear_cpu_tiled.cpp -- f32 path of linear: register tiles straight from pitched rows
//
// Math       contract in tensor/ops/linear.h. Forward and data gradient are product tiles (lanes = output channels, one
//            run of broadcasts per input), the weight gradient is a sum of outer-product tiles (tile_f32.h).
// Traffic    rows are read and written once: blocks of 128 rows stay in the cache while all lane groups pass over them.
// Parallel   over blocks of rows, and over lane groups when there are few rows. Products: one sum per output, any
//            number of threads gives the same bits. Weight gradient: chunks of rows that depend on the shapes only,
//            added in order.
// Numerics   f32 products and sums
// Oracle     kernels/linear_cpu.cpp, compared in tests/kernels/linear_test.cpp
#include <algorithm>

#include "kernels/linear.h"
#include "kernels/pack_f32.h"
#include "kernels/plane_conv_f32.h"
#include "kernels/scratch.h"
#include "kernels/threads.h"
#include "kernels/tile_f32.h"

namespace avid::kernels {
namespace {

using Index = std::int64_t;

constexpr Index kRowBlock = 128;          // rows that stay in the first-level cache
constexpr Index kSumFloats = 256 * 1024;  // 1 MiB for all chunks' sums of the weight gradient
constexpr Index kMaxChunks = 16;

/// out[r, 0..channels) = bias + residual + sum over the inputs' columns, with weights packed by pack(first_lane, lanes,
/// width, to).
struct RowProduct {
  Index num_rows = 0, channels = 0;
  Rows<const float> x, x2;
  Index C = 0, C2 = 0;
  const float* bias = nullptr;
  Rows<const float> residual;
  Rows<float> out;
};

template <class Pack>
void run(const RowProduct& p, Pack&& pack) {
  if (p.num_rows == 0 || p.channels == 0) return;
  const Index width = blocks_of(p.channels) * kLanes, reduction = p.C + p.C2;
  const EvenCut groups(blocks_of(p.channels), kMaxTileBlocks), blocks(p.num_rows, kRowBlock);
  ScratchParts parts;
  const std::size_t bias_at = parts.take(width), packed_at = parts.take(width * reduction);
  float* scratch = scratch_floats(parts.total());
  if (p.bias) pack_straight(p.bias, 0, 1, p.channels, width, scratch + bias_at);
  const auto pack_group = [&](Index g, int) {
    const Index first_lane = groups.begin(g) * kLanes, group_width = groups.size(g) * kLanes;
    pack(
        first_lane, std::min(group_width, p.channels - first_lane), group_width,
        scratch + packed_at + first_lane * reduction);
  };
  if (width * reduction < 16 * 1024) {  // not worth waking threads
    for (Index g = 0; g < groups.pieces; ++g) pack_group(g, 0);
  } else {
    parallel_for(groups.pieces, pack_group);
  }

  const auto run_group = [&](Index block, Index g) {
    const Index first_lane = groups.begin(g) * kLanes;
    const int num_blocks = static_cast<int>(groups.size(g));
    const int lanes_last = lanes_of_block(p.channels, groups.begin(g) + num_blocks - 1);
    const EvenCut tiles(blocks.size(block), max_tile_rows(num_blocks, lanes_last));
    TileOutput output{.out = nullptr, .out_step = p.out.pitch};
    if (p.bias) output.bias = scratch + bias_at + first_lane;
    output.residual_step = p.residual.pitch;
    output.lanes_last = lanes_last;
    for (Index t = 0; t < tiles.pieces; ++t) {
      const Index r = blocks.begin(block) + tiles.begin(t);
      const Run runs[2] = {{p.x.row(r), p.x.pitch, p.C}, {p.C2 > 0 ? p.x2.row(r) : nullptr, p.x2.pitch, p.C2}};
      output.out = p.out.row(r) + first_lane;
      if (p.residual) output.residual = p.residual.row(r) + first_lane;
      product_tile(
          static_cast<int>(tiles.size(t)), num_blocks, runs, p.C2 > 0 ? 2 : 1,
          scratch + packed_at + first_lane * reduction, output);
    }
  };
  if (blocks.pieces >= 2 * num_threads()) {
    parallel_for(blocks.pieces, [&](Index block, int) {
      for (Index g = 0; g < groups.pieces; ++g) run_group(block, g);
    });
  } else {
    parallel_for(
        blocks.pieces * groups.pieces, [&](Index item, int) { run_group(item / groups.pieces, item % groups.pieces); });
  }
}

}  // namespace

void linear_fwd(
    const LinearSize& s, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
    Rows<const float> residual, Rows<float> out) {
  const RowProduct p{
      .num_rows = s.P,
      .channels = s.O,
      .x = x,
      .x2 = x2,
      .C = s.I,
      .C2 = s.I2,
      .bias = bias,
      .residual = residual,
      .out = out};
  run(p, [&](Index first_lane, Index lanes, Index width, float* to) {
    pack_transposed(w.row(first_lane), w.pitch, s.I + s.I2, lanes, width, to);
  });
}

void linear_bwd_data(
    const LinearSize& s, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x, Rows<float> d_x2) {
  for (const bool second : {false, true}) {
    const Rows<float>& target = second ? d_x2 : d_x;
    if (!target) continue;
    const RowProduct p{
        .num_rows = s.P,
        .channels = second ? s.I2 : s.I,
        .x = d_out,
        .x2 = {},
        .C = s.O,
        .C2 = 0,
        .bias = nullptr,
        .residual = {},
        .out = target};
    run(p, [&](Index first_lane, Index lanes, Index width, float* to) {
      pack_straight(w.data + (second ? s.I : 0) + first_lane, w.pitch, s.O, lanes, width, to);
    });
  }
}

void linear_bwd_weight(
    const LinearSize& s, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
    float* d_bias) {
  if (!d_w) {
    if (d_bias) column_sums(d_out, s.P, s.O, d_bias);
    return;
  }
  const Index C = s.I + s.I2, width = blocks_of(s.O) * kLanes, sums_floats = width * C;
  const EvenCut groups(blocks_of(s.O), kMaxTileBlocks);
  // At least 64 rows per chunk, or adding up the chunks would cost more than it spreads.
  // A power of two: the usual numbers of threads then get equal shares.
  Index num_chunks = 1;
  while (num_chunks < kMaxChunks && num_chunks * 2 * 64 <= s.P && num_chunks * 2 * sums_floats <= kSumFloats)
    num_chunks *= 2;
  const int threads = num_threads();
  const Index splits = threads > num_chunks ? groups.pieces : 1;  // lane groups that go to different threads
  ScratchParts parts;
  const std::size_t sums_at = parts.take(num_chunks * sums_floats), bias_at = parts.take(num_chunks * width);
  const std::size_t tail_at = parts.take(kRowBlock * width * threads);
  float* scratch = scratch_floats(parts.total());
  static const float one = 1.0f;

  parallel_for(num_chunks * splits, [&](Index item, int thread) {
    const Index chunk = item / splits, split = item % splits;
    const Index g_begin = splits == 1 ? 0 : split, g_end = splits == 1 ? groups.pieces : split + 1;
    float* sums = scratch + sums_at + static_cast<std::size_t>(chunk * sums_floats);  // [group][i][lanes]
    float* bias_sums = scratch + bias_at + static_cast<std::size_t>(chunk * width);
    float* tail = scratch + tail_at + static_cast<std::size_t>(thread * kRowBlock * width);
    std::fill(sums + groups.begin(g_begin) * kLanes * C, sums + groups.begin(g_end) * kLanes * C, 0.0f);
    std::fill(bias_sums + groups.begin(g_begin) * kLanes, bias_sums + groups.begin(g_end) * kLanes, 0.0f);
    const Index chunk_end = s.P * (chunk + 1) / num_chunks;
    for (Index r = s.P * chunk / num_chunks; r < chunk_end; r += kRowBlock) {
      const Index rows = std::min(kRowBlock, chunk_end - r);
      OuterOperands in{
          .a = nullptr,
          .a_row = 0,
          .a_step = 0,
          .g = nullptr,
          .g_row = 0,
          .g_step = d_out.pitch,
          .rows = 1,
          .cols = rows};
      // Whole blocks are read; lanes behind the last channel are dropped at the end. Behind the last row there is no
      // memory.
      const float* g = d_out.row(r);
      if ((r + rows - 1) * d_out.pitch + width > s.P * d_out.pitch) {
        pack_straight(g, d_out.pitch, rows, s.O, width, tail);
        g = tail;
        in.g_step = width;
      }
      for (Index group = g_begin; group < g_end; ++group) {
        const Index block = groups.begin(group), group_width = groups.size(group) * kLanes;
        const int num_blocks = static_cast<int>(groups.size(group));
        const int lanes_last = lanes_of_block(s.O, block + num_blocks - 1);
        float* into = sums + block * kLanes * C;
        in.g = g + block * kLanes;
        const auto run_input = [&](Rows<const float> input, Index channels) {
          const EvenCut tiles(channels, max_tile_rows(num_blocks, lanes_last));
          in.a_step = input.pitch;
          for (Index t = 0; t < tiles.pieces; ++t, into += tiles.size(t - 1) * group_width) {
            in.a = input.row(r) + tiles.begin(t);
            outer_tile(static_cast<int>(tiles.size(t)), num_blocks, lanes_last, in, into, group_width);
          }
        };
        if (s.I > 0) run_input(x, s.I);
        if (s.I2 > 0) run_input(x2, s.I2);
        if (d_bias) {
          in.a = &one;
          in.a_step = 0;
          outer_tile(1, num_blocks, lanes_last, in, bias_sums + block * kLanes, group_width);
        }
      }
    }
  });

  // [chunk][group][i][lanes] -> d_w[o][i]
  const auto unpack_block = [&](Index block, int) {
    Index group = 0;
    while (groups.begin(group + 1) <= block) ++group;
    const Index group_width = groups.size(group) * kLanes, lanes = std::min<Index>(kLanes, s.O - block * kLanes);
    const float* from = scratch + sums_at + groups.begin(group) * kLanes * C + (block - groups.begin(group)) * kLanes;
    for (Index i = 0; i < C; ++i, from += group_width) {
      float total[kLanes] = {};
      for (Index c = 0; c < num_chunks; ++c)
        for (int l = 0; l < kLanes; ++l) total[l] += from[c * sums_floats + l];
      for (Index l = 0; l < lanes; ++l) d_w.row(block * kLanes + l)[i] = total[l];
    }
  };
  if (width * C < 16 * 1024) {
    for (Index block = 0; block < blocks_of(s.O); ++block) unpack_block(block, 0);
  } else {
    parallel_for(blocks_of(s.O), unpack_block);
  }
  for (Index o = 0; d_bias && o < s.O; ++o) {
    float total = 0;
    for (Index c = 0; c < num_chunks; ++c) total += scratch[bias_at + static_cast<std::size_t>(c * width + o)];
    d_bias[o] = total;
  }
}

}  // namespace avid::kernels
