// tests/cli/reproduce_test.cpp -- scripts/reproduce.sh: the plan, mistakes, and (slow level) a table killed on its way
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;
const std::string kScript = std::string(AVID_SOURCE_DIR) + "/scripts/reproduce.sh";

ProgramResult reproduce(std::vector<std::string> words, bool dry = false) {
  setenv("AVID", AVID_PROGRAM, 1);
  if (dry) setenv("AVID_REPRODUCE_DRY", "1", 1);
  words.insert(words.begin(), {"/bin/bash", kScript});
  const ProgramResult result = run_program(words);
  unsetenv("AVID_REPRODUCE_DRY");
  return result;
}

}  // namespace

TEST_CASE("reproduce/plan/every_budget_says_what_it_costs_and_stops") {
  const TempDir dir;
  for (const char* budget : {"minutes", "hours", "paper"}) {
    CAPTURE(budget);
    const ProgramResult result = reproduce({"--budget", budget, "--out", dir / budget}, true);
    CAPTURE(result.err);
    CHECK(result.exit_code == 0);
    CHECK(result.out.find("33 rows to score") != std::string::npos);
    CHECK(result.out.find("cost: ") != std::string::npos);
    CHECK_FALSE(fs::exists(dir / (std::string(budget) + "/report.html")));
  }
  const ProgramResult table = reproduce({"--budget", "minutes", "--out", dir / "one", "--table", "3"}, true);
  CHECK(table.out.find("8 networks to train, 6 rows") != std::string::npos);
}

TEST_CASE("reproduce/errors/one_line_each") {
  const TempDir dir;
  const auto has = [](const ProgramResult& result, int exit_code, const char* text) {
    CAPTURE(result.err);
    CHECK(result.exit_code == exit_code);
    CHECK(result.err.find(text) != std::string::npos);
  };
  has(reproduce({}), 2, "Usage: scripts/reproduce.sh");
  has(reproduce({"--budget", "days", "--out", dir / "x"}), 2, "expected minutes, hours or paper, got 'days'");
  has(reproduce({"--out", dir / "x", "--table", "2"}), 2, "got 'table 2'");
  reproduce({"--budget", "minutes", "--out", dir / "y"}, true);
  has(reproduce({"--budget", "hours", "--out", dir / "y"}, true), 1, "begun with --budget minutes");
}

TEST_CASE("reproduce/kill/any_instant_gives_the_same_report") {
  if (!full_level()) return;
  const TempDir dir;
  const std::vector<std::string> what = {"--budget", "minutes", "--table", "3", "--out"};
  const auto run = [&](const char* name) {
    auto words = what;
    words.push_back(dir / name);
    return reproduce(words);
  };
  const ProgramResult straight = run("straight");
  CAPTURE(straight.err);
  REQUIRE(straight.exit_code == 0);
  CHECK(read_text(dir / "straight/report.html").find("Table 3") != std::string::npos);

  std::mt19937 random(7);
  for (int kill_number = 0; kill_number < 6; ++kill_number) {
    const pid_t pid = fork();
    if (pid == 0) {
      setpgid(0, 0);
      setenv("AVID", AVID_PROGRAM, 1);
      if (freopen("/dev/null", "w", stdout) == nullptr || freopen("/dev/null", "w", stderr) == nullptr) _exit(126);
      execl(
          "/bin/bash", "bash", kScript.c_str(), "--budget", "minutes", "--table", "3", "--out",
          (dir / "killed").c_str(), nullptr);
      _exit(127);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300 + random() % 4000));
    kill(-pid, SIGKILL);
    int status;
    waitpid(pid, &status, 0);
  }
  const ProgramResult last = run("killed");
  CAPTURE(last.err);
  REQUIRE(last.exit_code == 0);
  // Paths differ, numbers do not.
  auto a = nlohmann::json::parse(read_text(dir / "straight/report.json")),
       b = nlohmann::json::parse(read_text(dir / "killed/report.json"));
  for (const char* part : {"tables", "ranks", "normalised", "claims", "masks"}) CHECK(a[part] == b[part]);
  // Everything done: a second call makes only the report.
  CHECK(run("killed").out.find("train_") == std::string::npos);
}

}  // namespace avid::test
