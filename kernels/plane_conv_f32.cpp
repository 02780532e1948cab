// kernels/plane_conv_f32.cpp -- f32 forward and data gradient of frame-wise convolutions
//
// Math       contract in tensor/ops/conv3d.h. The data gradient of a convolution with stride (sy,sx) splits into sy*sx
//            phases: the positions q = q0 + s*u of one phase are a stride-1 convolution of d_out with every s-th tap,
//            in reverse order.
// Layout     a band of input rows is copied into a zero-padded buffer (plane_band.h); under it the taps of one kernel
//            row are one run of floats (tile_f32.h), so there is no im2col. Weights are packed per call as [group of
//            <= 3 lane blocks][tap][channel][lanes]: O*K*I moves against P*O*K*I multiply-adds.
// Parallel   over (frame, band). Every output is one sum in a fixed order: neither bands nor threads change a bit.
// Numerics   f32 products and sums
// Measured   one core of an AMD EPYC (AVX-512, multiply-add peak 256 GFLOP/s), 3x3, 16 frames, GFLOP/s of the best of
//            120 runs, forward | data gradient: 32x32x16 194 | 198, 32x32x24 192 | 200, 16x16x48 229 | 227,
//            8x8x64 234 | 236, 8x8x128 227 | 232
// Open       lost: weights in passes that fit the first-level cache (8x8x128: 216 against 226 without)
// Oracle     kernels/conv3d_cpu.cpp, compared in tests/kernels/conv3d_test.cpp
#include "kernels/plane_conv_f32.h"

#include <algorithm>
#include <vector>

#include "kernels/pack_f32.h"
#include "kernels/plane_band.h"
#include "kernels/scratch.h"
#include "kernels/threads.h"
#include "kernels/tile_f32.h"

namespace avid::kernels {
namespace {

using Index = std::int64_t;

constexpr Index kBandFloats = 6 * 1024;  // 24 KiB: half of the first-level cache, the other half is for weights

/// One dimension of a phase: outputs first + u*out_step (u < count) read inputs in + u*in_step + j for the kernel index
/// taps[j].
struct PhaseAxis {
  Index count = 0, first = 0, out_step = 1;
  Index in = 0, in_step = 1;
  std::vector<Index> taps;
  /// Input positions read by outputs [begin, end).
  Extent reads(Index begin, Index end) const {
    if (begin >= end || taps.empty()) return {};
    return {in + begin * in_step, in + (end - 1) * in_step + static_cast<Index>(taps.size())};
  }
};

PhaseAxis forward_axis(Index out, Index kernel, Index stride, Index padding) {
  PhaseAxis axis{.count = out, .in = -padding, .in_step = stride, .taps = {}};
  for (Index k = 0; k < kernel; ++k) axis.taps.push_back(k);
  return axis;
}

/// The positions q of the convolution's input with (q + padding) % stride == residue: they meet the taps k = residue +
/// stride*j at output position p = (q + padding - residue)/stride - j.
PhaseAxis backward_axis(Index in, Index kernel, Index stride, Index padding, Index residue) {
  PhaseAxis axis{.out_step = stride, .taps = {}};
  axis.first = ((residue - padding) % stride + stride) % stride;
  axis.count = axis.first < in ? (in - axis.first - 1) / stride + 1 : 0;
  for (Index k = residue; k < kernel; k += stride) axis.taps.insert(axis.taps.begin(), k);
  axis.in = (axis.first + padding - residue) / stride - (static_cast<Index>(axis.taps.size()) - 1);
  return axis;
}

struct Phase {
  PhaseAxis y, x;
  std::size_t packed = 0;  // scratch offset of this phase's weights for the current target
  Index num_taps() const { return static_cast<Index>(y.taps.size() * x.taps.size()); }
};

/// A product between zero-padded frames and packed weights, with `channels` outputs per position.
struct PlaneProduct {
  Index planes = 0;
  PlaneSource source;
  Rows<float> out;
  Index out_H = 0, out_W = 0, channels = 0;
  std::vector<Phase> phases;
  const float* bias = nullptr;

  EvenCut groups() const { return {blocks_of(channels), kMaxTileBlocks}; }
};

Extent join(Extent a, Extent b) {
  if (a.size() == 0) return b;
  if (b.size() == 0) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

/// Input rows that the outputs [begin, end) of every phase read.
Extent rows_read(const PlaneProduct& p, Index begin, Index end) {
  Extent all;
  for (const Phase& f : p.phases) all = join(all, f.y.reads(begin, std::min(end, f.y.count)));
  return all;
}

/// Rows [u0, u1) of one phase and plane, from a band that starts at input row `rows.begin` and column `columns.begin`.
void run_band(
    const PlaneProduct& p, const Phase& f, Index plane, Index u0, Index u1, const float* packed, const float* bias,
    const float* band, Extent rows, Extent columns, Run* runs) {
  const Index C = p.source.channels(), row_floats = columns.size() * C;
  const Index num_runs = f.x.taps.empty() ? 0 : static_cast<Index>(f.y.taps.size());
  const Index run_length = static_cast<Index>(f.x.taps.size()) * C;
  const EvenCut groups = p.groups();
  for (Index g = 0; g < groups.pieces; ++g) {
    const Index block = groups.begin(g);
    const int num_blocks = static_cast<int>(groups.size(g));
    const int lanes_last = lanes_of_block(p.channels, block + num_blocks - 1);
    const EvenCut tiles(f.x.count, max_tile_rows(num_blocks, lanes_last));
    TileOutput output{.out = nullptr, .out_step = f.x.out_step * p.out.pitch};
    if (bias) output.bias = bias + block * kLanes;
    output.lanes_last = lanes_last;
    for (Index u = u0; u < u1; ++u) {
      const float* in_row = band + (f.y.in + u * f.y.in_step - rows.begin) * row_floats;
      const Index out_row = (plane * p.out_H + f.y.first + u * f.y.out_step) * p.out_W;
      for (Index t = 0; t < tiles.pieces; ++t) {
        const Index v = tiles.begin(t);
        const float* a = in_row + (f.x.in + v * f.x.in_step - columns.begin) * C;
        for (Index r = 0; r < num_runs; ++r) runs[r] = {a + r * row_floats, f.x.in_step * C, run_length};
        output.out = p.out.row(out_row + f.x.first + v * f.x.out_step) + block * kLanes;
        product_tile(
            static_cast<int>(tiles.size(t)), num_blocks, runs, static_cast<int>(num_runs),
            packed + block * kLanes * run_length * num_runs, output);
      }
    }
  }
}

/// Runs the product. pack(tap, first_lane, lanes, width, to) writes the source.channels() rows of one kernel tap.
template <class Pack>
void run(PlaneProduct p, Pack&& pack) {
  std::erase_if(p.phases, [](const Phase& f) { return f.y.count == 0 || f.x.count == 0; });
  if (p.planes == 0 || p.channels == 0 || p.phases.empty()) return;
  const Index C = p.source.channels();
  Index num_rows = 0, tap_rows = 1, in_step = 1;
  Extent columns;
  for (const Phase& f : p.phases) {
    num_rows = std::max(num_rows, f.y.count);
    tap_rows = std::max(tap_rows, static_cast<Index>(f.y.taps.size()));
    in_step = f.y.in_step;
    columns = join(columns, f.x.reads(0, f.x.count));
  }
  const Index row_floats = std::max<Index>(1, columns.size() * C);

  // Bands of rows: small enough for the cache, and enough of them for all threads.
  const int threads = num_threads();
  Index band_rows = std::clamp<Index>((kBandFloats / row_floats - tap_rows) / in_step + 1, 4, num_rows + 4);
  band_rows = std::min(band_rows, std::max<Index>(1, num_rows * p.planes / (2 * threads)));
  const EvenCut bands(num_rows, band_rows);
  Index max_input_rows = 0;
  for (Index b = 0; b < bands.pieces; ++b) {
    max_input_rows = std::max(max_input_rows, rows_read(p, bands.begin(b), bands.begin(b + 1)).size());
  }

  const Index width = blocks_of(p.channels) * kLanes;
  ScratchParts parts;
  const std::size_t bias_at = parts.take(width);
  for (Phase& f : p.phases) f.packed = parts.take(width * f.num_taps() * C);
  const Index band_floats = (max_input_rows * row_floats + kBandSlack + 15) / 16 * 16;
  const std::size_t bands_at = parts.take(band_floats * threads);
  Index max_runs = 0;
  for (const Phase& f : p.phases) max_runs = std::max(max_runs, static_cast<Index>(f.y.taps.size()));
  std::vector<Run> runs(static_cast<std::size_t>(std::max<Index>(1, max_runs) * threads));
  float* scratch = scratch_floats(parts.total());

  if (p.bias) {
    std::copy_n(p.bias, p.channels, scratch + bias_at);
    std::fill(scratch + bias_at + p.channels, scratch + bias_at + width, 0.0f);
  }
  const EvenCut groups = p.groups();
  for (const Phase& f : p.phases) {
    const auto pack_piece = [&](Index piece, int) {
      const Index g = piece / f.num_taps(), tap = piece % f.num_taps();
      const Index group_width = groups.size(g) * kLanes, first_lane = groups.begin(g) * kLanes;
      const auto taps_x = static_cast<Index>(f.x.taps.size());
      pack(
          f.y.taps[static_cast<std::size_t>(tap / taps_x)], f.x.taps[static_cast<std::size_t>(tap % taps_x)],
          first_lane, std::min(group_width, p.channels - first_lane), group_width,
          scratch + f.packed + first_lane * f.num_taps() * C + tap * C * group_width);
    };
    const Index pieces = groups.pieces * f.num_taps();
    if (pieces * C * width < 16 * 1024) {  // not worth waking threads
      for (Index piece = 0; piece < pieces; ++piece) pack_piece(piece, 0);
    } else {
      parallel_for(pieces, pack_piece);
    }
  }

  parallel_for(p.planes * bands.pieces, [&](Index item, int thread) {
    const Index plane = item / bands.pieces, b = item % bands.pieces;
    const Index u0 = bands.begin(b), u1 = bands.begin(b + 1);
    const Extent rows = rows_read(p, u0, u1);
    float* band = scratch + bands_at + static_cast<std::size_t>(thread * band_floats);
    copy_band(p.source, plane, rows, columns, band);
    for (const Phase& f : p.phases) {
      run_band(
          p, f, plane, u0, std::min(u1, f.y.count), scratch + f.packed, p.bias ? scratch + bias_at : nullptr, band,
          rows, columns, runs.data() + thread * std::max<Index>(1, max_runs));
    }
  });
}

}  // namespace

void plane_conv_fwd(
    const Conv3dSize& s, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
    Rows<float> out) {
  PlaneProduct p{
      .planes = s.B * s.in[0],
      .source = {.x = x, .x2 = x2, .C = s.I, .C2 = s.I2, .H = s.in[1], .W = s.in[2]},
      .out = out,
      .out_H = s.out[1],
      .out_W = s.out[2],
      .channels = s.O,
      .phases = {},
      .bias = bias};
  p.phases.push_back(
      {.y = forward_axis(s.out[1], s.kernel[1], s.stride[1], s.padding[1]),
       .x = forward_axis(s.out[2], s.kernel[2], s.stride[2], s.padding[2])});
  run(std::move(p), [&](Index ky, Index kx, Index first_lane, Index lanes, Index width, float* to) {
    const Index tap = ky * s.kernel[2] + kx;
    pack_transposed(w.row(first_lane * s.taps() + tap), s.taps() * w.pitch, s.I + s.I2, lanes, width, to);
  });
}

void plane_conv_bwd_data(
    const Conv3dSize& s, Rows<const float> d_out, Rows<const float> w, const float* bias, Rows<float> d_x,
    Rows<float> d_x2) {
  for (const bool second : {false, true}) {
    const Rows<float>& target = second ? d_x2 : d_x;
    if (!target) continue;
    PlaneProduct p{
        .planes = s.B * s.in[0],
        .source = {.x = d_out, .x2 = {}, .C = s.O, .C2 = 0, .H = s.out[1], .W = s.out[2]},
        .out = target,
        .out_H = s.in[1],
        .out_W = s.in[2],
        .channels = second ? s.I2 : s.I,
        .phases = {},
        .bias = second ? nullptr : bias};
    for (Index ry = 0; ry < s.stride[1]; ++ry)
      for (Index rx = 0; rx < s.stride[2]; ++rx)
        p.phases.push_back(
            {.y = backward_axis(s.in[1], s.kernel[1], s.stride[1], s.padding[1], ry),
             .x = backward_axis(s.in[2], s.kernel[2], s.stride[2], s.padding[2], rx)});
    const Index first_channel = second ? s.I : 0;
    run(std::move(p), [&](Index ky, Index kx, Index first_lane, Index lanes, Index width, float* to) {
      const Index tap = ky * s.kernel[2] + kx;
      pack_straight(w.row(tap) + first_channel + first_lane, s.taps() * w.pitch, s.O, lanes, width, to);
    });
  }
}

}  // namespace avid::kernels
