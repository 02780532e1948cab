// tests/sim/planted_tensor_copy_kernels.cpp -- bugs with tensor copies: when they arrive, what they count, where to
#include "kernels/device/warpgroup.h"
#include "tests/sim/planted_launch.h"

namespace avid::kernels {
namespace AVID_GPU {

enum class CopyFlaw {
  none,
  off_its_alignment,
  not_announced,
  announced_twice,
  begun_twice,
  read_before_its_wait,
  only_a_block_barrier,
  wait_for_another,
  barrier_not_fenced,
  over_stores_not_fenced,
  over_copies_not_fenced,
  never_waited_for,
  begun_under_readers,
  arrives_once_too_often
};

constexpr int kTile = 8 * kTileRowBytes;  // all of `in`: floats of 1

/// Two tiles, each with a barrier; all threads read words of the second one.
template <CopyFlaw kFlaw>
AVID_DEVICE void fetch(float* out, const float* in, const TensorMap& map) {
  SharedArena arena;
  unsigned char* tiles = arena.take_aligned<unsigned char>(2 * kTile, kTileAlignment, "tiles");
  mbarrier* memory = arena.take<mbarrier>(2, "barriers");
  const shared_address to(tiles + kTile), first(memory), second(memory + 1);
  const int thread = static_cast<int>(threadIdx.x);
  const float* words = reinterpret_cast<const float*>(tiles + kTile);
  if (thread == 0) {
    mbarrier_init(first, 1);
    mbarrier_init(second, 1);
    if (kFlaw != CopyFlaw::barrier_not_fenced) fence_proxy_async();
  }
  __syncthreads();
  if (kFlaw == CopyFlaw::over_stores_not_fenced) reinterpret_cast<float*>(tiles + kTile)[thread] = 2.0f;
  if (kFlaw == CopyFlaw::over_copies_not_fenced) {
    cp_async_16(tiles + kTile + thread * 16, in + thread * 4);
    cp_async_commit();
    cp_async_wait<0>();
  }
  __syncthreads();
  if (thread == 0) {
    mbarrier_arrive_and_expect(first, kTile);
    copy_tile(shared_address(tiles), map, 0, 0, first);
    if (kFlaw == CopyFlaw::not_announced) {
      mbarrier_arrive(second);
    } else {
      mbarrier_arrive_and_expect(second, kFlaw == CopyFlaw::announced_twice ? 2 * kTile : kTile);
    }
    if (kFlaw == CopyFlaw::arrives_once_too_often) mbarrier_arrive(second);
    copy_tile(kFlaw == CopyFlaw::off_its_alignment ? shared_address(tiles) + 512 : to, map, 0, 0, second);
    if (kFlaw == CopyFlaw::begun_twice) copy_tile(to, map, 0, 0, second);
  }
  float early = 1.0f;
  if (kFlaw == CopyFlaw::read_before_its_wait) early = words[thread];
  if (kFlaw == CopyFlaw::only_a_block_barrier) {
    __syncthreads();
    early = words[thread];
  }
  mbarrier_wait(first, 0);
  if (kFlaw == CopyFlaw::wait_for_another) early = words[thread];
  if (kFlaw == CopyFlaw::never_waited_for) {
    out[thread] = 1.0f;
    return;
  }
  mbarrier_wait(second, 0);
  if (kFlaw == CopyFlaw::begun_under_readers && thread == 0) {
    mbarrier_arrive_and_expect(second, kTile);
    copy_tile(to, map, 0, 0, second);
  }
  const float late = words[thread];
  out[thread] = early == 1.0f ? late : early;
  if (kFlaw == CopyFlaw::begun_under_readers) mbarrier_wait(second, 1);
}

#define PLANT(name, flaw)                                                                    \
  __global__ void name(const float* in, float* out, const __grid_constant__ TensorMap map) { \
    fetch<CopyFlaw::flaw>(out, in, map);                                                     \
  }
PLANT(tensor_copy, none)
PLANT(tensor_copy_off_its_alignment, off_its_alignment)
PLANT(tensor_copy_not_announced, not_announced)
PLANT(tensor_copy_announced_twice, announced_twice)
PLANT(tensor_copy_begun_twice, begun_twice)
PLANT(tensor_copy_read_before_its_wait, read_before_its_wait)
PLANT(tensor_copy_behind_a_block_barrier, only_a_block_barrier)
PLANT(tensor_copy_behind_the_wait_for_another, wait_for_another)
PLANT(tensor_copy_with_a_barrier_not_fenced, barrier_not_fenced)
PLANT(tensor_copy_over_stores_not_fenced, over_stores_not_fenced)
PLANT(tensor_copy_over_copies_not_fenced, over_copies_not_fenced)
PLANT(tensor_copy_never_waited_for, never_waited_for)
PLANT(tensor_copy_begun_under_readers, begun_under_readers)
PLANT(tensor_copy_arrives_once_too_often, arrives_once_too_often)
#undef PLANT

// A thread of the second warpgroup fetches A and B of each step by tensor copies, the first multiplies.
template <bool kReleaseEarly>
AVID_DEVICE void tensor_pipeline(float* out, const TensorMap& map) {
  constexpr int kSteps = 6, kStages = 2, kStage = 9 * kTile;  // 64 rows of A, 8 of B
  SharedArena arena;
  unsigned char* stages = arena.take_aligned<unsigned char>(kStages * kStage, kTileAlignment, "stages");
  mbarrier* memory = arena.take<mbarrier>(2 * kStages, "barriers");
  const shared_address full(memory), empty(memory + kStages);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s * sizeof(mbarrier), 1);
      mbarrier_init(empty + s * sizeof(mbarrier), 128);
    }
    fence_proxy_async();
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    if (threadIdx.x != 128) return;
    for (int s = 0; s < kSteps; ++s) {
      const int stage = s % kStages;
      const shared_address at = full + stage * sizeof(mbarrier);
      mbarrier_wait(empty + stage * sizeof(mbarrier), (s / kStages & 1) ^ 1);
      mbarrier_arrive_and_expect(at, kStage);
      // Odd steps have rows of A, even ones zeros, from behind the matrix.
      for (int i = 0; i < 8; ++i)
        copy_tile(shared_address(stages + stage * kStage + i * kTile), map, 0, s % 2 == 1 ? 0 : 8, at);
      copy_tile(shared_address(stages + stage * kStage + 8 * kTile), map, 0, 0, at);
    }
    return;
  }
  float d[4] = {};
  for (int s = 0; s < kSteps; ++s) {
    const int stage = s % kStages;
    mbarrier_wait(full + stage * sizeof(mbarrier), s / kStages & 1);
    wgmma_fence();
    const std::uint64_t a = swizzled_tile(shared_address(stages + stage * kStage));
    wgmma_bf16<8>(d, a, a + 8 * kTile / 16);
    wgmma_commit();
    if (kReleaseEarly) mbarrier_arrive(empty + stage * sizeof(mbarrier));
    wgmma_wait<1>();
    if (!kReleaseEarly && s > 0) mbarrier_arrive(empty + (s - 1) % kStages * sizeof(mbarrier));
  }
  wgmma_wait<0>();
  const bool right = d[0] == 24.0f && d[3] == 24.0f;  // three steps of eight ones: every other bf16 of a float is 1
  out[threadIdx.x & 63] = right ? 1.0f : __uint_as_float(0x7fc00000u);
}
__global__ void tensor_copy_pipeline(const float*, float* out, const __grid_constant__ TensorMap map) {
  tensor_pipeline<false>(out, map);
}
__global__ void tensor_copy_under_a_product(const float*, float* out, const __grid_constant__ TensorMap map) {
  tensor_pipeline<true>(out, map);
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {
namespace {

/// One block of kThreads; the map is that of `in`, eight rows of 128 bytes.
template <auto kKernel, unsigned kThreads = 64, int kArch = 90>
void launch_copies(float* in, float* out) {
  const OnArch arch(kArch);
  const kernels::MatrixTiles tiles{in, 64, 8, 128, 64, 8, 128};
  kernels::sim::launch(
      kKernel, 1, kThreads, 2 * 9 * 1024 + 1024 + 64, kernels::Stream{}, in, out,
      kernels::sim::tensor_map("planted", "in", tiles));
}

}  // namespace

#define COPIES(kernel, ...) #kernel, launch_copies < kernels::sim::kernel __VA_OPT__(, ) __VA_ARGS__>

const std::vector<Planted> planted_tensor_copies = {
    {COPIES(tensor_copy_off_its_alignment), "misaligned", "misaligned", "misaligned"},
    {COPIES(tensor_copy_not_announced), "mbarrier", "mbarrier", "mbarrier"},
    {COPIES(tensor_copy_announced_twice), "deadlock", "deadlock", "deadlock"},
    {COPIES(tensor_copy_begun_twice), "mbarrier", "mbarrier", "mbarrier"},
    {COPIES(tensor_copy_arrives_once_too_often), "mbarrier", "mbarrier", "mbarrier"},
    {COPIES(tensor_copy_read_before_its_wait), "nan", "nan or asan use-after-poison",
     "cp_async or race or uninitialised"},
    {COPIES(tensor_copy_behind_a_block_barrier), "nan", "nan or asan use-after-poison", "cp_async or race"},
    {COPIES(tensor_copy_behind_the_wait_for_another), "nan", "nan or asan use-after-poison", "cp_async or race"},
    {COPIES(tensor_copy_with_a_barrier_not_fenced), "proxy_fence", "proxy_fence", "proxy_fence"},
    {COPIES(tensor_copy_over_stores_not_fenced), "unnoticed", "unnoticed", "proxy_fence"},
    {COPIES(tensor_copy_over_copies_not_fenced), "proxy_fence", "proxy_fence", "proxy_fence"},
    {COPIES(tensor_copy_never_waited_for), "nan or cp_async", "nan or cp_async", "nan or cp_async"},
    {COPIES(tensor_copy_begun_under_readers), "nan", "nan or asan use-after-poison", "cp_async or race"},
    {COPIES(tensor_copy_under_a_product, 256), "nan or wgmma", "nan or wgmma or asan use-after-poison",
     "race or wgmma or cp_async"},
    {"tensor_copy", launch_copies<kernels::sim::tensor_copy, 64, 80>, "bad_launch", "bad_launch", "bad_launch"},
};

const std::vector<Planted> innocent_tensor_copies = {
    {COPIES(tensor_copy), "", "", ""},
    {COPIES(tensor_copy_pipeline, 256), "", "", ""},
};

}  // namespace avid::test
