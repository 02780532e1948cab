// tests/data/procgen_test.cpp -- the child process that hosts the game library, with a made-up library in it
#include "data/procgen.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "data/games.h"
#include "data/procgen_worker.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

namespace {

/// ProcgenSource runs its own program with `procgen-worker LIBRARY`; in this program that is answered here, before
/// doctest's main sees the arguments.
const bool worker_answered = [] {
  std::ifstream command_line("/proc/self/cmdline", std::ios::binary);
  std::string program, command, library;
  std::getline(command_line, program, '\0');
  std::getline(command_line, command, '\0');
  std::getline(command_line, library, '\0');
  if (command == "procgen-worker") _exit(worker::run(library, 3, 4));
  return false;
}();

/// The made-up library with an (empty) folder of pictures.
struct FakeGame {
  test::TempDir assets;
  ProcgenFiles files{AVID_FAKE_LIBENV, assets.path()};
};

std::uint8_t expected_byte(int level, int step, int action_sum, int index) {
  return static_cast<std::uint8_t>(level + 3 * step + 7 * action_sum + index);
}

std::string message_of(const auto& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("procgen/fake/frames_rewards_and_first_flags_line_up_with_actions") {
  FakeGame game;
  ProcgenSource source(game.files, {});
  CHECK(source.height() == 64);
  CHECK(source.width() == 64);
  std::vector<std::uint8_t> actions;
  for (int t = 0; t < 230; ++t)
    actions.push_back(static_cast<std::uint8_t>(t % 15));  // more than one exchange, two resets
  const LevelRun run = play_level(source, 9, actions);
  REQUIRE(run.first.size() == 230);
  REQUIRE(run.frames.size() == 230 * source.frame_bytes());
  int step = 0, sum = 0, wrong = 0;
  for (int t = 0; t < 230; ++t) {
    const auto* frame = run.frames.data() + static_cast<std::size_t>(t) * source.frame_bytes();
    wrong += frame[0] != expected_byte(9, step, sum, 0) || frame[12287] != expected_byte(9, step, sum, 12287);
    wrong += run.rewards[static_cast<std::size_t>(t)] != static_cast<float>(t % 15);
    wrong += run.first[static_cast<std::size_t>(t)] != (step == 0);
    sum += t % 15;
    if (++step == 100) step = sum = 0;
  }
  CHECK(wrong == 0);
  const LevelRun again = play_level(source, 9, actions);
  CHECK(again.frames == run.frames);
  const LevelRun other = play_level(source, 10, actions);
  CHECK(other.frames != run.frames);
}

TEST_CASE("procgen/fake/saved_state_continues_as_before") {
  FakeGame game;
  ProcgenSource source(game.files, {});
  source.begin(1);
  const std::vector<std::uint8_t> some = {1, 2, 3}, more = {4, 5, 6, 7};
  const auto before = source.step(some);
  const auto state = source.save_state();
  const auto straight = source.step(more);
  const auto restored = source.load_state(state);
  CHECK(std::equal(
      restored.begin(), restored.end(), before.frames.end() - static_cast<std::ptrdiff_t>(source.frame_bytes())));
  CHECK(source.step(more).frames == straight.frames);
}

TEST_CASE("procgen/child/fatal_exit_becomes_one_error_with_its_last_words") {
  FakeGame game;
  ProcgenSource source(game.files, {});
  source.begin(666);
  const std::vector<std::uint8_t> actions(10, 4);
  const std::string message = message_of([&] { source.step(actions); });
  CAPTURE(message);
  CHECK(contains(message, "exit code 3"));
  CHECK(contains(message, "assertion failed: the coin is gone"));
  CHECK(!contains(message, "starting up"));
  CHECK(!contains(message, "\n"));
  // and the object stays usable as far as saying so
  CHECK(contains(message_of([&] { source.begin(1); }), "already ended"));
}

TEST_CASE("procgen/child/crash_becomes_an_error") {
  FakeGame game;
  ProcgenSource source(game.files, {});
  source.begin(667);
  const std::vector<std::uint8_t> actions(10, 4);
  CHECK(contains(message_of([&] { source.step(actions); }), "the game process ended"));
}

TEST_CASE("procgen/child/hang_is_stopped_after_the_time_out") {
  FakeGame game;
  ProcgenSource source(game.files, {}, {.worker_command = {}, .time_out_ms = 1000});
  source.begin(668);
  const std::vector<std::uint8_t> actions(10, 4);
  CHECK(contains(message_of([&] { source.step(actions); }), "no answer within 1000 ms"));
}

TEST_CASE("procgen/child/unmarked_first_frame_is_refused") {
  FakeGame game;
  ProcgenSource source(game.files, {});
  CHECK(contains(message_of([&] { source.begin(669); }), "first frame of level 669"));
  CHECK(source.begin(3).size() == source.frame_bytes());  // a refused request does not end the child
}

TEST_CASE("procgen/child/bad_requests_are_refused") {
  FakeGame game;
  ProcgenSource source(game.files, {});
  const std::vector<std::uint8_t> bad = {3, 15};
  CHECK(contains(message_of([&] { source.step(bad); }), "no level has begun"));
  CHECK(contains(message_of([&] { source.begin(-1); }), "level"));
  source.begin(0);
  CHECK(contains(message_of([&] { source.step(bad); }), "expected 0..14, got 15"));
}

TEST_CASE("procgen/library/wrong_version_is_named") {
  FakeGame game;
  setenv("FAKE_LIBENV_VERSION", "7", 1);
  const std::string message = message_of([&] { ProcgenSource source(game.files, {}); });
  unsetenv("FAKE_LIBENV_VERSION");
  CAPTURE(message);
  CHECK(contains(message, "expected 1, got 7"));
  CHECK(contains(message, "get_procgen.sh"));
}

TEST_CASE("procgen/library/missing_or_wrong_files_are_named") {
  FakeGame game;
  const auto open = [&](const ProcgenFiles& files) { return message_of([&] { ProcgenSource source(files, {}); }); };
  CHECK(contains(open({"/nonexistent/libenv.so", game.assets.path()}), "no such file"));
  CHECK(contains(open({AVID_FAKE_LIBENV, "/nonexistent"}), "no folder of pictures"));
  const auto text_file = game.assets / "libenv.so";
  std::ofstream(text_file) << "not a library";
  CHECK(contains(open({text_file, game.assets.path()}), "libenv.so"));
  CHECK(contains(open({"/lib/x86_64-linux-gnu/libz.so.1", game.assets.path()}), "procgen"));
  setenv("AVID_PROCGEN_DIR", game.assets.path().c_str(), 1);
  CHECK(contains(message_of([] { find_procgen(); }), "run scripts/get_procgen.sh"));
  unsetenv("AVID_PROCGEN_DIR");
}

TEST_CASE("procgen/worker/a_program_that_cannot_start_is_named") {
  FakeGame game;
  const std::string message = message_of([&] {
    ProcgenSource source(game.files, {}, {.worker_command = {"/nonexistent/avid", "procgen-worker"}});
  });
  CHECK(contains(message, "cannot start the worker program"));
}

TEST_CASE("procgen/options/games_and_modes_are_checked_before_anything_starts") {
  FakeGame game;
  const auto open = [&](ProcgenOptions options) {
    return message_of([&] { ProcgenSource source(game.files, options); });
  };
  CHECK(contains(open({.game = "coinrum"}), "did you mean coinrun"));
  CHECK(contains(open({.distribution_mode = "hart"}), "expected easy, hard, extreme or memory"));
  CHECK(contains(open({.distribution_mode = "memory"}), "coinrun has no mode memory"));
  CHECK(distribution_mode("memory", "maze") == 10);
  CHECK(distribution_mode("extreme", "chaser") == 2);
  CHECK(distribution_mode("easy", "maze") == 0);
}
