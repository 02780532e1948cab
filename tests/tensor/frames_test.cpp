// tests/tensor/frames_test.cpp -- bytes to [-1,1] and back
#include "tensor/ops/frames.h"

#include <cmath>
#include <limits>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;

namespace {

Tensor all_bytes() {
  std::vector<std::uint8_t> bytes(258);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i % 256);
  return Tensor::from_values(bytes, {2, 43, 3});
}

}  // namespace

TEST_CASE("frames/from_u8/values_and_gaps") {
  const Tensor f = frames_from_u8(all_bytes());
  CHECK(f.shape() == Shape{2, 43, 3});
  CHECK(gaps_are_zero(f));
  const auto v = f.to_values<float>();
  CHECK(v[0] == -1.0f);
  CHECK(v[255] == 1.0f);
  for (std::size_t u = 0; u < 256; ++u) {
    const volatile float numerator = static_cast<float>(u),
                         denominator = 255.0f;  // volatile: no reciprocal at compile time
    CHECK(v[u] == numerator / denominator * 2.0f - 1.0f);
  }
  CHECK(frames_from_u8(all_bytes(), DType::f64).to_doubles()[51] == 51.0 / 255 * 2 - 1);
}

TEST_CASE("frames/property_12/round_trip_lowers_exactly_1_to_63") {
  const auto back = frames_to_u8(frames_from_u8(all_bytes())).to_values<std::uint8_t>();
  for (std::size_t u = 0; u < 256; ++u) CHECK(back[u] == (u >= 1 && u <= 63 ? u - 1 : u));
}

TEST_CASE("frames/property_12/to_u8_truncates_and_clamps") {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x{-1, 1, 254.999f / 255 * 2 - 1, -1.5f, 7, -inf, inf, std::nanf(""), 0};
  CHECK(
      frames_to_u8(Tensor::from_values(x, {3, 3})).to_values<std::uint8_t>() ==
      std::vector<std::uint8_t>{0, 255, 254, 0, 255, 0, 255, 0, 127});
  CHECK(frames_to_u8(Tensor::zeros({0, 3})).numel() == 0);
}

TEST_CASE("frames/threads/large_tensors") {
  std::vector<std::uint8_t> bytes(40000 * 3);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(64 + i * 7919 % 192);
  const Tensor u = Tensor::from_values(bytes, {40000, 3});
  CHECK(same_bits(frames_to_u8(frames_from_u8(u)), u));
}

TEST_CASE("frames/errors") {
  CHECK_THROWS_WITH_AS(frames_from_u8(Tensor::zeros({2})), "frames_from_u8: u: expected u8, got f32 [2]", DTypeError);
  CHECK_THROWS_AS(frames_from_u8(all_bytes(), DType::bf16), DTypeError);
  CHECK_THROWS_WITH_AS(frames_to_u8(all_bytes()), "frames_to_u8: x: expected f32 or f64, got u8 [2,43,3]", DTypeError);
}
