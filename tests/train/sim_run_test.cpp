// tests/train/sim_run_test.cpp -- whole runs of the program on the simulated device: little memory, other schedules
#include <stdlib.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/train_program.h"
#include "train/run_state.h"

using namespace avid;
using namespace avid::train;
using test::command, test::fresh, test::kConfigs, test::run_to_end;
using Json = nlohmann::json;

namespace {

// A run on the simulator that records its second update.
std::vector<std::string> on_sim(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), {"--device", "sim"});
  std::vector<std::string> settings = test::small(
      {"train.graph=on", "validation.every=0", "samples.every=0", "train.updates=3", "train.batch=1",
       "train.accumulate=1"});
  settings.insert(settings.end(), more.begin(), more.end());
  for (const std::string& set : settings) words.insert(words.end(), {"--set", set});
  return words;
}

// Bytes; 0 in a build without the simulator.
double predicted(const std::vector<std::string>& more) {
  const auto result =
      test::run_program(on_sim(command({"--config", kConfigs + "scratch.toml", "--dry-run", "--json"}), more));
  return result.exit_code == 0 ? Json::parse(result.out)["memory_bytes"].get<double>() : 0.0;
}

// Of a run without validation and samples.
double recorded_alone() {
  static const double bytes = predicted({});
  return bytes;
}

// For as long as this lives, programs that are started find it in their environment.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* old = getenv(name)) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~Environment() { old_.empty() ? unsetenv(name_) : setenv(name_, old_.c_str(), 1); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::string old_;
};

int run_within(
    double bytes, const std::filesystem::path& folder, const std::vector<std::string>& more, std::string* messages) {
  const Environment limit("AVID_SIM_MEMORY_MIB", fmt::format("{:.3f}", bytes / 1048576));
  return run_to_end(on_sim(fresh("scratch.toml", folder), more), messages);
}

}  // namespace

TEST_CASE("sim_run/memory/validation_and_samples_take_the_room_of_a_recorded_update") {
  const double recorded = recorded_alone();
  if (recorded == 0) return;  // built without the simulator
  const std::vector<std::string> validation{"validation.every=2", "validation.clips=2"},
      samples{"samples.every=2", "samples.clips=2", "samples.steps=2"};
  for (const auto& [what, set] : {std::pair{"validation", validation}, {"sampling", samples}}) {
    CAPTURE(what);
    const test::TempDir dir;
    const double beside = predicted(set);
    REQUIRE(beside > 1.02 * recorded);
    const std::string note = std::string(what) + " does not fit into memory beside the recorded update";
    std::string tight, wide;
    CHECK(run_within((recorded + beside) / 2, dir / "tight", set, &tight) == 0);
    CHECK(tight.find(note) != std::string::npos);
    CHECK(run_within(1.02 * beside, dir / "wide", set, &wide) == 0);
    CHECK(wide.find(note) == std::string::npos);
    CHECK(run_digests(dir / "tight").weights == run_digests(dir / "wide").weights);
    if (set == samples)
      CHECK(
          read_text(dir / "tight/samples/step_00000002/clip_01.png") ==
          read_text(dir / "wide/samples/step_00000002/clip_01.png"));
  }
}

TEST_CASE("sim_run/memory/too_little_is_one_line") {
  const double recorded = recorded_alone();
  if (recorded == 0) return;
  const test::TempDir dir;
  std::string none;
  CHECK(run_within(0.9 * recorded, dir / "run", {}, &none) == 1);
  const std::size_t error = none.rfind("error: ");
  REQUIRE(error != std::string::npos);
  CHECK(std::count(none.begin() + static_cast<std::ptrdiff_t>(error), none.end(), '\n') == 1);
  CHECK(none.find("could not get", error) != std::string::npos);
}

TEST_CASE("sim_run/memory/what_was_not_finite_is_found_beside_a_recorded_update") {
  const double recorded = recorded_alone();
  if (recorded == 0) return;
  const test::TempDir dir;
  // The first update makes weights that are finite and whose products are not.
  const std::vector<std::string> set{"train.lr=1e30", "train.warmup=0", "train.max_bad_steps=2", "train.updates=9"};
  std::string messages;
  CHECK(run_within(1.01 * recorded, dir / "run", set, &messages) == 1);
  INFO(messages);
  CHECK(messages.find("2 updates in a row were not finite, the last one: output of ") != std::string::npos);
  CHECK(messages.find("could not get") == std::string::npos);
  CHECK(messages.find("the search for what was not finite does not fit into memory") != std::string::npos);
}

TEST_CASE("sim_run/settings/nonsense_is_one_line_before_anything_else") {
  if (recorded_alone() == 0) return;
  const test::TempDir dir;
  for (const char* name :
       {"AVID_SIM_ORDER", "AVID_SIM_SEED", "AVID_SIM_ARCH", "AVID_SIM_THREADS", "AVID_SIM_MEMORY_MIB"}) {
    CAPTURE(name);
    const Environment setting(name, "12x");
    std::string message;
    CHECK(run_to_end(on_sim(fresh("scratch.toml", dir / "run"), {}), &message) == 1);
    CHECK(message.starts_with(std::string("error: device: ") + name + ": expected "));
    CHECK(message.ends_with(", got '12x'\n"));
    CHECK(std::count(message.begin(), message.end(), '\n') == 1);
    CHECK_FALSE(std::filesystem::exists(dir / "run"));
  }
}

TEST_CASE("sim_run/order/blocks_and_threads_in_any_order_leave_the_same_bits") {
  if (recorded_alone() == 0) return;
  const test::TempDir dir;
  const auto digests = [&](const std::string& precision, const std::string& order, const std::string& seed,
                           const std::string& threads) {
    const Environment first("AVID_SIM_ORDER", order), second("AVID_SIM_SEED", seed), third("AVID_SIM_THREADS", threads);
    const std::filesystem::path run = dir / fmt::format("{} {} {} {}", precision, order, seed, threads);
    REQUIRE(
        run_to_end(on_sim(
            fresh("scratch.toml", run),
            {"train.precision=" + precision, "train.updates=2", "validation.every=2", "validation.clips=2",
             "ema.update_after=1", "ema.update_every=1", "model.multipliers=[1,2]"})) == 0);
    const RunDigests d = run_digests(run);
    const double loss = CheckpointStore::load_state(*CheckpointStore(run).best()).best_loss;
    return fmt::format("{} {} {} {}", d.weights, d.ema, d.optimizer, loss);
  };
  std::vector<std::string> precisions{"bf16"};
  if (test::full_level()) precisions.push_back("f32");
  for (const std::string& precision : precisions) {
    CAPTURE(precision);
    const std::string forward = digests(precision, "forward", "1", "1");
    CHECK(digests(precision, "reverse", "1", "1") == forward);
    if (!test::full_level()) continue;
    CHECK(digests(precision, "random", "1", "1") == forward);
    CHECK(digests(precision, "random", "2", "1") == forward);
    CHECK(digests(precision, "forward", "1", "2") == forward);
  }
}
