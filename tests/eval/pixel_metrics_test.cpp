// tests/eval/pixel_metrics_test.cpp -- MSE, PSNR, SSIM against worked values and the reference case
#include "eval/metrics/pixel_metrics.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

/// [N,T,3,H,W] -> [N,T,H,W,3]
Tensor channels_last(const Tensor& in) {
  Tensor out = Tensor::empty({in.dim(0), in.dim(1), in.dim(3), in.dim(4), in.dim(2)}, DType::u8);
  const std::int64_t plane = in.dim(3) * in.dim(4), colours = in.dim(2);
  for (std::int64_t n = 0; n < in.dim(0) * in.dim(1); ++n)
    for (std::int64_t c = 0; c < colours; ++c)
      for (std::int64_t i = 0; i < plane; ++i)
        out.data<std::uint8_t>()[(n * plane + i) * colours + c] =
            in.data<std::uint8_t>()[(n * colours + c) * plane + i];
  return out;
}

Tensor image(std::int64_t size, int (*pixel)(int y, int x, int c)) {
  Tensor out = Tensor::empty({1, 1, size, size, 3}, DType::u8);
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x)
      for (int c = 0; c < 3; ++c)
        out.data<std::uint8_t>()[(y * static_cast<int>(size) + x) * 3 + c] = static_cast<std::uint8_t>(pixel(y, x, c));
  return out;
}

Tensor constant(int level) { return Tensor::full({1, 1, 16, 16, 3}, level, DType::u8); }

void check_close(const nlohmann::json& expected, const std::vector<double>& got, double tolerance) {
  REQUIRE(expected.size() == got.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - expected[i].get<double>()) < tolerance);
}

std::vector<double> flattened(const nlohmann::json& rows) {
  std::vector<double> out;
  for (const auto& row : rows)
    for (const auto& v : row) out.push_back(v.get<double>());
  return out;
}

}  // namespace

TEST_CASE("pixel_metrics/golden/reference_case") {
  const auto expected =
      nlohmann::json::parse(read_text(test::golden("metrics/pixel_metrics/case.json")))["expected_values"];
  const SafetensorsFile file(test::golden("metrics/pixel_metrics/input.safetensors"));
  const Tensor real = channels_last(file.load("real")), generated = channels_last(file.load("pred"));
  const PixelScores scores = score_frames(generated, real);
  check_close(flattened(expected["mse_per_frame"]), scores.mse, 1e-7);  // the reference casts frames to f32
  check_close(flattened(expected["psnr_per_frame"]), scores.psnr, 1e-4);
  check_close(flattened(expected["ssim_per_frame"]), scores.ssim, 1e-6);
  check_close(expected["mse_curve"], curve(scores, scores.mse), 1e-7);
  check_close(expected["psnr_curve"], curve(scores, scores.psnr), 1e-4);
  check_close(expected["ssim_curve"], curve(scores, scores.ssim), 1e-6);
  CHECK(overall(scores.mse) == doctest::Approx(expected["mse"].get<double>()).epsilon(1e-6));
  CHECK(overall(scores.psnr) == doctest::Approx(expected["psnr"].get<double>()).epsilon(1e-6));
  CHECK(overall(scores.ssim) == doctest::Approx(expected["ssim"].get<double>()).epsilon(1e-6));
  CHECK(overall(psnr_per_video(scores)) == doctest::Approx(expected["psnr_per_video"].get<double>()).epsilon(1e-6));
  const PixelScores cropped = score_frames(generated, real, SsimBorder::valid);
  check_close(flattened(expected["ssim_crop_per_frame"]), cropped.ssim, 1e-6);
}

TEST_CASE("pixel_metrics/hand/constants_and_one_level") {
  CHECK(score_frames(constant(100), constant(101)).mse[0] == doctest::Approx(6.15148e-5).epsilon(1e-5));
  CHECK(score_frames(constant(100), constant(100)).psnr[0] == doctest::Approx(100));
  CHECK(score_frames(constant(100), constant(101)).psnr[0] == doctest::Approx(48.13080).epsilon(1e-6));
  CHECK(score_frames(constant(100), constant(116)).psnr[0] == doctest::Approx(24.04840).epsilon(1e-6));
  CHECK(score_frames(constant(7), constant(7)).ssim[0] == doctest::Approx(1).epsilon(1e-6));
  CHECK(score_frames(constant(0), constant(255)).ssim[0] == doctest::Approx(9.9990e-5).epsilon(1e-4));
  CHECK(score_frames(constant(128), constant(64)).ssim[0] == doctest::Approx(0.8000635).epsilon(1e-6));
  CHECK(score_frames(constant(255), constant(128)).ssim[0] == doctest::Approx(0.8018927).epsilon(1e-6));
}

TEST_CASE("pixel_metrics/hand/pair_p") {
  const Tensor a = image(16, [](int y, int x, int c) { return (7 * x + 13 * y + 29 * c) % 256; });
  const Tensor b = image(16, [](int y, int x, int c) { return (5 * x + 11 * y + 31 * c + 3) % 256; });
  const PixelScores scores = score_frames(a, b);
  CHECK(scores.ssim[0] == doctest::Approx(0.58822307).epsilon(1e-7));
  CHECK(scores.mse[0] == doctest::Approx(0.36021018).epsilon(1e-7));
  CHECK(scores.psnr[0] == doctest::Approx(10.4550401).epsilon(1e-7));
  CHECK(score_frames(a, b, SsimBorder::valid).ssim[0] == doctest::Approx(0.69511531).epsilon(1e-7));
  CHECK(score_frames(b, a).ssim[0] == doctest::Approx(scores.ssim[0]).epsilon(1e-12));
}

TEST_CASE("pixel_metrics/append/is_one_big_batch") {
  Tensor a = Tensor::empty({4, 2, 8, 6, 3}, DType::u8), b = Tensor::empty({4, 2, 8, 6, 3}, DType::u8);
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    a.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 37 % 251);
    b.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 41 % 253);
  }
  PixelScores parts = score_frames(a.slice(0, 3), b.slice(0, 3));
  parts.append(score_frames(a.slice(3, 4), b.slice(3, 4)));
  const PixelScores whole = score_frames(a, b);
  CHECK(parts.num_clips == 4);
  CHECK(parts.mse == whole.mse);
  CHECK(parts.ssim == whole.ssim);
  const PixelScores without = score_frames(a, b, SsimBorder::none);
  CHECK(without.ssim.empty());
  CHECK(without.psnr == whole.psnr);
  CHECK(clip_means(whole, whole.psnr)[1] == doctest::Approx((whole.psnr[2] + whole.psnr[3]) / 2));
}

TEST_CASE("pixel_metrics/errors/shapes_types_sizes") {
  const Tensor a = Tensor::zeros({1, 2, 8, 8, 3}, DType::u8);
  CHECK_THROWS_AS(score_frames(a, Tensor::zeros({1, 3, 8, 8, 3}, DType::u8)), ShapeError);
  CHECK_THROWS_AS(score_frames(a.to(DType::f32), a), DTypeError);
  CHECK_THROWS_AS(
      score_frames(Tensor::zeros({1, 1, 5, 8, 3}, DType::u8), Tensor::zeros({1, 1, 5, 8, 3}, DType::u8)), ShapeError);
  CHECK_THROWS_AS(score_frames(a, a, SsimBorder::valid), ShapeError);
}

}  // namespace avid::eval
