// tests/eval/corruptions_test.cpp -- known damage does what it says
#include "eval/corruptions.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

/// Value = 10 t + y in every clip: frames and rows can be told apart.
Tensor numbered(std::int64_t clips, std::int64_t frames, std::int64_t size) {
  Tensor out = Tensor::empty({clips, frames, size, size, 3}, DType::u8);
  const std::int64_t row = size * 3, frame = size * row;
  for (std::int64_t i = 0; i < out.numel(); ++i)
    out.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(10 * (i / frame % frames) + i % frame / row);
  return out;
}

std::vector<int> frame_numbers(const Tensor& clips, std::int64_t clip) {
  std::vector<int> numbers;
  for (std::int64_t t = 0; t < clips.dim(1); ++t)
    numbers.push_back(clips.select(clip).select(t).data<std::uint8_t>()[0] / 10);
  return numbers;
}

}  // namespace

TEST_CASE("corruptions/frozen/the_end_repeats_one_frame") {
  const Tensor clips = numbered(2, 5, 4);
  CHECK(frame_numbers(frozen(clips, 3), 1) == std::vector<int>{0, 1, 1, 1, 1});
  CHECK(test::same_bits(frozen(clips, 0), clips));
  CHECK_THROWS_AS(frozen(clips, 5), ShapeError);
}

TEST_CASE("corruptions/shuffled/frames_stay_in_their_block") {
  const Tensor clips = numbered(40, 10, 2);
  CHECK(test::same_bits(shuffled_in_time(clips, 1, 3), clips));
  const Tensor mixed = shuffled_in_time(clips, 4, 3);
  bool moved = false, differ = false;
  for (std::int64_t b = 0; b < 40; ++b) {
    std::vector<int> numbers = frame_numbers(mixed, b);
    moved = moved || numbers != frame_numbers(clips, b);
    differ = differ || numbers != frame_numbers(mixed, 0);
    for (std::size_t begin = 0; begin < 10; begin += 4) {
      const auto end = std::min<std::size_t>(begin + 4, 10);
      std::sort(
          numbers.begin() + static_cast<std::ptrdiff_t>(begin), numbers.begin() + static_cast<std::ptrdiff_t>(end));
    }
    CHECK(numbers == frame_numbers(clips, b));
  }
  CHECK(moved);
  CHECK(differ);
  CHECK(test::same_bits(shuffled_in_time(clips, 4, 3), mixed));
  CHECK(!test::same_bits(shuffled_in_time(clips, 4, 4), mixed));
}

TEST_CASE("corruptions/noise/mean_and_spread") {
  const Tensor grey = Tensor::full({2, 4, 16, 16, 3}, 128, DType::u8);
  const std::vector<double> values = with_noise(grey, 12, 5).to_doubles();
  double mean = 0, square = 0;
  for (const double v : values) mean += v / static_cast<double>(values.size());
  for (const double v : values) square += (v - mean) * (v - mean) / static_cast<double>(values.size());
  CHECK(std::abs(mean - 128) < 0.6);  // 3.5 standard errors of 6144 values
  CHECK(std::abs(std::sqrt(square) - 12) < 0.4);
  CHECK(test::same_bits(with_noise(grey, 0, 5), grey));
  const std::vector<double> clipped = with_noise(Tensor::full({1, 1, 8, 8, 3}, 250, DType::u8), 50, 1).to_doubles();
  CHECK(*std::max_element(clipped.begin(), clipped.end()) == 255);
}

TEST_CASE("corruptions/blur/a_point_becomes_a_gaussian") {
  Tensor point = Tensor::zeros({1, 1, 9, 9, 3}, DType::u8);
  point.data<std::uint8_t>()[(4 * 9 + 4) * 3 + 1] = 200;
  const Tensor soft = blurred(point, 1.0);
  double sum = 0;
  for (int k = -3; k <= 3; ++k) sum += std::exp(-0.5 * k * k);
  for (int y = 1; y < 8; ++y)
    for (int x = 1; x < 8; ++x) {
      const int dy = y - 4, dx = x - 4;
      const double want = 200 * std::exp(-0.5 * (dy * dy + dx * dx)) / (sum * sum);
      CHECK(std::abs(soft.data<std::uint8_t>()[(y * 9 + x) * 3 + 1] - want) <= 0.5 + 1e-9);
      CHECK(soft.data<std::uint8_t>()[(y * 9 + x) * 3] == 0);  // colours do not mix
    }
  const Tensor flat = Tensor::full({1, 2, 8, 8, 3}, 77, DType::u8);
  CHECK(test::same_bits(blurred(flat, 2.0), flat));  // edges too
  CHECK(test::same_bits(blurred(point, 0), point));
}

TEST_CASE("corruptions/replaced/the_first_clips") {
  const Tensor clips = numbered(5, 2, 2), other = Tensor::full(clips.shape(), 9, DType::u8);
  const Tensor mixed = partly_replaced(clips, other, 0.4);
  CHECK(test::same_bits(mixed.slice(0, 2), other.slice(0, 2)));
  CHECK(test::same_bits(mixed.slice(2, 5), clips.slice(2, 5)));
  CHECK(test::same_bits(partly_replaced(clips, other, 0), clips));
  CHECK_THROWS_AS(partly_replaced(clips, numbered(4, 2, 2), 0.5), ShapeError);
  CHECK_THROWS_AS(partly_replaced(clips, other, 1.5), ShapeError);
}

}  // namespace avid::eval
