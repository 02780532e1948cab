// kernels/linear_attention_wgmma.cu -- pass 2 of linear attention forward on a device of compute capability 9.0
//                                      (contract: linear_attention.h; its sibling on mma.sync:
//                                      device/linear_attention_two_pass.h)
//
// Math       device/linear_attention_two_pass.h. A stage is two heads: q = h w_q^T, 64 columns, and y += softmax(q) m^T
//            over the 64 channels of both. A head that is not there has zeros for weights and for m
// Layout     device/linear_attention_planes.h; m in planes of eight channels of the head
// Parallel   a block is two warpgroups of 64 positions each, two blocks to a multiprocessor (one where C > 104). A
//            warp's softmax, in bf16 the left operand of the second product, goes through shared memory
// Pipeline   two buffers each of weights and of m, and one barrier in a stage, behind which its second product and the
//            first one of the next stage begin. What a warpgroup waits for, the others of the multiprocessor fill
// Traffic    as device/linear_attention_two_pass.h
// Numerics   as there (the order of the sums is the hardware's)
// Limits     as there. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes    as linear_attention_bwd_wgmma.cu
// Compiled   nvcc 13, sm_90a, no spills: 168, 160, 119, 117, 95 registers for up to 200, 184, 104, 96, 56 channels;
//            products not serialised
// Measured   never run on a GPU yet
// Predicted  H200: 3.6 in place of 5.0 ms of an update of 64 clips of AVID 71M, 0.91 in place of 1.26 ms of a sampling
//            step of 16, at 0.47 of the ceiling of wgmma
// Counted    instructions per product in the loop at 104 channels: 39.5; 50.8 with exponentials that keep what lies
//            below 2^-126; 82.5 with copies that divided for each chunk, which bound the kernel (1.88 in place of 1.64
//            ms of the base, predicted)
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_wgmma_test.cpp
#include "kernels/device/gpu.h"
#include "kernels/device/linear_attention_planes.h"
#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Sizes for rows of up to 8 kN channels: elements of buffers.
template <int kN>
struct WgmmaPassB {
  static constexpr int kZeros = kN % 2;  ///< planes of zeros, in front of the rows
  static constexpr int kRows = (kZeros + kN) * kRowPlane / 2;
  static constexpr int kWeights = kN * kMatrixPlane / 2;
  static constexpr int kFoldedPlane = kN * 8 * 16 + 16;  ///< bytes
  static constexpr int kFolded = 8 * kFoldedPlane / 2;
  static constexpr int kFactors = 8 * kOwnPlane / 2;  ///< of a warpgroup
  static constexpr int kBlocks = kN <= 13 ? 2 : 1;    ///< of a multiprocessor
  static constexpr int kThreads = 256;
  static constexpr std::size_t kSharedBytes =
      (kRows + 2 * (kWeights + kFolded + kFactors)) * sizeof(BFloat16) + kN * 8 * sizeof(float);
};

/// Grid F * tiles of 128 positions. p.K is 8 kN.
template <int kN>
__global__ void __launch_bounds__(WgmmaPassB<kN>::kThreads, WgmmaPassB<kN>::kBlocks)
    linear_attention_pass_b_wgmma_kernel(LinearTwoPass p, int tiles) {
  using Shape = WgmmaPassB<kN>;
  SharedArena arena;
  bf16* const xn = arena.take<bf16>(Shape::kRows, "xn") + RowPlaces::at(0, Shape::kZeros);
  bf16* const weights = arena.take<bf16>(2 * Shape::kWeights, "w_q");
  bf16* const folded = arena.take<bf16>(2 * Shape::kFolded, "folded");
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  bf16* const factors = arena.take<bf16>(2 * Shape::kFactors, "softmax") + warpgroup * Shape::kFactors;
  float* const gamma = arena.take<float>(p.K, "gamma");
  const std::int64_t frame = blockIdx.x / tiles;
  const int t0 = static_cast<int>(blockIdx.x % tiles) * 128, rows = min(128, p.S - t0);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = warp * 16, stages = (p.N + 1) / 2;

  const auto copy_weights = [&](int stage) {
    bf16* const to = weights + stage % 2 * Shape::kWeights;
    constexpr int kColumns = kN <= 16 ? 16 : 32, kStep = Shape::kThreads / kColumns;
    const int r = static_cast<int>(threadIdx.x) / kColumns, chunk = static_cast<int>(threadIdx.x) % kColumns;
    if (chunk >= kN) return;
    const int left = chunk * 8 < p.C ? p.N * 32 - stage * 64 - r : 0;  // rows from this thread's first on
    const BFloat16* from = p.w_qkv.row(stage * 64 + r) + chunk * 8;
    const unsigned pitch = static_cast<unsigned>(p.w_qkv.pitch);
    const shared_address at = shared_address(to) + MatrixPlaces::at(r, chunk) * 2;
#pragma unroll
    for (int i = 0; i < 64 / kStep; ++i)
      cp_async_16(at + i * kStep * 16, from + std::size_t{pitch} * (i * kStep), i * kStep < left);
  };
  const auto copy_folded = [&](int stage) {
    bf16* const to = folded + stage % 2 * Shape::kFolded;
    constexpr int kStep = Shape::kThreads / 8;
    const int c = static_cast<int>(threadIdx.x) / 8, chunk = threadIdx.x % 8, channel = stage * 64 + chunk * 8;
    const int left = channel < p.N * 32 ? p.C8 - c : 0;  // channels from this thread's first on
    const std::int64_t row = p.N * 32;
    const BFloat16* from = p.folded + (frame * p.C8 + c) * row + channel;
    const shared_address at = shared_address(to) + (chunk * Shape::kFoldedPlane + c * 16);
#pragma unroll
    for (int i = 0; i < (kN * 8 + kStep - 1) / kStep; ++i)
      if ((i + 1) * kStep <= kN * 8 || c + i * kStep < kN * 8)
        cp_async_16(at + i * kStep * 16, from + i * kStep * row, i * kStep < left);
  };
  copy_weights(0);
  cp_async_commit();
  copy_folded(0);
  if (stages > 1) copy_weights(1);
  cp_async_commit();
  for (int c = threadIdx.x; c < p.K; c += blockDim.x) gamma[c] = c < p.C ? p.gamma[c] : 0.0f;
  if (Shape::kZeros > 0 && threadIdx.x < 128)
    *reinterpret_cast<uint4*>(xn + RowPlaces::at(threadIdx.x, -1)) = make_uint4(0, 0, 0, 0);
  __syncthreads();
  normalise_rows(p, p.x.row(frame * p.S + t0), rows, first_row, 16, gamma, xn, RowPlaces{});

  shared_address of_xn = shared_address(xn + RowPlaces::at(64 * warpgroup, 0));
  shared_address of_factors = shared_address(factors);
  float y[kN * 4] = {}, q[32];
  wgmma_settle(y);  // zeros before any product is under way
  const auto begin_q = [&](int stage) {
    compute_again(of_xn);
    wgmma_fence();
    begin_projection<kN, 64>(q, of_xn, shared_address(weights + stage % 2 * Shape::kWeights));
  };
  const auto begin_y = [&](int stage) {
    compute_again(of_factors);
    constexpr std::uint64_t kStep = kOwnPlane / 16, kFoldedStep = Shape::kFoldedPlane / 16;
    const std::uint64_t a = plain_tile(of_factors, 128) + (kStep << kLeadingShift);
    const std::uint64_t b = plain_tile(shared_address(folded + stage % 2 * Shape::kFolded), 128);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s)
      wgmma_bf16<kN * 8>(y, a + 2 * s * kStep, b + 2 * s * kFoldedStep + (kFoldedStep << kLeadingShift));
  };
  // Everybody's rows and copies are there for the products.
  const auto exchange = [] {
    fence_proxy_async();
    __syncthreads();
  };

  const auto wait_for_all = [&] {
    wgmma_wait<0>();
    __syncwarp();  // what the warp's products read may be written
    wgmma_settle(q), wgmma_settle(y);
  };

  cp_async_wait<1>();
  exchange();
  begin_q(0);
  wgmma_commit();
#pragma unroll 1
  for (int stage = 0; stage < stages; ++stage) {
    wait_for_all();
    put_query_softmax(q, factors);
    cp_async_wait<0>();
    exchange();
    if (stage + 1 < stages) begin_q(stage + 1);
    begin_y(stage);
    wgmma_commit();
    if (stage + 1 < stages) copy_folded(stage + 1);
    if (stage + 2 < stages) copy_weights(stage + 2);
    cp_async_commit();
  }
  wait_for_all();
  store_output<kN, 1>(
      p, frame * p.S + t0, rows, first_row, [&](int, int n, int e) { return y[4 * n + e]; }, xn, RowPlaces{});
}

void linear_attention_pass_b_wgmma(const Stream& stream, const LinearTwoPass& args, std::int64_t frames) {
  const int tiles = (args.S + 127) / 128;
  with_row_chunks(args.C8, [&]<int kN>() {
    LinearTwoPass p = args;
    p.K = kN * 8;
    launch(
        linear_attention_pass_b_wgmma_kernel<kN>, dim3(static_cast<unsigned>(frames * tiles)),
        dim3(WgmmaPassB<kN>::kThreads), WgmmaPassB<kN>::kSharedBytes, stream, p, tiles);
  });
}

}  // namespace AVID_GPU
}  // namespace avid::kernels
