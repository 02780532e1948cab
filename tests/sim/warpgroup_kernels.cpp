// tests/sim/warpgroup_kernels.cpp -- kernels of warpgroup_test.cpp
#include <cmath>

#include "kernels/device/warpgroup.h"
#include "tests/sim/warpgroup.h"

namespace avid::kernels {
namespace AVID_GPU {

struct WgmmaTest {
  test::TileForm form;
  int num_steps, a_bytes, b_bytes;
  const std::uint8_t *a, *b;
  const float* c;  ///< or null
  float* d;
};

enum class Kind { plain, first, transposed, fragment };

template <int N, int kInFlight, Kind kKind>
__global__ void wgmma_test_kernel(WgmmaTest p) {
  SharedArena arena;
  unsigned char* a = arena.take_aligned<unsigned char>(static_cast<std::size_t>(p.a_bytes), kTileAlignment, "a");
  unsigned char* b = arena.take_aligned<unsigned char>(static_cast<std::size_t>(p.b_bytes), kTileAlignment, "b");
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  for (int i = thread; i < p.a_bytes; i += 128) a[i] = p.a[i];
  for (int i = thread; i < p.b_bytes; i += 128) b[i] = p.b[i];
  fence_proxy_async();
  __syncthreads();
  const auto descriptor = [&](unsigned char* tile, std::uint32_t leading) {
    return std::uint64_t{shared_address(tile).bytes + p.form.start} >> 4 | std::uint64_t{leading >> 4} << 16 |
           std::uint64_t{p.form.stride >> 4} << 32 | static_cast<std::uint64_t>(p.form.swizzle_bits) << 62;
  };
  const bool apart = p.form.leading_of_a > 0;
  const std::uint64_t desc_a = descriptor(a, apart ? p.form.leading_of_a : p.form.leading);
  const std::uint64_t desc_b = descriptor(b, p.form.leading);
  // Register r: block of eight columns r / 4, then row and column as in the result of mma.
  const auto index = [&](int r) {
    return (warp * 16 + lane / 4 + 8 * (r >> 1 & 1)) * N + r / 4 * 8 + 2 * (lane & 3) + (r & 1);
  };
  float d[N / 2];
  for (int r = 0; r < N / 2; ++r) d[r] = kKind == Kind::first ? NAN : p.c[index(r)];
  int s = 0;
  std::uint32_t fragments[2][4];  // of the product that is under way, and of the next
  if constexpr (kKind == Kind::first) {
    wgmma_fence();
    wgmma_bf16_first<N>(d, desc_a, desc_b);
    wgmma_commit();
    wgmma_wait<kInFlight>();
    s = 1;
  }
  for (; s < p.num_steps; ++s) {
    wgmma_fence();
    const std::uint64_t step = static_cast<std::uint64_t>(s) * p.form.step / 16;
    const std::uint64_t step_a = static_cast<std::uint64_t>(s) * (apart ? p.form.step_of_a : p.form.step) / 16;
    if constexpr (kKind == Kind::fragment) {
      // A is rows of form.a_columns elements, as they lie: row g or g + 8 of the warp's 16, columns 2 t, or 8 behind.
      const auto pair = [&](int r) {
        const int row = warp * 16 + lane / 4 + r % 2 * 8, column = s * 16 + 2 * (lane & 3) + r / 2 * 8;
        return *reinterpret_cast<const std::uint32_t*>(a + (row * p.form.a_columns + column) * 2);
      };
      for (int r = 0; r < 4; ++r) fragments[s % 2][r] = pair(r);
      wgmma_fence();
      wgmma_bf16_fragment<N>(d, fragments[s % 2], desc_b + step);
    } else if constexpr (kKind == Kind::transposed)
      wgmma_bf16_transposed<N>(d, desc_a + step_a, desc_b + step);
    else
      wgmma_bf16<N>(d, desc_a + step_a, desc_b + step);
    wgmma_commit();
    wgmma_wait<kInFlight>();
  }
  wgmma_wait<0>();
  wgmma_settle(d);
  if constexpr (kKind == Kind::fragment) {
    wgmma_settle(fragments[0]);
    wgmma_settle(fragments[1]);
  }
  for (int r = 0; r < N / 2; ++r) p.d[index(r)] = d[r];
}

struct WgmmaRounds {
  int rounds, turns;  ///< turns of a loop that takes time, for a warp that is late by one place
  float zero;
  const bf16 *a, *b;
  float* d;
};

/// Planes without swizzle, of one chunk of columns or, transposed, of eight rows.
template <bool kTransposed>
__global__ void wgmma_rounds_kernel(WgmmaRounds p) {
  constexpr int N = test::kRoundRows, K = test::kRoundColumns, kPerLane = 16 * K / 32;
  SharedArena arena;
  bf16* a = arena.take<bf16>(64 * K, "a");
  bf16* b = arena.take<bf16>(N * K, "b");
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const auto place = [](int rows, int row, int k) {
    return kTransposed ? (row / 8 * K + k) * 8 + row % 8 : (k / 8 * rows + row) * 8 + k % 8;
  };
  for (int i = thread; i < N * K; i += 128) b[place(N, i / K, i % K)] = p.b[i];
  bf16 next[kPerLane];  // of the warp's own rows
  const auto read = [&](int round) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) next[i] = p.a[(round * 64 + warp * 16) * K + i * 32 + lane];
  };
  const auto write = [&] {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) a[place(64, warp * 16 + (i * 32 + lane) / K, (i * 32 + lane) % K)] = next[i];
  };
  float d[N / 2] = {};
  read(0);
  for (int round = 0; round < p.rounds; ++round) {
    write();
    fence_proxy_async();
    __syncthreads();
    if (round + 1 < p.rounds) read(round + 1);
    float late = p.zero;
    for (int i = 0; i < p.turns * ((warp + round) % 4); ++i) late = fmaf(late, late, p.zero);
    d[0] += late;
    wgmma_settle(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
      if constexpr (kTransposed) {
        wgmma_bf16_transposed<N>(
            d, transposed_plain_tile(shared_address(a), K * 16) + k,
            transposed_plain_tile(shared_address(b), K * 16) + k);
      } else {
        const auto tile = [&](const bf16* rows, std::uint64_t chunk) {  // in steps of 16 bytes
          return plain_tile(shared_address(rows), 128) + (chunk << kLeadingShift) + k / 8 * chunk;
        };
        wgmma_bf16<N>(d, tile(a, 64), tile(b, N));
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    __syncwarp();
    wgmma_settle(d);
  }
#pragma unroll
  for (int r = 0; r < N / 2; ++r)
    p.d[(warp * 16 + lane / 4 + 8 * (r >> 1 & 1)) * N + r / 4 * 8 + 2 * (lane & 3) + (r & 1)] = d[r];
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

void run_wgmma(
    int N, const TileForm& form, int num_steps, int in_flight, const std::vector<std::uint8_t>& a,
    const std::vector<std::uint8_t>& b, const std::vector<float>& c, std::vector<float>& d) {
  using namespace kernels;
  const AVID_GPU::WgmmaTest p{
      form, num_steps, static_cast<int>(a.size()), static_cast<int>(b.size()), a.data(), b.data(), c.data(), d.data()};
  const std::size_t bytes = a.size() + b.size() + 2 * 1024;
  const auto run = [&](auto kernel) { AVID_GPU::launch(kernel, 1, 128, bytes, Stream{}, p); };
  const auto both = [&]<int kN, AVID_GPU::Kind kKind>() {
    in_flight == 0 ? run(AVID_GPU::wgmma_test_kernel<kN, 0, kKind>) : run(AVID_GPU::wgmma_test_kernel<kN, 1, kKind>);
  };
  using enum AVID_GPU::Kind;
  if (form.a_columns > 0) {
    if (N == 8) both.operator()<8, fragment>();
    if (N == 32) both.operator()<32, fragment>();
    if (N == 56) both.operator()<56, fragment>();
    if (N == 96) both.operator()<96, fragment>();
    if (N == 104) both.operator()<104, fragment>();
    return;
  }
  if (form.transposed) {
    if (N == 56) both.operator()<56, transposed>();
    if (N == 104) both.operator()<104, transposed>();
    return;
  }
  if (c.empty()) {
    if (N == 32) both.operator()<32, first>();
    if (N == 56) both.operator()<56, first>();
    if (N == 64) both.operator()<64, first>();
    if (N == 96) both.operator()<96, first>();
    if (N == 104) both.operator()<104, first>();
    if (N == 112) both.operator()<112, first>();
    if (N == 128) both.operator()<128, first>();
    return;
  }
  if (N == 8) both.operator()<8, plain>();
  if (N == 56) both.operator()<56, plain>();
  if (N == 96) both.operator()<96, plain>();
  if (N == 104) both.operator()<104, plain>();
  if (N == 200) both.operator()<200, plain>();
}

void run_wgmma_rounds(
    bool transposed, int rounds, const std::vector<BFloat16>& a, const std::vector<BFloat16>& b,
    std::vector<float>& d) {
  using namespace kernels;
  const AVID_GPU::WgmmaRounds p{rounds, 256, 0.0f, a.data(), b.data(), d.data()};
  const std::size_t bytes = (64 + kRoundRows) * kRoundColumns * sizeof(BFloat16);
  AVID_GPU::launch(
      transposed ? AVID_GPU::wgmma_rounds_kernel<true> : AVID_GPU::wgmma_rounds_kernel<false>, 1, 128, bytes, Stream{},
      p);
}

}  // namespace avid::test
