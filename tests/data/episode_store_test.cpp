// tests/data/episode_store_test.cpp -- HDF5 shards: round trip, and every way in which a file can be bad
#include "data/episode_store.h"

#include <signal.h>
#include <sys/resource.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "data/hdf5_file.h"
#include "tensor/error.h"
#include "tests/data/fake_world.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::data;

/// libhdf5 1.10 forgets some memory (about 400 bytes) when it refuses a damaged file; the leak checker need not say so.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5\n"; }

namespace {

namespace fs = std::filesystem;

/// Three runs of pseudo-random frames with some resets.
std::vector<LevelRun> noisy_runs(std::int64_t size, unsigned seed = 1) {
  std::mt19937 engine(seed);
  std::vector<LevelRun> runs;
  for (const std::int64_t steps : {20, 7, 33}) {
    runs.push_back(test::counting_run(steps, size, 0, {steps / 2}));
    for (auto& byte : runs.back().frames) byte = static_cast<std::uint8_t>(engine());
  }
  return runs;
}

std::vector<std::uint8_t> all_frames(const EpisodeStore& store) {
  std::vector<std::uint8_t> frames;
  for (const Run& run : store.runs()) {
    std::vector<std::uint8_t> piece(static_cast<std::size_t>(run.length) * store.frame_bytes());
    store.read_frames(run.begin, run.length, piece);
    frames.insert(frames.end(), piece.begin(), piece.end());
  }
  return frames;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::string error_of(const fs::path& path) {
  try {
    const EpisodeStore store(path);
  } catch (const FileError& error) {
    return error.what();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A file as ShardWriter would make it, except for what `change` does to its parts before they are written.
struct RawShard {
  std::vector<std::uint64_t> frame_dims = {12, 2, 2, 3};
  std::vector<std::uint8_t> frames = std::vector<std::uint8_t>(144, 9), actions = std::vector<std::uint8_t>(12, 3);
  std::vector<std::uint8_t> first = {1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0};
  std::vector<float> rewards = std::vector<float>(12, 0.0f), float_actions;
  std::vector<std::int32_t> level = {4, 5};
  std::vector<std::uint64_t> run_offset = {0, 6}, segment_offset = {0, 6, 9};
  std::vector<std::uint32_t> run_length = {6, 6}, segment_length = {6, 3, 3}, segment_run = {0, 1, 1};
  std::string format = "avid-clips", leave_out;
  std::int64_t version = 1;

  void write(const fs::path& path) const {
    H5File file(path, H5File::Mode::create);
    const auto put = [&](const char* name, H5Type type, const std::vector<std::uint64_t>& dims, const void* data) {
      if (leave_out != name) file.write(name, type, dims, data);
    };
    put("/frames", H5Type::u8, frame_dims, frames.data());
    if (float_actions.empty())
      put("/actions", H5Type::u8, {actions.size()}, actions.data());
    else
      put("/actions", H5Type::f32, {12, float_actions.size() / 12}, float_actions.data());
    put("/rewards", H5Type::f32, {rewards.size()}, rewards.data());
    put("/first", H5Type::u8, {first.size()}, first.data());
    file.make_group("/runs");
    put("/runs/level", H5Type::i32, {level.size()}, level.data());
    put("/runs/offset", H5Type::u64, {run_offset.size()}, run_offset.data());
    put("/runs/length", H5Type::u32, {run_length.size()}, run_length.data());
    file.make_group("/segments");
    put("/segments/offset", H5Type::u64, {segment_offset.size()}, segment_offset.data());
    put("/segments/length", H5Type::u32, {segment_length.size()}, segment_length.data());
    put("/segments/run", H5Type::u32, {segment_run.size()}, segment_run.data());
    if (leave_out != "format") file.set_attribute("format", format);
    file.set_attribute("version", version);
    for (const char* name :
         {"game", "distribution_mode", "options", "action_rng", "procgen_version", "library_sha256", "asset_notice"})
      if (leave_out != name) file.set_attribute(name, std::string("x"));
    for (const char* name : {"level_begin", "level_end", "steps_per_level", "dataset_seed", "frame_checksum"})
      if (leave_out != name) file.set_attribute(name, std::int64_t{1});
    file.close();
  }
};

}  // namespace

TEST_CASE("episode_store/round_trip/contiguous_and_deflated_give_back_every_value") {
  const auto runs = noisy_runs(6);
  std::vector<std::uint8_t> expected;
  for (const auto& run : runs) expected.insert(expected.end(), run.frames.begin(), run.frames.end());
  for (const StorageOptions& storage :
       {StorageOptions{}, StorageOptions{.deflate_level = 1},
        StorageOptions{.deflate_level = 9, .chunk_frames = 100}}) {
    for (const std::uint64_t cache_bytes : {std::uint64_t{0}, std::uint64_t{1} << 20}) {
      const test::TempDir dir;
      test::write_shard(dir / "a.h5", runs, test::small_meta(6, 3), storage);
      const EpisodeStore store({(dir / "a.h5").string()}, {.cache_bytes = cache_bytes});
      CHECK(store.num_frames() == 60);
      CHECK(store.num_actions() == 15);
      CHECK(all_frames(store) == expected);
      store.verify_frames();
      std::int64_t f = 0;
      for (std::size_t r = 0; r < runs.size(); ++r) {
        CHECK(store.runs()[r].level == static_cast<std::int32_t>(r));
        CHECK(store.runs()[r].begin == f);
        for (std::size_t t = 0; t < runs[r].first.size(); ++t, ++f) {
          REQUIRE(store.action(f) == runs[r].actions[t]);
          REQUIRE(store.reward(f) == runs[r].rewards[t]);
          REQUIRE(store.first(f) == (runs[r].first[t] == 1));
        }
      }
      CHECK(store.segments().size() == 6);
      CHECK(store.segments()[1].begin == 10);
      CHECK(store.segments()[1].length == 10);
    }
  }
}

TEST_CASE("episode_store/contiguous/positional_read_equals_the_librarys") {
  const test::TempDir dir;
  test::write_shard(dir / "a.h5", noisy_runs(5), test::small_meta(5, 3));
  const EpisodeStore store(dir / "a.h5");
  const H5File file(dir / "a.h5", H5File::Mode::read);
  CHECK(file.extent("/frames").offset_bytes.has_value());
  std::vector<std::uint8_t> ours(11 * 75), library(11 * 75);
  for (const std::int64_t begin : {0, 1, 17, 49}) {
    store.read_frames(begin, 11, ours);
    file.read_rows("/frames", H5Type::u8, static_cast<std::uint64_t>(begin), 11, library.data());
    CHECK(ours == library);
  }
}

TEST_CASE("episode_store/float_actions/round_trip_and_nan") {
  const test::TempDir dir;
  ShardMeta meta = test::small_meta(2);
  meta.action_width = 2;
  LevelRun run = test::counting_run(4, 2);
  run.actions.clear();
  std::vector<float> actions = {0, 1, -2, 3.5f, 4, 5, 6, 1e30f};
  {
    ShardWriter writer(dir / "a.h5", meta, 4, {});
    writer.append(0, run, actions);
    writer.finish();
  }
  const EpisodeStore store(dir / "a.h5");
  CHECK(store.action_width() == 2);
  CHECK(store.num_actions() == 0);
  CHECK(store.action_vector(1)[1] == 3.5f);
  CHECK_THROWS_AS(store.action(0), ShapeError);
  actions[5] = std::numeric_limits<float>::quiet_NaN();
  ShardWriter writer(dir / "b.h5", meta, 4, {});
  CHECK_THROWS_AS(writer.append(0, run, actions), ConfigError);
}

TEST_CASE("episode_store/shards/a_folder_a_pattern_and_a_list_are_one_dataset") {
  const test::TempDir dir;
  fs::create_directories(dir / "sub");
  test::write_shard(dir / "b.h5", {test::counting_run(5, 2, 50)}, test::small_meta(2));
  test::write_shard(dir / "a.h5", {test::counting_run(3, 2, 0), test::counting_run(4, 2, 20)}, test::small_meta(2, 2));
  test::write_shard(dir / "sub/c.h5", {test::counting_run(6, 2, 90)}, test::small_meta(2));
  std::ofstream(dir / "notes.txt") << "not a shard";
  const EpisodeStore folder(dir.path());
  CHECK(folder.num_frames() == 18);
  CHECK(folder.runs().size() == 4);
  CHECK(folder.runs()[3].shard == 2);
  CHECK(folder.runs()[3].begin == 12);
  std::vector<std::uint8_t> frame(12);
  folder.read_frames(11, 1, frame);
  CHECK(frame[0] == 54);
  folder.read_frames(12, 1, frame);
  CHECK(frame[0] == 90);
  CHECK(folder.action(13) == 1);
  frame.resize(24);
  CHECK_THROWS_AS(folder.read_frames(11, 2, frame), ShapeError);  // across two files
  CHECK_THROWS_AS(folder.read_frames(-1, 2, frame), ShapeError);
  CHECK_THROWS_AS(folder.read_frames(18, 2, frame), ShapeError);
  CHECK_THROWS_AS(folder.read_frames(0, 1, frame), ShapeError);
  CHECK(EpisodeStore(std::vector<std::string>{(dir / "?.h5").string()}).num_frames() == 12);
  CHECK(EpisodeStore(std::vector<std::string>{(dir / "b.h5").string(), (dir / "sub").string()}).num_frames() == 11);
  CHECK_THROWS_AS(EpisodeStore(std::vector<std::string>{(dir / "x*.h5").string()}), FileError);
  CHECK_THROWS_AS(EpisodeStore(std::vector<std::string>{}), FileError);
  fs::create_directories(dir / "empty");
  CHECK(contains(error_of(dir / "empty"), "no .h5 files"));
  test::write_shard(dir / "sub/d.h5", {test::counting_run(6, 4)}, test::small_meta(4));
  CHECK(contains(error_of(dir.path()), "expected 2x2"));
}

TEST_CASE("episode_store/threads/many_readers_see_the_same_bytes") {
  const test::TempDir dir;
  test::write_shard(dir / "a.h5", noisy_runs(8), test::small_meta(8, 3));
  test::write_shard(dir / "b.h5", noisy_runs(8, 2), test::small_meta(8, 3), {.deflate_level = 2, .chunk_frames = 7});
  const EpisodeStore store({dir.path().string()}, {.cache_bytes = 0});
  const auto expected = all_frames(store);
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < wrong.size(); ++i)
    threads.emplace_back([&, i] {
      std::mt19937 engine(static_cast<unsigned>(i));
      std::vector<std::uint8_t> frames(5 * store.frame_bytes());
      for (int n = 0; n < 50; ++n) {
        const std::int64_t begin =
            60 * static_cast<std::int64_t>(engine() % 2) + static_cast<std::int64_t>(engine() % 55);
        store.read_frames(begin, 5, frames);
        wrong[i] += !std::equal(
            frames.begin(), frames.end(), expected.begin() + begin * static_cast<std::int64_t>(store.frame_bytes()));
      }
    });
  for (auto& t : threads) t.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("episode_store/describe/names_what_is_in_it") {
  const test::TempDir dir;
  test::write_shard(dir / "a.h5", noisy_runs(2), test::small_meta(2, 3));
  const EpisodeStore store(dir / "a.h5");
  CHECK(contains(store.describe(), "60 frames 2x2 in 3 runs, 6 segments"));
  const auto json = nlohmann::json::parse(store.describe_json());
  CHECK(json["num_frames"] == 60);
  CHECK(json["shards"][0]["game"] == "coinrun");
  CHECK(json["shards"][0]["storage"] == "contiguous");
}

TEST_CASE("episode_store/sample/the_shipped_files_are_sound") {
  const fs::path samples = fs::path(AVID_SOURCE_DIR) / "data/samples";
  const EpisodeStore train(samples / "coinrun32-train.h5"), heldout(samples / "coinrun32-heldout.h5");
  CHECK(train.num_frames() == 160 * 128);
  CHECK(heldout.num_frames() == 32 * 96);
  CHECK(train.height() == 32);
  for (const Run& run : train.runs()) CHECK(run.level < 160);
  for (const Run& run : heldout.runs()) CHECK(run.level >= 10000);
  CHECK(fs::file_size(samples / "coinrun32-train.h5") + fs::file_size(samples / "coinrun32-heldout.h5") < 8'000'000);
}

TEST_CASE("episode_store/sample/actions_are_held_where_the_name_says_so") {
  const fs::path samples = fs::path(AVID_SOURCE_DIR) / "data/samples";
  // Share of steps with the action of the step before: 1/15 if each is drawn anew, 3/4 + 1/4 * 1/15 if every fourth is.
  const auto kept = [](const EpisodeStore& store) {
    std::int64_t same = 0, pairs = 0;
    for (const Run& run : store.runs())
      for (std::int64_t t = run.begin + 1; t < run.begin + run.length; ++t, ++pairs)
        same += store.action(t) == store.action(t - 1);
    return static_cast<double>(same) / static_cast<double>(pairs);
  };
  for (const std::string part : {"train", "heldout"}) {
    CAPTURE(part);
    const std::string name = "coinrun32-" + part;
    const EpisodeStore uniform(samples / (name + ".h5")), held(samples / (name + "-hold.h5"));
    CHECK(kept(uniform) == doctest::Approx(1.0 / 15).epsilon(0.1));
    CHECK(kept(held) == doctest::Approx(0.75 + 0.25 / 15).epsilon(0.03));
    CHECK(held.num_frames() == uniform.num_frames());
    REQUIRE(held.runs().size() == uniform.runs().size());
    for (std::size_t i = 0; i < held.runs().size(); ++i) CHECK(held.runs()[i].level == uniform.runs()[i].level);
  }
  CHECK(fs::file_size(samples / "coinrun32-train-hold.h5") < 5'000'000);
}

TEST_CASE("episode_store/writer/nothing_appears_before_finish") {
  const test::TempDir dir;
  const auto count = [&] { return std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()); };
  {
    ShardWriter writer(dir / "a.h5", test::small_meta(2), 10, {});
    writer.append(0, test::counting_run(10, 2));
    CHECK(!fs::exists(dir / "a.h5"));
  }
  CHECK(count() == 0);
  test::write_shard(dir / "a.h5", {test::counting_run(10, 2)}, test::small_meta(2));
  const std::string before = bytes_of(dir / "a.h5");
  {
    ShardWriter writer(dir / "a.h5", test::small_meta(2), 10, {});
    writer.append(0, test::counting_run(9, 2));
    CHECK_THROWS_AS(writer.finish(), ShapeError);  // a frame is missing
  }
  CHECK(bytes_of(dir / "a.h5") == before);
  CHECK(count() == 1);
}

TEST_CASE("episode_store/writer/runs_that_do_not_fit_are_refused") {
  const test::TempDir dir;
  ShardWriter writer(dir / "a.h5", test::small_meta(2), 10, {});
  CHECK_THROWS_AS(writer.append(0, test::counting_run(5, 4)), ShapeError);
  CHECK_THROWS_AS(writer.append(0, test::counting_run(11, 2)), ShapeError);
  CHECK_THROWS_AS(writer.append(0, {}), ShapeError);
  auto run = test::counting_run(5, 2);
  run.first[0] = 0;
  CHECK_THROWS_AS(writer.append(0, run), ShapeError);
  CHECK_THROWS_AS(ShardWriter(dir / "b.h5", test::small_meta(2), 0, {}), ConfigError);
  CHECK_THROWS_AS(ShardWriter(dir / "b.h5", test::small_meta(2), 5, {.deflate_level = 12}), ConfigError);
  CHECK_THROWS_AS(ShardWriter("/nonexistent/folder/b.h5", test::small_meta(2), 5, {}), FileError);
  CHECK_THROWS_AS(ShardWriter("/proc/b.h5", test::small_meta(2), 5, {}), FileError);
}

TEST_CASE("episode_store/writer/values_out_of_range_are_refused") {
  const test::TempDir dir;
  const auto refused = [&](auto change) {
    ShardWriter writer(dir / "a.h5", test::small_meta(2), 5, {});
    auto run = test::counting_run(5, 2);
    change(run);
    CHECK_THROWS_AS(writer.append(0, run), Error);
  };
  refused([](LevelRun& r) { r.actions[3] = 15; });
  refused([](LevelRun& r) { r.rewards[3] = std::numeric_limits<float>::infinity(); });
  refused([](LevelRun& r) { r.first[3] = 2; });
}

TEST_CASE("episode_store/writer/disk_full_leaves_nothing_and_says_so") {
  // A limit on file sizes fails writes just as a full disk does, without filling one.
  const test::TempDir dir;
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  struct sigaction ignore {
  }, old{};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &ignore, &old);
  std::string plain, deflated;
  {
    std::mt19937 engine(1);
    auto run = test::counting_run(400, 8);
    for (auto& byte : run.frames) byte = static_cast<std::uint8_t>(engine());
    const rlimit small{20000, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    for (const bool deflate : {false, true}) {
      try {
        test::write_shard(dir / "a.h5", {run}, test::small_meta(8), {.deflate_level = deflate ? 1 : 0});
      } catch (const FileError& error) {
        (deflate ? deflated : plain) = error.what();
      }
    }
    setrlimit(RLIMIT_FSIZE, &before);
  }
  sigaction(SIGXFSZ, &old, nullptr);
  CAPTURE(plain);
  CAPTURE(deflated);
  CHECK(contains(plain, "cannot be written"));
  CHECK(contains(deflated, "disk full?"));
  CHECK(fs::directory_iterator(dir.path()) == fs::directory_iterator());
}

TEST_CASE("episode_store/bad/files_that_are_no_datasets") {
  const test::TempDir dir;
  CHECK(contains(error_of(dir / "missing.h5"), "no such file"));
  write_bytes(dir / "a.h5", "");
  CHECK(contains(error_of(dir / "a.h5"), "is empty"));
  write_bytes(dir / "a.h5", std::string(5000, 'x'));
  CHECK(contains(error_of(dir / "a.h5"), "not a readable HDF5 file"));
  {
    H5File file(dir / "b.h5", H5File::Mode::create);
    file.close();
  }
  CHECK(contains(error_of(dir / "b.h5"), "no attribute format"));
}

TEST_CASE("episode_store/bad/every_part_is_checked") {
  const test::TempDir dir;
  const auto error_with = [&](auto change) {
    RawShard raw;
    change(raw);
    raw.write(dir / "a.h5");
    return error_of(dir / "a.h5");
  };
  CHECK(error_with([](RawShard&) {}) == "no error");
  CHECK(contains(error_with([](RawShard& r) { r.format = "clips"; }), "format: expected avid-clips, got 'clips'"));
  CHECK(contains(error_with([](RawShard& r) { r.version = 2; }), "version: expected 1, got 2"));
  for (const char* name :
       {"/frames", "/actions", "/rewards", "/first", "/runs/level", "/runs/offset", "/runs/length", "/segments/offset",
        "/segments/length", "/segments/run", "format", "game", "options", "frame_checksum", "level_end",
        "library_sha256"}) {
    const std::string error = error_with([&](RawShard& r) { r.leave_out = name; });
    CAPTURE(error);
    CHECK(contains(error, std::string(" ") + name));
  }
  CHECK(contains(error_with([](RawShard& r) { r.frame_dims = {0, 2, 2, 3}; }), "empty"));
  CHECK(contains(error_with([](RawShard& r) { r.frame_dims = {12, 2, 6}; }), "expected uint8 [N,H,W,3]"));
  CHECK(contains(error_with([](RawShard& r) { r.frame_dims = {6, 2, 3, 4}; }), "expected uint8 [N,H,W,3]"));
  CHECK(contains(error_with([](RawShard& r) { r.frame_dims = {6, 4, 2, 3}; }), "expected [6], got [12]"));
  CHECK(contains(error_with([](RawShard& r) { r.actions[7] = 15; }), "frame 7: expected 0..14, got 15"));
  CHECK(contains(error_with([](RawShard& r) { r.actions.resize(11); }), "/actions"));
  CHECK(
      contains(error_with([](RawShard& r) { r.float_actions.assign(24, std::nanf("")); }), "frame 0: expected finite"));
  CHECK(contains(error_with([](RawShard& r) { r.rewards[2] = std::nanf(""); }), "rewards: frame 2"));
  CHECK(contains(error_with([](RawShard& r) { r.first[2] = 7; }), "first: frame 2: expected 0 or 1, got 7"));
  CHECK(contains(error_with([](RawShard& r) { r.first[6] = 0; }), "first: run 1"));
  CHECK(contains(error_with([](RawShard& r) { r.first[3] = 1; }), "segments: segment 0"));
  CHECK(contains(error_with([](RawShard& r) { r.run_offset[1] = 5; }), "runs: run 1"));
  CHECK(contains(error_with([](RawShard& r) { r.run_length[1] = 7; }), "runs: run 1"));
  CHECK(contains(error_with([](RawShard& r) { r.run_length[1] = 5; }), "expected to cover 12 frames, got 11"));
  CHECK(contains(error_with([](RawShard& r) { r.run_length[0] = 0; }), "runs: run 0"));
  CHECK(contains(error_with([](RawShard& r) { r.level.pop_back(); }), "runs: expected level, offset and length"));
  CHECK(contains(error_with([](RawShard& r) { r.segment_length[2] = 2; }), "segments: segment 2"));
  CHECK(contains(error_with([](RawShard& r) { r.segment_run[2] = 0; }), "segments: segment 2"));
  CHECK(
      contains(error_with([](RawShard& r) { r.segment_run.pop_back(); }), "segments: expected offset, length and run"));
}

TEST_CASE("episode_store/corruption/truncated_anywhere_is_a_file_error") {
  const test::TempDir dir;
  for (const int deflate_level : {0, 3}) {
    test::write_shard(dir / "a.h5", noisy_runs(2), test::small_meta(2, 3), {.deflate_level = deflate_level});
    const std::string whole = bytes_of(dir / "a.h5");
    const std::size_t step = test::full_level() ? 1 : 101;
    int accepted = 0, other = 0;
    for (std::size_t n = 0; n < whole.size(); n += step) {
      write_bytes(dir / "cut.h5", whole.substr(0, n));
      try {
        const EpisodeStore store(dir / "cut.h5");
        ++accepted;
      } catch (const FileError&) {
      } catch (const std::exception&) {
        ++other;
      }
    }
    CHECK(accepted == 0);
    CHECK(other == 0);
  }
}

TEST_CASE("episode_store/corruption/flipped_bits_are_found_or_harmless") {
  const test::TempDir dir;
  for (const int deflate_level : {0, 3}) {
    const auto runs = noisy_runs(2);
    test::write_shard(dir / "a.h5", runs, test::small_meta(2, 3), {.deflate_level = deflate_level});
    const std::string whole = bytes_of(dir / "a.h5");
    const EpisodeStore original(dir / "a.h5");
    const auto frames = all_frames(original);
    std::mt19937 engine(5);
    const std::size_t description = original.describe_json().size() + 6;  // "flipped" is six letters longer than "a"
    int wrong = 0, refused = 0;
    for (int n = test::full_level() ? 4000 : 120; n > 0; --n) {
      std::string damaged = whole;
      const std::size_t at = engine() % damaged.size();
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << engine() % 8));
      write_bytes(dir / "flipped.h5", damaged);
      try {
        const EpisodeStore store(dir / "flipped.h5");
        store.verify_frames();
        // Not noticed: then it must have been in a byte that nobody reads.
        wrong += all_frames(store) != frames || store.describe_json().size() != description;
        for (std::int64_t f = 0; f < store.num_frames(); ++f)
          wrong += store.action(f) != original.action(f) || store.reward(f) != original.reward(f) ||
                   store.first(f) != original.first(f);
      } catch (const Error&) {
        ++refused;
      }
    }
    CHECK(wrong == 0);
    CHECK(refused > 30);
  }
}
