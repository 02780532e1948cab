// tests/eval/paper_metrics_test.cpp -- Action Error Ratio and normalised score against the reference cases
#include <cmath>
#include <nlohmann/json.hpp>

#include "eval/metrics/action_error.h"
#include "eval/metrics/normalised_score.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

nlohmann::json golden_case(const std::string& name) {
  return nlohmann::json::parse(read_text(test::golden("metrics/" + name + "/case.json")));
}

}  // namespace

TEST_CASE("action_error/golden/discrete_in_two_batches") {
  const auto expected = golden_case("aer")["expected_values"];
  const SafetensorsFile in(test::golden("metrics/aer/input.safetensors"));
  const Tensor labels = in.load("labels");
  const auto scored = [&](const char* name) {
    const Tensor logits = in.load(name);
    ActionScores scores = score_actions(logits.slice(0, 5), labels.slice(0, 5));
    scores.append(score_actions(logits.slice(5, 12), labels.slice(5, 12)));
    return scores;
  };
  const ActionScores real = scored("logits_real"), generated = scored("logits_gen");
  CHECK(real.mean_accuracy() == doctest::Approx(expected["acc_real"].get<double>()).epsilon(1e-12));
  CHECK(generated.mean_accuracy() == doctest::Approx(expected["acc_gen"].get<double>()).epsilon(1e-12));
  CHECK(real.mean_probability() == doctest::Approx(expected["prob_real"].get<double>()).epsilon(1e-6));
  CHECK(generated.mean_probability() == doctest::Approx(expected["prob_gen"].get<double>()).epsilon(1e-6));
  CHECK(
      action_error_ratio(real.mean_accuracy(), generated.mean_accuracy()) ==
      doctest::Approx(expected["aer_discrete"].get<double>()).epsilon(1e-7));
}

TEST_CASE("action_error/hand/ratio") {
  CHECK(action_error_ratio(0.30, 0.20) == doctest::Approx(1.5).epsilon(1e-8));
  CHECK(std::isfinite(action_error_ratio(0.3, 0)));
}

TEST_CASE("action_error/blind/a predictor no better than naming the commonest action") {
  // Two clips of four steps: action 1 stands at five of eight places.
  const Tensor actions = Tensor::from_values(std::vector<std::int64_t>{1, 1, 1, 0, 1, 1, 2, 0}, {2, 4});
  const auto with_accuracy = [](double a, double b) { return ActionScores{{a, b}, {a, b}}; };
  CHECK(why_aer_is_blind(with_accuracy(0.75, 0.75), actions).empty());
  CHECK(
      why_aer_is_blind(with_accuracy(0.5, 0.75), actions) ==
      "aer: says nothing here: on real clips the classifier is right in 0.625 [0.500, 0.750] of the steps, always "
      "naming "
      "the commonest action in 0.625 | train the classifier for longer, or score more clips");
  CHECK(!why_aer_is_blind(with_accuracy(0.5, 0.5), actions).empty());
}

TEST_CASE("action_error/errors/actions_outside_and_values_that_are_no_numbers") {
  const Tensor actions = Tensor::from_values(std::vector<std::int64_t>{0, 3}, {1, 2});
  CHECK_THROWS_WITH_AS(
      score_actions(Tensor::zeros({1, 2, 3}), actions), doctest::Contains("expected 0..2, got 3"), Error);
  CHECK_THROWS_AS(score_actions(Tensor::full({1, 2, 4}, NAN), actions), Error);
  CHECK_THROWS_AS(score_actions(Tensor::zeros({1, 3, 4}), actions), ShapeError);
  CHECK_THROWS_AS(score_actions(Tensor::zeros({1, 2, 4}), actions.to(DType::f32)), DTypeError);
  CHECK_THROWS_AS(ActionScores{}.mean_accuracy(), Error);
}

TEST_CASE("normalised_score/golden/rows_of_the_paper") {
  const auto rows = golden_case("score")["expected_values"];
  REQUIRE(rows.size() == 4);
  for (const auto& row : rows) {
    const auto& v = row["values"];
    const NormalisedScore got = normalised_score(
        {v["aer"], v["fvd"], v["fid"], v["ssim"], v["lpips"], v["psnr"]}, row["dataset"].get<std::string>());
    for (std::size_t i = 0; i < 6; ++i)
      CHECK(got.parts[i] == doctest::Approx(row["normalised"][i].get<double>()).epsilon(1e-9));
    CHECK(got.score == doctest::Approx(row["score"].get<double>()).epsilon(1e-9));
  }
  CHECK_THROWS_AS(normalised_score({1, 1, 1, 1, 1, 1}, "atari"), UsageError);
}

}  // namespace avid::eval
