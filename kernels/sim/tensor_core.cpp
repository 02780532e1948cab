// kernels/sim/tensor_core.cpp -- mma, ldmatrix and movmatrix from their documented register layouts
//
// With g = lane / 4, t = lane % 4 and h the low (0) or high (1) half of a register:
//   m16n8k16, m16n8k8, 16-bit   A row g + 8 (r & 1), column 2 t + h + 8 (r >> 1);  B row 2 t + h + 8 r, column g
//   m16n8k8 tf32                A row g + 8 (r & 1), column t + 4 (r >> 1);        B row t + 4 r, column g
//   C and D, f32                row g + 8 (r >> 1), column 2 t + (r & 1)
//   ldmatrix                    lane i addresses row i % 8 of matrix i / 8; register j holds matrix j at [g][2 t + h],
//                               transposed: [2 t + h][g]
// Products are exact. Sums: rounding.h; hardware sums in another order: compare with tolerances.
#include <cstring>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"
#include "kernels/sim/rounding.h"

#if AVID_SIM_ASAN
extern "C" void __asan_loadN(void*, std::size_t);
#endif

namespace avid::kernels::simulator {
namespace {

float low_half(std::uint32_t v) { return std::bit_cast<float>(v << 16); }
float high_half(std::uint32_t v) { return std::bit_cast<float>(v & 0xffff0000u); }

/// C += A B, kTerms products at a time; B's eight columns fill the vector registers.
template <int kTerms, int K>
void multiply(const float (&a)[16][K], const float (&b)[K][8], float (&c)[16][8]) {
  for (int i = 0; i < 16; ++i)
    for (int first = 0; first < K; first += kTerms) {
      double sum[8];
      for (int j = 0; j < 8; ++j) sum[j] = c[i][j];
      for (int k = first; k < first + kTerms; ++k)
        for (int j = 0; j < 8; ++j) sum[j] += static_cast<double>(a[i][k]) * static_cast<double>(b[k][j]);
      for (int j = 0; j < 8; ++j) c[i][j] = cut_to_float(sum[j]);
    }
}

void load_c(void* const* lane, float (&c)[16][8]) {
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < 4; ++r)
      c[(i >> 2) + 8 * (r >> 1)][2 * (i & 3) + (r & 1)] = static_cast<MmaOperands*>(lane[i])->c[r];
}
void store_d(void* const* lane, const float (&d)[16][8]) {
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < 4; ++r)
      static_cast<MmaOperands*>(lane[i])->d[r] = d[(i >> 2) + 8 * (r >> 1)][2 * (i & 3) + (r & 1)];
}

/// Of a block that is only counted: D = C.
bool only_counted(void* const* lane, std::uint64_t BlockWork::*kind, std::uint64_t multiply_adds) {
  BlockWork* work = engine().traffic.work();
  if (work == nullptr) return false;
  work->*kind += multiply_adds;
  ++work->mma_instructions;
  for (int i = 0; i < 32; ++i) {
    const auto& x = *static_cast<const MmaOperands*>(lane[i]);
    for (int r = 0; r < 4; ++r) x.d[r] = x.c[r];
  }
  return true;
}

template <int K>
void run_mma_bf16(void* const* lane, std::uint32_t) {
  if (only_counted(lane, &BlockWork::mma, 16 * 8 * K)) return;
  alignas(64) float a[16][K], b[K][8], c[16][8];
  for (int i = 0; i < 32; ++i) {
    const auto& x = *static_cast<const MmaOperands*>(lane[i]);
    const int g = i >> 2, t = i & 3;
    for (int r = 0; r < K / 4; ++r) {
      float* row = &a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1)];
      row[0] = low_half(x.a[r]);
      row[1] = high_half(x.a[r]);
    }
    for (int r = 0; r < K / 8; ++r) {
      b[2 * t + 8 * r][g] = low_half(x.b[r]);
      b[2 * t + 8 * r + 1][g] = high_half(x.b[r]);
    }
  }
  load_c(lane, c);
  multiply<kTermsBf16>(a, b, c);
  store_d(lane, c);
}

void run_mma_tf32(void* const* lane, std::uint32_t) {
  if (only_counted(lane, &BlockWork::tf32, 16 * 8 * 8)) return;
  alignas(64) float a[16][8], b[8][8], c[16][8];
  std::uint32_t all_bits = 0;
  for (int i = 0; i < 32; ++i) {
    const auto& x = *static_cast<const MmaOperands*>(lane[i]);
    const int g = i >> 2, t = i & 3;
    for (int r = 0; r < 4; ++r) {
      all_bits |= x.a[r];
      a[g + 8 * (r & 1)][t + 4 * (r >> 1)] = std::bit_cast<float>(x.a[r]);
    }
    for (int r = 0; r < 2; ++r) {
      all_bits |= x.b[r];
      b[t + 4 * r][g] = std::bit_cast<float>(x.b[r]);
    }
  }
  // Hardware truncates the low 13 bits silently; a kernel that forgot to round loses accuracy without a sign of it.
  if ((all_bits & 0x1fffu) != 0)
    fail(ErrorKind::bad_operand, "mma_tf32: an operand was not rounded with to_tf32", engine().current().site);
  load_c(lane, c);
  multiply<kTermsTf32>(a, b, c);
  store_d(lane, c);
}

template <int N, bool kTranspose>
void run_ldmatrix(void* const* lane, std::uint32_t) {
  std::uint16_t rows[8 * N][8];
  Engine& e = engine();
  Thread& caller = e.current();
  const std::uint32_t first = caller.number & ~31u;
  for (std::uint32_t i = 0; i < 8 * N; ++i) {
    const auto& load = *static_cast<const MatrixLoad*>(lane[i]);
    const void* row = load.row;
    Thread& thread = e.thread(first + i);
    e.blame(thread);
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
      fail(
          ErrorKind::misaligned, "ldmatrix: row address not aligned to 16 bytes, " + e.shared.describe(row), load.site);
    if (!e.shared.contains(row)) fail(ErrorKind::misaligned, "ldmatrix: row address is not shared memory", load.site);
    if (have_race_hooks()) {
      if (options().detect_races)
        e.races.access(reinterpret_cast<std::uintptr_t>(row), 16, Access::read, thread, place_of(load.site));
      // Eight rows of 16 bytes are one pass; the quarter warps of the bank count are exactly the matrices.
      if (e.traffic.recording())
        e.traffic.access(reinterpret_cast<std::uintptr_t>(row), 16, false, true, thread, place_of(load.site));
    }
#if AVID_SIM_ASAN
    __asan_loadN(const_cast<void*>(row), 16);
#endif
    std::memcpy(rows[i], row, 16);
  }
  e.blame(caller);
  for (int i = 0; i < 32; ++i) {
    const int g = i >> 2, t = i & 3;
    for (int j = 0; j < N; ++j) {
      const auto at = [&](int h) { return kTranspose ? rows[8 * j + 2 * t + h][g] : rows[8 * j + g][2 * t + h]; };
      static_cast<MatrixLoad*>(lane[i])->r[j] = at(0) | static_cast<std::uint32_t>(at(1)) << 16;
    }
  }
}

void run_movmatrix(void* const* lane, std::uint32_t) {
  std::uint16_t m[8][8];
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t v = *static_cast<const std::uint32_t*>(lane[i]);
    m[i >> 2][2 * (i & 3)] = static_cast<std::uint16_t>(v);
    m[i >> 2][2 * (i & 3) + 1] = static_cast<std::uint16_t>(v >> 16);
  }
  for (int i = 0; i < 32; ++i)
    *static_cast<std::uint32_t*>(lane[i]) =
        m[2 * (i & 3)][i >> 2] | static_cast<std::uint32_t>(m[2 * (i & 3) + 1][i >> 2]) << 16;
}

}  // namespace

const Collective mma_bf16_k16{"mma_bf16_16x8x16", run_mma_bf16<16>, true};
const Collective mma_bf16_k8{"mma_bf16_16x8x8", run_mma_bf16<8>, true};
const Collective mma_tf32_k8{"mma_tf32_16x8x8", run_mma_tf32, true};
const Collective load_x1{"ldmatrix_x1", run_ldmatrix<1, false>, true};
const Collective load_x1_trans{"ldmatrix_x1_trans", run_ldmatrix<1, true>, true};
const Collective load_x2{"ldmatrix_x2", run_ldmatrix<2, false>, true};
const Collective load_x2_trans{"ldmatrix_x2_trans", run_ldmatrix<2, true>, true};
const Collective load_x4{"ldmatrix_x4", run_ldmatrix<4, false>, true};
const Collective load_x4_trans{"ldmatrix_x4_trans", run_ldmatrix<4, true>, true};
const Collective move_matrix{"movmatrix", run_movmatrix, true};

}  // namespace avid::kernels::simulator
