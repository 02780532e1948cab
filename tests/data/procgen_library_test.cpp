// tests/data/procgen_library_test.cpp -- the real game library, when scripts/get_procgen.sh has fetched it
//
// Without it every case says "skipped: no game library" and ctest counts the file as skipped.
#include <algorithm>

#include "data/episode_store.h"
#include "data/frame_ops.h"
#include "data/games.h"
#include "data/procgen.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

namespace {

bool library_is_there() {
  try {
    find_procgen();
    return true;
  } catch (const FileError&) {
    MESSAGE("skipped: no game library (scripts/get_procgen.sh fetches it)");
    return false;
  }
}

ProcgenOptions coinrun() {
  ProcgenOptions options;
  options.use_backgrounds = false;
  return options;
}

/// One CoinRun process for most cases: each loads a thousand pictures first.
ProcgenSource& shared_coinrun() {
  static ProcgenSource source(find_procgen(), coinrun());
  return source;
}

}  // namespace

TEST_CASE("procgen_library/coinrun/same_level_and_actions_give_same_bytes") {
  if (!library_is_there()) return;
  const auto actions = level_actions(0, "coinrun", 0, 200, ActionPolicy::uniform);
  ProcgenSource& one = shared_coinrun();
  ProcgenSource two(find_procgen(), coinrun());
  const LevelRun a = play_level(one, 0, actions);
  play_level(two, 5, actions);  // the process' history does not matter
  const LevelRun b = play_level(two, 0, actions);
  CHECK(a.frames == b.frames);
  CHECK(a.rewards == b.rewards);
  CHECK(a.first == b.first);
  CHECK(play_level(one, 1, actions).frames != a.frames);
}

TEST_CASE("procgen_library/coinrun/every_episode_of_a_level_starts_with_the_same_frame") {
  if (!library_is_there()) return;
  ProcgenSource& source = shared_coinrun();
  // Jumping to the right ends many episodes.
  const std::vector<std::uint8_t> actions(600, 8);
  int restarts = 0;
  for (std::int32_t level = 0; level < 4; ++level) {
    const LevelRun run = play_level(source, level, actions);
    for (std::size_t t = 1; t < run.first.size(); ++t) {
      if (!run.first[t]) continue;
      ++restarts;
      const auto frame = run.frames.begin() + static_cast<std::ptrdiff_t>(t * source.frame_bytes());
      CHECK(std::equal(frame, frame + static_cast<std::ptrdiff_t>(source.frame_bytes()), run.frames.begin()));
    }
  }
  CHECK(restarts > 0);
}

TEST_CASE("procgen_library/coinrun/special_actions_are_none") {
  if (!library_is_there()) return;
  ProcgenSource& source = shared_coinrun();
  std::vector<std::uint8_t> none(60, 4), special;
  for (int t = 0; t < 60; ++t) special.push_back(static_cast<std::uint8_t>(9 + t % 6));
  CHECK(play_level(source, 3, none).frames == play_level(source, 3, special).frames);
  CHECK(play_level(source, 3, std::vector<std::uint8_t>(60, 7)).frames != play_level(source, 3, none).frames);
}

TEST_CASE("procgen_library/coinrun/restored_state_reproduces_the_continuation") {
  if (!library_is_there()) return;
  ProcgenSource& source = shared_coinrun();
  source.begin(7);
  source.step(std::vector<std::uint8_t>(20, 7));
  const auto state = source.save_state();
  const auto more = level_actions(1, "coinrun", 7, 50, ActionPolicy::uniform);
  const auto straight = source.step(more);
  source.load_state(state);
  CHECK(source.step(more).frames == straight.frames);
}

TEST_CASE("procgen_library/games/start_and_move") {
  if (!library_is_there()) return;
  for (const std::string_view game : kGames) {
    if (!test::full_level() && game != "maze") continue;  // every process loads a thousand pictures first
    CAPTURE(game);
    ProcgenOptions options;
    options.game = game;
    ProcgenSource source(find_procgen(), options);
    const LevelRun run = play_level(source, 0, level_actions(0, game, 0, 40, ActionPolicy::uniform));
    CHECK(run.first[0] == 1);
    CHECK(!std::equal(
        run.frames.begin(), run.frames.begin() + static_cast<std::ptrdiff_t>(source.frame_bytes()),
        run.frames.end() - static_cast<std::ptrdiff_t>(source.frame_bytes())));
  }
}

TEST_CASE("procgen_library/sample/the_shipped_sample_is_made_again_bit_for_bit") {
  if (!library_is_there()) return;
  const EpisodeStore store(std::filesystem::path(AVID_SOURCE_DIR) / "data/samples/coinrun32-heldout.h5");
  ProcgenSource& source = shared_coinrun();
  const Run& run = store.runs().front();
  const auto actions = level_actions(1, "coinrun", run.level, run.length, ActionPolicy::uniform);
  const LevelRun played = play_level(source, run.level, actions);
  std::vector<std::uint8_t> stored(static_cast<std::size_t>(run.length) * store.frame_bytes());
  store.read_frames(run.begin, run.length, stored);
  CHECK(box_downscale(played.frames, 64, 64, 2) == stored);
  for (std::int64_t t = 0; t < run.length; ++t)
    REQUIRE(store.action(run.begin + t) == actions[static_cast<std::size_t>(t)]);
}
