// kernels/linear_attention_bwd_wgmma.cu -- pass 2 of linear attention's backward pass on a device of compute capability
//                                          9.0 (contract: linear_attention_bwd.h; its sibling on mma.sync:
//                                          device/linear_attention_rows.h)
//
// Math       linear_attention_bwd.cu. A stage is half a head: of q with w_q and m, or of k with w_k and r
// Layout     device/linear_attention_planes.h. As they lie, a stage's 64 rows of matrices are the right operand of the
//            products of h and d_y, and, with both operands transposed, that of d_h. Its left operand, d_q or d_k and
//            kn, goes through shared memory: movmatrix turns it, so that eight positions of a channel are 16 bytes
// Parallel   a block is two warpgroups of 64 positions each, two blocks to a multiprocessor (one where C > 104)
// Pipeline   three buffers of matrices and one barrier in a stage, behind which its second product (d_h) and the first
//            ones of the next stage begin together. While one warpgroup goes through its gradients, the others of the
//            multiprocessor multiply
// Traffic    as linear_attention_bwd.cu. Per 128 positions and head at 96 channels about 2000 passes through shared
//            memory, on mma.sync 2100: a product of 64 rows and 32 columns reads twice as much of the rows
// Numerics   as linear_attention_bwd.cu (the order of the sums is the hardware's)
// Limits     as linear_attention_bwd.cu. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes    a tile without swizzle may begin at any multiple of 16 bytes, as gather_gemm_halo_wgmma.cu does; and a
//            warp's part of a product reads only its own 16 rows of the left operand, so that the warp may write the
//            next ones when its own part is done
// Compiled   nvcc 13, sm_90a, no spills: 212, 196, 128, 128, 126 registers for up to 200, 184, 104, 96, 56 channels;
//            products not serialised
// Measured   never run on a GPU yet
// Predicted  H200: 4.9 in place of 6.4 ms of an update of 64 clips of AVID 71M, at 0.47 of the ceiling of wgmma
//            (docs/kernels/attention.md)
// Open       lost to what nvcc makes of it: k and d_kn as one product of 64 columns (208 bytes spilled, or products one
//            by one, C7511, in the registers of q and d_s); d_h under way during the next gradients (C7514, C7515)
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_bwd_wgmma_test.cpp
#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/linear_attention_planes.h"
#include "kernels/device/linear_attention_row_steps.h"
#include "kernels/device/warpgroup.h"
#include "kernels/linear_attention_bwd.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Sizes for rows of up to 8 kN channels: elements of buffers.
template <int kN>
struct WgmmaRows {
  /// An odd number of chunks of a row is one of zeros more, which h and d_y share: it lies in front of h, d_y behind.
  static constexpr int kZeros = kN % 2;
  static constexpr int kRows = (kZeros + 2 * kN) * kRowPlane / 2;
  /// Chunks of d_h: as many columns as there is a product for.
  static constexpr int kOut = kN == 25 ? 26 : kN;
  static constexpr int kSlice = kOut * kMatrixPlane / 2;  ///< the two matrices of a stage
  static constexpr int kTurned = 8 * kOwnPlane / 2;       ///< of a warpgroup: up to 64 channels by 64 positions
  static constexpr int kBlocks = kN <= 13 ? 2 : 1;        ///< of a multiprocessor
  static constexpr int kThreads = 256;

  static constexpr std::size_t shared_bytes(std::int64_t heads) {
    return (kRows + 3 * kSlice + 2 * kTurned) * sizeof(BFloat16) + kN * 32 + static_cast<std::size_t>(heads) * 256;
  }
};

static_assert(WgmmaRows<25>::shared_bytes(kLinearBwdWideHeads) <= 227 * 1024);

/// Begins d_h += the warpgroup's turned rows of kChannels channels times as many rows of matrices.
template <int kN, int kChannels>
AVID_DEVICE void begin_turned_product(
    float (&d_h)[WgmmaRows<kN>::kOut * 4], shared_address turned, shared_address matrices) {
  using Rows = WgmmaRows<kN>;
  const std::uint64_t a = transposed_plain_tile(turned, kOwnPlane);
  const std::uint64_t b = transposed_plain_tile(matrices, kMatrixPlane);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kChannels; k += 16) wgmma_bf16_transposed<Rows::kOut * 8>(d_h, a + k, b + k);
}

/// Puts a warp's 16 rows of a head's channels where the warpgroup's turned rows have channels first .. first + 31.
AVID_DEVICE void put_turned(bf16* turned, const PackedRows<1>& packed, int first) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(
          turned + (2 * warp + half) * (kOwnPlane / 2) + (first + n * 8 + g) * 8 + 2 * t) =
          movmatrix(packed[0][n][half]);
}

/// Grid F * tiles of 128 positions.
template <int kN>
__global__ void __launch_bounds__(WgmmaRows<kN>::kThreads, WgmmaRows<kN>::kBlocks)
    linear_bwd_rows_wgmma_kernel(LinearBwd p, int tiles) {
  using Rows = WgmmaRows<kN>;
  SharedArena arena;
  bf16* const h_rows = arena.take<bf16>(Rows::kRows, "h and d_y") + RowPlaces::at(0, Rows::kZeros);
  bf16* const slices = arena.take<bf16>(3 * Rows::kSlice, "matrices");
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  bf16* const turned = arena.take<bf16>(2 * Rows::kTurned, "turned rows") + warpgroup * Rows::kTurned;
  float4* const gamma = arena.take<float4>(kN * 2, "gamma");
  float* const softmax = arena.take<float>(p.N * 64, "log sums and corrections");
  bf16* const d_y_rows = h_rows + RowPlaces::at(0, kN);
  const std::int64_t frame = blockIdx.x / tiles;
  const GradientRows<kN, 1, RowPlaces> rows(
      p, frame, static_cast<int>(blockIdx.x % tiles) * kLinearBwdRows, h_rows, d_y_rows, gamma);

  int stage = 0, now = 0;  // and where its matrices lie
  const auto next_of = [](int slice) { return slice == 2 * Rows::kSlice ? 0 : slice + Rows::kSlice; };
  const auto copy_stage = [&](int which, int slice) {
    if (which < 2 * p.N) copy_matrices<kN, Rows::kThreads, MatrixPlaces>(p, frame, which, slices + slice);
    cp_async_commit();
  };
  rows.copy_d_y();
  copy_stage(0, 0);
  copy_stage(1, Rows::kSlice);
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  load_softmax(p, frame, softmax);
  if (Rows::kZeros > 0 && threadIdx.x < kLinearBwdRows)
    *reinterpret_cast<uint4*>(h_rows + RowPlaces::at(threadIdx.x, -1)) = make_uint4(0, 0, 0, 0);
  if (Rows::kOut > kN) {
    for (int i = threadIdx.x; i < 3 * 64; i += Rows::kThreads)
      *reinterpret_cast<uint4*>(slices + i / 64 * Rows::kSlice + MatrixPlaces::at(i % 64, kN)) = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  rows.normalise();

  shared_address of_h = shared_address(h_rows + RowPlaces::at(64 * warpgroup, 0));
  shared_address of_d_y = shared_address(d_y_rows + RowPlaces::at(64 * warpgroup, 0));
  shared_address of_turned = shared_address(turned);
  float d_h[Rows::kOut * 4] = {}, one[16], two[16];  // products with the first matrix of a stage, and with the second
  wgmma_settle(d_h);                                 // zeros before any product is under way
  PackedRows<1> packed;
  const auto of_one = [&](int, int n, int e) -> float& { return one[4 * n + e]; };
  const auto of_two = [&](int, int n, int e) -> float& { return two[4 * n + e]; };
  // Everybody's rows and copies are there for the products.
  const auto exchange = [] {
    fence_proxy_async();
    __syncthreads();
  };
  const auto begin_q = [&](int slice) {
    const shared_address w_q = shared_address(slices + slice), m = w_q + 32 * 16;
    compute_again(of_h), compute_again(of_d_y), compute_again(of_turned);
    wgmma_fence();
    begin_projection<kN, 32>(one, of_h, w_q);
    begin_projection<kN, 32, 1 + kN>(two, of_d_y, m);
  };
  const auto begin_k = [&](int slice) {
    const shared_address w_k = shared_address(slices + slice), r = w_k + 32 * 16;
    compute_again(of_h);
    wgmma_fence();
    begin_projection<kN, 32>(one, of_h, w_k);
    begin_projection<kN, 32>(two, of_h, r);
  };
  // d_h += the stage's turned rows times its matrices. Those of the stage before are done with: the ones of the stage
  // after the next go there.
  const auto begin_d_h = [&]<int kChannels>(std::integral_constant<int, kChannels>) {
    begin_turned_product<kN, kChannels>(d_h, of_turned, shared_address(slices + now));
    wgmma_commit();
    copy_stage(stage + 2, next_of(next_of(now)));
    now = next_of(now), ++stage;
  };
  const auto wait_for_all = [&] {
    wgmma_wait<0>();
    __syncwarp();  // what the warp's products read may be written
    wgmma_settle(one), wgmma_settle(two), wgmma_settle(d_h);
  };

  cp_async_wait<1>();
  exchange();
  begin_q(now);
  wgmma_commit();
#pragma unroll 1
  for (int head = 0; head < p.N; ++head) {
    wait_for_all();
    query_gradient<1>(of_one, of_two);
    pack_rows<1>(packed, of_one);
    put_turned(turned, packed, 0);
    cp_async_wait<0>();
    exchange();
    begin_k(next_of(now));
    begin_d_h(std::integral_constant<int, 32>{});
    rows.store_packed(packed, head * 32);

    wait_for_all();
    key_gradient<1>(of_one, of_two, softmax + head * 64);
    pack_rows<1>(packed, of_one);
    put_turned(turned, packed, 32);
    pack_rows<1>(packed, of_two);
    put_turned(turned, packed, 0);
    cp_async_wait<0>();
    exchange();
    if (head + 1 < p.N) begin_q(next_of(now));
    begin_d_h(std::integral_constant<int, 64>{});
    rows.store_packed(packed, (p.N + head) * 32);
  }
  wait_for_all();
  rows.finish([&](int, int n, int e) { return d_h[4 * n + e]; }, reinterpret_cast<float*>(slices));
}

void linear_bwd_rows_wgmma(const Stream& stream, const LinearBwd& p, std::int64_t frames, std::int64_t tiles) {
  with_row_chunks(p.width, [&]<int kN>() {
    launch(
        linear_bwd_rows_wgmma_kernel<kN>, dim3(static_cast<unsigned>(frames * tiles)), dim3(WgmmaRows<kN>::kThreads),
        WgmmaRows<kN>::shared_bytes(p.N), stream, p, static_cast<int>(tiles));
  });
}

}  // namespace AVID_GPU
}  // namespace avid::kernels
