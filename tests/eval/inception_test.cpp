// tests/eval/inception_test.cpp -- the FID network with hash weights against the reference case
#include <nlohmann/json.hpp>

#include "eval/metrics/frechet.h"
#include "models/inception_features.h"
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

TEST_CASE("inception/golden/stored_statistics_and_fid") {
  const auto expected = expected_values("fid");
  const SafetensorsFile in(test::golden("metrics/fid/input.safetensors")),
      want(test::golden("metrics/fid/expected.safetensors"));
  const InceptionFeatures net(test::hash_reader("inception."));
  const Tensor real = net.features(test::colours_last(in.load("real"))),
               generated = net.features(test::colours_last(in.load("pred")));
  CHECK(test::deviation(real, want.load("real.eval")) < 1e-4);
  CHECK(test::deviation(generated, want.load("pred.eval")) < 1e-4);
  CHECK(
      frechet(real, generated, Covariance::unbiased) ==
      doctest::Approx(expected["fid_eval"].get<double>()).epsilon(1e-4));
  CHECK(frechet(real, real, Covariance::unbiased) < 1e-6 * expected["fid_eval"].get<double>());
}

TEST_CASE("inception/golden/batch_statistics") {
  const auto expected = expected_values("fid");
  const SafetensorsFile in(test::golden("metrics/fid/input.safetensors")),
      want(test::golden("metrics/fid/expected.safetensors"));
  const InceptionFeatures net(test::hash_reader("inception."), InceptionFeatures::Norm::batch);
  const Tensor real_images = test::colours_last(in.load("real"));
  const Tensor real = net.features(real_images), generated = net.features(test::colours_last(in.load("pred")));
  CHECK(test::deviation(real, want.load("real.batch128")) < 1e-3);  // dividing by small deviations amplifies rounding
  CHECK(test::deviation(generated, want.load("pred.batch128")) < 1e-3);
  CHECK(
      frechet(real, generated, Covariance::unbiased) ==
      doctest::Approx(expected["fid_batch_chunk128"].get<double>()).epsilon(1e-3));
  // The flaw itself: an image's features depend on its company.
  const Tensor three = net.features(real_images.slice(0, 3));
  CHECK(test::deviation(three, want.load("real.batch3").slice(0, 3)) < 1e-3);
  CHECK(test::deviation(three, real.slice(0, 3)) > 0.01);
}

TEST_CASE("inception/property/an_image_alone_has_the_features_it_has_in_company") {
  const SafetensorsFile in(test::golden("metrics/fid/input.safetensors"));
  const InceptionFeatures net(test::hash_reader("inception."));
  const Tensor images = test::colours_last(in.load("real"));
  CHECK(test::same_bits(net.features(images.slice(1, 2)), net.features(images.slice(0, 2)).slice(1, 2)));
}

}  // namespace avid::eval
