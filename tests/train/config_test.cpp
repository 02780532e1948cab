// tests/train/config_test.cpp -- reading, overriding, refusing and writing back configurations
#include "train/config.h"

#include <fstream>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using train::TrainConfig;

namespace {

// The file itself serves as data: the configuration only checks that the path exists.
std::string minimal() {
  return "seed = 7\n[data]\ntrain = \"" + std::string(AVID_SOURCE_DIR) +
         "/CMakeLists.txt\"\n[model]\nkind = \"scratch\"\nwidth = 8\nmultipliers = [1, 2]\n[train]\nupdates = 5\nlr = "
         "1\n";
}

// The message of the ConfigError that `text` causes.
std::string message(const std::string& text, const std::vector<std::string>& set = {}) {
  try {
    TrainConfig::parse(text, "x.toml", set);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

bool has(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text << "  lacks  " << part);
  return found;
}

}  // namespace

TEST_CASE("config/read/values_and_defaults") {
  const auto c = TrainConfig::parse(minimal(), "x.toml");
  CHECK(c.seed == 7);
  CHECK(c.model.multipliers == std::vector<std::int64_t>{1, 2});
  CHECK(c.data.train.size() == 1);
  CHECK(c.train.lr == 1.0);  // an integer is a number
  CHECK(c.ema.update_every == 10);
  CHECK(c.diffusion.objective == "pred_x0");
}

TEST_CASE("config/set/overrides_in_order") {
  const auto c = TrainConfig::parse(
      minimal(), "x.toml",
      {"train.lr=0.5", "model.kind=scratch", "train.lr=2e-4", "run.name=\"a b\"", "model.multipliers=[1,2,4]",
       "log.tensorboard=false", "seed=9"});
  CHECK(c.train.lr == 2e-4);
  CHECK(c.run.name == "a b");
  CHECK(c.model.multipliers.size() == 3);
  CHECK_FALSE(c.log.tensorboard);
  CHECK(c.seed == 9);
}

TEST_CASE("config/errors/unknown_key_names_line_and_neighbour") {
  CHECK(has(message(minimal() + "warmpu = 3\n"), "train.warmpu: unknown key, did you mean train.warmup? | x.toml:11"));
  CHECK(has(message(minimal() + "[optimizer]\nlr = 3\n"), "did you mean train.lr?"));
  CHECK(has(message(minimal() + "[trian]\nupdates = 3\n"), "did you mean train.updates?"));
  CHECK(has(message(minimal(), {"checkpoint.evry=3"}), "did you mean checkpoint.every? | --set checkpoint.evry=3"));
  CHECK(has(message(minimal() + "[zzzzzzzz]\n"), "zzzzzzzz: unknown key |"));
}

TEST_CASE("config/errors/types_and_ranges") {
  CHECK(has(message(minimal() + "warmup = 1.5\n"), "train.warmup: expected a whole number, got 1.5 | x.toml:11"));
  CHECK(has(message(minimal(), {"train.lr=-1"}), "train.lr: expected >= 0, got -1"));
  CHECK(has(message(minimal(), {"train.lr=nan"}), "train.lr: expected >= 0"));
  CHECK(has(message(minimal(), {"model.kind=avdi"}), "expected one of base, avid,"));
  CHECK(has(message(minimal(), {"model.multipliers=[1,0]"}), "model.multipliers: expected >= 1 and <= 64"));
  CHECK(has(message(minimal(), {"data.train=no/such.h5"}), "data.train: file not found: no/such.h5"));
  CHECK(has(message(minimal(), {"train.updates"}), "expected key=value"));
  CHECK(has(message("seed = = 1\n"), "config: syntax:"));
  CHECK(has(message("seed = = 1\n"), "x.toml:1"));
}

TEST_CASE("config/errors/keys_that_contradict") {
  CHECK(has(message(minimal(), {"model.kind=avid"}), "base.checkpoint: missing, model.kind = avid"));
  CHECK(has(message(minimal(), {"model.kind=avid", "base.checkpoint="}), "base.checkpoint: empty, model.kind = avid"));
  CHECK(
      has(message(minimal(), {"model.kind=avid", "base.checkpoint=runs/paper/base"}),
          "file not found: runs/paper/base | make it first, or name another: --set base.checkpoint=PLACE"));
  CHECK(
      has(message(
              minimal(),
              {"base.checkpoint=CMakeLists.txt", "data.train=" + std::string(AVID_SOURCE_DIR) + "/CMakeLists.txt"}),
          "base.checkpoint"));
  CHECK(has(message(minimal(), {"data.size=33"}), "data.size: expected a multiple of 2"));
  CHECK(has(message(minimal(), {"model.width=9"}), "even"));
  CHECK(has(message(minimal(), {"validation.every=5"}), "data.validation"));
  CHECK(has(message(minimal(), {"model.kind=base", "train.action_drop=0.2"}), "never sees actions"));
  CHECK(has(
      message(
          minimal(), {"model.kind=finetune", "base.checkpoint=" + std::string(AVID_SOURCE_DIR) + "/CMakeLists.txt"}),
      "takes the architecture from base.checkpoint"));
  CHECK(has(message("[model]\nkind = \"scratch\"\n"), "data.train: missing"));
}

TEST_CASE("config/batch/validation and samples take no more clips at once than training") {
  const auto batches = [&](const std::vector<std::string>& set) {
    const TrainConfig c = TrainConfig::parse(minimal(), "x.toml", set);
    return std::pair(c.validation_batch(), c.samples_batch());
  };
  CHECK(batches({"train.batch=64"}) == std::pair<std::int64_t, std::int64_t>(16, 16));
  CHECK(batches({"train.batch=2"}) == std::pair<std::int64_t, std::int64_t>(2, 2));
  CHECK(
      batches({"train.batch=64", "validation.batch=0", "samples.batch=5"}) ==
      std::pair<std::int64_t, std::int64_t>(64, 5));
  CHECK(has(message(minimal(), {"validation.batch=-1"}), "validation.batch: expected >= 0"));
  const auto base = TrainConfig::parse(minimal(), "x.toml").fingerprint();
  CHECK(TrainConfig::parse(minimal(), "x.toml", {"validation.batch=2", "samples.batch=1"}).fingerprint() == base);
}

TEST_CASE("config/file/missing_is_an_error") { CHECK_THROWS_AS(TrainConfig::load("/nonexistent/x.toml"), FileError); }

TEST_CASE("config/write/reads_back_to_itself") {
  auto c = TrainConfig::parse(
      minimal(), "x.toml", {"run.name=\"quote \\\" and \\\\ back\"", "train.clip=inf", "ema.decay=1"});
  const std::string text = c.to_toml();
  const auto again = TrainConfig::parse(text, "y.toml");
  CHECK(again.to_toml() == text);
  CHECK(again.run.name == "quote \" and \\ back");
  CHECK(again.fingerprint() == c.fingerprint());
}

TEST_CASE("config/fingerprint/only_keys_that_decide_numbers") {
  const auto base = TrainConfig::parse(minimal(), "x.toml").fingerprint();
  CHECK(TrainConfig::parse(minimal(), "x.toml", {"train.updates=6", "checkpoint.every=2"}).fingerprint() == base);
  CHECK(TrainConfig::parse(minimal(), "x.toml", {"train.lr=2"}).fingerprint() != base);
  CHECK(TrainConfig::parse(minimal(), "x.toml", {"seed=8"}).fingerprint() != base);
}

TEST_CASE("config/shipped/every_file_is_valid") {
  int files = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(std::filesystem::path(AVID_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    ++files;
    std::vector<std::string> set;  // a tiny adapter's base is made by the tests themselves
    if (entry.path().parent_path().filename() == "tiny" && entry.path().stem() == "avid") set = {"base.checkpoint=x"};
    CHECK_NOTHROW(TrainConfig::load(entry.path(), set, TrainConfig::Files::may_miss));
  }
  CHECK(files >= 10);
}
