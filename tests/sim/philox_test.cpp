// tests/sim/philox_test.cpp -- random numbers on a device: the CPU's, bit by bit
#include "kernels/philox.h"

#include <array>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

const kernels::PhiloxStream kStream{.seed = 0x123456789abcdef0u, .step = 0x1122334455u, .tag = 6};

/// Largest difference, in units of 1e-6 absolute for normal numbers of size 1 to 6.
double largest_difference(const Pitched<float>& a, const Pitched<float>& b) {
  double largest = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) {
      const double difference = std::abs(a(r, c) - b(r, c));
      if (!(difference <= largest)) largest = difference;
    }
  return largest;
}

}  // namespace

TEST_CASE("philox/sim/normal_numbers_of_the_cpu") {
  for_each_order([] {
    for (const auto& [rows, cols] : {std::array{1, 1}, {3, 3}, {100, 3}, {7, 50}, {2, 4}, {300, 1}}) {
      for (const std::uint64_t first : {0ull, 1ull, 6ull, 4096ull, (1ull << 34) + 3}) {
        CAPTURE(rows);
        CAPTURE(first);
        Pitched<float> out(rows, cols), want(rows, cols);
        kernels::normal_fill<Sim, float>(Stream{}, out.values.data(), rows, cols, out.pitch, kStream, first);
        kernels::normal_fill(want.values.data(), rows, cols, want.pitch, kStream, first);
        CHECK(largest_difference(out, want) <= 1e-6);
        CHECK(gaps_are_zero(out));
      }
    }
  });
}

TEST_CASE("philox/sim/normal_numbers_against_the_library") {
  // Another oracle than the polynomials that CPU and device share: the definition, in f64.
  Pitched<float> out(40, 64);
  kernels::normal_fill<Sim, float>(Stream{}, out.values.data(), 40, 64, out.pitch, kStream, 0);
  for (std::int64_t i = 0; i < 40 * 64; i += 2) {
    const auto words = kStream.block(static_cast<std::uint64_t>(i / 4));
    const double w0 = words[static_cast<std::size_t>(i % 4)], w1 = words[static_cast<std::size_t>(i % 4) + 1];
    const double radius = std::sqrt(-2 * std::log((w0 + 1) * 0x1p-32)),
                 angle = 2 * 3.14159265358979323846 * w1 * 0x1p-32;
    REQUIRE(std::abs(out(i / 64, i % 64) - radius * std::cos(angle)) <= 2e-6);
    REQUIRE(std::abs(out((i + 1) / 64, (i + 1) % 64) - radius * std::sin(angle)) <= 2e-6);
  }
}

TEST_CASE("philox/sim/uniform_numbers_have_the_bits_of_the_cpu") {
  for_each_order([] {
    for (const auto& [rows, cols] : {std::array{1, 1}, {33, 3}, {5, 9}}) {
      Pitched<float> out(rows, cols), want(rows, cols);
      kernels::uniform_fill<Sim, float>(Stream{}, out.values.data(), rows, cols, out.pitch, kStream, 5, -1.5, 2.5);
      kernels::uniform_fill(want.values.data(), rows, cols, want.pitch, kStream, 5, -1.5, 2.5);
      CHECK(same_bits(out, want));
    }
  });
}

TEST_CASE("philox/sim/bf16_is_the_f32_number_rounded") {
  Pitched<float> wide(20, 3);
  Pitched<BFloat16> half(20, 3);
  kernels::normal_fill<Sim, float>(Stream{}, wide.values.data(), 20, 3, wide.pitch, kStream, 2);
  kernels::normal_fill<Sim, BFloat16>(Stream{}, half.values.data(), 20, 3, half.pitch, kStream, 2);
  for (std::int64_t r = 0; r < 20; ++r)
    for (std::int64_t c = 0; c < 3; ++c) REQUIRE(half.at(r, c).bits == BFloat16(wide.at(r, c)).bits);
  CHECK(gaps_are_zero(half));
}
