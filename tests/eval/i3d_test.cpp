// tests/eval/i3d_test.cpp -- the FVD network with hash weights against the reference case
#include <nlohmann/json.hpp>

#include "eval/metrics/frechet.h"
#include "eval/metrics/resize.h"
#include "models/i3d_features.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/metric_weights.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

nlohmann::json expected_values(const std::string& name) {
  return nlohmann::json::parse(read_text(test::golden("metrics/" + name + "/case.json")))["expected_values"];
}

double frechet(const Tensor& a, const Tensor& b, Covariance covariance) { return frechet_distance(a, b, covariance); }

}  // namespace

TEST_CASE("i3d/golden/reference_case") {
  const auto expected = expected_values("fvd");
  const SafetensorsFile in(test::golden("metrics/fvd/input.safetensors")),
      want(test::golden("metrics/fvd/expected.safetensors"));
  const auto resized = [&](const char* name) {
    return resize_bilinear_u8(test::colours_last(in.load(name)), I3dFeatures::kSize, I3dFeatures::kSize);
  };
  const Tensor real_clips = resized("real"), generated_clips = resized("pred");
  const I3dFeatures net(test::hash_reader("i3d."));
  const Tensor real = net.features(real_clips), generated = net.features(generated_clips);
  CHECK(test::deviation(real, want.load("real.i3d")) < 1e-4);
  CHECK(test::deviation(generated, want.load("pred.i3d")) < 1e-4);
  const auto& values = expected["fvd_i3d"];
  CHECK(frechet(real, generated, Covariance::biased) == doctest::Approx(values["cov_N"].get<double>()).epsilon(1e-4));
  CHECK(
      frechet(real, generated, Covariance::unbiased) ==
      doctest::Approx(values["cov_N_minus_1"].get<double>()).epsilon(1e-4));
  CHECK(frechet(real, real, Covariance::biased) < 1e-6 * values["cov_N"].get<double>());
}

TEST_CASE("i3d/golden/the_eps_that_the_weights_were_trained_with") {
  const SafetensorsFile in(test::golden("metrics/fvd/input.safetensors")),
      want(test::golden("metrics/fvd/expected.safetensors"));
  const I3dFeatures net(test::hash_reader("i3d."), I3dFeatures::kTrainedEps);
  const std::int64_t count = test::full_level() ? 3 : 1;
  const Tensor clips = test::colours_last(in.load("real")).slice(0, count);
  const Tensor got = net.features(resize_bilinear_u8(clips, I3dFeatures::kSize, I3dFeatures::kSize));
  CHECK(test::deviation(got, want.load("real.i3d_tf").slice(0, count)) < 1e-4);
  CHECK(test::deviation(got, want.load("real.i3d").slice(0, count)) > 2e-4);  // the two are told apart
}

TEST_CASE("i3d/errors/too_few_frames") {
  const I3dFeatures net(test::hash_reader("i3d."));
  CHECK_THROWS_WITH_AS(
      net.features(Tensor::zeros({1, 8, 224, 224, 3}, DType::u8)), doctest::Contains("at least 9 frames"), ShapeError);
  CHECK_THROWS_AS(net.features(Tensor::zeros({1, 9, 64, 64, 3}, DType::u8)), ShapeError);
}

}  // namespace avid::eval
