// tests/cli/evaluate_test.cpp -- avid evaluate and avid metrics: rows, numbers, mistakes
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "eval/metrics/frechet_moments.h"
#include "models/checkpoint.h"
#include "models/clip_encoder.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

const std::string kHeldOut = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5";

ProgramResult avid_program(std::vector<std::string> words) {
  words.insert(words.begin(), AVID_PROGRAM);
  return run_program(words);
}

std::vector<std::string> model(std::vector<std::string> more, const char* frames = "4", const char* clips = "3") {
  std::vector<std::string> words{
      "evaluate",
      "--base",
      golden("pixel/ddpm/base.safetensors"),
      "--adapter",
      golden("pixel/ddpm/adapter.safetensors"),
      "--timesteps",
      "8",
      "--steps",
      "2",
      "--frames",
      frames,
      "--clips",
      clips,
      "--data",
      kHeldOut};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

TEST_CASE("evaluate/report/rows_differences_and_files") {
  const TempDir dir;
  const ProgramResult result = avid_program(model(
      {"--json", "--shuffle-actions", "--also", "twin=" + golden("pixel/ddpm/adapter.safetensors").string(), "--out",
       dir / "scores.json"}));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const auto report = nlohmann::json::parse(result.out);
  std::vector<std::string> names;
  for (const auto& row : report["rows"]) names.push_back(row["name"]);
  CHECK(
      names ==
      std::vector<std::string>{
          "repeat-last-frame", "base", "adapter", "adapter, shuffled actions", "twin", "twin, shuffled actions"});
  CHECK(report["rows"][2]["psnr"] == report["rows"][4]["psnr"]);  // the same weights, windows and noise
  CHECK(report["rows"][2]["psnr"] != report["rows"][3]["psnr"]);
  CHECK(report["rows"][2]["psnr"]["per_frame"].size() == 4);
  CHECK(report["n_clips"] == 3);
  CHECK(report["mask_mean_per_step"]["adapter"].size() == 2);
  CHECK(nlohmann::json::parse(read_text(dir / "scores.json")) == report);
}

TEST_CASE("evaluate/intervals/distances_between_sets_by_resampled_clips") {
  const TempDir dir;
  ClipEncoder encoder({.width = 2, .features = 6});
  encoder.initialize(1);
  save_safetensors(dir / "encoder.safetensors", encoder.export_tensors());
  const std::vector<std::string> with{"--size",    "32",
                                      "--metrics", "fid_procgen,fvd_procgen",
                                      "--set",     "procgen.encoder=" + (dir / "encoder.safetensors").string(),
                                      "--json"};
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), with.begin(), with.end());
    const ProgramResult result = avid_program(model(more));
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return nlohmann::json::parse(result.out);
  };
  const auto report = run({"--frechet-resamples", "30"});
  for (const auto& row : report["rows"])
    for (const char* key : {"fid_procgen", "fvd_procgen"}) {
      CAPTURE(row["name"].get<std::string>());
      CAPTURE(key);
      CHECK(row["intervals"][key]["low"].get<double>() <= row[key].get<double>());
      CHECK(row["intervals"][key]["high"].get<double>() >= row[key].get<double>());
      CHECK(report["resamples"][row["name"].get<std::string>()][key].size() == 30);
    }
  const auto& difference = report["differences"][1];
  const std::string a = difference["a"], b = difference["b"];
  const auto value = [&](const std::string& name) {
    for (const auto& row : report["rows"])
      if (row["name"] == name) return row["fvd_procgen"].get<double>();
    return std::nan("");
  };
  CHECK(difference["fvd_procgen"]["mean"].get<double>() == doctest::Approx(value(a) - value(b)));
  CHECK(run({"--frechet-resamples", "30"})["resamples"] == report["resamples"]);
  CHECK_FALSE(run({"--frechet-resamples", "0"}).contains("resamples"));
  CHECK(run({})["resamples"]["base"]["fvd_procgen"].size() == 200);  // cheap, so nobody has to ask
}

TEST_CASE("evaluate/keep_clips/a_second_evaluation_samples_nothing_and_says_the_same") {
  const TempDir dir;
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--json", "--keep-clips", dir / "kept"});
    const ProgramResult result = avid_program(model(more));
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return nlohmann::json::parse(result.out);
  };
  const auto files = [&] {
    std::size_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir / "kept")) n += entry.path().extension() != "";
    return n;
  };
  const auto first = run({"--shuffle-actions"});
  CHECK_FALSE(first.contains("kept_clips"));
  CHECK(files() == 3);  // base, adapter, adapter with shuffled actions
  // Other metrics of the same clips; numbers, masks and seconds are those of the sampling.
  const auto again = run({"--shuffle-actions", "--metrics", "psnr,fid_procgen"});
  CHECK(again["kept_clips"].size() == 3);
  CHECK(again["kept_clips"]["base"]["commit"] == first["commit"]);
  CHECK(again["sampling_seconds"] == first["sampling_seconds"]);
  CHECK(again["mask_mean_per_step"] == first["mask_mean_per_step"]);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(again["rows"][i]["psnr"] == first["rows"][i]["psnr"]);
    CHECK(again["rows"][i]["fid_procgen"].is_number());
  }
  CHECK(files() == 3);
  // Anything that changes the frames is sampled: steps, noise, windows, rounding, the way of the timesteps.
  for (const std::vector<std::string>& other : std::vector<std::vector<std::string>>{
           {"--steps", "3"}, {"--seed", "1"}, {"--clips", "2"}, {"--timesteps", "9"}, {"--set", "quantise=round"}}) {
    CAPTURE(other[0]);
    auto words = model({"--json", "--keep-clips", dir / "kept"});
    const auto given = std::find(words.begin(), words.end(), other[0]);
    if (given != words.end())
      given[1] = other[1];
    else
      words.insert(words.end(), other.begin(), other.end());
    const ProgramResult result = avid_program(words);
    REQUIRE(result.exit_code == 0);
    CHECK_FALSE(nlohmann::json::parse(result.out).contains("kept_clips"));
  }
  // A file that was changed is named, and sampled again.
  for (const auto& entry : std::filesystem::directory_iterator(dir / "kept")) {
    std::string bytes = read_text(entry.path());
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    write_text_atomic(entry.path(), bytes);
  }
  auto words = model({"--json", "--keep-clips", dir / "kept"});
  const ProgramResult healed = avid_program(words);
  CHECK(healed.exit_code == 0);
  CHECK(healed.err.find("damaged") != std::string::npos);
  CHECK(nlohmann::json::parse(healed.out)["rows"][2]["psnr"] == first["rows"][2]["psnr"]);
  CHECK(run({})["kept_clips"].size() == 2);
}

TEST_CASE("evaluate/errors/one_line_each") {
  const auto expect = [&](int exit_code, const std::string& text, std::vector<std::string> words) {
    CAPTURE(text);
    const ProgramResult result = avid_program(std::move(words));
    CHECK(result.exit_code == exit_code);
    CHECK(result.out == "");
    CHECK(result.err.find(text) != std::string::npos);
  };
  expect(2, "no model given", {"evaluate", "--data", kHeldOut});
  expect(2, "--eta", model({"--eta", "3"}));
  expect(1, "window", model({}, "500"));
  expect(2, "--name: the name 'base' is taken", model({"--name", "base"}));
  expect(2, "--name: the name 'repeat-last-frame' is taken", model({"--name", "repeat-last-frame"}));
  expect(
      2, "--also: the name 'adapter' is taken", model({"--also", golden("pixel/ddpm/adapter.safetensors").string()}));
  expect(2, "one clip has no other's actions", model({"--shuffle-actions"}, "4", "1"));
  expect(
      2, "takes no actions",
      {"evaluate", "--base", golden("pixel/ddpm/base.safetensors"), "--data", kHeldOut, "--shuffle-actions"});
  expect(1, "so many windows of", model({}, "4", "1000000"));
  expect(2, "--schedule: ", model({"--schedule", "square"}));
  expect(1, "cannot make this folder", model({"--keep-clips", "/proc/nowhere"}));
  expect(1, "not a folder made by avid train", {"evaluate", "--run", "/tmp", "--data", kHeldOut});
}

TEST_CASE("metrics/golden/pixel_metrics_and_features") {
  const std::string input = golden("metrics/pixel_metrics/input.safetensors");
  const auto expected = nlohmann::json::parse(read_text(golden("metrics/pixel_metrics/case.json")))["expected_values"];
  const ProgramResult result =
      avid_program({"metrics", "--real", input + ":real", "--generated", input + ":pred", "--json"});
  REQUIRE(result.exit_code == 0);
  const auto got = nlohmann::json::parse(result.out);
  CHECK(got["mse"].get<double>() == doctest::Approx(expected["mse"].get<double>()).epsilon(1e-6));
  CHECK(got["psnr"].get<double>() == doctest::Approx(expected["psnr"].get<double>()).epsilon(1e-6));
  CHECK(got["ssim"].get<double>() == doctest::Approx(expected["ssim"].get<double>()).epsilon(1e-6));
  CHECK(got["curves"]["ssim"].size() == 4);

  const std::string features = golden("metrics/frechet/input.safetensors");
  const ProgramResult distance = avid_program(
      {"metrics", "--features", "--real", features + ":few_9_14_24.x", "--generated", features + ":few_9_14_24.y",
       "--json"});
  REQUIRE(distance.exit_code == 0);
  CHECK(
      nlohmann::json::parse(distance.out)["frechet_unbiased"].get<double>() ==
      doctest::Approx(76.82661893735094).epsilon(1e-9));
  CHECK(
      nlohmann::json::parse(distance.out)["frechet_biased"].get<double>() ==
      doctest::Approx(75.1591881577518).epsilon(1e-9));
}

TEST_CASE("metrics/features/two_methods_and_published_statistics") {
  const std::string features = golden("metrics/frechet/input.safetensors"), x = features + ":gauss_200_150_12.x",
                    y = features + ":gauss_200_150_12.y";
  const auto run = [&](const std::string& real, const std::string& generated, std::vector<std::string> more = {}) {
    std::vector<std::string> words{"metrics", "--features", "--real", real, "--generated", generated, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const ProgramResult result = avid_program(words);
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return nlohmann::json::parse(result.out);
  };
  const auto n = run(x, y), e = run(x, y, {"--set", "frechet.method=moments"});
  CHECK(n["frechet_unbiased"].get<double>() == doctest::Approx(24.25381073247881).epsilon(1e-10));
  for (const char* key : {"frechet_unbiased", "frechet_biased"})
    CHECK(e[key].get<double>() == doctest::Approx(n[key].get<double>()).epsilon(1e-6));
  CHECK(e["switches"]["frechet.method"] == "moments");
  CHECK(n["switches"]["frechet.method"] == "features");

  // A file of mu and sigma in place of one side, or of both.
  const TempDir dir;
  const Tensor rows = open_tensor_file(features)->load("gauss_200_150_12.x");
  const auto m = eval::FeatureMoments::of(rows, eval::Covariance::unbiased, "x");
  const std::string stats = dir / "stats.safetensors", odd = dir / "odd.safetensors";
  save_safetensors(
      stats, {{"mu", Tensor::from_values(m.mean, {12})}, {"sigma", Tensor::from_values(m.covariance, {12, 12})}});
  const auto mixed = run(stats, y);
  CHECK(mixed["frechet"].get<double>() == doctest::Approx(24.25381073247881).epsilon(1e-6));
  CHECK(mixed["n_generated"] == 150);
  CHECK_FALSE(mixed.contains("n_real"));
  CHECK(run(stats, stats)["frechet"].get<double>() < 1e-6);
  save_safetensors(odd, {{"mu", Tensor::zeros({12})}, {"sigma", Tensor::full({12, 12}, -1, DType::f32)}});
  const ProgramResult bad = avid_program({"metrics", "--features", "--real", odd, "--generated", stats});
  CHECK(bad.exit_code == 1);
  CHECK(bad.err.find("a covariance has no negative diagonal") != std::string::npos);
  const ProgramResult nonsense =
      avid_program({"metrics", "--features", "--real", x, "--generated", y, "--set", "nothing=1"});
  CHECK(nonsense.exit_code == 2);
  CHECK(avid_program({"metrics", "--real", x, "--generated", y, "--set", "frechet.method=moments"}).exit_code == 2);
}

TEST_CASE("metrics/errors/networks_names_and_shapes") {
  const std::string input = golden("metrics/pixel_metrics/input.safetensors"),
                    features = golden("metrics/frechet/input.safetensors");
  const ProgramResult lpips =
      avid_program({"metrics", "--real", input + ":real", "--generated", input + ":pred", "--metrics", "mse,lpips"});
  CHECK(lpips.exit_code == 1);
  CHECK(lpips.err.find("unavailable") != std::string::npos);
  CHECK(
      avid_program({"metrics", "--real", input + ":real", "--generated", input + ":pred", "--metrics", "msee"})
          .exit_code == 2);
  CHECK(avid_program({"metrics", "--real", input, "--generated", input}).exit_code == 1);  // no tensor `frames`
  CHECK(
      avid_program({"metrics", "--real", features + ":few_9_14_24.x", "--generated", input + ":pred"}).exit_code == 1);
}

}  // namespace avid::test
