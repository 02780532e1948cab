// tests/data/replay_test.cpp -- frames that nobody stored are those that were played: any window, any order, any thread
#include "data/replay.h"

#include <atomic>
#include <thread>

#include "data/collect.h"
#include "data/episode_store.h"
#include "data/loader.h"
#include "tensor/error.h"
#include "tests/data/fake_world.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

namespace {

std::atomic<int> sources_made, steps_played;

/// Frames 8x8 whose bytes tell the level, all actions so far and the pixel; an episode lasts 17 steps.
class ActionWorld : public FrameSource {
 public:
  ActionWorld() { ++sources_made; }
  std::int64_t height() const override { return 8; }
  std::int64_t width() const override { return 8; }
  void use(const std::string& options) override { game_ = static_cast<int>(options.size()); }
  std::vector<std::uint8_t> begin(std::int32_t level) override {
    level_ = level;
    step_ = 0;
    history_ = 0;
    return frame();
  }
  PlayedSteps step(std::span<const std::uint8_t> actions) override {
    steps_played += static_cast<int>(actions.size());
    PlayedSteps out;
    for (const std::uint8_t action : actions) {
      history_ = history_ * 31 + action;
      if (++step_ % 17 == 0) history_ = 0;
      const auto bytes = frame();
      out.frames.insert(out.frames.end(), bytes.begin(), bytes.end());
      out.rewards.push_back(action);
      out.first.push_back(step_ % 17 == 0);
    }
    return out;
  }

 private:
  std::vector<std::uint8_t> frame() const {
    std::vector<std::uint8_t> bytes(192);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::uint8_t>(history_ + static_cast<unsigned>(level_ * 7 + game_) + 3 * i);
    return bytes;
  }
  int level_ = 0, step_ = 0, game_ = 0;
  unsigned history_ = 0;
};

std::unique_ptr<FrameSource> world() {
  auto source = std::make_unique<ActionWorld>();
  source->use(ProcgenOptions{}.to_json());
  return source;
}

CollectOptions five_levels(const std::filesystem::path& out, bool frames) {
  CollectOptions o;
  o.out = out;
  o.level_begin = 2;
  o.level_end = 7;
  o.steps = 300;
  o.size = 4;  // half of what is played
  o.levels_per_shard = 3;
  o.storage.frames = frames;
  return o;
}

EpisodeStore open_replayed(const std::filesystem::path& folder) {
  StoreOptions options;
  options.make_source = world;
  return EpisodeStore({folder.string()}, options);
}

}  // namespace

TEST_CASE("replay/store/every_window_has_the_bytes_that_are_stored_otherwise") {
  const test::TempDir dir;
  collect(five_levels(dir / "stored", true), world, "sha");
  collect(five_levels(dir / "replayed", false), world, "sha");
  const EpisodeStore stored(dir / "stored"), replayed = open_replayed(dir / "replayed");
  CHECK(replayed.num_frames() == 1500);
  CHECK(replayed.shards()[1].storage == "replayed");
  CHECK(replayed.shards()[0].frame_checksum == stored.shards()[0].frame_checksum);
  CHECK(replayed.shards()[0].table_checksum == stored.shards()[0].table_checksum);
  CHECK(replayed.shards()[0].file_bytes < stored.shards()[0].file_bytes / 2);
  // Any order: forwards in one level, back again, another level, over the border of two runs, single frames.
  const std::pair<std::int64_t, std::int64_t> windows[] = {
      {0, 10},  {40, 10}, {41, 10}, {3, 1},     {299, 1},  {0, 300},  {310, 20}, {295, 10},
      {5, 700}, {899, 1}, {0, 900}, {900, 600}, {1499, 1}, {1200, 7}, {900, 2},  {899, 1}};
  for (const auto& [begin, count] : windows) {
    CAPTURE(begin);
    std::vector<std::uint8_t> a(static_cast<std::size_t>(count) * stored.frame_bytes()), b(a.size());
    stored.read_frames(begin, count, a);
    replayed.read_frames(begin, count, b);
    CHECK(a == b);
  }
  for (std::int64_t f = 0; f < 1500; f += 13) {
    CHECK(stored.action(f) == replayed.action(f));
    CHECK(stored.first(f) == replayed.first(f));
  }
  replayed.verify_frames();
}

TEST_CASE("replay/loader/batches_are_those_of_stored_frames_with_any_number_of_threads") {
  const test::TempDir dir;
  collect(five_levels(dir / "stored", true), world, "sha");
  collect(five_levels(dir / "replayed", false), world, "sha");
  const auto stored = std::make_shared<const EpisodeStore>(dir / "stored");
  const auto replayed = std::make_shared<const EpisodeStore>(open_replayed(dir / "replayed"));
  const LoaderOptions options{.batch = 6, .context = 2, .targets = 5, .seed = 3, .workers = 3};
  Loader a(stored, options), b(replayed, options);
  a.start(0);
  b.start(0);
  for (int i = 0; i < 12; ++i) {
    const Batch x = a.next(), y = b.next();
    CHECK(x.starts == y.starts);
    CHECK(test::same_bits(x.frames, y.frames));
    CHECK(test::same_bits(x.actions, y.actions));
  }
}

TEST_CASE("replay/cost/readers_go_on_where_they_stand_and_sources_are_used_again") {
  sources_made = steps_played = 0;
  Replayer replayer(world, 8);
  std::vector<std::uint8_t> actions(500, 3), out(10 * 192);
  const RecordedRun run{.key = 0, .options = ProcgenOptions{}.to_json(), .level = 4, .actions = actions};
  replayer.read(run, 100, 10, out);
  CHECK(steps_played == 109);
  replayer.read(run, 109, 10, out);  // the frame that is visible, and nine more
  CHECK(steps_played == 118);
  replayer.read(run, 200, 10, out);
  CHECK(steps_played == 209);
  replayer.read(run, 50, 10, out);  // back: from the start of the level
  CHECK(steps_played == 209 + 59);
  CHECK(sources_made == 1);
  CHECK_THROWS_AS(replayer.read(run, 495, 10, out), ShapeError);
  CHECK_THROWS_AS(Replayer(world, 3).read(run, 0, 10, std::span(out).first(270)), ConfigError);
}

TEST_CASE("replay/errors/a_source_that_fails_is_replaced") {
  class Failing : public ActionWorld {
   public:
    std::vector<std::uint8_t> begin(std::int32_t level) override {
      if (level == 9) fail<Error>("the world ended");
      return ActionWorld::begin(level);
    }
  };
  sources_made = 0;
  Replayer replayer([]() -> std::unique_ptr<FrameSource> { return std::make_unique<Failing>(); }, 8);
  const std::vector<std::uint8_t> actions(20, 1);
  std::vector<std::uint8_t> out(192);
  CHECK_THROWS_WITH_AS(
      replayer.read({.key = 1, .options = "{}", .level = 9, .actions = actions}, 0, 1, out), "the world ended", Error);
  replayer.read({.key = 2, .options = "{}", .level = 8, .actions = actions}, 0, 1, out);
  CHECK(sources_made == 2);
}

TEST_CASE("replay/errors/one_line_each") {
  const test::TempDir dir;
  collect(five_levels(dir / "set", false), world, "a library that nobody has");
  // Without the very library nothing is shown, and mixing kinds is refused.
  std::string said;
  try {
    EpisodeStore store(dir / "set");
  } catch (const Error& error) {
    said = error.what();
  }
  CHECK((said.find("holds no frames") != std::string::npos || said.find("get_procgen.sh") != std::string::npos));
  CHECK_THROWS_WITH_AS(
      collect(five_levels(dir / "set", true), world, "a library that nobody has"), doctest::Contains("kind of frames"),
      ConfigError);
  CHECK(collect(five_levels(dir / "set", false), world, "a library that nobody has").shards_found == 2);
  CHECK_THROWS_AS(
      ShardWriter(dir / "x.h5", test::small_meta(4), 10, {.frames = false, .deflate_level = 2}), ConfigError);
  CHECK_THROWS_AS(ProcgenOptions::from_json("{}"), ConfigError);
  CHECK_THROWS_AS(ProcgenOptions::from_json("not json"), ConfigError);
  ProcgenOptions options{.game = "maze", .distribution_mode = "easy", .use_backgrounds = false};
  CHECK(ProcgenOptions::from_json(options.to_json()).to_json() == options.to_json());
}
