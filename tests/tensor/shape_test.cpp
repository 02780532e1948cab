// tests/tensor/shape_test.cpp -- extents, counts, pitches, and the 16-bit float formats
#include "tensor/shape.h"

#include <cmath>
#include <limits>
#include <map>

#include "kernels/dtype.h"
#include "tensor/error.h"
#include "tests/doctest.h"

using namespace avid;

TEST_CASE("shape/extents/counts_rows_cols_and_text") {
  const Shape s{2, 8, 64, 64, 3};
  CHECK(s.rank() == 5);
  CHECK(s[0] == 2);
  CHECK(s[-1] == 3);
  CHECK(s[-5] == 2);
  CHECK(s.numel() == 2 * 8 * 64 * 64 * 3);
  CHECK(s.rows() == 2 * 8 * 64 * 64);
  CHECK(s.cols() == 3);
  CHECK(s.to_string() == "[2,8,64,64,3]");
  CHECK(fmt::format("{}", s) == "[2,8,64,64,3]");
  CHECK(s.with_cols(9) == Shape{2, 8, 64, 64, 9});
  CHECK(s != Shape{2, 8, 64, 64});
  CHECK(s.to_vector() == std::vector<std::int64_t>{2, 8, 64, 64, 3});
}

TEST_CASE("shape/extents/rank_zero_one_and_empty") {
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{}.rows() == 1);
  CHECK(Shape{}.cols() == 1);
  CHECK(Shape{}.to_string() == "[]");
  CHECK(Shape{5}.rows() == 1);
  CHECK(Shape{5}.cols() == 5);
  CHECK(Shape{4, 0, 3}.numel() == 0);
  CHECK(Shape{4, 0, 3}.rows() == 0);
  CHECK(Shape{4, 3, 0}.rows() == 12);
}

TEST_CASE("shape/extents/counts_past_32_bits") {
  const Shape s{2, 16, 512, 512, 320};
  CHECK(s.numel() == 2684354560LL);
  CHECK(Shape{std::int64_t{1} << 40, 3}.numel() == 3LL << 40);
}

TEST_CASE("shape/error/negative_overflow_rank_and_index") {
  CHECK_THROWS_AS((Shape{2, -1}), ShapeError);
  CHECK_THROWS_AS((Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}), ShapeError);
  CHECK_THROWS_AS((Shape{std::numeric_limits<std::int64_t>::max()}), ShapeError);
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), ShapeError);
  CHECK_NOTHROW((Shape{1, 1, 1, 1, 1, 1, 1, 1}));
  CHECK_THROWS_AS((Shape{1, 2}[2]), ShapeError);
  CHECK_THROWS_AS((Shape{1, 2}[-3]), ShapeError);
  CHECK_THROWS_AS((Shape{}[0]), ShapeError);
  CHECK_THROWS_AS(Shape{}.with_cols(1), ShapeError);
}

TEST_CASE("shape/pitch/rows_of_floats_are_multiples_of_16_bytes_and_integers_are_dense") {
  for (std::int64_t c = 0; c <= 40; ++c) {
    for (const DType t : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      const std::int64_t pitch = row_pitch({7, c}, t), bytes = static_cast<std::int64_t>(size_of(t));
      CHECK(pitch >= c);
      CHECK(pitch * bytes % 16 == 0);
      CHECK((pitch - c) * bytes < 16);
    }
    for (const DType t : {DType::i64, DType::i32, DType::u8}) CHECK(row_pitch({7, c}, t) == c);
  }
  CHECK(row_pitch({2, 90}, DType::f32) == 92);
  CHECK(row_pitch({2, 90}, DType::bf16) == 96);
  CHECK(row_pitch({2, 3}, DType::f64) == 4);
  CHECK(row_pitch({}, DType::f32) == 1);
}

// Bits worked out by hand from the formats: sign, exponent (bias 15 / 127), fraction.
TEST_CASE("dtype/f16/hand_values") {
  const std::map<float, std::uint16_t> exact{
      {0.0f, 0x0000},     {1.0f, 0x3c00},     {-2.0f, 0xc000},      {0.5f, 0x3800},
      {65504.0f, 0x7bff}, {0x1p-14f, 0x0400}, {0x1p-24f, 0x0001},   {0x1.ff8p-15f, 0x03ff},
      {1.0f / 3, 0x3555}, {0.1f, 0x2e66},     {1e9f, 0x7c00},       {65520.0f, 0x7c00},
      {65519.0f, 0x7bff}, {0x1p-25f, 0x0000}, {0x1.8p-25f, 0x0001}, {-0x1p-26f, 0x8000}};
  for (const auto& [value, bits] : exact) CHECK_MESSAGE(f16(value).bits == bits, value);
  CHECK(f16(-0.0f).bits == 0x8000);
  CHECK(f16(std::numeric_limits<float>::infinity()).bits == 0x7c00);
  CHECK(f16(-std::numeric_limits<float>::infinity()).bits == 0xfc00);
  CHECK(std::isnan(static_cast<float>(f16(std::nanf("")))));
}

TEST_CASE("dtype/f16/all_65536_codes_round_trip") {
  int wrong = 0;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    f16 h;
    h.bits = static_cast<std::uint16_t>(code);
    const float v = static_cast<float>(h);
    const int exponent = static_cast<int>(code >> 10 & 31), fraction = static_cast<int>(code & 1023);
    if (exponent == 31) {
      if (fraction == 0 ? !std::isinf(v) || std::signbit(v) != (code >> 15 != 0) || f16(v).bits != code
                        : !std::isnan(v) || !std::isnan(static_cast<float>(f16(v))))
        ++wrong;
      continue;
    }
    const double expected = (code >> 15 ? -1.0 : 1.0) *
                            (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
    if (static_cast<double>(v) != expected || std::signbit(v) != (code >> 15 != 0) || f16(v).bits != code) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("dtype/f16/halfway_rounds_to_even_and_neighbours_to_nearest") {
  int wrong = 0;
  for (std::uint16_t code = 0; code < 0x7bff; ++code) {  // every pair of neighbouring finite numbers
    const float low = f16::to_f32(code), high = f16::to_f32(static_cast<std::uint16_t>(code + 1)),
                middle = low + (high - low) / 2;
    const auto even = static_cast<std::uint16_t>(code % 2 == 0 ? code : code + 1);
    if (f16(middle).bits != even || f16(std::nextafter(middle, 0.0f)).bits != code ||
        f16(std::nextafter(middle, 1e9f)).bits != code + 1)
      ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("dtype/bf16/hand_values_and_all_codes") {
  CHECK(bf16(1.0f).bits == 0x3f80);
  CHECK(bf16(-2.0f).bits == 0xc000);
  CHECK(bf16(0.1f).bits == 0x3dcd);           // 0x3dcccccd: above half, up
  CHECK(bf16(1.00390625f).bits == 0x3f80);    // 1 + 2^-8: halfway, to even
  CHECK(bf16(1.01171875f).bits == 0x3f82);    // 1 + 3 * 2^-8: halfway, to even
  CHECK(bf16(3.4e38f).bits == 0x7f80);        // above the largest bf16 by more than half: infinity
  CHECK(bf16(3.3895314e38f).bits == 0x7f7f);  // the largest bf16
  CHECK(bf16(-0.0f).bits == 0x8000);
  CHECK(std::isnan(
      static_cast<float>(bf16(std::bit_cast<float>(0x7f800001u)))));  // a NaN whose upper half looks infinite
  int wrong = 0;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    bf16 b;
    b.bits = static_cast<std::uint16_t>(code);
    const float v = static_cast<float>(b);
    if (std::isnan(v) ? !std::isnan(static_cast<float>(bf16(v))) : bf16(v).bits != code) ++wrong;
  }
  CHECK(wrong == 0);
}
