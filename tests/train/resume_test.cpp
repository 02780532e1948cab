// tests/train/resume_test.cpp -- the program: killed, stopped, out of disk, and going on as if nothing had happened
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/train_program.h"
#include "train/run_state.h"

using namespace avid;
using namespace avid::train;
using test::command, test::log_of, test::run_to_end;
namespace fs = std::filesystem;

namespace {

// A new run of a configuration's name. At the quick level a small one: every program here is mostly start.
std::vector<std::string> begun(
    const std::string& config, const fs::path& run, const std::vector<std::string>& set = {}) {
  return test::fresh(config, run, test::full_level() ? set : test::small(set));
}

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

}  // namespace

TEST_CASE("resume/kill/any_instant_gives_the_same_bytes") {
  const test::TempDir dir;
  const std::vector<std::string> set = {"checkpoint.every=1", "train.updates=8"};
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_to_end(begun("base.toml", dir / "straight", set)) == 0);
  const auto length = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);

  const fs::path run = dir / "killed";
  std::mt19937 random(20241010);
  const int kills = test::full_level() ? 40 : 2;
  int killed = 0, finished = 0;
  for (int attempt = 0; killed < kills && attempt < 20 * kills; ++attempt) {
    // A kill before the first configuration was written leaves nothing to resume; a run that ended begins again.
    if (finished > 0 && CheckpointStore(run).latest() &&
        CheckpointStore::load_state(*CheckpointStore(run).latest()).update == 8)
      fs::remove_all(run);
    Child child(
        fs::exists(run / "config.toml") ? command({"--resume", run.string()}) : begun("base.toml", run, set),
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
          fs::exists(run / "config.toml") ? command({"--resume", run.string()}) : begun("base.toml", run, set)) == 0);
  check_same_run(run, dir / "straight");
  CHECK(log_of(run) == log_of(dir / "straight"));
  for (const auto& entry : fs::recursive_directory_iterator(run)) CHECK(entry.path().filename().string()[0] != '.');
}

TEST_CASE("resume/signal/saves_and_says_how_to_go_on") {
  const test::TempDir dir;
  std::vector<std::pair<int, int>> signals{{SIGTERM, 143}};
  if (test::full_level()) signals.emplace_back(SIGINT, 130);  // also in the next case
  for (const auto& [number, code] : signals) {
    const fs::path run = dir / ("run" + std::to_string(number)), straight = dir / ("straight" + std::to_string(number));
    Child child(
        begun(
            "scratch.toml", run,
            {"train.updates=1000000", "checkpoint.every=1000000", "validation.every=0", "log.every=2"}),
        dir / "messages");
    REQUIRE(wait_until(child, [&] { return fs::exists(run / "log.jsonl") && fs::file_size(run / "log.jsonl") > 300; }));
    CHECK(child.signal_and_wait(number) == code);
    const std::string windows = fmt::format(" windows of {} frames; ", test::full_level() ? 10 : 4);
    CHECK(child.messages().find(windows) != std::string::npos);
    CHECK(child.messages().find("avid train --resume " + run.string()) != std::string::npos);
    const std::int64_t stopped_at = run_digests(run).update;
    const std::string more = "train.updates=" + std::to_string(stopped_at + 3);
    REQUIRE(run_to_end(command({"--resume", run.string()}, {more})) == 0);
    REQUIRE(
        run_to_end(begun(
            "scratch.toml", straight, {more, "validation.every=0", "log.every=2", "checkpoint.every=1000000"})) == 0);
    check_same_run(run, straight);
    CHECK(log_of(run) == log_of(straight));
  }
}

TEST_CASE("resume/signal/while_a_device_repeats_a_recorded_update") {
  const test::TempDir dir;
  const fs::path run = dir / "run", straight = dir / "straight";
  const std::vector<std::string> set = test::small(
      {"train.precision=bf16", "checkpoint.every=1000000", "validation.every=0", "samples.every=0", "log.every=1",
       "train.batch=1", "train.accumulate=1", "ema.update_after=1", "ema.update_every=1"});
  const auto sim = [&](std::vector<std::string> words, const std::string& graph, const std::string& updates) {
    words.insert(
        words.end(), {"--device", "sim", "--set", "train.graph=" + graph, "--set", "train.updates=" + updates});
    return words;
  };
  Child child(sim(begun("scratch.toml", run, set), "on", "1000000"), dir / "messages");
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
  const std::string updates = std::to_string(stopped_at + 2);
  REQUIRE(run_to_end(sim(command({"--resume", run.string()}), "on", updates)) == 0);
  // The oracle never records anything.
  REQUIRE(run_to_end(sim(begun("scratch.toml", straight, set), "off", updates)) == 0);
  const RunDigests a = run_digests(run), b = run_digests(straight);
  CHECK(a.update == stopped_at + 2);
  CHECK(a.weights == b.weights);
  CHECK(a.ema == b.ema);
  CHECK(a.optimizer == b.optimizer);
}

TEST_CASE("resume/disk_full/one_line_and_the_older_checkpoint_stays") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  REQUIRE(run_to_end(begun("base.toml", run, {"train.updates=3"})) == 0);
  const RunDigests before = run_digests(run);
  Child child(command({"--resume", run.string()}, {"train.updates=5"}), dir / "messages", 100000);
  CHECK(child.wait() == 1);
  CHECK(child.messages().find("error: write: ") != std::string::npos);
  CHECK(child.messages().find("checkpoints") != std::string::npos);
  CHECK(run_digests(run).weights == before.weights);
  CHECK(run_digests(run).update == 3);
  REQUIRE(run_to_end(command({"--resume", run.string()})) == 0);
  REQUIRE(run_to_end(begun("base.toml", dir / "straight", {"train.updates=5"})) == 0);
  check_same_run(run, dir / "straight");
}

TEST_CASE("resume/lock/a_live_run_is_not_touched") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  Child child(begun("base.toml", run, {"train.updates=1000000"}), dir / "messages");
  REQUIRE(wait_until(child, [&] { return fs::exists(run / "checkpoints/latest"); }));
  std::string message;
  CHECK(run_to_end(command({"--resume", run.string()}), &message) == 1);
  CHECK(message.find("in use by the live process " + std::to_string(child.pid())) != std::string::npos);
  CHECK(run_to_end(begun("base.toml", run), &message) == 1);
  CHECK(message.find("in use by the live process") != std::string::npos);
  child.signal_and_wait(SIGKILL);
  CHECK(run_to_end(begun("base.toml", run), &message) == 1);
  CHECK(message.find("holds a run already") != std::string::npos);
}

TEST_CASE("resume/avid/adapter_on_a_base_run") {
  const test::TempDir dir;
  REQUIRE(run_to_end(begun("base.toml", dir / "base", {"train.updates=4"})) == 0);
  const std::string base = "base.checkpoint=" + (dir / "base").string();
  const std::string base_bytes = read_text(dir / "base/checkpoints/step_00000004/ema.safetensors");
  REQUIRE(run_to_end(begun("avid.toml", dir / "straight", {base, "train.updates=6"})) == 0);
  REQUIRE(run_to_end(begun("avid.toml", dir / "parts", {base, "train.updates=2"})) == 0);
  REQUIRE(run_to_end(command({"--resume", (dir / "parts").string()}, {"train.updates=6"})) == 0);
  check_same_run(dir / "parts", dir / "straight");
  CHECK(read_text(dir / "base/checkpoints/step_00000004/ema.safetensors") == base_bytes);

  // Another base under the same name is noticed.
  REQUIRE(run_to_end(command({"--resume", (dir / "base").string()}, {"train.updates=8"})) == 0);
  std::string message;
  CHECK(run_to_end(command({"--resume", (dir / "parts").string()}, {"train.updates=7"}), &message) == 1);
  CHECK(message.find("base.checkpoint is not what this run started with") != std::string::npos);
}
