// tests/cli/metrics_test.cpp -- avid metrics with networks and avid weights, from outside
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/i3d_features.h"
#include "models/inception_features.h"
#include "models/lpips.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"
#include "tests/boolean_npz.h"
#include "tests/doctest.h"
#include "tests/metric_weights.h"
#include "tests/support.h"

namespace avid::test {
namespace {

using Json = nlohmann::json;

ProgramResult avid_program(std::vector<std::string> words) {
  words.insert(words.begin(), AVID_PROGRAM);
  return run_program(words);
}

std::vector<std::string> score(
    const std::string& input, const std::string& metrics, const std::filesystem::path& weights,
    std::vector<std::string> more = {}) {
  std::vector<std::string> words{"metrics",   "--real", input + ":real", "--generated", input + ":pred",
                                 "--metrics", metrics,  "--weights",     weights,       "--json"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// A folder with one network of hash weights, as a conversion would leave it.
template <class Network>
void save_hash_weights(const std::filesystem::path& folder, const std::string& prefix) {
  NamedTensors asked;
  Network(hash_reader(prefix, &asked));
  save_safetensors(
      folder / (std::string(Network::kNetwork) + ".safetensors"), asked,
      {{"arch", Network::kNetwork}, {"source_sha256", "made by a test"}});
}

Json expected_values(const std::string& name) {
  return Json::parse(read_text(golden("metrics/" + name + "/case.json")))["expected_values"];
}

}  // namespace

TEST_CASE("metrics/golden/lpips_through_the_program") {
  const TempDir dir;
  save_hash_weights<Lpips>(dir.path(), "lpips.");
  const std::string input = golden("metrics/pixel_metrics/input.safetensors");
  // Weights of unknown origin are refused unless asked for; what needs none is still printed.
  const ProgramResult refused = avid_program(score(input, "mse,lpips", dir.path()));
  CHECK(refused.exit_code == 1);
  CHECK(refused.err.find("error: lpips: unavailable:") != std::string::npos);
  CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
  CHECK(Json::parse(refused.out)["mse"].is_number());
  CHECK(!Json::parse(refused.out).contains("lpips"));

  const ProgramResult result =
      avid_program(score(input, "lpips,psnr", dir.path(), {"--allow-unofficial", "--dataset", "golden"}));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(result.err.find("not comparable with published") != std::string::npos);
  const Json got = Json::parse(result.out);
  const Json want = expected_values("pixel_metrics");
  CHECK(got["lpips"].get<double>() == doctest::Approx(want["lpips"].get<double>()).epsilon(1e-5));
  for (std::size_t t = 0; t < 4; ++t)
    CHECK(
        got["curves"]["lpips"][t].get<double>() == doctest::Approx(want["lpips_curve"][t].get<double>()).epsilon(1e-5));
  // The audit record.
  CHECK(got["weights"]["lpips-vgg"]["sha256"] == sha256_of_file(dir / "lpips-vgg.safetensors"));
  CHECK(got["weights"]["lpips-vgg"]["state"] == "unofficial");
  CHECK(got["switches"]["lpips.norm"] == "torchmetrics");
  CHECK(got["switches"]["quantise"] == "trunc");
  CHECK(got["n_clips"] == 3);
  CHECK(got["frames"] == 4);
  CHECK(got["t_cond"] == 0);
  CHECK(got["data"]["dataset"] == "golden");
  CHECK(got["data"]["real"]["sha256"].get<std::string>().size() == 64);
  CHECK(got["data"]["real"]["sha256"] != got["data"]["generated"]["sha256"]);
  for (const char* key : {"commit", "program", "device", "seed"}) CHECK(got.contains(key));
}

TEST_CASE("metrics/golden/fvd_through_the_program") {
  const TempDir dir;
  save_hash_weights<I3dFeatures>(dir.path(), "i3d.");
  const std::string input = golden("metrics/fvd/input.safetensors");
  const ProgramResult result = avid_program(score(input, "fvd_i3d", dir.path(), {"--allow-unofficial"}));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(result.err.find("fvd_i3d: 3 clips for 400 features") != std::string::npos);
  const Json got = Json::parse(result.out), want = expected_values("fvd");
  CHECK(got["fvd_i3d"].get<double>() == doctest::Approx(want["fvd_i3d"]["cov_N"].get<double>()).epsilon(1e-3));
  CHECK(
      got["details"]["fvd_i3d.unbiased"].get<double>() ==
      doctest::Approx(want["fvd_i3d"]["cov_N_minus_1"].get<double>()).epsilon(1e-3));
  CHECK(!got.contains("fvd_i3d_tf"));
  CHECK(got["switches"]["fvd.cov"] == "biased");
  // Eight frames are too short for I3D, and no other network steps in.
  const SafetensorsFile file(input);
  const Tensor whole = colours_last(file.load("real"));
  Tensor eight = Tensor::empty({1, 8, whole.dim(2), whole.dim(3), 3}, DType::u8);
  std::copy_n(whole.data<std::uint8_t>(), eight.numel(), eight.data<std::uint8_t>());
  save_safetensors(dir / "short.safetensors", {{"real", eight}, {"pred", eight}});
  const ProgramResult refused =
      avid_program(score(dir / "short.safetensors", "mse,fvd_i3d", dir.path(), {"--allow-unofficial"}));
  CHECK(refused.exit_code == 1);
  CHECK(refused.err.find("at least 9 frames") != std::string::npos);
  CHECK(Json::parse(refused.out)["mse"] == 0);
  CHECK(!Json::parse(refused.out).contains("fvd_i3d"));
}

TEST_CASE("metrics/switches/keys_and_mistakes") {
  const std::string input = golden("metrics/pixel_metrics/input.safetensors");
  const TempDir empty;
  const auto out_of = [&](std::vector<std::string> more) {
    return Json::parse(avid_program(score(input, "psnr,ssim", empty.path(), std::move(more))).out);
  };
  const Json want = expected_values("pixel_metrics");
  CHECK(
      out_of({"--set", "ssim.crop=valid"})["ssim"].get<double>() ==
      doctest::Approx(want["ssim_crop"].get<double>()).epsilon(1e-6));
  CHECK(out_of({"--ssim-crop", "valid"})["switches"]["ssim.crop"] == "valid");
  CHECK(
      out_of({"--psnr-per-video"})["psnr"].get<double>() ==
      doctest::Approx(want["psnr_per_video"].get<double>()).epsilon(1e-6));
  const Json conditioned = out_of({"--cond-frames", "1"});
  CHECK(conditioned["frames"] == 3);
  CHECK(conditioned["t_cond"] == 1);
  CHECK(
      conditioned["curves"]["psnr"][0].get<double>() ==
      doctest::Approx(want["psnr_curve"][1].get<double>()).epsilon(1e-6));
  // One key never means two things.
  const ProgramResult batch = avid_program(score(input, "fid", empty.path(), {"--set", "fid.bn=batch"}));
  CHECK(batch.err.find("fid_ref: unavailable") != std::string::npos);
  const ProgramResult trained = avid_program(score(input, "fvd", empty.path(), {"--set", "fvd.bn_eps=1e-3"}));
  CHECK(trained.err.find("fvd_i3d_tf: unavailable") != std::string::npos);
  const ProgramResult all = avid_program(score(input, "all", empty.path()));
  CHECK(all.exit_code == 0);
  CHECK(Json::parse(all.out)["unavailable"].size() == 8);  // 32x40 frames are nothing to *_procgen
  CHECK(Json::parse(all.out)["ssim"].is_number());
  auto words = score(input, "all", empty.path());
  words.erase(std::find(words.begin(), words.end(), "--json"));
  const ProgramResult text = avid_program(words);
  CHECK(text.exit_code == 0);
  for (const char* key : {"lpips", "fid", "fid_ref", "fvd_i3d", "fvd_i3d_tf", "aer"})
    CHECK(text.out.find(std::string(key) + ": unavailable: ") != std::string::npos);

  const auto fails = [&](int code, const std::string& text, std::vector<std::string> words) {
    CAPTURE(text);
    const ProgramResult result = avid_program(std::move(words));
    CHECK(result.exit_code == code);
    CHECK(result.err.find(text) != std::string::npos);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  };
  fails(2, "did you mean fvd_i3d?", score(input, "fvd_i3", empty.path()));
  fails(2, "expected full or valid", score(input, "ssim", empty.path(), {"--set", "ssim.crop=half"}));
  fails(2, "expected one of ssim.crop", score(input, "ssim", empty.path(), {"--set", "nothing=1"}));
  fails(2, "expected i3d, got 'videomae'", score(input, "mse", empty.path(), {"--set", "fvd.backbone=videomae"}));
  fails(2, "fewer than the 4 frames", score(input, "mse", empty.path(), {"--cond-frames", "4"}));
  fails(2, "expected coinrun or rt1", score(input, "mse", empty.path(), {"--score", "atari"}));
  fails(1, "--classifier", score(input, "aer", empty.path()));
  fails(2, "they are for aer | add it to --metrics", score(input, "mse", empty.path(), {"--classifier", input}));
  fails(2, "they are for aer | add it to --metrics", score(input, "mse", empty.path(), {"--actions", input}));
  fails(2, "--seed: expected a number of at least 0, got -5", score(input, "mse", empty.path(), {"--seed", "-5"}));
  fails(
      1, "--generated: expected [3,4,32,40,3] as --real, got [3,10,36,44,3]",
      {"metrics", "--real", input + ":real", "--generated",
       golden("metrics/fvd/input.safetensors").string() + ":real"});
}

TEST_CASE("metrics/errors/floats_that_are_no_frames") {
  const TempDir dir;
  const auto refused = [&](double value, const std::string& text) {
    CAPTURE(text);
    Tensor made = random_tensor({1, 2, 3, 8, 8}, DType::f32, 1);
    made.data<float>()[5] = static_cast<float>(value);
    const std::string file = dir / "clips.safetensors";
    save_safetensors(file, {{"real", random_tensor({1, 2, 3, 8, 8}, DType::f32, 2)}, {"made", made}});
    const ProgramResult result = avid_program({"metrics", "--real", file + ":real", "--generated", file + ":made"});
    CHECK(result.exit_code == (text.empty() ? 0 : 1));
    CHECK(result.err.find(text) != std::string::npos);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == (text.empty() ? 0 : 1));
  };
  refused(0.3, "");
  refused(1.2, "");  // a model may overshoot a little
  refused(NAN, "some values are not finite");
  refused(-INFINITY, "some values are not finite");
  refused(255, "floats are read as [-1,1], got values up to 255");
}

TEST_CASE("metrics/errors/booleans_are_no_frames") {
  const TempDir dir;
  const std::string file = dir / "clips.npz";
  const Tensor video = Tensor::full({1, 2, 8, 8, 3}, 1, DType::u8);
  save_npz_with_booleans(file, {{"frames", video}, {"made", video}}, "made");
  for (const auto& [real, made] : {std::pair{file, file + ":made"}, std::pair{file + ":made", file}}) {
    const ProgramResult result = avid_program({"metrics", "--real", real, "--generated", made});
    CHECK(result.exit_code == 1);
    CHECK(result.out.empty());
    const std::string text = "clips.npz: tensor 'made': expected numbers, got booleans (|b1) | store";
    CHECK(result.err.find(text) != std::string::npos);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  }
}

TEST_CASE("metrics/errors/small_frames_have_no_ssim_and_lose_nothing_else") {
  const TempDir dir;
  const std::string file = dir / "clips.safetensors";
  save_safetensors(
      file,
      {{"frames", Tensor::full({2, 2, 5, 8, 3}, 3, DType::u8)}, {"made", Tensor::full({2, 2, 5, 8, 3}, 4, DType::u8)}});
  const ProgramResult result = avid_program({"metrics", "--real", file, "--generated", file + ":made", "--json"});
  CHECK(result.exit_code == 1);  // as asked for it has failed; what could be computed is there
  CHECK(result.err == "error: ssim: expected frames of at least 6x6 pixels, got 5x8\n");
  const Json got = Json::parse(result.out);
  CHECK(got["psnr"].get<double>() == doctest::Approx(48.13080).epsilon(1e-6));
  CHECK_FALSE(got.contains("ssim"));
  CHECK_FALSE(got["switches"].contains("ssim.crop"));
  CHECK(got["unavailable"]["ssim"].get<std::string>().starts_with("ssim: "));
  CHECK(avid_program({"metrics", "--real", file, "--generated", file + ":made", "--metrics", "all"}).exit_code == 0);
}

TEST_CASE("metrics/features/what_only_videos_have_is_refused") {
  const std::string f = golden("metrics/frechet/input.safetensors"), x = f + ":few_9_14_24.x";
  const std::vector<std::pair<std::string, std::string>> options = {
      {"--metrics", "psnr"}, {"--score", "coinrun"}, {"--cond", x},
      {"--classifier", x},   {"--actions", x},       {"--frechet-resamples", "9"},
      {"--weights", "w"},    {"--cond-frames", "1"}, {"--set", "ssim.crop=valid"}};
  for (const auto& [option, value] : options) {
    CAPTURE(option);
    const ProgramResult result =
        avid_program({"metrics", "--features", "--real", x, "--generated", x, option, value, "--json"});
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    CHECK(result.err.find(option) != std::string::npos);
  }
}

TEST_CASE("metrics/aer/real_clips_in_place_of_generated_ones_give_one") {
  const TempDir dir;
  const auto video = [](std::int64_t frames, std::int64_t step) {
    Tensor t = Tensor::empty({3, frames, 16, 16, 3}, DType::u8);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * step % 251);
    return t;
  };
  Tensor actions = Tensor::empty({3, 4}, DType::i64);
  for (std::int64_t i = 0; i < 12; ++i) actions.data<std::int64_t>()[i] = i % 15;
  const std::string file = dir / "clips.safetensors";
  save_safetensors(
      file, {{"real", video(4, 7)},
             {"made", video(4, 11)},
             {"cond", video(2, 5)},
             {"actions", actions},
             {"absurd", Tensor::full({3, 4}, 99, DType::i64)},
             {"fractions", Tensor::full({3, 4}, 3.7, DType::f32)}});
  const std::string classifier = golden("pixel/classifier/classifier.safetensors");
  const auto scored = [&](const std::string& generated, const std::string& labels) {
    return avid_program(
        {"metrics", "--real", file + ":real", "--generated", file + generated, "--cond", file + ":cond", "--actions",
         file + labels, "--classifier", classifier, "--metrics", "aer", "--json"});
  };
  const ProgramResult same = scored(":real", ":actions");
  CAPTURE(same.err);
  REQUIRE(same.exit_code == 0);
  const Json got = Json::parse(same.out);
  const double accuracy = got["details"]["aer.accuracy_real"];
  CHECK(accuracy == got["details"]["aer.accuracy_generated"]);
  CHECK(got["aer"].get<double>() == doctest::Approx(accuracy / (accuracy + 1e-9)).epsilon(1e-12));
  CHECK(got["details"]["aer.probability_real"] == got["details"]["aer.probability_generated"]);
  CHECK(got["weights"]["classifier"]["sha256"] == sha256_of_file(classifier));
  CHECK(got["weights"]["classifier"]["calibration"].is_null());  // no run, no record
  CHECK(got["data"]["actions"]["sha256"] == sha256_hex(actions.to_dense_bytes()));
  CHECK(got["data"]["cond"]["sha256"] == sha256_hex(video(2, 5).to_dense_bytes()));
  const Json other = Json::parse(scored(":made", ":actions").out);
  CHECK(other["details"]["aer.probability_real"] == got["details"]["aer.probability_real"]);
  CHECK(other["details"]["aer.probability_generated"] != got["details"]["aer.probability_real"]);
  const ProgramResult absurd = scored(":made", ":absurd");
  CHECK(absurd.exit_code == 1);
  CHECK(absurd.err.find("expected 0..14, got 99") != std::string::npos);
  // Nor does one for guidance score, whatever it says: frames without noise are not what it was trained on.
  save_safetensors(
      dir / "noisy.safetensors", SafetensorsFile(classifier).load_all(), {{"avid.kind", "noisy_classifier"}});
  const ProgramResult noisy = avid_program(
      {"metrics", "--real", file + ":real", "--generated", file + ":made", "--cond", file + ":cond", "--actions",
       file + ":actions", "--classifier", dir / "noisy.safetensors", "--metrics", "aer", "--json"});
  CHECK(noisy.exit_code == 1);
  CHECK(noisy.out.empty());
  const std::string wrong = "noisy.safetensors: --classifier: expected a judge trained on clean frames";
  CHECK(noisy.err.find(wrong) != std::string::npos);
  CHECK(std::count(noisy.err.begin(), noisy.err.end(), '\n') == 1);
  const ProgramResult fractions = scored(":made", ":fractions");
  CHECK(fractions.exit_code == 1);
  CHECK(fractions.err.find("expected the numbers of actions as integers, got f32") != std::string::npos);
  // A classifier that cannot read real clips is named: what it says of generated ones means nothing.
  const std::string blind = "aer: says nothing here: on real clips";
  CHECK(same.err.starts_with("warning: " + blind));
  REQUIRE(got["warnings"].size() == 1);
  CHECK(got["warnings"][0].get<std::string>().starts_with(blind));
}

TEST_CASE("weights/list/origin_digest_and_state_of_every_network") {
  const TempDir dir;
  const ProgramResult result = avid_program({"weights", "--dir", dir.path(), "--json"});
  REQUIRE(result.exit_code == 0);
  const Json got = Json::parse(result.out);
  REQUIRE(got["networks"].size() == 3);
  for (const Json& network : got["networks"]) {
    CHECK(network["state"] == "missing");
    CHECK(!network["official"].empty());
    for (const Json& file : network["official"]) CHECK(file["sha256"].get<std::string>().size() == 64);
  }
  const ProgramResult text = avid_program({"weights", "--dir", dir.path()});
  CHECK(text.out.find("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2") != std::string::npos);
  CHECK(text.out.find("avid weights convert vgg16-397923af.pth vgg.pth") != std::string::npos);
}

TEST_CASE("weights/convert/refuses_what_it_does_not_know") {
  const TempDir dir;
  const ProgramResult result =
      avid_program({"weights", "convert", golden("files/tensors_legacy.pt"), "--dir", dir.path()});
  CHECK(result.exit_code == 1);
  CHECK(result.err.find("is not that of an official weight file") != std::string::npos);
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(avid_program({"weights", "convert"}).exit_code == 2);
}

}  // namespace avid::test
