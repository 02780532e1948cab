// tests/train/program_test.cpp -- the program itself: what it refuses in one line, and --dry-run
#include <fstream>

#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/train_program.h"

using namespace avid;
using test::command, test::kConfigs, test::log_of, test::run_to_end;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

// A new run of a configuration's name: a small one, since every program here is mostly start.
std::vector<std::string> begun(
    const std::string& config, const fs::path& run, const std::vector<std::string>& set = {}) {
  return test::fresh(config, run, test::small(set));
}

}  // namespace

TEST_CASE("program/errors/one_clear_line") {
  const test::TempDir dir;
  std::string message;
  const auto fails = [&](const std::vector<std::string>& words, int code, const std::string& part) {
    CHECK(run_to_end(words, &message) == code);
    const bool found = message.find(part) != std::string::npos;
    if (!found) MESSAGE(message);
    CHECK(found);
  };
  fails(command({}), 2, "--config");
  fails(command({"--config", kConfigs + "base.toml"}), 2, "--run");
  fails(command({"--resume", (dir / "none").string()}), 1, "no such folder");
  fs::create_directory(dir / "empty");
  fails(command({"--resume", (dir / "empty").string()}), 1, "is this a folder that avid train made?");
  fails(begun("none.toml", dir / "r"), 1, "none.toml: No such file or directory | check the path; give a TOML file");
  fails(begun("base.toml", dir / "r", {"train.lrr=1"}), 1, "did you mean train.lr?");
  fails(begun("avid.toml", dir / "r"), 1, "base.checkpoint: missing");
  fails(begun("avid.toml", dir / "r", {"base.checkpoint=" + kConfigs + "base.toml"}), 1, "base.toml");
  fails(begun("base.toml", dir / "r", {"data.train=" + kConfigs + "base.toml"}), 1, "base.toml");
  CHECK_FALSE(fs::exists(dir / "r/checkpoints/latest"));
  std::ofstream(dir / "file") << "x";
  fails(begun("base.toml", dir / "file"), 1, "cannot make this folder");

  REQUIRE(run_to_end(begun("base.toml", dir / "run", {"train.updates=1"})) == 0);
  fails(command({"--resume", (dir / "run").string()}, {"train.lr=1"}), 1, "nothing else");
  const std::string config = read_text(dir / "run/config.toml");
  std::ofstream(dir / "run/config.toml") << "seed = 8\n" << config.substr(config.find('\n') + 1);
  fails(command({"--resume", (dir / "run").string()}), 1, "config.toml was changed");
  fails(
      begun("avid.toml", dir / "a", {"base.checkpoint=" + (dir / "run").string(), "data.cond_frames=3"}), 1,
      "data.cond_frames: expected 2");
  fails(
      begun("avid.toml", dir / "a", {"base.checkpoint=" + (dir / "run").string(), "diffusion.objective=pred_v"}), 1,
      "diffusion.objective: expected pred_x0 as in base.checkpoint, got pred_v");
}

TEST_CASE("program/errors/non_finite_updates_stop_the_run") {
  const test::TempDir dir;
  std::string message;
  CHECK(
      run_to_end(
          begun("base.toml", dir / "run", {"train.lr=1e30", "train.warmup=0", "train.max_bad_steps=3"}), &message) ==
      1);
  CHECK(message.find("error: train: 3 updates in a row were not finite") != std::string::npos);
  int skipped = 0;
  for (const Json& line : log_of(dir / "run"))
    if (line.contains("event")) ++skipped;
  CHECK(skipped == 3);
}

TEST_CASE("program/dry_run/writes_nothing") {
  const test::TempDir dir;
  const auto result = test::run_program(
      command({"--config", kConfigs + "base.toml", "--dry-run", "--json"}, {"data.train=not/here.h5"}));
  REQUIRE(result.exit_code == 0);
  const Json json = Json::parse(result.out);
  CHECK(json["trained_parameters"] > 10000);
  CHECK(json["flops_per_update"] > 1e6);
  CHECK(json["memory_bytes"] > 1e5);
  CHECK(json["total_seconds"] > 0);
  CHECK(fs::is_empty(dir.path()));
}
