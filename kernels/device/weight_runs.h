// kernels/device/weight_runs.h -- do the weights of a gathered product lie as a kernel walks them, one behind another
//
// Then a step of the inner dimension, for some rows of weights, is a plain tile of a matrix (weight_tiles.h).
#pragma once

#include "kernels/device/halo_raster.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {

/// Chunks of the inner dimension.
inline int inner_chunks_of(const GatherGemm<BFloat16>& p) {
  return p.t.taps * p.y.taps * p.x.taps * (p.source[0].chunks + p.source[1].chunks);
}

/// Is (source, tap, chunk), the order of gather_gemm_wgmma, one run from weight_source[0] on? Not where a source's taps
/// lie apart: concatenated sources whose weights are not packed, or a phase of a strided adjoint, which takes every
/// other tap.
inline bool weights_in_a_run(const GatherGemm<BFloat16>& p) {
  const int taps = p.t.taps * p.y.taps * p.x.taps, first = p.source[0].chunks, second = p.source[1].chunks;
  if (p.adjoint && (p.t.stride != 1 || p.y.stride != 1 || p.x.stride != 1)) return false;
  if (taps > 1 && (p.weight_tap[0] != first || (second > 0 && p.weight_tap[1] != second))) return false;
  return second == 0 || p.weight_source[1] == p.weight_source[0] + taps * first;
}

/// Is (tap, chunk of both sources), the order of gather_gemm_halo_wgmma where all planes are in shared memory at once
/// and none is left over, one run? Of strides it is none: they take every other tap.
inline bool halo_weights_in_a_run(const GatherGemm<BFloat16>& p, const HaloPlan& h) {
  const int first = p.source[0].chunks, second = p.source[1].chunks, planes = first + second;
  if (p.y.stride != 1 || p.x.stride != 1) return false;
  if (h.passes != 1 || planes % 2 != 0 || p.weight_tap[0] != planes) return false;
  return second == 0 || (p.weight_tap[1] == planes && p.weight_source[1] == p.weight_source[0] + first);
}

}  // namespace avid::kernels
