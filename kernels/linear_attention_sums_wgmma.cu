// kernels/linear_attention_sums_wgmma.cu -- pass 1 of linear attention, both ways, on a device of compute capability
//                                           9.0 (contracts: linear_attention.h, linear_attention_bwd.h; the siblings on
//                                           mma.sync: device/linear_attention_contexts.h, linear_attention_sums.h)
//
// Math       of each head, summed over the positions s of a slab, [32, C]: forward g = sum_s exp(k_s - max) h_s^T, with
//            the maxima and the sums of exponentials; backward d = sum_s softmax(q_s) d_y_s^T, and d_b_out. Backward g
//            is what the forward pass kept: without it device/linear_attention_sums.h sums both
// Layout     device/linear_attention_planes.h, 64 rows to a plane
// Parallel   a block has a slab of a frame, a warpgroup two of its heads: 64 channels are the 64 rows of both products.
//            Up to four warpgroups share the tiles of 64 positions, three where C > 104, two where C > 184; all warps
//            make h of them
// Products   k is weights times positions: its exponentials, rounded, are as they lie the left operand of g, whose
//            right one is the tile of h again, transposed. q is positions times weights, so that a softmax over
//            channels stays in the four lanes of a quad; it goes through shared memory to become the left operand of d
// Pipeline   four tiles of h forward, three and two of d_y backward, and two mbarriers at which warps arrive before
//            they wait: `full`, a tile is normalised, and `empty`, a tile's products are done. Rows are normalised
//            while products run; while one warpgroup is at its exponentials, the others multiply
// Traffic    as the siblings. Through shared memory, passes per 64 positions and two heads at 104 channels: 328 forward
//            (mma.sync: 416), 456 backward
// Numerics   as the siblings (the order of the sums is the hardware's)
// Limits     as the siblings. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes    as linear_attention_bwd_wgmma.cu
// Compiled   nvcc 13, sm_90a, no spills: forward 175, 166, 128, 126, 105 registers for up to 200, 184, 104, 96, 56
//            channels, backward 180, 166, 127, 124, 116; products not serialised. With eight lanes to a row of h the
//            same kernels spilled 8 to 150 bytes; products begun under a condition make nvcc put in fences (C7519)
// Measured   never run on a GPU yet
// Predicted  H200: 5.1 in place of 6.4 ms of an update of 64 clips of AVID 71M, 0.88 in place of 1.12 ms of a sampling
//            step of 16, at 0.47 of the ceiling of wgmma (docs/kernels/attention.md)
// Open       issue is next: a turn is 680 to 810 instructions of a warp at 96 channels with its loops over rows counted
//            once, where a block of three warpgroups goes through them up to three times
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_sums_wgmma_test.cpp
#include "kernels/device/gpu.h"
#include "kernels/device/linear_attention_contexts.h"
#include "kernels/device/linear_attention_planes.h"
#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Sizes for rows of up to 8 kN channels: elements of buffers.
template <int kN>
struct WgmmaSums {
  static constexpr int kTile = kN * kMatrixPlane / 2;                ///< 64 positions
  static constexpr int kZeros = kN % 2;                              ///< planes of zeros, in front of weights
  static constexpr int kWeights = (kZeros + kN) * kMatrixPlane / 2;  ///< of a warpgroup
  static constexpr int kFactors = 8 * kOwnPlane / 2;                 ///< of a warpgroup: softmax(q) of a tile
  /// Pairs of heads of a block at most: as registers allow, and shared memory with 200 channels.
  static constexpr int kMostPairs = kN <= 13 ? 4 : kN <= 23 ? 3 : 2, kThreads = 128 * kMostPairs;
};

/// Pairs of heads of a block, and blocks that share a slab.
template <int kN>
struct PairsOfHeads {
  int pairs, groups;
  explicit PairsOfHeads(int heads) {
    const int all = (heads + 1) / 2, most = WgmmaSums<kN>::kMostPairs;
    groups = (all + most - 1) / most;
    pairs = (all + groups - 1) / groups;
  }
};

/// The rows of a slab in tiles of 64, by all warps of a block. The lanes of a row copy and normalise the same chunks,
/// so that nobody waits for another's copies.
template <int kN>
struct SlabTiles {
  static constexpr int kLanes = kN <= 8 ? 8 : kN <= 16 ? 16 : 32;  ///< of a row: there are registers for one chunk
  int C;
  std::int64_t first_row;
  int positions;  ///< of the slab
  const float4* gamma;

  /// Calls f(row, lane) for every row of a tile that the thread works on; the lane of the row.
  template <class F>
  AVID_DEVICE static void for_rows(F&& f) {
    const std::uint32_t thread = compute_again(threadIdx.x);
#pragma unroll 1
    for (int r = thread / kLanes; r < kSumsTile; r += blockDim.x / kLanes) f(r, static_cast<int>(thread % kLanes));
  }
  AVID_DEVICE bool has(int tile) const { return tile * kSumsTile < positions; }
  /// Begins the copy of a tile.
  AVID_DEVICE void copy(const Rows<const BFloat16>& from, int tile, bf16* to) const {
    for_rows([&](int r, int lane) {
      const bool row_exists = tile * kSumsTile + r < positions;
      const BFloat16* row = from.row(first_row + tile * kSumsTile + r);
#pragma unroll
      for (int chunk = lane; chunk < kN; chunk += kLanes) {
        const bool exists = row_exists && chunk * 8 < C;
        cp_async_16(to + MatrixPlaces::at(r, chunk), exists ? row + chunk * 8 : from.data, exists);
      }
    });
  }
  /// The thread's own copies are here.
  AVID_DEVICE void normalise(bf16* tile) const {
    for_rows([&](int r, int lane) {
      normalise_copied_row<kN, kLanes, kMatrixPlane / 2>(C, lane, tile + MatrixPlaces::at(r, 0), gamma);
    });
  }
};

/// One arrival of the warp.
AVID_DEVICE void arrive(shared_address at) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) mbarrier_arrive(at);
}

/// Begins the copy of 64 rows of w_qkv from row `first` on, of which `rows` count, to a warpgroup's weights.
template <int kN>
AVID_DEVICE void copy_pair_weights(const Rows<const BFloat16>& w_qkv, int first, int rows, int C, bf16* to) {
  constexpr int kZeros = WgmmaSums<kN>::kZeros, kPlanes = kZeros + kN;
  for (int i = threadIdx.x % 128; i < 64 * kPlanes; i += 128) {
    const int r = i / kPlanes, plane = i % kPlanes, chunk = plane - kZeros;
    const bool exists = r < rows && chunk >= 0 && chunk * 8 < C;
    cp_async_16(to + MatrixPlaces::at(r, plane), exists ? w_qkv.row(first + r) + chunk * 8 : w_qkv.data, exists);
  }
}

/// Begins d = a warpgroup's 64 rows of weights times a tile of h, or, with kQueries, the tile times the weights.
template <int kN, bool kQueries>
AVID_DEVICE void begin_pair_projection(float (&d)[32], shared_address weights, shared_address h) {
  constexpr std::uint64_t kStep = kMatrixPlane / 16;
  const std::uint64_t zeros = plain_tile(weights, 128), of_weights = zeros + WgmmaSums<kN>::kZeros * kStep;
  const std::uint64_t of_h = plain_tile(h, 128);
  wgmma_fence();
#pragma unroll
  for (int s = 0; s < (kN + 1) / 2; ++s) {
    std::uint64_t w = of_weights + 2 * s * kStep + (kStep << kLeadingShift);
    std::uint64_t x = of_h + 2 * s * kStep + (kStep << kLeadingShift);
    if (2 * s + 1 == kN) {
      // Zeros and the last chunk of weights meet the last two of h. The first of these is finite if the sums are.
      w = zeros + (kN * kStep << kLeadingShift);
      x -= kStep;
    }
    if (s == 0)
      wgmma_bf16_first<64>(d, kQueries ? x : w, kQueries ? w : x);
    else
      wgmma_bf16<64>(d, kQueries ? x : w, kQueries ? w : x);
  }
}

/// Grid F * slabs * groups of heads; a warpgroup two heads.
template <int kN>
__global__ void __launch_bounds__(WgmmaSums<kN>::kThreads, 1)
    linear_attention_sums_wgmma_kernel(LinearContexts p, int groups) {
  using Shape = WgmmaSums<kN>;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128, pairs = static_cast<int>(blockDim.x) / 128;
  SharedArena arena;
  bf16* const h_tiles = arena.take<bf16>(4 * Shape::kTile, "h");
  bf16* const weights = arena.take<bf16>(pairs * Shape::kWeights, "w_k") + warpgroup * Shape::kWeights;
  float4* const gamma = arena.take<float4>(kN * 2, "gamma");
  mbarrier* const barriers = arena.take<mbarrier>(2, "barriers");
  const int block = static_cast<int>(blockIdx.x), slab_of_all = block / groups;
  const int frame = slab_of_all / p.slabs, begin = slab_of_all % p.slabs * p.slab;
  const int first_head = (block % groups * pairs + warpgroup) * 2;
  const shared_address full(barriers), empty = full + sizeof(mbarrier);
  const SlabTiles<kN> rows{p.C, std::int64_t{frame} * p.S + begin, min(p.S - begin, p.slab), gamma};
  const auto h_of = [&](int tile) { return h_tiles + tile % 4 * Shape::kTile; };

  rows.copy(p.x, 0, h_of(0));
  copy_pair_weights<kN>(p.w_qkv, (p.N + first_head) * 32, (p.N - first_head) * 32, p.C, weights);
  cp_async_commit();
  for (int tile = 1; tile < 3; ++tile) {
    if (rows.has(tile)) rows.copy(p.x, tile, h_of(tile));
    cp_async_commit();
  }
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  if (threadIdx.x < 2) mbarrier_init(full + threadIdx.x * sizeof(mbarrier), blockDim.x / 32);
  __syncthreads();
  cp_async_wait<2>();
  rows.normalise(h_of(0));
  fence_proxy_async();
  arrive(full);

  shared_address of_weights = shared_address(weights);
  float acc[kN * 4] = {}, k[32], total[2] = {}, largest[1][2] = {{-__FLT_MAX__, -__FLT_MAX__}};
  std::uint32_t e[4][4] = {};  // exponentials, of 16 positions each
  wgmma_settle(acc);           // zeros before any product is under way
#pragma unroll 1
  for (int tile = 0; rows.has(tile); ++tile) {
    mbarrier_wait(full, tile & 1);
    cp_async_wait<1>();
    if (rows.has(tile + 1)) rows.normalise(h_of(tile + 1));
    fence_proxy_async();
    arrive(full);
    compute_again(of_weights);
    begin_pair_projection<kN, false>(k, of_weights, shared_address(h_of(tile)));
    wgmma_commit();
    wgmma_wait<1>();  // the products of the last tile
    wgmma_settle(acc);
#pragma unroll
    for (int s = 0; s < 4; ++s) wgmma_settle(e[s]);
    arrive(empty);

    wgmma_wait<0>();
    wgmma_settle(k);
    key_exponentials<1, 8>(
        [&](int, int n, int i) -> float& { return k[4 * n + i]; }, rows.positions - tile * kSumsTile, largest,
        [&](int, int half) -> float& { return total[half]; },
        [&](int, int half, float factor) {
#pragma unroll
          for (int n = 0; n < kN; ++n) acc[4 * n + 2 * half] *= factor, acc[4 * n + 2 * half + 1] *= factor;
        });
#pragma unroll
    for (int i = 0; i < 16; ++i) e[i / 4][i % 4] = pack_bf16x2(k[2 * i], k[2 * i + 1]);
    mbarrier_wait(empty, tile & 1);
    if (rows.has(tile + 3)) rows.copy(p.x, tile + 3, h_of(tile + 3));
    cp_async_commit();
    const std::uint64_t h = transposed_plain_tile(shared_address(h_of(tile)), kMatrixPlane);
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      wgmma_fence();
      wgmma_bf16_fragment<kN * 8>(acc, e[s], h + 16 * s);
    }
    wgmma_commit();
  }
  wgmma_wait<0>();
  wgmma_settle(acc);
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4, head = first_head + warp / 2, channel = warp % 2 * 16;
  if (head >= p.N) return;
  float* out = p.partial_of(0, slab_of_all, head);  // slabs of a frame lie behind those of the one before
  store_sums<kN, 1>([&](int, int n, int i) { return acc[4 * n + i]; }, out + channel * p.width, p.width);
  store_key_softmax<1>(
      largest, [&](int, int half) { return total[half]; }, out + 32 * p.width + channel);
}

/// `full`, `empty` and one for each of up to four warpgroups.
constexpr int kBwdBarriers = 6;

/// As linear_attention_sums_wgmma_kernel: d, and the sums of d_y.
template <int kN>
__global__ void __launch_bounds__(WgmmaSums<kN>::kThreads, 1) linear_bwd_sums_wgmma_kernel(LinearBwd p, int groups) {
  using Shape = WgmmaSums<kN>;
  using Columns = ColumnSums<kN, MatrixPlaces>;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128, pairs = static_cast<int>(blockDim.x) / 128;
  SharedArena arena;
  bf16* const h_tiles = arena.take<bf16>(5 * Shape::kTile, "h and d_y");
  constexpr int kOfPair = Shape::kWeights + Shape::kFactors;
  bf16* const weights = arena.take<bf16>(pairs * kOfPair, "w_q and softmax") + warpgroup * kOfPair;
  bf16* const factors = weights + Shape::kWeights;
  float4* const gamma = arena.take<float4>(kN * 2, "gamma");
  mbarrier* const barriers = arena.take<mbarrier>(kBwdBarriers, "barriers");
  float* const column_memory = arena.take<float>(Columns::floats(static_cast<int>(blockDim.x)), "sums of d_y");
  const int block = static_cast<int>(blockIdx.x), slab_of_all = block / groups;
  const int frame = slab_of_all / p.slabs, begin = slab_of_all % p.slabs * kLinearBwdSlab;
  const int first_head = (block % groups * pairs + warpgroup) * 2;
  const bool sums_columns = p.d_b_out != nullptr && block % groups == 0;
  const shared_address full(barriers), empty = full + sizeof(mbarrier);
  const shared_address written = empty + (1 + warpgroup) * sizeof(mbarrier);  // the warpgroup's factors of a tile
  const SlabTiles<kN> rows{p.C, std::int64_t{frame} * p.S + begin, min(p.S - begin, kLinearBwdSlab), gamma};
  const auto h_of = [&](int tile) { return h_tiles + tile % 3 * Shape::kTile; };
  const auto d_y_of = [&](int tile) { return h_tiles + (3 + tile % 2) * Shape::kTile; };
  const Columns columns(column_memory);

  rows.copy(p.x, 0, h_of(0));
  copy_pair_weights<kN>(p.w_qkv, first_head * 32, (p.N - first_head) * 32, p.C, weights);
  cp_async_commit();
  rows.copy(p.d_y, 0, d_y_of(0));
  if (rows.has(1)) rows.copy(p.x, 1, h_of(1));
  cp_async_commit();
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  if (static_cast<int>(threadIdx.x) < 2 + pairs)
    mbarrier_init(full + threadIdx.x * sizeof(mbarrier), threadIdx.x < 2 ? blockDim.x / 32 : 4);
  __syncthreads();
  cp_async_wait<1>();
  rows.normalise(h_of(0));
  fence_proxy_async();
  arrive(full);
  mbarrier_wait(full, 0);

  shared_address of_weights = shared_address(weights);
  float acc[kN * 4] = {}, q[32];
  wgmma_settle(acc);  // zeros before any product is under way
#pragma unroll 1
  for (int tile = 0; rows.has(tile); ++tile) {
    compute_again(of_weights);
    begin_pair_projection<kN, true>(q, of_weights, shared_address(h_of(tile)));
    wgmma_commit();
    wgmma_wait<1>();  // the products of the last tile
    wgmma_settle(acc);
    arrive(empty);
    cp_async_wait<0>();
    if (rows.has(tile + 1)) rows.normalise(h_of(tile + 1));
    fence_proxy_async();
    arrive(full);
    mbarrier_wait(empty, tile & 1);  // also for the factors
    if (rows.has(tile + 1)) rows.copy(p.d_y, tile + 1, d_y_of(tile + 1));
    if (rows.has(tile + 2)) rows.copy(p.x, tile + 2, h_of(tile + 2));
    cp_async_commit();

    wgmma_wait<0>();
    wgmma_settle(q);
    put_query_softmax(q, factors);
    fence_proxy_async();
    arrive(written);
    mbarrier_wait(full, (tile + 1) & 1);  // d_y of this tile, h of the next one
    mbarrier_wait(written, tile & 1);
    const std::uint64_t a = transposed_plain_tile(of_weights + Shape::kWeights * 2, kOwnPlane);
    const std::uint64_t b = transposed_plain_tile(shared_address(d_y_of(tile)), kMatrixPlane);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSumsTile; s += 16) wgmma_bf16_transposed<kN * 8>(acc, a + s, b + s);
    wgmma_commit();
    if (sums_columns) columns.add(d_y_of(tile));  // before the warp says that it needs the tile no more
  }
  wgmma_wait<0>();
  wgmma_settle(acc);
  if (sums_columns) {
    __syncthreads();
    columns.store(column_memory, p.d_b_out + std::int64_t{slab_of_all} * p.width, p.width);
  }
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4, head = first_head + warp / 2, channel = warp % 2 * 16;
  if (head >= p.N) return;
  store_sums<kN, 1>(
      [&](int, int n, int e) { return acc[4 * n + e]; }, p.partial_of(0, slab_of_all, head) + (32 + channel) * p.width,
      p.width);
}

void linear_attention_sums_wgmma(const Stream& stream, const LinearContexts& p, std::int64_t frames) {
  with_row_chunks(p.width, [&]<int kN>() {
    using Shape = WgmmaSums<kN>;
    const PairsOfHeads<kN> of_block(p.N);
    launch(
        linear_attention_sums_wgmma_kernel<kN>, dim3(static_cast<unsigned>(frames * p.slabs * of_block.groups)),
        dim3(static_cast<unsigned>(128 * of_block.pairs)),
        static_cast<std::size_t>(4 * Shape::kTile + of_block.pairs * Shape::kWeights) * sizeof(BFloat16) + kN * 32 +
            2 * sizeof(mbarrier),
        stream, p, of_block.groups);
  });
}

void linear_bwd_sums_wgmma(const Stream& stream, const LinearBwd& p, std::int64_t frames) {
  with_row_chunks(p.width, [&]<int kN>() {
    using Shape = WgmmaSums<kN>;
    const PairsOfHeads<kN> of_block(p.N);
    const int pairs = of_block.pairs, threads = 128 * pairs;
    launch(
        linear_bwd_sums_wgmma_kernel<kN>, dim3(static_cast<unsigned>(frames * p.slabs * of_block.groups)),
        dim3(static_cast<unsigned>(threads)),
        static_cast<std::size_t>(5 * Shape::kTile + pairs * (Shape::kWeights + Shape::kFactors)) * sizeof(BFloat16) +
            kN * 32 + static_cast<std::size_t>(ColumnSums<kN, MatrixPlaces>::floats(threads)) * sizeof(float) +
            kBwdBarriers * sizeof(mbarrier),
        stream, p, of_block.groups);
  });
}

}  // namespace AVID_GPU
}  // namespace avid::kernels
