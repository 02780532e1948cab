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
  const auto descriptor = [&](unsigned char* tile) {
    return std::uint64_t{shared_address(tile).bytes + p.form.start} >> 4 | std::uint64_t{p.form.leading >> 4} << 16 |
           std::uint64_t{p.form.stride >> 4} << 32 | static_cast<std::uint64_t>(p.form.swizzle_bits) << 62;
  };
  const std::uint64_t desc_a = descriptor(a), desc_b = descriptor(b);
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
      wgmma_bf16_transposed<N>(d, desc_a + step, desc_b + step);
    else
      wgmma_bf16<N>(d, desc_a + step, desc_b + step);
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

}  // namespace avid::test
