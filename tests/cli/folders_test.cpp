// tests/cli/folders_test.cpp -- a run's folder stands wherever a weights file may
#include <filesystem>

#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

const std::string kRoot = AVID_SOURCE_DIR, kClips = kRoot + "/data/samples/coinrun32-heldout.h5";

ProgramResult avid_program(Words words) {
  words.insert(words.begin(), AVID_PROGRAM);
  return run_program(words);
}

Json json_of(Words words) {
  words.emplace_back("--json");
  const ProgramResult result = avid_program(std::move(words));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  return Json::parse(result.out);
}

/// One update of each kind of run, made once.
class Runs {
 public:
  Runs() {
    train("base", "tiny/base", {});
    train("adapter", "tiny/avid", {"base.checkpoint=" + (*this / "base")});
    train(
        "control", "paper/coinrun500k_controlnet_small",
        {"base.checkpoint=" + (*this / "base"), "model.width=4", "model.heads=1", "model.head_dim=8",
         "model.control_order=natural", "data.resets=exclude", "data.windows=full"});
    train("judge", "tiny/scratch", {"model.kind=classifier", "model.mlp=8"});
  }
  std::string operator/(const std::string& name) const { return (dir_ / name).string(); }
  /// The file that the run stands for.
  std::string file(const std::string& name, const std::string& weights) const {
    return (dir_ / name / "checkpoints/step_00000001" / weights).string();
  }

 private:
  void train(const std::string& name, const std::string& config, const Words& set) {
    Words words{"train", "--threads", "1", "--config", kRoot + "/configs/" + config + ".toml", "--run", *this / name};
    Words keys{"train.updates=1", "train.batch=1",      "train.accumulate=1",    "train.warmup=1",
               "data.frames=3",   "data.size=16",       "diffusion.timesteps=6", "samples.every=0",
               "samples.steps=5", "validation.every=0", "data.train=" + kClips,  "data.validation=" + kClips};
    keys.insert(keys.end(), set.begin(), set.end());
    for (const std::string& key : keys) words.insert(words.end(), {"--set", key});
    const ProgramResult result = avid_program(words);
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
  }
  TempDir dir_;
};
const Runs& runs() {
  static const Runs all;
  return all;
}

Words evaluate(const Words& more) {
  Words words{"evaluate", "--data", kClips, "--clips", "2", "--sampler", "ddpm"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// The frames' scores of the last row.
Json last_row(const Json& report) {
  const Json& row = report["rows"].back();
  return {row["mse"], row["psnr"], row["ssim"]};
}

}  // namespace

TEST_CASE("folders/adapter/as the run and as its file") {
  const Json by_run = last_row(json_of(evaluate({"--run", runs() / "adapter"})));
  CHECK(by_run[0].is_object());
  CHECK(last_row(json_of(evaluate({"--base", runs() / "base", "--adapter", runs() / "adapter"}))) == by_run);
  CHECK(
      last_row(json_of(
          evaluate({"--base", runs() / "base", "--adapter", runs().file("adapter", "ema.safetensors")}))) == by_run);
  const Json also = json_of(evaluate({"--run", runs() / "adapter", "--also", "again=" + (runs() / "adapter")}));
  CHECK(last_row(also) == by_run);
  CHECK(also["sources"]["again"]["sha256.adapter"] == also["sources"]["adapter"]["sha256.adapter"]);
}

TEST_CASE("folders/base/another one in the place of a run's own is refused") {
  const TempDir dir;
  const fs::path run = dir / "moved";
  fs::copy(runs() / "adapter", run, fs::copy_options::recursive);
  std::string config = read_text(run / "config.toml");
  const std::string own = runs() / "base", other = dir / "other.safetensors";
  save_safetensors(
      other, open_tensor_file(runs().file("base", "ema.safetensors"))->load_all(), {{"note", "another file"}});
  const auto at = config.find("\"" + own + "\"");
  REQUIRE(at != std::string::npos);
  write_text_atomic(run / "config.toml", config.replace(at + 1, own.size(), other));
  const ProgramResult result = avid_program(evaluate({"--run", run.string()}));
  CHECK(result.exit_code == 1);
  CHECK(result.out.empty());
  CHECK(result.err.find("holds other weights than it was trained on (sha256 ") != std::string::npos);
  const ProgramResult converted = avid_program({"convert", run.string(), dir / "o.ckpt", "--to", "original"});
  CHECK(converted.exit_code == 1);
  CHECK(converted.err.find("holds other weights than the run was trained on") != std::string::npos);
  // Said by hand it is a choice.
  CHECK(avid_program(evaluate({"--base", other, "--adapter", run.string()})).exit_code == 0);
}

TEST_CASE("folders/controlnet/its order goes with it") {
  const auto row = [](Words more) {
    more.insert(more.begin(), {"--base", runs() / "base", "--controlnet"});
    return last_row(json_of(evaluate(more)));
  };
  const std::string file = runs().file("control", "ema.safetensors");
  CHECK(open_tensor_file(file)->metadata().at("avid.control_order") == "natural");
  const Json natural = row({file, "--control-order", "natural"});
  CHECK(natural != row({file, "--control-order", "reversed"}));
  CHECK(row({file}) == natural);
  CHECK(row({runs() / "control"}) == natural);
}

TEST_CASE("folders/classifier/avid metrics, and how many frames it sees first") {
  const TempDir dir;
  const std::string clips = dir / "clips.safetensors", file = runs().file("judge", "weights.safetensors");
  const Tensor frames = Tensor::full({2, 3, 16, 16, 3}, 9, DType::u8);
  save_safetensors(
      clips, {{"frames", frames},
              {"cond", Tensor::zeros({2, 2, 16, 16, 3}, DType::u8)},
              {"longer", Tensor::zeros({2, 3, 16, 16, 3}, DType::u8)},
              {"actions", Tensor::zeros({2, 3}, DType::i64)}});
  const auto words = [&](const std::string& cond) {
    return Words{"metrics",   "--real", clips,    "--generated",      clips,          "--metrics",     "aer",
                 "--actions", clips,    "--cond", clips + ":" + cond, "--classifier", runs() / "judge"};
  };
  const Json record = json_of(words("cond"))["weights"]["classifier"];
  CHECK(record["sha256"] == sha256_of_file(file));
  CHECK(record["calibration"]["count"].get<int>() > 0);
  const ProgramResult longer = avid_program(words("longer"));
  CHECK(longer.exit_code == 1);
  CHECK(longer.err.find("a classifier that sees 2 conditioning frames, got 3") != std::string::npos);
}

}  // namespace avid::test
