// tests/eval/score_table_test.cpp -- tables of scores, the opponent without weights, shuffled actions
#include "eval/score_table.h"

#include <nlohmann/json.hpp>
#include <set>

#include "eval/opponents.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

Tensor noise_video(std::uint64_t seed, int amplitude) {
  const Tensor uniform = test::random_tensor({12, 2, 8, 8, 3}, DType::f64, seed, amplitude);
  std::vector<std::uint8_t> values;
  for (const double v : uniform.to_doubles()) values.push_back(static_cast<std::uint8_t>(128 + v));
  return Tensor::from_values(values, uniform.shape());
}

}  // namespace

TEST_CASE("score_table/rows/means_intervals_and_differences") {
  const Tensor real = noise_video(1, 0);
  ScoreTable table({.resamples = 300});
  table.add({"good", score_frames(noise_video(2, 10), real)});
  table.add({"bad", score_frames(noise_video(3, 60), real)});
  table.compare("good", "bad");
  const auto json = table.json();
  REQUIRE(json["rows"].size() == 2);
  const auto& good = json["rows"][0];
  CHECK(good["name"] == "good");
  CHECK(good["psnr"]["low"].get<double>() < good["psnr"]["mean"].get<double>());
  CHECK(good["psnr"]["mean"].get<double>() < good["psnr"]["high"].get<double>());
  CHECK(good["mse"]["per_frame"].size() == 2);
  CHECK(good["mse"]["mean"].get<double>() == doctest::Approx(overall(table.row("good").scores.mse)));
  const auto& difference = json["differences"][0];
  CHECK(
      difference["psnr"]["mean"].get<double>() ==
      doctest::Approx(good["psnr"]["mean"].get<double>() - json["rows"][1]["psnr"]["mean"].get<double>()));
  CHECK(difference["psnr"]["excludes_zero"] == true);
  CHECK(difference["mse"]["high"].get<double>() < 0);
  const std::string text = table.text();
  CHECK(text.find("good - bad") != std::string::npos);
  CHECK(text.find(" *") != std::string::npos);
  CHECK_THROWS_AS(table.compare("good", "ugly"), Error);
  CHECK_THROWS_AS(table.add({"good", score_frames(real, real)}), Error);
  CHECK_THROWS_AS(table.add({"short", score_frames(real.slice(0, 3), real.slice(0, 3))}), ShapeError);
}

TEST_CASE("score_table/names/networks_are_refused_with_a_reason") {
  CHECK(find_pixel_metric("ssim") == PixelMetric::ssim);
  CHECK(!find_pixel_metric("lpips"));
}

TEST_CASE("opponents/repeat_last_frame/copies_it") {
  const Tensor clips = noise_video(4, 90);
  const Tensor cond = take_frames(clips, 0, 2), repeated = repeat_last_frame(cond, 3);
  CHECK(repeated.shape() == Shape{12, 3, 8, 8, 3});
  for (std::int64_t t = 0; t < 3; ++t)
    CHECK(test::same_bits(take_frames(repeated, t, t + 1), take_frames(clips, 1, 2)));
}

TEST_CASE("opponents/shuffle_actions/nobody_keeps_theirs") {
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < 9 * 2; ++i) ids.push_back(i);
  const Tensor actions = Tensor::from_values(ids, {9, 2});
  for (const std::uint64_t seed : {0u, 1u, 2u}) {
    const Tensor shuffled = shuffle_actions(actions, seed);
    const auto v = shuffled.to_values<std::int64_t>();
    std::set<std::int64_t> seen;
    for (std::int64_t b = 0; b < 9; ++b) {
      CHECK(v[static_cast<std::size_t>(2 * b)] != 2 * b);
      CHECK(v[static_cast<std::size_t>(2 * b + 1)] == v[static_cast<std::size_t>(2 * b)] + 1);  // rows stay whole
      seen.insert(v[static_cast<std::size_t>(2 * b)]);
    }
    CHECK(seen.size() == 9);
    CHECK(test::same_bits(shuffled, shuffle_actions(actions, seed)));
  }
  CHECK_FALSE(test::same_bits(shuffle_actions(actions, 0), shuffle_actions(actions, 1)));
  CHECK(test::same_bits(shuffle_actions(actions.slice(0, 1), 0), actions.slice(0, 1)));
}

}  // namespace avid::eval
