// tests/train/resume_test.cpp -- the program itself: killed, stopped, out of disk, and going on as if nothing had happened
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/train_program.h"
#include "train/run_state.h"

using namespace avid;
using namespace avid::train;
using test::command, test::fresh, test::kConfigs, test::run_to_end;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

// A program in the background, its messages in a file.
class Child {
 public:
  Child(const std::vector<std::string>& words, fs::path messages, std::size_t file_limit = 0)
      : messages_(std::move(messages)) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      // No stdio here: it would flush what the parent has buffered.
      const int err = open(messages_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), out = open("/dev/null", O_WRONLY);
      if (dup2(err, STDERR_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0) _exit(126);
      if (file_limit > 0) {
        const rlimit limit{file_limit, file_limit};
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Child() {
    if (pid_ > 0) signal_and_wait(SIGKILL);
  }
  bool running() {
    if (pid_ <= 0) return false;
    int status;
    if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
    finish(status);
    return false;
  }
  int signal_and_wait(int signal_number) {
    if (pid_ > 0) kill(pid_, signal_number);
    return wait();
  }
  int wait() {
    int status;
    if (pid_ > 0 && waitpid(pid_, &status, 0) == pid_) finish(status);
    return exit_code_;
  }
  std::string messages() const { return read_text(messages_); }
  pid_t pid() const { return pid_; }

 private:
  void finish(int status) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    pid_ = -1;
  }
  pid_t pid_ = -1;
  int exit_code_ = -1;
  fs::path messages_;
};

bool wait_until(Child& child, const std::function<bool()>& condition) {
  for (int i = 0; i < 60000 && child.running(); ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void check_same_run(const fs::path& a, const fs::path& b) {
  const RunDigests x = run_digests(a), y = run_digests(b);
  CHECK(x.update == y.update);
  CHECK(x.weights == y.weights);
  CHECK(x.ema == y.ema);
  CHECK(x.optimizer == y.optimizer);
  const std::string name = fmt::format("checkpoints/step_{:08}/", x.update);
  for (const char* file : {"weights.safetensors", "ema.safetensors", "optimizer.safetensors"})
    CHECK(read_text(a / (name + file)) == read_text(b / (name + file)));
}

// log.jsonl without what a clock or another process's memory decides.
std::vector<Json> log_of(const fs::path& run) {
  std::vector<Json> lines;
  std::ifstream in(run / "log.jsonl");
  for (std::string line; std::getline(in, line);) {
    lines.push_back(Json::parse(line));
    for (const char* key : {"time", "clips_per_s", "memory_mib"}) lines.back().erase(key);
  }
  return lines;
}

}  // namespace

TEST_CASE("resume/kill/any_instant_gives_the_same_bytes") {
  const test::TempDir dir;
  const std::vector<std::string> set = {"checkpoint.every=1", "train.updates=8"};
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_to_end(fresh("base.toml", dir / "straight", set)) == 0);
  const auto length = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);

  const fs::path run = dir / "killed";
  std::mt19937 random(20241010);
  const int kills = test::full_level() ? 40 : 4;
  int killed = 0, finished = 0;
  for (int attempt = 0; killed < kills && attempt < 20 * kills; ++attempt) {
    // A kill before the first configuration was written leaves nothing to resume; a run that ended begins again.
    if (finished > 0 && CheckpointStore(run).latest() &&
        CheckpointStore::load_state(*CheckpointStore(run).latest()).update == 8)
      fs::remove_all(run);
    Child child(
        fs::exists(run / "config.toml") ? command({"--resume", run.string()}) : fresh("base.toml", run, set),
        dir / "messages");
    std::this_thread::sleep_for(
        std::chrono::microseconds(std::uniform_int_distribution<long>(0, length.count())(random)));
    if (!child.running()) {
      ++finished;
      check_same_run(run, dir / "straight");
      continue;
    }
    child.signal_and_wait(SIGKILL);
    ++killed;
    if (CheckpointStore(run).latest()) CheckpointStore::load(*CheckpointStore(run).latest());  // whole, or it throws
  }
  CHECK(killed == kills);
  REQUIRE(
      run_to_end(
          fs::exists(run / "config.toml") ? command({"--resume", run.string()}) : fresh("base.toml", run, set)) == 0);
  check_same_run(run, dir / "straight");
  CHECK(log_of(run) == log_of(dir / "straight"));
  for (const auto& entry : fs::recursive_directory_iterator(run)) CHECK(entry.path().filename().string()[0] != '.');
}

TEST_CASE("resume/signal/saves_and_says_how_to_go_on") {
  const test::TempDir dir;
  for (const auto& [number, code] : {std::pair{SIGINT, 130}, {SIGTERM, 143}}) {
    const fs::path run = dir / ("run" + std::to_string(number)), straight = dir / ("straight" + std::to_string(number));
    Child child(
        fresh(
            "scratch.toml", run,
            {"train.updates=1000000", "checkpoint.every=1000000", "validation.every=0", "log.every=2"}),
        dir / "messages");
    REQUIRE(wait_until(child, [&] { return fs::exists(run / "log.jsonl") && fs::file_size(run / "log.jsonl") > 300; }));
    CHECK(child.signal_and_wait(number) == code);
    CHECK(child.messages().find(" windows of 10 frames; ") != std::string::npos);
    CHECK(child.messages().find("avid train --resume " + run.string()) != std::string::npos);
    const std::int64_t stopped_at = run_digests(run).update;
    const std::string more = "train.updates=" + std::to_string(stopped_at + 3);
    REQUIRE(run_to_end(command({"--resume", run.string()}, {more})) == 0);
    REQUIRE(
        run_to_end(fresh(
            "scratch.toml", straight, {more, "validation.every=0", "log.every=2", "checkpoint.every=1000000"})) == 0);
    check_same_run(run, straight);
    CHECK(log_of(run) == log_of(straight));
  }
}

TEST_CASE("resume/signal/while_a_device_repeats_a_recorded_update") {
  const test::TempDir dir;
  const fs::path run = dir / "run", straight = dir / "straight";
  const std::vector<std::string> set = {"train.precision=bf16", "checkpoint.every=1000000",
                                        "validation.every=0",   "samples.every=0",
                                        "log.every=1",          "train.batch=1",
                                        "train.accumulate=1",   "model.multipliers=[1]",
                                        "data.size=4",          "data.frames=2",
                                        "ema.update_after=1",   "ema.update_every=1"};
  const auto sim = [&](std::vector<std::string> words, const std::string& graph, const std::string& updates) {
    words.insert(
        words.end(), {"--device", "sim", "--set", "train.graph=" + graph, "--set", "train.updates=" + updates});
    return words;
  };
  Child child(sim(fresh("scratch.toml", run, set), "on", "1000000"), dir / "messages");
  // From the second update on a recording is repeated; the signal comes somewhere within the fourth or later.
  const auto lines = [&] { return fs::exists(run / "log.jsonl") ? log_of(run).size() : 0; };
  const bool going = wait_until(child, [&] { return lines() >= 3; });
  if (!going && child.messages().find("this build") != std::string::npos) return;  // built without it
  REQUIRE(going);
  std::this_thread::sleep_for(std::chrono::milliseconds(7));
  CHECK(child.signal_and_wait(SIGINT) == 130);
  CHECK(child.messages().find("everything is saved | go on with: avid train --resume") != std::string::npos);
  const std::int64_t stopped_at = run_digests(run).update;
  CHECK(stopped_at >= 3);
  const std::string updates = std::to_string(stopped_at + 3);
  REQUIRE(run_to_end(sim(command({"--resume", run.string()}), "on", updates)) == 0);
  // The oracle never records anything.
  REQUIRE(run_to_end(sim(fresh("scratch.toml", straight, set), "off", updates)) == 0);
  const RunDigests a = run_digests(run), b = run_digests(straight);
  CHECK(a.update == stopped_at + 3);
  CHECK(a.weights == b.weights);
  CHECK(a.ema == b.ema);
  CHECK(a.optimizer == b.optimizer);
}

TEST_CASE("resume/disk_full/one_line_and_the_older_checkpoint_stays") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  REQUIRE(run_to_end(fresh("base.toml", run, {"train.updates=3"})) == 0);
  const RunDigests before = run_digests(run);
  Child child(command({"--resume", run.string()}, {"train.updates=5"}), dir / "messages", 100000);
  CHECK(child.wait() == 1);
  CHECK(child.messages().find("error: write: ") != std::string::npos);
  CHECK(child.messages().find("checkpoints") != std::string::npos);
  CHECK(run_digests(run).weights == before.weights);
  CHECK(run_digests(run).update == 3);
  REQUIRE(run_to_end(command({"--resume", run.string()})) == 0);
  REQUIRE(run_to_end(fresh("base.toml", dir / "straight", {"train.updates=5"})) == 0);
  check_same_run(run, dir / "straight");
}

TEST_CASE("resume/lock/a_live_run_is_not_touched") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  Child child(fresh("base.toml", run, {"train.updates=1000000"}), dir / "messages");
  REQUIRE(wait_until(child, [&] { return fs::exists(run / "checkpoints/latest"); }));
  std::string message;
  CHECK(run_to_end(command({"--resume", run.string()}), &message) == 1);
  CHECK(message.find("in use by the live process " + std::to_string(child.pid())) != std::string::npos);
  CHECK(run_to_end(fresh("base.toml", run), &message) == 1);
  CHECK(message.find("in use by the live process") != std::string::npos);
  child.signal_and_wait(SIGKILL);
  CHECK(run_to_end(fresh("base.toml", run), &message) == 1);
  CHECK(message.find("holds a run already") != std::string::npos);
}

TEST_CASE("resume/avid/adapter_on_a_base_run") {
  const test::TempDir dir;
  REQUIRE(run_to_end(fresh("base.toml", dir / "base", {"train.updates=4"})) == 0);
  const std::string base = "base.checkpoint=" + (dir / "base").string();
  const std::string base_bytes = read_text(dir / "base/checkpoints/step_00000004/ema.safetensors");
  REQUIRE(run_to_end(fresh("avid.toml", dir / "straight", {base, "train.updates=6"})) == 0);
  REQUIRE(run_to_end(fresh("avid.toml", dir / "parts", {base, "train.updates=2"})) == 0);
  REQUIRE(run_to_end(command({"--resume", (dir / "parts").string()}, {"train.updates=6"})) == 0);
  check_same_run(dir / "parts", dir / "straight");
  CHECK(read_text(dir / "base/checkpoints/step_00000004/ema.safetensors") == base_bytes);

  // Another base under the same name is noticed.
  REQUIRE(run_to_end(command({"--resume", (dir / "base").string()}, {"train.updates=8"})) == 0);
  std::string message;
  CHECK(run_to_end(command({"--resume", (dir / "parts").string()}, {"train.updates=7"}), &message) == 1);
  CHECK(message.find("base.checkpoint is not what this run started with") != std::string::npos);
}

TEST_CASE("train/errors/one_clear_line") {
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
  fails(fresh("none.toml", dir / "r"), 1, "cannot be read");
  fails(fresh("base.toml", dir / "r", {"train.lrr=1"}), 1, "did you mean train.lr?");
  fails(fresh("avid.toml", dir / "r"), 1, "base.checkpoint: missing");
  fails(fresh("avid.toml", dir / "r", {"base.checkpoint=" + kConfigs + "base.toml"}), 1, "base.toml");
  fails(fresh("base.toml", dir / "r", {"data.train=" + kConfigs + "base.toml"}), 1, "base.toml");
  CHECK_FALSE(fs::exists(dir / "r/checkpoints/latest"));
  std::ofstream(dir / "file") << "x";
  fails(fresh("base.toml", dir / "file"), 1, "cannot make this folder");

  REQUIRE(run_to_end(fresh("base.toml", dir / "run", {"train.updates=1"})) == 0);
  fails(command({"--resume", (dir / "run").string()}, {"train.lr=1"}), 1, "nothing else");
  const std::string config = read_text(dir / "run/config.toml");
  std::ofstream(dir / "run/config.toml") << "seed = 8\n" << config.substr(config.find('\n') + 1);
  fails(command({"--resume", (dir / "run").string()}), 1, "config.toml was changed");
  fails(
      fresh("avid.toml", dir / "a", {"base.checkpoint=" + (dir / "run").string(), "data.cond_frames=3"}), 1,
      "data.cond_frames: expected 2");
  fails(
      fresh("avid.toml", dir / "a", {"base.checkpoint=" + (dir / "run").string(), "diffusion.objective=pred_v"}), 1,
      "diffusion.objective: expected pred_x0 as in base.checkpoint, got pred_v");
}

TEST_CASE("train/errors/non_finite_updates_stop_the_run") {
  const test::TempDir dir;
  std::string message;
  CHECK(
      run_to_end(
          fresh("base.toml", dir / "run", {"train.lr=1e30", "train.warmup=0", "train.max_bad_steps=3"}), &message) ==
      1);
  CHECK(message.find("error: train: 3 updates in a row were not finite") != std::string::npos);
  int skipped = 0;
  for (const Json& line : log_of(dir / "run"))
    if (line.contains("event")) ++skipped;
  CHECK(skipped == 3);
}

TEST_CASE("train/dry_run/writes_nothing") {
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
