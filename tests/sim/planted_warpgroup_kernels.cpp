// tests/sim/planted_warpgroup_kernels.cpp -- bugs with what sm_90a adds: products of warpgroups, mbarriers, proxies
#include "kernels/device/warpgroup.h"
#include "tests/sim/planted_launch.h"

namespace avid::kernels {
namespace AVID_GPU {

// A is 64 x 16 with a one at column row % 16, B[n][k] = 16 n + k for eight n: D[m][n] = 16 n + m % 16.
struct Tiles {
  unsigned char *a, *b;
  AVID_DEVICE explicit Tiles(SharedArena& arena)
      : a(arena.take_aligned<unsigned char>(64 * kTileRowBytes, kTileAlignment, "a")),
        b(arena.take_aligned<unsigned char>(8 * kTileRowBytes, kTileAlignment, "b")) {}
};
inline constexpr std::size_t kTilesBytes = 72 * kTileRowBytes + 2 * kTileAlignment;

template <class ChunkAt>
AVID_DEVICE void fill(const Tiles& t, ChunkAt chunk_at) {
  for (int i = static_cast<int>(threadIdx.x); i < 72 * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    unsigned char* tile = row < 64 ? t.a : t.b;
    const float v = row < 64 ? static_cast<float>(k == row % 16) : static_cast<float>(16 * (row - 64) + k);
    *reinterpret_cast<bf16*>(tile + chunk_at(row < 64 ? row : row - 64, k / 8) + k % 8 * 2) = to_bf16(v);
  }
}
/// 1 where this thread's part of D is right, NaN elsewhere.
AVID_DEVICE float verdict(const float (&d)[4]) {
  const int lane = static_cast<int>(threadIdx.x & 31), row = lane / 4;
  bool right = true;
  for (int r = 0; r < 4; ++r) {
    const int m = row + 8 * (r >> 1), n = 2 * (lane & 3) + (r & 1);
    right = right && d[r] == static_cast<float>(16 * n + m);
  }
  return right ? 1.0f : __uint_as_float(0x7fc00000u);
}
AVID_DEVICE void report(float* out, float v) {
  if (!(v == 1.0f)) out[threadIdx.x & 63] = v;
}

/// What is wrong with a product.
enum class Flaw {
  none,
  rows_not_swizzled,
  swizzle_of_64_bytes,
  offsets_swapped,
  transposition_not_said,
  chunk_met_twice,
  no_proxy_fence,
  copies_without_proxy_fence,
  no_register_fence,
  used_before_wait,
  waits_for_one_too_few,
  never_waited_for,
  operand_overwritten,
  accumulator_overwritten,
  three_warps,
  off_its_alignment,
  warps_disagree,
  fragment_without_fence,
  fragment_overwritten,
  fragment_turned
};

/// A^T and B^T in planes of eight rows; a plane is longer than its 16 steps of 16 bytes.
constexpr int kPlane = 17 * 16;
AVID_DEVICE void fill_transposed(const Tiles& t) {
  for (int i = static_cast<int>(threadIdx.x); i < 72 * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    unsigned char* plane = row < 64 ? t.a + row / 8 * kPlane : t.b;
    const float v = row < 64 ? static_cast<float>(k == row % 16) : static_cast<float>(16 * (row - 64) + k);
    *reinterpret_cast<bf16*>(plane + k * 16 + row % 8 * 2) = to_bf16(v);
  }
}

/// Descriptors of A and B.
template <Flaw kFlaw, bool kTransposed>
AVID_DEVICE std::uint64_t descriptor(unsigned char* tile, bool of_a) {
  const shared_address at(tile);
  if constexpr (kFlaw == Flaw::offsets_swapped)
    return plain_tile(at, 128) | std::uint64_t{kPlane / 16} << kLeadingShift;
  if constexpr (kFlaw == Flaw::chunk_met_twice) return plain_tile(at, kPlane);  // the leading offset stays 0
  if constexpr (kTransposed) return transposed_plain_tile(at, kPlane);
  std::uint64_t bits = swizzled_tile(at);
  if (kFlaw == Flaw::swizzle_of_64_bytes) bits ^= std::uint64_t{3} << 62;  // 1 becomes 2
  if (kFlaw == Flaw::off_its_alignment && of_a) bits += kTileRowBytes / 16;
  if (kFlaw == Flaw::warps_disagree && !of_a && threadIdx.x / 32 == 2) bits += kDescriptorStep;
  return bits;
}

/// One product of a warpgroup from tiles that it fills itself.
template <Flaw kFlaw, bool kTransposed = false>
AVID_DEVICE void product(float* out, const float* in = nullptr) {
  SharedArena arena;
  const Tiles t(arena);
  float d[4] = {};
  if constexpr (kTransposed) {
    fill_transposed(t);
  } else {
    fill(t, [](int r, int c) {
      return kFlaw == Flaw::rows_not_swizzled ? r * kTileRowBytes + c * 16 : swizzled_chunk(r, c);
    });
  }
  if (kFlaw != Flaw::no_proxy_fence) fence_proxy_async();
  __syncthreads();
  if (kFlaw == Flaw::copies_without_proxy_fence) {
    cp_async_16(t.b + swizzled_chunk(static_cast<int>(threadIdx.x) / 16, static_cast<int>(threadIdx.x) % 8), in);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
  }
  if (kFlaw == Flaw::three_warps && threadIdx.x >= 96) return;
  if (kFlaw != Flaw::no_register_fence) wgmma_fence();
  const std::uint64_t a = descriptor<kFlaw, kTransposed>(t.a, true), b = descriptor<kFlaw, kTransposed>(t.b, false);
  if constexpr (kTransposed && kFlaw != Flaw::transposition_not_said) {
    wgmma_bf16_transposed<8>(d, a, b);
  } else {
    wgmma_bf16<8>(d, a, b);
  }
  wgmma_commit();
  if (kFlaw == Flaw::never_waited_for) {
    out[threadIdx.x & 63] = 1.0f;
    return;
  }
  if (kFlaw == Flaw::operand_overwritten) reinterpret_cast<bf16*>(t.a)[threadIdx.x] = to_bf16(3.0f);
  if (kFlaw == Flaw::accumulator_overwritten) d[0] = 0.0f;
  if (kFlaw == Flaw::waits_for_one_too_few) wgmma_wait<1>();
  const bool too_early = kFlaw == Flaw::used_before_wait || kFlaw == Flaw::waits_for_one_too_few;
  const float early = too_early ? verdict(d) : 1.0f;
  wgmma_wait<0>();
  wgmma_settle(d);
  report(out, too_early ? early : verdict(d));
}

/// Two products with A in registers, of half of A's rows each: the same sum in the end.
template <Flaw kFlaw>
AVID_DEVICE void fragment_products(float* out) {
  SharedArena arena;
  const Tiles t(arena);
  fill_transposed(t);
  fence_proxy_async();
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x & 31), g = lane / 4, k = 2 * (lane & 3);
  // Ones at column row % 16 of rows g and g + 8: only registers 0 (rows and columns 0 to 7) and 3 (8 to 15) have them.
  const std::uint32_t ones = pack_bf16x2(static_cast<float>(k == g), static_cast<float>(k + 1 == g));
  std::uint32_t a[2][4] = {{ones, 0u, 0u, 0u}, {0u, 0u, 0u, ones}};
  if (kFlaw == Flaw::fragment_turned) a[0][1] = ones, a[0][0] = 0u;
  float d[4] = {};
  const std::uint64_t b = transposed_plain_tile(shared_address(t.b), kPlane);
  wgmma_fence();
  wgmma_bf16_fragment<8>(d, a[0], b);
  if (kFlaw == Flaw::fragment_overwritten) a[0][2] = ones;
  if (kFlaw != Flaw::fragment_without_fence) wgmma_fence();
  wgmma_bf16_fragment<8>(d, a[1], b);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(d);
  wgmma_settle(a[0]);
  wgmma_settle(a[1]);
  report(out, verdict(d));
}

__global__ void wgmma_fragments(float* out) { fragment_products<Flaw::none>(out); }
__global__ void wgmma_fragment_without_fence(float* out) { fragment_products<Flaw::fragment_without_fence>(out); }
__global__ void wgmma_fragment_overwritten(float* out) { fragment_products<Flaw::fragment_overwritten>(out); }
__global__ void wgmma_fragment_turned(float* out) { fragment_products<Flaw::fragment_turned>(out); }
__global__ void wgmma_tile(float* out) { product<Flaw::none>(out); }
__global__ void wgmma_transposed_tile(float* out) { product<Flaw::none, true>(out); }
__global__ void wgmma_rows_not_swizzled(float* out) { product<Flaw::rows_not_swizzled>(out); }
__global__ void wgmma_swizzle_of_64_bytes(float* out) { product<Flaw::swizzle_of_64_bytes>(out); }
__global__ void wgmma_transposed_offsets_swapped(float* out) { product<Flaw::offsets_swapped, true>(out); }
__global__ void wgmma_transposition_not_said(float* out) { product<Flaw::transposition_not_said, true>(out); }
__global__ void wgmma_chunk_met_twice(float* out) { product<Flaw::chunk_met_twice, true>(out); }
__global__ void wgmma_without_proxy_fence(float* out) { product<Flaw::no_proxy_fence>(out); }
__global__ void wgmma_of_copies_without_proxy_fence(const float* in, float* out) {
  product<Flaw::copies_without_proxy_fence>(out, in);
}
__global__ void wgmma_without_register_fence(float* out) { product<Flaw::no_register_fence>(out); }
__global__ void wgmma_result_used_before_its_wait(float* out) { product<Flaw::used_before_wait>(out); }
__global__ void wgmma_waits_for_one_too_few(float* out) { product<Flaw::waits_for_one_too_few>(out); }
__global__ void wgmma_never_waited_for(float* out) { product<Flaw::never_waited_for>(out); }
__global__ void wgmma_operand_overwritten(float* out) { product<Flaw::operand_overwritten>(out); }
__global__ void wgmma_accumulator_overwritten(float* out) { product<Flaw::accumulator_overwritten>(out); }
__global__ void wgmma_in_half_a_warpgroup(float* out) { product<Flaw::none>(out); }  // launched with 64 threads
__global__ void wgmma_in_three_warps(float* out) { product<Flaw::three_warps>(out); }
__global__ void wgmma_tile_off_its_alignment(float* out) { product<Flaw::off_its_alignment>(out); }
__global__ void wgmma_warps_disagree(float* out) { product<Flaw::warps_disagree>(out); }
__global__ void wgmma_on_an_older_device(float* out) { product<Flaw::none>(out); }  // on sm_80

// ---- mbarriers ------------------------------------------------------------------------------------------------------

/// The upper half of the block writes, the lower reads.
template <unsigned kArrivals, unsigned kParity, bool kShare = true>
AVID_DEVICE void hand_over(float* out) {
  AVID_SHARED(float, s, [32]);
  AVID_SHARED(mbarrier, barrier, [1]);
  if (threadIdx.x == 0) mbarrier_init(shared_address(barrier), kArrivals);
  if (kShare) __syncthreads();
  if (threadIdx.x >= 32) {
    s[threadIdx.x - 32] = 1.0f;
    mbarrier_arrive(shared_address(barrier));
  } else {
    mbarrier_wait(shared_address(barrier), kParity);
    out[threadIdx.x] = s[31 - threadIdx.x];
  }
}
__global__ void mbarrier_hand_over(float* out) { hand_over<32, 0>(out); }
__global__ void mbarrier_of_the_wrong_parity(float* out) { hand_over<32, 1>(out); }
__global__ void mbarrier_with_an_arrival_too_many(float* out) { hand_over<31, 0>(out); }
__global__ void mbarrier_with_an_arrival_too_few(float* out) { hand_over<33, 0>(out); }
__global__ void mbarrier_not_shared_with_all(float* out) { hand_over<32, 0, false>(out); }

// A warpgroup loads (ones in odd steps, zeros in even ones), another multiplies; kStages buffers between them.
template <int kStages, int kLag, bool kReleaseEarly = false, bool kFence = true>
AVID_DEVICE void pipeline(const float* in, float* out) {
  constexpr int kSteps = 6, kStage = 72 * kTileRowBytes;
  SharedArena arena;
  unsigned char* stages = arena.take_aligned<unsigned char>(kStages * kStage, kTileAlignment, "stages");
  mbarrier* barriers = arena.take<mbarrier>(2 * kStages, "barriers");
  const shared_address full(barriers);
  const shared_address empty = full + kStages * sizeof(mbarrier);
  if (threadIdx.x == 0)
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s * sizeof(mbarrier), 128);
      mbarrier_init(empty + s * sizeof(mbarrier), 128);
    }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x) & 127;
  if (threadIdx.x >= 128) {
    for (int s = 0; s < kSteps + kLag; ++s) {
      const int stage = s % kStages;
      if (s < kSteps) {
        mbarrier_wait(empty + stage * sizeof(mbarrier), (s / kStages & 1) ^ 1);
        unsigned char* to = stages + stage * kStage;
        cp_async_16(to + swizzled_chunk(thread / 2, thread % 2), in, s % 2 == 1);
        if (thread < 16) cp_async_16(to + 64 * kTileRowBytes + swizzled_chunk(thread / 2, thread % 2), in);
      }
      cp_async_commit();
      if (s < kLag) continue;
      cp_async_wait<kLag>();
      if (kFence) fence_proxy_async();
      mbarrier_arrive(full + (s - kLag) % kStages * sizeof(mbarrier));
    }
    return;
  }
  float d[4] = {};
  const std::uint64_t a = swizzled_tile(shared_address(stages));
  for (int s = 0; s < kSteps; ++s) {
    const int stage = s % kStages;
    mbarrier_wait(full + stage * sizeof(mbarrier), s / kStages & 1);
    wgmma_fence();
    const std::uint64_t at = a + stage * (kStage / 16);
    wgmma_bf16<8>(d, at, at + 64 * kTileRowBytes / 16);
    wgmma_commit();
    if (kReleaseEarly) mbarrier_arrive(empty + stage * sizeof(mbarrier));
    wgmma_wait<1>();
    if (!kReleaseEarly && s > 0) mbarrier_arrive(empty + (s - 1) % kStages * sizeof(mbarrier));
  }
  wgmma_wait<0>();
  const bool right = d[0] == 24.0f && d[3] == 24.0f;  // three steps of eight ones: every other bf16 of a float is 1
  out[thread & 63] = right ? 1.0f : __uint_as_float(0x7fc00000u);
}
__global__ void wgmma_pipeline(const float* in, float* out) { pipeline<3, 1>(in, out); }
__global__ void pipeline_announced_too_late(const float* in, float* out) { pipeline<3, 2>(in, out); }
__global__ void pipeline_released_too_early(const float* in, float* out) { pipeline<3, 1, true>(in, out); }
__global__ void pipeline_without_proxy_fence(const float* in, float* out) { pipeline<3, 1, false, false>(in, out); }

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {
namespace {

constexpr std::size_t kTiles = kernels::sim::kTilesBytes, kPipeline = 3 * 72 * 128 + 1024 + 64;

}  // namespace

const std::vector<Planted> planted_warpgroup_bugs = {
    {ONE(wgmma_rows_not_swizzled, 128, kTiles), "nan", "nan", "nan or uninitialised"},
    {ONE(wgmma_swizzle_of_64_bytes, 128, kTiles), "nan", "nan", "nan or uninitialised"},
    {ONE(wgmma_transposed_offsets_swapped, 128, kTiles), "nan", "nan", "nan or uninitialised"},
    {ONE(wgmma_transposition_not_said, 128, kTiles), "nan", "nan", "nan or uninitialised"},
    {ONE(wgmma_chunk_met_twice, 128, kTiles), "bad_operand", "bad_operand", "bad_operand"},
    {ONE(wgmma_without_proxy_fence, 128, kTiles), "unnoticed", "unnoticed", "proxy_fence"},
    {ONE(wgmma_of_copies_without_proxy_fence, 128, kTiles), "proxy_fence", "proxy_fence", "proxy_fence or race"},
    {ONE(wgmma_without_register_fence, 128, kTiles), "wgmma", "wgmma", "wgmma"},
    {ONE(wgmma_result_used_before_its_wait, 128, kTiles), "nan", "nan", "nan"},
    {ONE(wgmma_waits_for_one_too_few, 128, kTiles), "nan", "nan", "nan"},
    {ONE(wgmma_never_waited_for, 128, kTiles), "wgmma", "wgmma", "wgmma"},
    {ONE(wgmma_operand_overwritten, 128, kTiles), "wgmma", "wgmma", "race"},
    {ONE(wgmma_accumulator_overwritten, 128, kTiles), "wgmma", "wgmma", "wgmma"},
    {ONE(wgmma_fragment_without_fence, 128, kTiles), "wgmma", "wgmma", "wgmma"},
    {ONE(wgmma_fragment_overwritten, 128, kTiles), "wgmma", "wgmma", "wgmma"},
    {ONE(wgmma_fragment_turned, 128, kTiles), "nan", "nan", "nan"},
    {ONE(wgmma_in_half_a_warpgroup, 64, kTiles), "dead_lane", "dead_lane", "dead_lane"},
    {ONE(wgmma_in_three_warps, 128, kTiles), "wgmma", "wgmma", "wgmma"},
    {ONE(wgmma_tile_off_its_alignment, 128, kTiles), "bad_operand", "bad_operand", "bad_operand"},
    {ONE(wgmma_warps_disagree, 128, kTiles), "divergent_warp", "divergent_warp", "divergent_warp or uninitialised"},
    {ONE(wgmma_on_an_older_device, 128, kTiles, 80), "bad_launch", "bad_launch", "bad_launch"},
    {ONE(mbarrier_of_the_wrong_parity, 64), "nan", "nan", "race or uninitialised"},
    {ONE(mbarrier_with_an_arrival_too_many, 64), "nan", "nan", "race or uninitialised"},
    {ONE(mbarrier_with_an_arrival_too_few, 64), "deadlock", "deadlock", "deadlock"},
    {ONE(mbarrier_not_shared_with_all, 64), "nan or mbarrier", "nan or mbarrier", "race or mbarrier"},
    {ONE(pipeline_announced_too_late, 256, kPipeline), "deadlock", "deadlock", "deadlock"},
    {ONE(pipeline_released_too_early, 256, kPipeline), "nan or wgmma", "nan or wgmma or asan use-after-poison",
     "race or wgmma or cp_async"},
    {ONE(pipeline_without_proxy_fence, 256, kPipeline), "proxy_fence", "proxy_fence", "proxy_fence"},
};

const std::vector<Planted> innocent_warpgroup_kernels = {
    {ONE(wgmma_tile, 128, kTiles), "", "", ""},
    {ONE(wgmma_fragments, 128, kTiles), "", "", ""},
    {ONE(wgmma_transposed_tile, 128, kTiles), "", "", ""},
    {ONE(mbarrier_hand_over, 64), "", "", ""},
    {ONE(wgmma_pipeline, 256, kPipeline), "", "", ""},
};

}  // namespace avid::test
