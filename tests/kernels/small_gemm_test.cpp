// tests/kernels/small_gemm_test.cpp -- the register-blocked products against plain loops, and lane moves
#include "kernels/small_gemm.h"

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/doctest.h"

namespace avid::test {
namespace {

// The library picks its register width when it is built; 16 lanes satisfy the alignment of either.
constexpr std::int64_t kWide = 16;

/// 64-byte aligned floats, uniform in [-1, 1).
struct Floats {
  std::vector<float> memory;
  float* data = nullptr;
  Floats(std::int64_t count, std::uint64_t seed) : memory(static_cast<std::size_t>(count + 16)) {
    std::mt19937_64 engine(seed);
    for (float& value : memory) value = static_cast<float>(static_cast<double>(engine() >> 11) * 0x1p-52 - 1.0);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    data = memory.data() + (64 - address % 64) % 64 / sizeof(float);
  }
  float at(std::int64_t i) const { return data[i]; }
};

}  // namespace

TEST_CASE("small_gemm/gemm_columns/all tile edges, transposed A, add and overwrite") {
  for (std::int64_t M : {1, 2, 3, 4, 5, 6, 7, 11, 13}) {
    for (std::int64_t N : {16, 32, 48, 64, 80, 144}) {
      for (std::int64_t K : {0, 1, 3, 17}) {
        for (int form = 0; form < 4; ++form) {
          const bool transposed = form % 2 == 1, add = form >= 2;
          const std::int64_t row = N + kWide, a_row = transposed ? 1 : K + 2, a_col = transposed ? M + 1 : 1;
          const Floats a((M + 2) * (K + 2), 1), b(std::max<std::int64_t>(K, 1) * row, 2);
          Floats c(M * row, 3);
          const std::vector<float> before(c.data, c.data + M * row);
          kernels::gemm_columns(M, N, K, a.data, a_row, a_col, b.data, row, c.data, row, add);
          double worst = 0;
          for (std::int64_t m = 0; m < M; ++m) {
            for (std::int64_t n = 0; n < row; ++n) {
              const double old = before[static_cast<std::size_t>(m * row + n)];
              double expected = n >= N || add ? old : 0.0;
              for (std::int64_t k = 0; n < N && k < K; ++k)
                expected += double{a.at(m * a_row + k * a_col)} * b.at(k * row + n);
              worst = std::max(worst, std::abs(c.at(m * row + n) - expected));
            }
          }
          CHECK_MESSAGE(worst < 1e-5, M, " ", N, " ", K, " form ", form);
        }
      }
    }
  }
}

TEST_CASE("small_gemm/gemm_over_columns/all tile edges, adds") {
  for (std::int64_t M : {1, 2, 3, 4, 5, 6, 7, 13}) {
    for (std::int64_t N : {1, 2, 3, 4, 5, 9}) {
      for (std::int64_t K : {16, 48, 160}) {
        const std::int64_t row = K + kWide, c_row = N + 3;
        const Floats a(M * row, 1), b(N * row, 2);
        Floats c(M * c_row, 3);
        const std::vector<float> before(c.data, c.data + M * c_row);
        kernels::gemm_over_columns(M, N, K, a.data, row, b.data, row, c.data, c_row);
        double worst = 0;
        for (std::int64_t m = 0; m < M; ++m) {
          for (std::int64_t n = 0; n < c_row; ++n) {
            double expected = before[static_cast<std::size_t>(m * c_row + n)];
            for (std::int64_t k = 0; n < N && k < K; ++k) expected += double{a.at(m * row + k)} * b.at(n * row + k);
            worst = std::max(worst, std::abs(c.at(m * c_row + n) - expected));
          }
        }
        CHECK_MESSAGE(worst < 3e-5, M, " ", N, " ", K);
      }
    }
  }
}

TEST_CASE("small_gemm/gemm_per_lane/all tile edges and strides") {
  for (std::int64_t M : {1, 2, 3, 4, 5, 8}) {
    for (std::int64_t N : {1, 2, 3, 4, 7}) {
      for (std::int64_t K : {1, 5}) {
        const std::int64_t a_row = K * kWide, b_row = kWide, b_col = (K + 1) * kWide, c_row = kWide,
                           c_col = (M + 1) * kWide;
        const Floats a(M * a_row, 1), b(N * b_col, 2);
        Floats c(N * c_col, 3);
        kernels::gemm_per_lane(M, N, K, a.data, a_row, kWide, b.data, b_row, b_col, c.data, c_row, c_col);
        double worst = 0;
        for (std::int64_t m = 0; m < M; ++m) {
          for (std::int64_t n = 0; n < N; ++n) {
            for (std::int64_t lane = 0; lane < 8; ++lane) {  // lanes that either register width has
              double expected = 0;
              for (std::int64_t k = 0; k < K; ++k) {
                expected += double{a.at(m * a_row + k * kWide + lane)} * b.at(k * b_row + n * b_col + lane);
              }
              worst = std::max(worst, std::abs(c.at(m * c_row + n * c_col + lane) - expected));
            }
          }
        }
        CHECK_MESSAGE(worst < 1e-5, M, " ", N, " ", K);
      }
    }
  }
}

}  // namespace avid::test
