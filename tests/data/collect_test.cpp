// tests/data/collect_test.cpp -- recording levels: contents, resuming, interruption, independence of the number of jobs
#include "data/collect.h"

#include <atomic>

#include "data/episode_store.h"
#include "tensor/error.h"
#include "tests/data/fake_world.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

namespace {

CollectOptions seven_levels(const std::filesystem::path& out) {
  CollectOptions o;
  o.out = out;
  o.level_begin = 3;
  o.level_end = 10;
  o.steps = 25;
  o.size = 4;
  o.levels_per_shard = 3;
  return o;
}

std::unique_ptr<FrameSource> world() { return std::make_unique<test::CountingWorld>(); }

/// Fails when it plays level 8.
class FailingWorld : public test::CountingWorld {
 public:
  std::vector<std::uint8_t> begin(std::int32_t level) override {
    if (level == 8) fail<Error>("the world ended");
    return CountingWorld::begin(level);
  }
};

int count_files(const std::filesystem::path& folder) {
  int n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

}  // namespace

TEST_CASE("collect/contents/frames_actions_rewards_and_flags_are_what_was_played") {
  const test::TempDir dir;
  const CollectResult result = collect(seven_levels(dir.path()), world, "sha");
  REQUIRE(result.shards.size() == 3);
  CHECK(result.shards[0].filename() == "coinrun-00003-00006.h5");
  CHECK(result.shards[2].filename() == "coinrun-00009-00010.h5");
  CHECK(result.frames_written == 175);
  const EpisodeStore store(dir.path());
  REQUIRE(store.num_frames() == 175);
  REQUIRE(store.runs().size() == 7);
  CHECK(store.segments().size() == 21);  // a reset after every 10 steps
  for (const Run& run : store.runs()) {
    const auto actions = level_actions(0, "coinrun", run.level, 25, ActionPolicy::uniform);
    std::vector<std::uint8_t> frames(25 * store.frame_bytes());
    store.read_frames(run.begin, 25, frames);
    for (std::int64_t t = 0; t < 25; ++t) {
      REQUIRE(frames[static_cast<std::size_t>(t) * 48 + 5] == run.level + t % 10);
      REQUIRE(store.action(run.begin + t) == actions[static_cast<std::size_t>(t)]);
      REQUIRE(store.reward(run.begin + t) == static_cast<float>(actions[static_cast<std::size_t>(t)]));
      REQUIRE(store.first(run.begin + t) == (t % 10 == 0));
    }
  }
  const ShardMeta& meta = store.shards()[1].meta;
  CHECK(meta.level_begin == 6);
  CHECK(meta.level_end == 9);
  CHECK(meta.library_sha256 == "sha");
  CHECK(meta.procgen_version == "0.10.7");
  CHECK(meta.steps_per_level == 25);
}

TEST_CASE("collect/jobs/do_not_change_a_byte") {
  const test::TempDir one, three;
  auto a = seven_levels(one.path()), b = seven_levels(three.path());
  b.jobs = 3;
  collect(a, world, "sha");
  collect(b, world, "sha");
  const EpisodeStore x(one.path()), y(three.path());
  REQUIRE(x.shards().size() == y.shards().size());
  for (std::size_t i = 0; i < x.shards().size(); ++i)
    CHECK(x.shards()[i].frame_checksum == y.shards()[i].frame_checksum);
}

TEST_CASE("collect/size/box_average_is_recorded") {
  const test::TempDir dir;
  auto o = seven_levels(dir.path());
  o.size = 2;
  o.single_file = dir / "one.h5";
  o.storage.deflate_level = 4;
  const CollectResult result = collect(o, world, "sha");
  CHECK(result.shards == std::vector<std::filesystem::path>{dir / "one.h5"});
  const EpisodeStore store(dir / "one.h5");
  CHECK(store.height() == 2);
  CHECK(store.num_frames() == 175);
  CHECK(store.shards()[0].meta.frame_filter == "mean of 2x2 boxes, halves up, from 4x4");
  std::vector<std::uint8_t> frame(12);
  store.read_frames(4, 1, frame);
  CHECK(frame[7] == 3 + 4);
}

TEST_CASE("collect/interrupt/finished_shards_stay_and_the_same_call_goes_on") {
  const test::TempDir dir;
  int levels_seen = 0;
  const auto count = [&](const CollectProgress&) { ++levels_seen; };
  CHECK_THROWS_AS(
      collect(seven_levels(dir.path()), world, "sha", count, [&] { return levels_seen == 5; }), Interrupted);
  CHECK(count_files(dir.path()) == 2);  // a shard and the mark; of the second shard nothing is left
  CHECK_THROWS_WITH_AS(
      EpisodeStore(dir.path()), doctest::Contains("some shards of coinrun-00003-00010 are missing"), FileError);
  CHECK(EpisodeStore(dir / "coinrun-00003-00006.h5").num_frames() == 75);  // by its name
  std::int64_t total = -1;
  const CollectResult rest =
      collect(seven_levels(dir.path()), world, "sha", [&](const CollectProgress& p) { total = p.frames_total; });
  CHECK(rest.shards_found == 1);
  CHECK(rest.frames_written == 100);
  CHECK(total == 100);
  CHECK(EpisodeStore(dir.path()).num_frames() == 175);
  CHECK(collect(seven_levels(dir.path()), world, "sha").frames_written == 0);
  CHECK(count_files(dir.path()) == 3);
}

TEST_CASE("collect/resume/a_shard_made_with_other_options_is_not_mixed_in") {
  const test::TempDir dir;
  collect(seven_levels(dir.path()), world, "sha");
  const auto with = [&](auto change) {
    auto o = seven_levels(dir.path());
    change(o);
    return o;
  };
  CHECK_THROWS_AS(collect(with([](auto& o) { o.seed = 1; }), world, "sha"), ConfigError);
  CHECK_THROWS_AS(collect(with([](auto& o) { o.steps = 24; }), world, "sha"), ConfigError);
  CHECK_THROWS_AS(collect(with([](auto& o) { o.size = 2; }), world, "sha"), ConfigError);
  CHECK_THROWS_AS(collect(with([](auto& o) { o.actions = ActionPolicy::hold; }), world, "sha"), ConfigError);
  CHECK_THROWS_AS(collect(with([](auto& o) { o.game.use_backgrounds = false; }), world, "sha"), ConfigError);
  CHECK_THROWS_AS(collect(seven_levels(dir.path()), world, "another"), ConfigError);
}

TEST_CASE("collect/errors/a_failing_game_ends_the_call_with_its_message") {
  const test::TempDir dir;
  auto o = seven_levels(dir.path());
  o.jobs = 2;
  CHECK_THROWS_WITH_AS(
      collect(
          o, [] { return std::make_unique<FailingWorld>(); }, "sha"),
      "the world ended", Error);
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    CHECK((entry.path().extension() == ".h5" || entry.path().filename() == "coinrun-00003-00010.unfinished"));
}

TEST_CASE("collect/errors/options") {
  const test::TempDir dir;
  const auto with = [&](auto change) {
    auto o = seven_levels(dir.path());
    change(o);
    return o;
  };
  const auto refused = [&](auto change) { CHECK_THROWS_AS(collect(with(change), world, "sha"), ConfigError); };
  refused([](auto& o) { o.level_end = 3; });
  refused([](auto& o) { o.level_begin = -1; });
  refused([](auto& o) { o.steps = 0; });
  refused([](auto& o) { o.size = 3; });
  refused([](auto& o) { o.size = 0; });
  refused([](auto& o) { o.jobs = 0; });
  refused([](auto& o) { o.levels_per_shard = 0; });
  refused([](auto& o) { o.game.game = "pong"; });
  refused([](auto& o) { o.storage.deflate_level = 10; });
  CHECK_THROWS_AS(collect(with([](auto& o) { o.out = "/proc/nowhere"; }), world, "sha"), FileError);
}
