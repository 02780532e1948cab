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
    CHECK_FALSE(fs::exists(dir / budget));
  }
  const ProgramResult table = reproduce({"--budget", "minutes", "--out", dir / "one", "--table", "3"}, true);
  CHECK(table.out.find("8 networks to train, 6 rows") != std::string::npos);
  // The base and the judge of this budget are shipped; only the held actions need frames of their own.
  const ProgramResult held =
      reproduce({"--budget", "hours", "--actions", "hold", "--out", dir / "held", "--table", "1"}, true);
  CHECK(held.out.find("10 networks to train, 13 rows") != std::string::npos);
  // The cost is that of what was asked: table 3 needs the base, the judge and three adapters of each size.
  const ProgramResult paper = reproduce({"--budget", "paper", "--out", dir / "paper", "--table", "3"}, true);
  CHECK(paper.out.find("training takes 75.7e18 FLOP, scoring 0.5e18") != std::string::npos);
  CHECK(paper.out.find("43 million frames") != std::string::npos);
  const ProgramResult help = reproduce({"--help"});
  CHECK(help.exit_code == 0);
  CHECK(help.out.find("Usage: scripts/reproduce.sh") != std::string::npos);
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
  has(reproduce({"--out", dir / "x", "--actions", "few"}), 2, "expected uniform or hold, got 'few'");
  has(reproduce({"--out", dir / "x", "--actions", "hold"}), 2, "only with --budget hours, got --budget minutes");
  const auto begun = [&](const char* out, const char* with) {
    fs::create_directory(dir / out);
    write_text_atomic(dir / out / "budget", std::string(with) + "\n");
  };
  begun("y", "minutes");
  has(reproduce({"--budget", "hours", "--out", dir / "y"}, true), 1, "begun with --budget minutes");
  begun("z", "hours --actions hold");
  has(reproduce({"--budget", "hours", "--out", dir / "z"}, true), 1, "begun with --budget hours --actions hold");
  const ProgramResult nowhere = reproduce({"--out", "/proc/nowhere"});
  has(nowhere, 1, "/proc/nowhere: cannot be made, or not written to | name another --out");
  CHECK(nowhere.err.find('\n') == nowhere.err.size() - 1);
}

TEST_CASE("reproduce/minutes/every_method_and_table_and_the_same_after_kills") {
  if (!full_level()) return;
  const TempDir dir;
  const ProgramResult straight = reproduce({"--budget", "minutes", "--out", dir / "straight"});
  CAPTURE(straight.err);
  REQUIRE(straight.exit_code == 0);
  const auto report_of = [&](const char* name) {
    return nlohmann::json::parse(read_text(dir / (std::string(name) + "/report.json")));
  };
  const auto all = report_of("straight");
  CHECK(all["records"].size() == 33);
  REQUIRE(all["tables"].size() == 5);
  const std::string html = read_text(dir / "straight/report.html");
  for (const auto& table : all["tables"]) {
    const int number = table["number"];
    CAPTURE(number);
    CHECK(html.find("<section id=\"table" + std::to_string(number) + "\">") != std::string::npos);
    for (const auto& row : table["rows"])
      for (const char* metric : {"PSNR", "SSIM", "Action Err. Ratio"}) {
        CAPTURE(row["key"].get<std::string>());
        CHECK(row["ours"][metric]["mean"].is_number());
      }
  }
  // Weights that come later cost no sampling: every row again, out of the clips that were kept.
  const ProgramResult again =
      reproduce({"--budget", "minutes", "--out", dir / "straight", "--rescore", "--table", "3"});
  CHECK(again.exit_code == 0);
  CHECK(again.out.find("train_") == std::string::npos);
  CHECK(again.out.find("score_coinrun500k__avid_22m") != std::string::npos);
  for (const char* id : {"coinrun500k__avid_22m", "coinrun500k__avid_no_cond_71m"}) {
    const auto scores = nlohmann::json::parse(read_text(dir / ("straight/scores/" + std::string(id) + ".json")));
    CHECK(scores["kept_clips"].contains("method"));
  }
  const auto table3 = report_of("straight");
  CHECK(table3["tables"].size() == 1);
  CHECK(table3["tables"][0] == all["tables"][1]);

  // Killed at random instants, the same command ends at the same numbers.
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
  const auto go_on = [&] { return reproduce({"--budget", "minutes", "--table", "3", "--out", dir / "killed"}); };
  const ProgramResult last = go_on();
  CAPTURE(last.err);
  REQUIRE(last.exit_code == 0);
  // Paths differ, numbers do not.
  const auto killed = report_of("killed");
  for (const char* part : {"tables", "ranks", "normalised", "claims", "masks"}) CHECK(killed[part] == table3[part]);
  // Everything done: a second call makes only the report.
  CHECK(go_on().out.find("train_") == std::string::npos);
}

}  // namespace avid::test
