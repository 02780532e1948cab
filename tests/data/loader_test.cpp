// tests/data/loader_test.cpp -- batches: alignment, order, resuming, shutting down
#include "data/loader.h"

#include <filesystem>

#include "data/frame_ops.h"
#include "tensor/error.h"
#include "tests/data/fake_world.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

namespace {

/// Two runs of 200 counting frames (4x4; run 1 starts at 100), one with a reset.
std::shared_ptr<const EpisodeStore> counting_store(const test::TempDir& dir, const StorageOptions& storage = {}) {
  const auto path = dir / "counting.h5";
  test::write_shard(
      path, {test::counting_run(200, 4), test::counting_run(200, 4, 50, {90})}, test::small_meta(4, 2), storage);
  return std::make_shared<const EpisodeStore>(path);
}

bool same(const Batch& a, const Batch& b) {
  return a.step == b.step && a.starts == b.starts && test::same_bits(a.frames, b.frames) &&
         test::same_bits(a.actions, b.actions);
}

}  // namespace

TEST_CASE("loader/alignment/property_43_target_frames_come_with_the_action_that_made_them") {
  const test::TempDir dir;
  for (const int context : {1, 2, 3}) {
    const Loader loader(counting_store(dir), {.batch = 16, .context = context, .targets = 8, .seed = 3});
    const Batch batch = loader.batch_at(0);
    CHECK(batch.frames.shape() == Shape{16, context + 8, 4, 4, 3});
    CHECK(batch.actions.shape() == Shape{16, 8});
    for (std::int64_t b = 0; b < 16; ++b) {
      const std::int64_t start = batch.starts[static_cast<std::size_t>(b)], run = start / 200, t = start % 200;
      for (std::int64_t k = 0; k < context + 8; ++k)
        CHECK(
            batch.frames.data<std::uint8_t>()[(b * (context + 8) + k) * 48 + 17] ==
            static_cast<std::uint8_t>(t + k + 50 * run));
      for (std::int64_t i = 0; i < 8; ++i)
        CHECK(
            batch.actions.data<std::int64_t>()[b * 8 + i] ==
            (t + context + i - 1) % 15);  // a[k-1] for frame k = context + i
    }
  }
}

TEST_CASE("loader/order/depends_only_on_seed_and_step") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  const Loader reference(store, {.batch = 5, .seed = 11, .workers = 0});
  for (const int workers : {0, 1, 3}) {
    for (const int ahead : {1, 4}) {
      Loader loader(store, {.batch = 5, .seed = 11, .workers = workers, .ahead = ahead});
      loader.start(7);
      for (std::uint64_t step = 7; step < 40; ++step) REQUIRE(same(loader.next(), reference.batch_at(step)));
      loader.start(12);  // a resumed run
      CHECK(same(loader.next(), reference.batch_at(12)));
    }
  }
  const Loader other(store, {.batch = 5, .seed = 12});
  CHECK(other.batch_at(7).starts != reference.batch_at(7).starts);
}

TEST_CASE("loader/order/a_larger_batch_begins_with_the_smaller_one") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  const auto small = Loader(store, {.batch = 3}).batch_at(4).starts,
             large = Loader(store, {.batch = 9}).batch_at(4).starts;
  CHECK(std::equal(small.begin(), small.end(), large.begin()));
}

TEST_CASE("loader/windows/never_straddle_a_reset_under_exclude") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  const Loader exclude(store, {.batch = 64}), allow(store, {.batch = 64, .resets = ResetPolicy::allow});
  int straddling = 0;
  for (std::uint64_t step = 0; step < 20; ++step) {
    for (const std::int64_t s : exclude.batch_at(step).starts) CHECK((s + 10 <= 290 || s >= 290));
    for (const std::int64_t s : allow.batch_at(step).starts) straddling += s < 290 && s + 10 > 290;
  }
  CHECK(straddling > 0);
}

TEST_CASE("loader/size/halves_frames_on_the_fly") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  const Loader full(store, {.batch = 4, .seed = 1}), half(store, {.batch = 4, .size = 2, .seed = 1});
  const Batch a = full.batch_at(2), b = half.batch_at(2);
  CHECK(half.height() == 2);
  CHECK(b.frames.shape() == Shape{4, 10, 2, 2, 3});
  CHECK(box_downscale(a.frames.to_values<std::uint8_t>(), 4, 4, 2) == b.frames.to_values<std::uint8_t>());
  CHECK(a.starts == b.starts);
  CHECK_THROWS_AS(Loader(store, {.size = 3}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.size = 8}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.size = -2}), ConfigError);
}

TEST_CASE("loader/float_actions/are_given_as_vectors") {
  const test::TempDir dir;
  ShardMeta meta = test::small_meta(4);
  meta.action_width = 3;
  meta.num_actions = 0;
  LevelRun run = test::counting_run(40, 4);
  run.actions.clear();
  std::vector<float> actions;
  for (int i = 0; i < 120; ++i) actions.push_back(0.5f * static_cast<float>(i));
  {
    ShardWriter writer(dir / "float.h5", meta, 40, {});
    writer.append(0, run, actions);
    writer.finish();
  }
  const Loader loader(std::make_shared<const EpisodeStore>(dir / "float.h5"), {.batch = 2});
  const Batch batch = loader.batch_at(0);
  CHECK(batch.actions.shape() == Shape{2, 8, 3});
  const auto values = batch.actions.to_values<float>();
  for (std::size_t b = 0; b < 2; ++b)
    for (std::size_t i = 0; i < 24; ++i)
      CHECK(values[b * 24 + i] == 0.5f * static_cast<float>((batch.starts[b] + 1) * 3 + static_cast<std::int64_t>(i)));
}

TEST_CASE("loader/shutdown/at_any_time") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  for (int taken = 0; taken < 6; ++taken) {
    Loader loader(store, {.batch = 32, .workers = 2, .ahead = 3});
    loader.start(0);
    for (int i = 0; i < taken; ++i) loader.next();
    if (taken % 2 == 1) {
      loader.stop();
      CHECK_THROWS_AS(loader.next(), Error);
    }
  }
}

TEST_CASE("loader/errors/a_file_that_shrinks_while_in_use_is_reported_by_next") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  std::filesystem::resize_file(dir / "counting.h5", 5000);
  Loader loader(store, {.batch = 8, .workers = 2});
  loader.start(0);
  CHECK_THROWS_AS(loader.next(), FileError);
  CHECK_THROWS_AS(loader.batch_at(0), FileError);
}

TEST_CASE("loader/errors/options") {
  const test::TempDir dir;
  const auto store = counting_store(dir);
  CHECK_THROWS_AS(Loader(store, {.batch = 0}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.context = 0}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.targets = 0}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.workers = -1}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.ahead = 0}), ConfigError);
  CHECK_THROWS_AS(Loader(store, {.targets = 300}), ConfigError);
}
