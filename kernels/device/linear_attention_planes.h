// kernels/device/linear_attention_planes.h -- rows and matrices of linear attention as wgmma takes them without swizzle
//
// Planes of one chunk (8 channels), rows 16 bytes apart, and 16 bytes between planes, so that eight chunks of a row lie
// in different banks. For linear_attention_wgmma.cu and linear_attention_bwd_wgmma.cu, whose blocks own 128 positions,
// two warpgroups 64 each, a warp 16, and for linear_attention_sums_wgmma.cu.
#pragma once

#include "kernels/device/linear_attention_two_pass.h"
#include "kernels/device/warpgroup.h"

namespace avid::kernels::AVID_GPU {

/// Bytes of a plane: of 128 rows; of 64 rows of matrices; of 64 rows that a warpgroup puts there itself, which come a
/// plane at a time and need nothing between.
constexpr int kRowPlane = 128 * 16 + 16, kMatrixPlane = 64 * 16 + 16, kOwnPlane = 64 * 16;
using RowPlaces = ChunkPlaces<8, kRowPlane / 2>;
using MatrixPlaces = ChunkPlaces<8, kMatrixPlane / 2>;

/// Begins d = 64 rows of kN chunks times kColumns rows of matrices. `rows`: where the 64 lie in the plane of chunk 0.
/// If kN is odd there is a plane of zeros in front of them, kZeros planes from that of chunk 0.
template <int kN, int kColumns, int kZeros = 1>
AVID_DEVICE void begin_projection(float (&d)[kColumns / 2], shared_address rows, shared_address matrices) {
  constexpr std::uint64_t kRowStep = kRowPlane / 16, kMatrixStep = kMatrixPlane / 16;
  const std::uint64_t a = plain_tile(rows, 128), b = plain_tile(matrices, 128);
#pragma unroll
  for (int s = 0; s < (kN + 1) / 2; ++s) {
    std::uint64_t step_a = a + 2 * s * kRowStep + (kRowStep << kLeadingShift);
    std::uint64_t step_b = b + 2 * s * kMatrixStep + (kMatrixStep << kLeadingShift);
    if (2 * s + 1 == kN) {
      // Zeros and the last chunk meet the last two of the matrices. The first of these is finite if the sums are.
      step_a = a - kZeros * kRowStep + ((kZeros + 2 * s) * kRowStep << kLeadingShift);
      step_b -= kMatrixStep;
    }
    if (s == 0)
      wgmma_bf16_first<kColumns>(d, step_a, step_b);
    else
      wgmma_bf16<kColumns>(d, step_a, step_b);
  }
}

/// q, a warpgroup's 64 positions by the 64 channels of two heads as wgmma leaves them, to its softmax over each head's
/// channels, rounded, in planes of kOwnPlane at `to`: a left operand.
AVID_DEVICE void put_query_softmax(float (&q)[32], bf16* to) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int head = 0; head < 2; ++head) {
    const auto of_head = [&](int, int n, int e) -> float& { return q[16 * head + 4 * n + e]; };
    query_softmax<1>(of_head);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(
            to + (head * 4 + n) * (kOwnPlane / 2) + (warp * 16 + half * 8 + g) * 8 + 2 * t) =
            pack_bf16x2(of_head(0, n, 2 * half), of_head(0, n, 2 * half + 1));
  }
}

/// v. Keeps what hangs on it from being computed before a loop and kept: there are no registers for it.
AVID_DEVICE std::uint32_t compute_again(std::uint32_t v) {
  float bits[1] = {__uint_as_float(v)};
  wgmma_settle(bits);
  return __float_as_uint(bits[0]);
}
AVID_DEVICE void compute_again(shared_address& at) { at.bytes = compute_again(at.bytes); }

}  // namespace avid::kernels::AVID_GPU
