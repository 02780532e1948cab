// tests/house/names_test.cpp -- names that scripts outside the repository call: they exist and keep their meaning
#include <unistd.h>

#include "tests/doctest.h"
#include "tests/support.h"
#include "train/config.h"

namespace fs = std::filesystem;
using avid::train::TrainConfig;

namespace {

const fs::path kRoot = AVID_SOURCE_DIR;

}  // namespace

TEST_CASE("names/scripts/are there, executable and parse") {
  for (const char* name : {"demo.sh", "test.sh", "setup.sh", "get_procgen.sh", "reproduce.sh"}) {
    CAPTURE(name);
    const fs::path script = kRoot / "scripts" / name;
    CHECK(access(script.c_str(), X_OK) == 0);
    const auto parsed = avid::test::run_program({"/bin/bash", "-n", script.string()});
    CHECK(parsed.exit_code == 0);
    CHECK(parsed.err == "");
  }
}

TEST_CASE("names/configs/the demo's take the promised keys and the data in the repository") {
  for (const char* name : {"demo_base.toml", "demo_adapter.toml"}) {
    CAPTURE(name);
    const TrainConfig config = TrainConfig::load(
        kRoot / "configs" / name, {"train.updates=77", "checkpoint.every=5", "seed=9"}, TrainConfig::Files::may_miss);
    CHECK(config.train.updates == 77);
    CHECK(config.checkpoint.every == 5);
    CHECK(config.seed == 9);
    CHECK(config.data.size == 32);
    for (const auto& files : {config.data.train, config.data.validation}) {
      CHECK(!files.empty());
      for (const auto& file : files) {
        CAPTURE(fs::path(file).string());
        const fs::path full = kRoot / fs::path(file);
        CHECK(fs::exists(full));
        CHECK(full.string().starts_with((kRoot / "data/samples").string()));
      }
    }
  }
}

TEST_CASE("names/configs/every shipped configuration parses") {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    CAPTURE(entry.path().string());
    // The tests' adapter stands on a base that they make.
    std::vector<std::string> set;
    if (entry.path().parent_path().filename() == "tiny" && entry.path().stem() == "avid")
      set = {"base.checkpoint=made/by/the/test"};
    CHECK_NOTHROW(TrainConfig::load(entry.path(), set, TrainConfig::Files::may_miss));
    ++count;
  }
  CHECK(count >= 2);
}

TEST_CASE("names/commands/each explains itself with an example") {
  for (const char* command :
       {"collect", "import", "inspect", "convert", "train", "sample", "forward", "evaluate", "metrics", "weights",
        "bench", "info", "export", "clips", "report", "serve-denoiser", "sensitivity"}) {
    CAPTURE(command);
    const auto help = avid::test::run_program({AVID_PROGRAM, command, "--help"});
    CHECK(help.exit_code == 0);
    CHECK(help.err == "");
    CHECK(help.out.find("Example") != std::string::npos);
    CHECK(help.out.find(std::string("avid ") + command) != std::string::npos);
  }
}

TEST_CASE("names/options/those that are called from outside") {
  const auto has = [](const char* command, std::initializer_list<const char*> options) {
    const std::string help = avid::test::run_program({AVID_PROGRAM, command, "--help"}).out;
    for (const char* option : options) {
      CAPTURE(option);
      CHECK(help.find(option) != std::string::npos);
    }
  };
  has("train", {"--config", "--run", "--set", "--resume", "--dry-run"});
  has("inspect", {"--sha", "--json"});
  has("forward", {"--base", "--adapter", "--controlnet", "--classifier", "--action-model", "--poe", "--action-cfg",
                  "--input", "--output", "--schedule", "--timesteps", "--objective", "--grads", "--dtype", "--device"});
  has("metrics", {"--real", "--generated", "--metrics", "--features", "--json"});
}
