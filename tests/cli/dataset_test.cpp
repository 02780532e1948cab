// tests/cli/dataset_test.cpp -- avid collect, import, export: whole commands, with a made-up game library
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tensor/io/npz.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;

namespace {

namespace fs = std::filesystem;

/// A folder laid out like the unpacked package, with the made-up library in it; AVID_PROCGEN_DIR points to it.
struct FakePackage {
  FakePackage() {
    fs::create_directories(dir / "procgen/data/prebuilt");
    fs::create_directories(dir / "procgen/data/assets");
    fs::create_symlink(AVID_FAKE_LIBENV, dir / "procgen/data/prebuilt/libenv.so");
    setenv("AVID_PROCGEN_DIR", dir.path().c_str(), 1);
  }
  ~FakePackage() { unsetenv("AVID_PROCGEN_DIR"); }
  test::TempDir dir;
};

test::ProgramResult avid_program(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), AVID_PROGRAM);
  return test::run_program(arguments);
}

test::ProgramResult collect(const fs::path& out, const std::string& levels, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"collect", "--game", "coinrun", "--levels",  levels,
                                        "--steps", "40",     "--out",   out.string()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return avid_program(arguments);
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
bool is_one_line(const std::string& text) { return text.find('\n') == text.size() - 1; }
bool holds_nothing(const fs::path& folder) {
  return !fs::exists(folder) || fs::directory_iterator(folder) == fs::directory_iterator();
}

}  // namespace

TEST_CASE("dataset/collect/inspect_and_export_what_was_collected") {
  const FakePackage package;
  const test::TempDir dir;
  const auto made = collect(dir / "set", "2:5", {"--levels-per-shard", "2", "--jobs", "2", "--json"});
  CAPTURE(made.err);
  REQUIRE(made.exit_code == 0);
  const auto json = nlohmann::json::parse(made.out);
  CHECK(json["frames_written"] == 120);
  CHECK(json["shards"].size() == 2);
  const auto again = collect(dir / "set", "2:5", {"--levels-per-shard", "2", "--json"});
  CHECK(nlohmann::json::parse(again.out)["shards_found"] == 2);

  const auto inspected = avid_program({"inspect", (dir / "set").string(), "--json"});
  REQUIRE(inspected.exit_code == 0);
  CHECK(nlohmann::json::parse(inspected.out)["num_frames"] == 120);

  const auto exported = avid_program(
      {"export", (dir / "set").string(), "--level", "3", "--step", "5", "--frames", "4", "--out",
       (dir / "clip.npz").string()});
  CAPTURE(exported.err);
  REQUIRE(exported.exit_code == 0);
  CHECK(NpzFile(dir / "clip.npz").load("obs").shape() == Shape{4, 64, 64, 3});
  const auto pictures =
      avid_program({"export", (dir / "set").string(), "--frames", "3", "--out", (dir / "png").string()});
  CHECK(pictures.exit_code == 0);
  CHECK(fs::exists(dir / "png/coinrun-00002-0002.png"));
}

TEST_CASE("dataset/replay/frames_come_back_from_actions_alone") {
  const FakePackage package;
  const test::TempDir dir;
  REQUIRE(collect(dir / "stored", "2:5").exit_code == 0);
  const auto made = collect(dir / "replayed", "2:5", {"--replay"});
  CAPTURE(made.err);
  REQUIRE(made.exit_code == 0);
  const auto verified = avid_program({"inspect", (dir / "replayed").string(), "--verify", "--json"});
  CAPTURE(verified.err);
  REQUIRE(verified.exit_code == 0);
  const auto json = nlohmann::json::parse(verified.out);
  CHECK(json["verified_frames"] == 120);
  CHECK(json["shards"][0]["storage"] == "replayed");
  CHECK(contains(avid_program({"inspect", (dir / "stored").string(), "--verify"}).out, "verified: 120 frames"));
  // The same frames, out of the stored file and out of the game.
  const auto export_of = [&](const char* set) {
    const auto result = avid_program(
        {"export", (dir / set).string(), "--out", (dir / (std::string(set) + ".npz")).string(), "--level", "3",
         "--step", "5", "--frames", "30"});
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return read_text(dir / (std::string(set) + ".npz"));
  };
  CHECK(export_of("stored") == export_of("replayed"));
  CHECK(avid_program({"inspect", (dir / "stored.npz").string(), "--verify"}).exit_code == 2);
  // A flipped bit in stored frames is found, and named.
  const fs::path file = dir / "stored/coinrun-00002-00005.h5";
  std::string bytes = read_text(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  write_text_atomic(file, bytes);
  const auto damaged = avid_program({"inspect", file.string(), "--verify"});
  CHECK(damaged.exit_code == 1);
  CHECK(contains(damaged.err, "frames: checksum: expected"));
  CHECK(is_one_line(damaged.err));
  CHECK(avid_program({"inspect", file.string()}).exit_code == 0);  // nobody asked
  // Another library may draw other frames; without any, the tables can still be looked at.
  setenv("AVID_PROCGEN_DIR", dir.path().c_str(), 1);
  CHECK(avid_program({"inspect", (dir / "replayed").string()}).exit_code == 0);
  CHECK(contains(avid_program({"inspect", (dir / "replayed").string(), "--verify"}).err, "get_procgen.sh"));
  fs::create_directories(dir / "procgen/data/prebuilt");
  write_text_atomic(dir / "procgen/data/prebuilt/libenv.so", "another library");
  const auto other = avid_program({"inspect", (dir / "replayed").string(), "--verify"});
  CHECK(other.exit_code == 1);
  CHECK(contains(other.err, "recorded with the game library"));
  CHECK(is_one_line(other.err));
}

TEST_CASE("dataset/collect/a_game_that_dies_is_one_line_and_loses_no_finished_shard") {
  const FakePackage package;
  const test::TempDir dir;
  const auto result = collect(dir / "set", "665:668", {"--levels-per-shard", "1"});
  CAPTURE(result.err);
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err, "its last words: \"fatal: assertion failed: the coin is gone\""));
  CHECK(is_one_line(result.err));
  CHECK(result.out.empty());
  CHECK(fs::exists(dir / "set/coinrun-00665-00666.h5"));
  CHECK(!fs::exists(dir / "set/coinrun-00666-00667.h5"));
}

TEST_CASE("dataset/collect/bad_input_is_one_line") {
  const FakePackage package;
  const test::TempDir dir;
  const auto check = [&](const test::ProgramResult& result, int exit_code, const std::string& text) {
    CAPTURE(result.err);
    CHECK(result.exit_code == exit_code);
    CHECK(contains(result.err, text));
    CHECK(result.out.empty());
    CHECK(holds_nothing(dir / "set"));
  };
  check(collect(dir / "set", "x"), 2, "--levels");
  check(collect(dir / "set", "5:5"), 2, "levels: expected A:B");
  check(collect(dir / "set", "0:2", {"--size", "48"}), 2, "expected a divisor of 64");
  check(collect(dir / "set", "0:2", {"--mode", "extreme"}), 2, "coinrun has no mode extreme");
  check(collect(dir / "set", "0:2", {"--actions", "lazy"}), 2, "expected uniform or hold");
  check(collect("/proc/nowhere", "0:2"), 1, "/proc/nowhere");
  check(
      avid_program({"collect", "--game", "coinrum", "--levels", "0:2", "--out", (dir / "set").string()}), 2,
      "did you mean coinrun?");
  setenv("FAKE_LIBENV_VERSION", "2", 1);
  check(collect(dir / "set", "0:2"), 1, "interface version: expected 1, got 2");
  unsetenv("FAKE_LIBENV_VERSION");
  setenv("AVID_PROCGEN_DIR", dir.path().c_str(), 1);
  check(collect(dir / "set", "0:2"), 1, "scripts/get_procgen.sh");
}

TEST_CASE("dataset/collect/disk_full_is_one_line_and_leaves_nothing") {
  const FakePackage package;
  const test::TempDir dir;
  for (const char* compress : {"0", "1"}) {
    // A limit on file sizes, 16 KiB, stands in for the full disk.
    const auto result = test::run_program(
        {"bash", "-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", AVID_PROGRAM, "collect", "--game", "coinrun",
         "--levels", "0:3", "--steps", "40", "--compress", compress, "--chunk-frames", "1", "--out",
         (dir / "set").string()});
    CAPTURE(result.err);
    CHECK(result.exit_code == 1);
    CHECK(contains(result.err, "cannot be written"));
    CHECK(holds_nothing(dir / "set"));
  }
}

TEST_CASE("dataset/collect/ctrl_c_keeps_finished_shards_and_says_how_to_go_on") {
  const FakePackage package;
  const test::TempDir dir;
  // The shell starts the program, waits for its first shard, and interrupts it.
  const std::string set = (dir / "set").string();
  const auto result = test::run_program(
      {"bash", "-c",
       "\"$0\" collect --game coinrun --levels 0:2000 --steps 40 --levels-per-shard 1 --out \"$1\" & child=$!; "
       "for i in $(seq 1000); do [ -e \"$1\"/coinrun-00000-00001.h5 ] && break; sleep 0.02; done; kill -INT $child; "
       "wait $child",
       AVID_PROGRAM, set});
  CAPTURE(result.err);
  CHECK(result.exit_code == 130);
  CHECK(contains(result.err, "the same command goes on from there"));
  CHECK(fs::exists(dir / "set/coinrun-00000-00001.h5"));
  for (const auto& entry : fs::directory_iterator(dir / "set"))
    CHECK((entry.path().extension() == ".h5" || entry.path().filename() == "coinrun-00000-02000.unfinished"));
  // Nobody takes what is there for the whole, unless file by file.
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"inspect", set},
        {"clips", "--data", set, "--count", "2", "--out", dir / "clips.json"}}) {
    const auto half = avid_program(command);
    CHECK(half.exit_code == 1);
    CHECK(
        contains(half.err, "half collected: some shards of coinrun-00000-02000 are missing | repeat its avid collect"));
    CHECK(is_one_line(half.err));
  }
  CHECK(avid_program({"clips", "--data", set + "/*.h5", "--count", "2", "--out", dir / "clips.json"}).exit_code == 0);
}

TEST_CASE("dataset/import/round_trip_of_exported_clips") {
  const FakePackage package;
  const test::TempDir dir;
  REQUIRE(collect(dir / "set", "4").exit_code == 0);
  const auto chunk = [&](int i) {
    return (dir / ("coinrun_lvl_4_chunk_" + std::to_string(i) + "_00000000000000000001.npz")).string();
  };
  for (int i = 0; i < 2; ++i) {
    const auto result = avid_program(
        {"export", (dir / "set").string(), "--step", std::to_string(20 * i), "--frames", "20", "--out", chunk(i)});
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
  }
  const auto imported = avid_program({"import", chunk(0), chunk(1), "--out", (dir / "imported").string(), "--json"});
  CAPTURE(imported.err);
  REQUIRE(imported.exit_code == 0);
  CHECK(nlohmann::json::parse(imported.out)["num_runs"] == 1);
  const auto checksum = [&](const char* folder) {
    return nlohmann::json::parse(
        avid_program({"inspect", (dir / folder).string(), "--json"}).out)["shards"][0]["frame_checksum"];
  };
  CHECK(checksum("imported") == checksum("set"));
  const auto nothing = avid_program({"import", (dir / "set").string(), "--out", (dir / "x").string()});
  CHECK(nothing.exit_code == 1);
  CHECK(contains(nothing.err, "no chunks found"));
}
