// tests/eval/resize_test.cpp -- bilinear resizing and quantisation against the reference case
#include "eval/metrics/resize.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/ops/frames.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

/// [M,3,H,W] -> [M,H,W,3] or back, dense.
template <class Elem>
Tensor transposed(const Tensor& in, bool to_last) {
  const std::int64_t m = in.dim(0), channels = to_last ? in.dim(1) : in.dim(3), plane = in.numel() / (m * channels);
  const std::vector<Elem> source = in.to_values<Elem>();
  std::vector<Elem> out(source.size());
  for (std::int64_t n = 0; n < m; ++n)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t i = 0; i < plane; ++i) {
        const auto first = static_cast<std::size_t>((n * channels + c) * plane + i),
                   last = static_cast<std::size_t>((n * plane + i) * channels + c);
        to_last ? out[last] = source[first] : out[first] = source[last];
      }
  return Tensor::from_values(
      out, to_last ? Shape{m, in.dim(2), in.dim(3), channels} : Shape{m, channels, in.dim(1), in.dim(2)});
}

}  // namespace

TEST_CASE("resize/hand/rows") {
  const Tensor two = Tensor::from_values(std::vector<std::uint8_t>{0, 255}, {1, 2, 1});
  CHECK(resize_bilinear_u8(two, 1, 4).to_values<std::uint8_t>() == std::vector<std::uint8_t>{0, 63, 191, 255});
  const Tensor four = Tensor::from_values(std::vector<std::uint8_t>{10, 20, 40, 80}, {1, 4, 1});
  CHECK(resize_bilinear_u8(four, 1, 3).to_values<std::uint8_t>() == std::vector<std::uint8_t>{11, 30, 73});
  CHECK(test::same_bits(resize_bilinear_u8(four, 1, 4), four));
}

TEST_CASE("resize/golden/reference_case") {
  const auto expected =
      nlohmann::json::parse(read_text(test::golden("metrics/quantise_resize/case.json")))["expected_values"];
  const SafetensorsFile in(test::golden("metrics/quantise_resize/input.safetensors")),
      want(test::golden("metrics/quantise_resize/expected.safetensors"));
  const Tensor image = transposed<std::uint8_t>(in.load("image"), true);
  const struct {
    std::int64_t height, width;
    const char* key;
  } sizes[] = {{29, 17, "29x17"}, {48, 40, "48x40"}};
  for (const auto& [height, width, key] : sizes) {
    CAPTURE(key);
    const auto got =
        transposed<std::uint8_t>(resize_bilinear_u8(image, height, width), false).to_values<std::uint8_t>();
    const auto reference = want.load(std::string("resized_") + key).to_values<std::uint8_t>();
    REQUIRE(got.size() == reference.size());
    std::int64_t different = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(std::abs(int{got[i]} - int{reference[i]}) <= 1);
      different += got[i] != reference[i];
    }
    CHECK(different <= expected[key].get<std::int64_t>());  // only where exact arithmetic hits an integer
  }
}

TEST_CASE("resize/golden/truncation_and_rounding") {
  const SafetensorsFile in(test::golden("metrics/quantise_resize/input.safetensors")),
      want(test::golden("metrics/quantise_resize/expected.safetensors"));
  CHECK(quantise_rounded(in.load("x")).to_values<std::uint8_t>() == want.load("round").to_values<std::uint8_t>());
  CHECK(frames_to_u8(in.load("x")).to_values<std::uint8_t>() == want.load("trunc").to_values<std::uint8_t>());
}

TEST_CASE("resize/errors/type_and_size") {
  CHECK_THROWS_AS(resize_bilinear_u8(Tensor::zeros({4, 4, 3}), 2, 2), DTypeError);
  CHECK_THROWS_AS(resize_bilinear_u8(Tensor::zeros({4, 4, 3}, DType::u8), 0, 2), ShapeError);
}

}  // namespace avid::eval
