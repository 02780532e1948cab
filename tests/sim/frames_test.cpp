// tests/sim/frames_test.cpp -- bytes and [-1,1] on a device: bit by bit like the CPU
#include "kernels/frames.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

TEST_CASE("frames/sim/every_byte_and_back") {
  for_each_order([] {
    for (const std::int64_t C : {1, 3, 4, 5}) {
      const std::int64_t rows = 258;
      std::vector<std::uint8_t> bytes(static_cast<std::size_t>(rows * C));
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 256);
      Pitched<float> out = poisoned_rows<float>(rows, C), want(rows, C);
      kernels::frames_from_u8<Sim, float>(Stream{}, {bytes.data(), C}, rows, C, out.view());
      kernels::frames_from_u8<float>({bytes.data(), C}, rows, C, want.view());
      CHECK(same_bits(out, want));
      Pitched<BFloat16> half = poisoned_rows<BFloat16>(rows, C);
      kernels::frames_from_u8<Sim, BFloat16>(Stream{}, {bytes.data(), C}, rows, C, half.view());
      CHECK(rel_l2(half, want) < 4e-3);
      CHECK(gaps_are_zero(half));
      std::vector<std::uint8_t> back(bytes.size(), 77), want_back(bytes.size());
      kernels::frames_to_u8<Sim, float>(Stream{}, want.view(), rows, C, {back.data(), C});
      kernels::frames_to_u8<float>(want.view(), rows, C, {want_back.data(), C});
      CHECK(back == want_back);
    }
  });
}

TEST_CASE("frames/sim/values_outside_the_range") {
  Pitched<float> x(1, 8);
  x.values = {
      -5,
      -1,
      1,
      5,
      std::numeric_limits<float>::quiet_NaN(),
      std::numeric_limits<float>::infinity(),
      -std::numeric_limits<float>::infinity(),
      0};
  std::vector<std::uint8_t> out(8, 99);
  kernels::frames_to_u8<Sim, float>(Stream{}, x.view(), 1, 8, {out.data(), 8});
  CHECK(out == std::vector<std::uint8_t>{0, 0, 255, 255, 0, 255, 0, 127});
}

TEST_CASE("frames/sim/levels_are_cut_off_not_rounded") {
  for_each_order([] {
    const std::vector<double> levels{0.3, 0.6, 0.99, 1.01, 1.5, 1.99, 2.01, 127.4, 127.6, 254.01, 254.6, 254.99};
    const std::int64_t n = static_cast<std::int64_t>(levels.size());
    Pitched<float> x(1, n);
    std::vector<std::uint8_t> want, out(levels.size(), 99);
    for (std::int64_t i = 0; i < n; ++i) {
      const double level = levels[static_cast<std::size_t>(i)];
      x.at(0, i) = static_cast<float>(level * 2 / 255 - 1);
      want.push_back(static_cast<std::uint8_t>(level));
    }
    kernels::frames_to_u8<Sim, float>(Stream{}, x.view(), 1, n, {out.data(), n});
    CHECK(out == want);
  });
}
