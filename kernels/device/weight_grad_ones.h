// kernels/device/weight_grad_ones.h -- the bias gradient as one more column of a weight gradient's source
//
// The sums of the columns of d_out are what a source of ones gives. Where the last tile of a product has room for a
// chunk, that chunk of shared memory holds them: written once, before the first copy, into all stages, and never copied
// over. Positions past the end need no zeros here, since those of d_out are zero.
//
// One channel of the chunk would do. But tensor cores cut their sums towards zero (docs/simulator.md), and thousands of
// steps make a sum of them 1e-4 too small. So the channels take turns over the steps of the instruction that the stages
// hold: each then is a sum of a fraction of the steps, since zeros leave it as it is. And every kOnesPositions
// positions the sums are put by, in f32 and rounded to nearest.
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels::AVID_GPU {

inline constexpr int kOnesPositions = 4096;

/// Writes the chunk of ones of a position in step `turn` of the instruction, counted over all stages.
template <class Elem>
AVID_DEVICE void store_ones(unsigned char* to, int turn) {
  const int channel = turn % kChunk<Elem>;
  const int word = sizeof(Elem) == 2 ? channel / 2 : channel;
  const std::uint32_t one = sizeof(Elem) == 2 ? 0x3f80u << (channel % 2 * 16) : 0x3f800000u;
  *reinterpret_cast<uint4*>(to) =
      make_uint4(word == 0 ? one : 0, word == 1 ? one : 0, word == 2 ? one : 0, word == 3 ? one : 0);
}

/// The partial sums [num_columns] of a split: behind those of the weights.
template <class Elem>
AVID_DEVICE float* bias_partials(const GatherWeightGrad<Elem>& p, int splits, int split) {
  const std::int64_t m =
      std::int64_t{p.t.taps} * p.y.taps * p.x.taps * (p.source[0].chunks + p.source[1].chunks) * kChunk<Elem>;
  return p.workspace + (m * splits + split) * p.num_columns;
}

/// Puts by what the lanes hold of the chunk's channels of column n of the result, a warp together: writes it to sums[n]
/// if this is the first time, and else adds it. The channels are those of lanes a multiple of 4 apart, or, with
/// `quads`, of the four lanes of a quad.
template <bool quads = false>
AVID_DEVICE void put_bias_by(float* sums, int n, int num_columns, int lane, float v, bool first) {
#pragma unroll
  for (int o = quads ? 1 : 4; o < (quads ? 4 : 32); o *= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
  if ((quads ? lane % 4 == 0 : lane < 4) && n < num_columns) sums[n] = first ? v : sums[n] + v;
}

}  // namespace avid::kernels::AVID_GPU
