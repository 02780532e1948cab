// tests/cli/procgen_metrics_test.cpp -- fid_procgen and fvd_procgen from outside: metrics, weights, sensitivity
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

using Json = nlohmann::json;
const std::filesystem::path kRoot = AVID_SOURCE_DIR;
const std::string kShipped = (kRoot / "data/pretrained/procgen-encoder.safetensors").string();

ProgramResult avid_program(std::vector<std::string> words) {
  words.insert(words.begin(), AVID_PROGRAM);
  return run_program(words);
}

Tensor video(std::int64_t clips, std::int64_t frames, std::int64_t size, std::int64_t step) {
  Tensor t = Tensor::empty({clips, frames, size, size, 3}, DType::u8);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * step % 251);
  return t;
}

}  // namespace

TEST_CASE("procgen_metrics/metrics/values_with_their_record") {
  const TempDir dir;
  const std::string file = dir / "clips.safetensors";
  save_safetensors(file, {{"real", video(6, 4, 64, 7)}, {"made", video(6, 4, 64, 11)}, {"short", video(6, 3, 64, 7)}});
  const auto score = [&](const std::string& tensor, std::vector<std::string> more) {
    std::vector<std::string> words{
        "metrics",
        "--real",
        file + ":" + tensor,
        "--generated",
        file + (tensor == "real" ? ":made" : ":" + tensor),
        "--metrics",
        "psnr,fid_procgen,fvd_procgen",
        "--weights",
        dir.path()};
    words.insert(words.end(), more.begin(), more.end());
    return avid_program(words);
  };
  const ProgramResult result = score("real", {"--json"});
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(result.err.find("fvd_procgen: 6 clips for 64 features") != std::string::npos);
  const Json got = Json::parse(result.out);
  CHECK(got["fid_procgen"].get<double>() > 0);
  CHECK(got["fvd_procgen"].get<double>() > 0);
  CHECK(got["details"].contains("fvd_procgen.real_halves"));
  for (const char* key : {"fid", "fid_ref", "fvd_i3d", "fvd", "fvd_i3d_tf"}) CHECK(!got.contains(key));
  CHECK(got["weights"]["procgen-encoder"]["sha256"] == sha256_of_file(kShipped));
  CHECK(got["weights"]["procgen-encoder"]["state"] == "shipped");
  CHECK(got["switches"]["procgen.size"] == 32);
  CHECK(got["n_clips"] == 6);
  CHECK(got["frames"] == 4);
  CHECK(got["height"] == 64);
  CHECK(!got["notes"].empty());
  const ProgramResult text = score("real", {});
  CHECK(text.out.find("fvd_procgen  ") != std::string::npos);
  CHECK(text.out.find("not FID or FVD") != std::string::npos);

  // What can be computed is printed, and the rest is one line.
  const ProgramResult brief = score("short", {"--json"});
  CHECK(brief.exit_code == 1);
  CHECK(brief.err.find("error: fvd_procgen: expected clips of at least 4 frames") != std::string::npos);
  CHECK(Json::parse(brief.out).contains("fid_procgen"));
  CHECK(!Json::parse(brief.out).contains("fvd_procgen"));
  const ProgramResult wrong = score(
      "real", {"--json", "--set", "procgen.encoder=" + golden("pixel/classifier/classifier.safetensors").string()});
  CHECK(wrong.exit_code == 1);
  CHECK(wrong.err.find("fvd_procgen: unavailable: ") != std::string::npos);
  CHECK(wrong.err.find("not a whole clip encoder") != std::string::npos);
  CHECK(Json::parse(wrong.out)["psnr"].is_number());
}

TEST_CASE("procgen_metrics/evaluate/rows_note_and_the_classifier's_calibration") {
  const TempDir dir;
  const std::string data = (kRoot / "data/samples/coinrun32-heldout.h5").string();
  const auto run = (dir / "judge").string();
  const ProgramResult trained = avid_program(
      {"train", "--config", (kRoot / "configs/tiny/scratch.toml").string(), "--run", run, "--threads", "1", "--json",
       "--set", "model.kind=classifier", "--set", "model.mlp=8", "--set", "data.size=32", "--set", "train.updates=1",
       "--set", "validation.clips=4"});
  CAPTURE(trained.err);
  REQUIRE(trained.exit_code == 0);
  CHECK(trained.err.find("calibration error") != std::string::npos);
  const auto evaluate = [&](std::vector<std::string> more) {
    std::vector<std::string> words{
        "evaluate",
        "--base",
        (kRoot / "data/pretrained/base32.safetensors").string(),
        "--data",
        data,
        "--clips",
        "4",
        "--frames",
        "2",
        "--steps",
        "2",
        "--metrics",
        "psnr,fid_procgen,fvd_procgen",
        "--classifier",
        run};
    words.insert(words.end(), more.begin(), more.end());
    return avid_program(words);
  };
  const ProgramResult result = evaluate({"--json"});
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const Json got = Json::parse(result.out);
  for (const Json& row : got["rows"]) {
    CHECK(row["fid_procgen"].get<double>() > 0);
    CHECK(row["fvd_procgen"].get<double>() > 0);
    CHECK(row["fvd_procgen.real_halves"] == got["rows"][0]["fvd_procgen.real_halves"]);
    CHECK(!row.contains("fvd_i3d"));
  }
  CHECK(got["weights"]["procgen-encoder"]["state"] == "shipped");
  CHECK(!got["notes"].empty());
  const Json record = Json::parse(read_text(dir / "judge/calibration.json"));
  CHECK(got["weights"]["classifier"]["sha256"] == record["weights_sha256"]);
  CHECK(got["weights"]["classifier"]["calibration"]["ece"] == record["all"]["ece"]);
  CHECK(got["weights"]["classifier"]["calibration"]["count"] == 32);
  const ProgramResult text = evaluate({});
  CHECK(text.out.find("fvd_procgen ") != std::string::npos);
  CHECK(text.out.find("not FID or FVD") != std::string::npos);
  CHECK(text.out.find("classifier on its own held-out clips: accuracy ") != std::string::npos);
}

TEST_CASE("procgen_metrics/weights/the_shipped_encoder_is_listed_apart") {
  const TempDir dir;
  const Json got = Json::parse(avid_program({"weights", "--dir", dir.path(), "--json"}).out);
  CHECK(got["shipped"]["network"] == "procgen-encoder");
  CHECK(got["shipped"]["state"] == "shipped");
  CHECK(got["shipped"]["sha256"] == sha256_of_file(kShipped));
  for (const Json& network : got["networks"]) CHECK(network["network"] != "procgen-encoder");
  const ProgramResult text = avid_program({"weights", "--dir", dir.path()});
  CHECK(text.out.find("procgen-encoder  for fid_procgen, fvd_procgen: shipped") != std::string::npos);
}

TEST_CASE("procgen_metrics/sensitivity/table_and_verdicts") {
  const std::string data = (kRoot / "data/samples/coinrun32-heldout.h5").string();
  const ProgramResult result = avid_program(
      {"sensitivity", "--data", data, "--other", (kRoot / "data/samples/coinrun32-heldout-hold.h5").string(), "--clips",
       "6", "--frames", "4", "--metrics", "fid_procgen,psnr", "--json"});
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const Json got = Json::parse(result.out);
  CHECK(got["rows"].size() == 1 + 3 + 4 + 2 + 2 + 3);
  for (const Json& row : got["rows"]) {
    CHECK(row["scores"]["fid_procgen"].is_number());
    CHECK(row["scores"]["psnr"].is_number());
  }
  CHECK(got["verdicts"]["noise, levels"]["psnr"] == "rises");  // away from perfect
  CHECK(got["verdicts"]["shuffled, frames"]["fid_procgen"] == "unmoved");
  CHECK(got["weights"]["procgen-encoder"]["state"] == "shipped");
  CHECK(got["n_clips"] == 6);
  const ProgramResult text =
      avid_program({"sensitivity", "--data", data, "--clips", "3", "--frames", "4", "--metrics", "mse"});
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("blur, pixels: mse rises") != std::string::npos);

  const auto fails = [&](int code, const std::string& part, std::vector<std::string> more) {
    CAPTURE(part);
    std::vector<std::string> words{"sensitivity", "--data", data, "--clips", "3"};
    words.insert(words.end(), more.begin(), more.end());
    const ProgramResult refused = avid_program(words);
    CHECK(refused.exit_code == code);
    CHECK(refused.err.find(part) != std::string::npos);
    CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
  };
  fails(2, "aer is no metric of clips alone", {"--metrics", "aer"});
  fails(2, "expected at least 2", {"--frames", "1"});
  fails(1, "lpips: unavailable", {"--metrics", "lpips", "--weights", "/nonexistent"});
}

}  // namespace avid::test
