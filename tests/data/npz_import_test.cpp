// tests/data/npz_import_test.cpp -- the original code's chunks, and clips that go the other way
#include "data/npz_import.h"

#include <fstream>
#include <iterator>

#include "data/clip_export.h"
#include "data/episode_store.h"
#include "data/window_sampler.h"
#include "tensor/error.h"
#include "tensor/io/npz.h"
#include "tests/boolean_npz.h"
#include "tests/data/fake_world.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

namespace {

namespace fs = std::filesystem;

struct ChunkSpec {
  std::int64_t steps = 50;
  int first_value = 0;  // frame t is filled with first_value + t
  bool with_ends = false;
  std::int64_t end_at = -1;
};

fs::path chunk_path(const fs::path& folder, int level, int chunk, int time) {
  return folder / fmt::format("coinrun_lvl_{}_chunk_{}_{:020}.npz", level, chunk, time);
}

void write_chunk(const fs::path& path, const ChunkSpec& spec) {
  Tensor obs = Tensor::empty({spec.steps, 4, 4, 3}, DType::u8), act = Tensor::zeros({spec.steps}, DType::i64);
  Tensor rew = Tensor::zeros({spec.with_ends ? spec.steps : 0}, DType::f64), term = rew.clone();
  for (std::int64_t t = 0; t < spec.steps; ++t) {
    std::fill_n(obs.data<std::uint8_t>() + t * 48, 48, static_cast<std::uint8_t>(spec.first_value + t));
    act.data<std::int64_t>()[t] = t % 15;
    if (spec.with_ends) rew.data<double>()[t] = static_cast<double>(t);
  }
  if (spec.end_at >= 0) term.data<double>()[spec.end_at] = 1;
  save_npz(path, {{"obs", obs}, {"act", act}, {"rew", rew}, {"term", term}});
}

std::uint8_t value_of(const EpisodeStore& store, std::int64_t frame) {
  std::vector<std::uint8_t> bytes(store.frame_bytes());
  store.read_frames(frame, 1, bytes);
  return bytes[7];
}

}  // namespace

TEST_CASE("npz_import/names/are_taken_apart") {
  const auto name = parse_chunk_name("coinrun_lvl_1234_chunk_19_01650000000123456789.npz");
  REQUIRE(name.has_value());
  CHECK(name->game == "coinrun");
  CHECK(name->level == 1234);
  CHECK(name->chunk == 19);
  CHECK(name->time == "01650000000123456789");
  for (const char* bad :
       {"coinrun_lvl_1_chunk_2.npz", "coinrun_lvl_x_chunk_2_3.npz", "coinrun_lvl_1_chunk__3.npz",
        "_lvl_1_chunk_2_3.npz", "coinrun_lvl_1_chunk_2_3.npy", "coinrun_lvl_99999999999_chunk_2_3.npz",
        "coinrun_chunk_1_lvl_2_3.npz", ".npz", "coinrun_lvl_1_chunk_2_3a.npz", "coinrun_lvl__chunk_1_2.npz"})
    CHECK(!parse_chunk_name(bad).has_value());
}

TEST_CASE("npz_import/join/chunks_of_a_level_in_numerical_order") {
  const test::TempDir dir;
  for (int chunk = 0; chunk < 12; ++chunk)  // 10 and 11 sort before 2 as text
    write_chunk(chunk_path(dir.path(), 7, chunk, 500 - chunk), {.steps = 5, .first_value = 5 * chunk});
  std::ofstream(dir / "readme.npz") << "something else";
  const ImportResult result = import_npz({.places = {dir.path()}, .out = dir / "out"});
  CHECK(result.num_runs == 1);
  CHECK(result.num_chunks == 12);
  CHECK(result.shards == std::vector<fs::path>{dir / "out/coinrun-00007-00008.h5"});
  const EpisodeStore store(dir / "out");
  REQUIRE(store.num_frames() == 60);
  for (std::int64_t f = 0; f < 60; ++f) {
    REQUIRE(value_of(store, f) == f);
    REQUIRE(store.action(f) == f % 5);
  }
  CHECK(store.runs()[0].level == 7);
  CHECK(!store.resets_known());
  CHECK_THROWS_AS(WindowSampler(store, {}), ConfigError);
  CHECK(WindowSampler(store, {.resets = ResetPolicy::allow}).num_windows() == 51);
}

TEST_CASE("npz_import/runs/a_second_recording_and_a_missing_chunk_start_a_new_run") {
  const test::TempDir dir;
  for (const int chunk : {0, 1, 3})
    write_chunk(chunk_path(dir.path(), 2, chunk, 10 + chunk), {.steps = 5, .first_value = 10 * chunk});
  for (const int chunk : {0, 1})
    write_chunk(chunk_path(dir.path(), 2, chunk, 90 + chunk), {.steps = 5, .first_value = 100 + 10 * chunk});
  write_chunk(chunk_path(dir.path(), 1, 0, 5), {.steps = 4, .first_value = 200});
  const ImportResult result = import_npz({.places = {dir.path()}, .out = dir / "out", .runs_per_shard = 2});
  CHECK(result.num_runs == 4);
  CHECK(
      result.notes.size() == 2);  // the gap, and the unknown resets of the one shard (levels are not split over shards)
  const EpisodeStore store(dir / "out");
  std::vector<std::tuple<int, std::int64_t, int>> runs;
  for (const Run& run : store.runs()) runs.emplace_back(run.level, run.length, value_of(store, run.begin));
  CHECK(runs == std::vector<std::tuple<int, std::int64_t, int>>{{1, 4, 200}, {2, 10, 0}, {2, 5, 30}, {2, 10, 100}});
}

TEST_CASE("npz_import/flags/rewards_and_ends_are_used_when_they_are_there") {
  const test::TempDir dir;
  write_chunk(chunk_path(dir.path(), 0, 0, 1), {.steps = 6, .with_ends = true, .end_at = 2});
  write_chunk(
      chunk_path(dir.path(), 0, 1, 2), {.steps = 6, .with_ends = true, .end_at = 5});  // ends with the recording
  write_chunk(chunk_path(dir.path(), 0, 2, 3), {.steps = 6, .with_ends = true});
  import_npz({.places = {dir.path()}, .out = dir / "out", .storage = {.deflate_level = 1}});
  const EpisodeStore store(dir / "out");
  CHECK(store.resets_known());
  std::vector<std::int64_t> firsts;
  for (std::int64_t f = 0; f < 18; ++f) {
    CHECK(store.reward(f) == static_cast<float>(f % 6));
    if (store.first(f)) firsts.push_back(f);
  }
  CHECK(firsts == std::vector<std::int64_t>{0, 3, 12});
}

TEST_CASE("npz_import/flags/ends_may_be_booleans") {
  const test::TempDir dir;
  const Tensor ends = Tensor::from_values(std::vector<std::uint8_t>{0, 1, 0, 0, 0}, Shape{5});
  test::save_npz_with_booleans(
      chunk_path(dir.path(), 0, 0, 1),
      {{"obs", Tensor::zeros({5, 4, 4, 3}, DType::u8)}, {"act", Tensor::zeros({5}, DType::i64)}, {"term", ends}},
      "term");
  import_npz({.places = {dir.path()}, .out = dir / "out"});
  const EpisodeStore store(dir / "out");
  CHECK(store.resets_known());
  CHECK(store.first(2));
  CHECK_FALSE(store.first(1));
}

TEST_CASE("npz_import/errors/bad_chunks_are_named_and_write_nothing") {
  const test::TempDir dir;
  const auto path = chunk_path(dir.path(), 0, 0, 1);
  const Tensor obs = Tensor::zeros({5, 4, 4, 3}, DType::u8), act = Tensor::zeros({5}, DType::i64);
  const auto refused = [&](const NamedTensors& tensors) {
    save_npz(path, tensors);
    CHECK_THROWS_AS(import_npz({.places = {dir.path()}, .out = dir / "out"}), Error);
    CHECK_FALSE(fs::exists(dir / "out"));
  };
  refused({{"obs", obs}});
  refused({{"act", act}});
  refused({{"obs", obs}, {"act", Tensor::zeros({4}, DType::i64)}});
  refused({{"obs", obs}, {"act", Tensor::full({5}, 15, DType::i64)}});
  refused({{"obs", obs}, {"act", Tensor::full({5}, -1, DType::i64)}});
  refused({{"obs", obs}, {"act", Tensor::zeros({5}, DType::f32)}});
  refused({{"obs", Tensor::zeros({5, 4, 4}, DType::u8)}, {"act", act}});
  refused({{"obs", Tensor::zeros({5, 4, 4, 3}, DType::f32)}, {"act", act}});
  refused({{"obs", obs}, {"act", act}, {"term", Tensor::zeros({4}, DType::f64)}});
  refused({{"obs", obs}, {"act", act}, {"rew", Tensor::full({5}, std::nan(""), DType::f64)}});
  // Booleans load as bytes; an `obs` of them would be black frames.
  for (const char* name : {"obs", "act"}) {
    CAPTURE(name);
    test::save_npz_with_booleans(path, {{"obs", obs}, {"act", act.to(DType::u8)}}, name);
    CHECK_THROWS_WITH_AS(
        import_npz({.places = {dir.path()}, .out = dir / "out"}),
        doctest::Contains((std::string("tensor '") + name + "': expected numbers, got booleans (|b1)").c_str()), Error);
    CHECK_FALSE(fs::exists(dir / "out"));
  }
  write_chunk(path, {});
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  for (std::size_t n = 0; n < bytes.size(); n += 97) {
    std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(n));
    CHECK_THROWS_AS(import_npz({.places = {dir.path()}, .out = dir / "out"}), FileError);
  }
  std::string flipped = bytes;
  flipped[bytes.find("NUMPY") + 200] ^= 4;  // a pixel: only the CRC can tell
  std::ofstream(path, std::ios::binary | std::ios::trunc) << flipped;
  CHECK_THROWS_AS(import_npz({.places = {dir.path()}, .out = dir / "out"}), FileError);
  CHECK_FALSE(fs::exists(dir / "out"));
  CHECK_THROWS_AS(import_npz({.places = {dir / "nowhere"}, .out = dir / "out"}), FileError);
  fs::create_directory(dir / "empty");
  CHECK_THROWS_AS(import_npz({.places = {dir / "empty"}, .out = dir / "out"}), FileError);
}

TEST_CASE("npz_import/clip_export/a_clip_keeps_frames_actions_rewards_and_flags") {
  const test::TempDir dir;
  test::write_shard(
      dir / "a.h5", {test::counting_run(20, 4), test::counting_run(30, 4, 100, {10})}, test::small_meta(4, 2));
  const EpisodeStore store(dir / "a.h5");
  const Clip clip = read_clip(store, find_frame(store, "coinrun", 1, 8), 5);
  CHECK(clip.level == 1);
  CHECK(clip.step == 8);
  save_clip_npz(dir / "clip.npz", clip);
  const NpzFile file(dir / "clip.npz");
  CHECK(file.load("obs").shape() == Shape{5, 4, 4, 3});
  CHECK(file.load("obs").to_values<std::uint8_t>()[48] == 109);
  CHECK(file.load("act").to_values<std::int64_t>() == std::vector<std::int64_t>{8, 9, 10, 11, 12});
  CHECK(file.load("rew").to_values<float>() == std::vector<float>{8, 9, 10, 11, 12});
  CHECK(file.load("first").to_values<std::uint8_t>() == std::vector<std::uint8_t>{0, 0, 1, 0, 0});
  CHECK_THROWS_AS(read_clip(store, 18, 3), ShapeError);  // would reach into the next level
  CHECK_THROWS_AS(read_clip(store, 0, 0), ShapeError);
  CHECK_THROWS_AS(read_clip(store, 50, 1), ShapeError);
  CHECK_THROWS_AS(read_clip(store, -1, 1), ShapeError);
  CHECK_THROWS_AS(find_frame(store, "", 2, 0), UsageError);
  CHECK_THROWS_AS(find_frame(store, "maze", 1, 0), UsageError);
  CHECK_THROWS_AS(find_frame(store, "", 1, 30), UsageError);
}
