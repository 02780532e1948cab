// tests/eval/lpips_test.cpp -- LPIPS with hash weights against the reference case
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/lpips.h"
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

Tensor images_of(const Tensor& videos) {
  return videos.reshape({videos.dim(0) * videos.dim(1), videos.dim(2), videos.dim(3), 3});
}

}  // namespace

TEST_CASE("lpips/golden/reference_case") {
  const auto expected = expected_values("pixel_metrics");
  const SafetensorsFile file(test::golden("metrics/pixel_metrics/input.safetensors"));
  const Tensor real = images_of(test::colours_last(file.load("real"))),
               generated = images_of(test::colours_last(file.load("pred")));
  const std::vector<double> got = Lpips(test::hash_reader("lpips.")).distances(generated, real);
  std::size_t i = 0;
  double sum = 0;
  for (const auto& row : expected["lpips_per_frame"])
    for (const auto& want : row) {
      REQUIRE(i < got.size());
      CHECK(std::abs(got[i] - want.get<double>()) < 1e-5 * std::max(want.get<double>(), 0.05));
      sum += got[i++];
    }
  CHECK(i == got.size());
  CHECK(sum / 12 == doctest::Approx(expected["lpips"].get<double>()).epsilon(1e-5));
  CHECK(got[0] == 0);  // equal images
  const Lpips original(test::hash_reader("lpips."), LpipsNorm::original);
  double original_sum = 0;
  for (const double v : original.distances(generated, real)) original_sum += v;
  CHECK(original_sum / 12 == doctest::Approx(expected["lpips_original_norm"].get<double>()).epsilon(1e-5));
}

TEST_CASE("lpips/property/zero_symmetric_and_independent_of_the_batch") {
  const SafetensorsFile file(test::golden("metrics/pixel_metrics/input.safetensors"));
  const Tensor a = images_of(test::colours_last(file.load("real"))),
               b = images_of(test::colours_last(file.load("pred")));
  const Lpips lpips(test::hash_reader("lpips."));
  const std::vector<double> ab = lpips.distances(a, b), ba = lpips.distances(b, a);
  for (std::size_t i = 0; i < ab.size(); ++i) CHECK(ab[i] == doctest::Approx(ba[i]).epsilon(1e-12));
  for (const double v : lpips.distances(a, a)) CHECK(v == 0);
  std::vector<double> parts = lpips.distances(a.slice(0, 5), b.slice(0, 5));
  for (const double v : lpips.distances(a.slice(5, 12), b.slice(5, 12))) parts.push_back(v);
  CHECK(parts == ab);
}

TEST_CASE("lpips/errors/missing_and_misshapen_tensors_are_named") {
  const auto build = [](const std::string& missing, const std::string& misshapen) {
    Lpips(features::WeightReader(
        [&](const std::string& name, const Shape& shape) {
          if (name == missing) return Tensor{};
          return name == misshapen ? Tensor::zeros({2, 2}) : Tensor::zeros(shape);
        },
        "file.safetensors", Lpips::kNetwork));
  };
  CHECK_NOTHROW(build("", ""));
  CHECK_THROWS_WITH_AS(
      build("lin3.model.1.weight", ""),
      doctest::Contains("file.safetensors: lpips-vgg: no tensor 'lin3.model.1.weight'"), FileError);
  CHECK_THROWS_WITH_AS(
      build("", "features.7.bias"), doctest::Contains("'features.7.bias': expected f32 [128], got f32 [2,2]"),
      FileError);
}

}  // namespace avid::eval
