// tests/cli/sample_test.cpp -- avid sample: files, settings, actions, mistakes
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

const std::string kHeldOut = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5";

/// avid sample with the small model of the case ddpm (8 steps) and these words.
ProgramResult sample(const std::string& out, std::vector<std::string> words) {
  std::vector<std::string> command{AVID_PROGRAM,  "sample",
                                   "--base",      golden("pixel/ddpm/base.safetensors"),
                                   "--adapter",   golden("pixel/ddpm/adapter.safetensors"),
                                   "--timesteps", "8",
                                   "--steps",     "2",
                                   "--frames",    "4",
                                   "--clips",     "2",
                                   "--out",       out};
  command.insert(command.end(), words.begin(), words.end());
  return run_program(command);
}

}  // namespace

TEST_CASE("sample/files/pictures_carry_their_settings") {
  const TempDir dir;
  const ProgramResult result = sample(dir / "a", {"--data", kHeldOut, "--json"});
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const auto printed = nlohmann::json::parse(result.out);
  CHECK(printed["n_clips"] == 2);
  CHECK(printed["actions"][0].size() == 4);
  CHECK(printed["mask_mean_per_step"].size() == 2);
  CHECK(nlohmann::json::parse(read_text(dir / "a/settings.json"))["command"] == "sample");
  const std::string png = read_text(dir / "a/strip.png");
  CHECK(png.find(std::string("tEXtavid\0{\"program\"", 19)) != std::string::npos);
  const std::string gif = read_text(dir / "a/clip_01.gif");
  CHECK(gif.starts_with("GIF89a"));
  CHECK(gif.find("\"command\":\"sample\"") != std::string::npos);
  const SafetensorsFile tensors(dir / "a/samples.safetensors");
  CHECK(tensors.load("generated").shape() == Shape{2, 4, 32, 32, 3});
  CHECK(tensors.load("mask").shape() == Shape{2, 4, 32, 32, 1});
  CHECK(tensors.contains("real"));
  CHECK(tensors.contains("base"));
}

TEST_CASE("sample/actions/change_the_video_and_nothing_else") {
  const TempDir dir;
  REQUIRE(sample(dir / "r", {"--data", kHeldOut, "--actions", "right*4"}).exit_code == 0);
  REQUIRE(sample(dir / "l", {"--data", kHeldOut, "--actions", "left*2,jump*2", "--batch", "1"}).exit_code == 0);
  REQUIRE(sample(dir / "again", {"--data", kHeldOut, "--actions", "right*4", "--batch", "1"}).exit_code == 0);
  const SafetensorsFile right(dir / "r/samples.safetensors"), left(dir / "l/samples.safetensors"),
      again(dir / "again/samples.safetensors");
  CHECK(same_bits(right.load("cond"), left.load("cond")));
  CHECK(same_bits(right.load("base"), left.load("base")));
  CHECK_FALSE(same_bits(right.load("generated"), left.load("generated")));
  CHECK(same_bits(right.load("generated"), again.load("generated")));
  CHECK(left.load("actions").to_values<std::int64_t>() == std::vector<std::int64_t>{1, 1, 5, 5, 1, 1, 5, 5});
  // From a file with a line per clip, going on from the frames just made.
  write_text_atomic(dir / "actions.txt", "# two clips\nright*4\nnone*3,left\n");
  REQUIRE(
      sample(
          dir / "on",
          {"--start-from", (dir / "r/samples.safetensors").string() + ":generated", "--actions", dir / "actions.txt"})
          .exit_code == 0);
  const SafetensorsFile on(dir / "on/samples.safetensors");
  CHECK(on.load("actions").to_values<std::int64_t>() == std::vector<std::int64_t>{7, 7, 7, 7, 4, 4, 4, 1});
  CHECK_FALSE(on.contains("real"));
  const auto last = right.load("generated").select(1).select(3);
  CHECK(same_bits(on.load("cond").select(1).select(1), last));
}

TEST_CASE("sample/metadata/settings_of_the_training_are_used") {
  const TempDir dir;
  save_safetensors(
      dir / "base.safetensors", SafetensorsFile(golden("pixel/ddpm/base.safetensors")).load_all(),
      {{"avid.timesteps", "6"}, {"avid.schedule", "cosine"}, {"avid.frames", "3"}, {"avid.size", "16"}});
  const ProgramResult result = run_program(
      {AVID_PROGRAM, "sample", "--base", dir / "base.safetensors", "--data", kHeldOut, "--clips", "1", "--sampler",
       "ddpm", "--out", dir / "x", "--json"});
  REQUIRE(result.exit_code == 0);
  const auto settings = nlohmann::json::parse(result.out);
  CHECK(settings["schedule"]["kind"] == "cosine");
  CHECK(settings["sampler"]["steps"] == 6);
  CHECK(settings["frames"] == 3);
  CHECK(settings["height"] == 16);
  CHECK(settings["actions"].empty());
}

TEST_CASE("sample/errors/usage_is_2_and_files_are_1") {
  const TempDir dir;
  const auto expect = [&](int exit_code, const std::string& text, std::vector<std::string> words) {
    CAPTURE(text);
    const ProgramResult result = sample(dir / "x", std::move(words));
    CHECK(result.exit_code == exit_code);
    CHECK(result.out == "");
    CHECK(result.err.find(text) != std::string::npos);
  };
  expect(2, "expected 4", {"--data", kHeldOut, "--actions", "right*3"});
  expect(2, "got 'rihgt'", {"--data", kHeldOut, "--actions", "rihgt*4"});
  expect(2, "--data or --start-from", {});
  save_safetensors(dir / "start.safetensors", {{"frames", Tensor::zeros({1, 2, 16, 16, 3}, DType::u8)}});
  for (const auto& [option, value] : {std::pair("--size", "8"), std::pair("--resets", "allow")})
    expect(
        2, "they are about --data", {"--start-from", dir / "start.safetensors", "--actions", "right*4", option, value});
  // A file of actions names the line, and shows what stands there without a terminal's control characters.
  write_text_atomic(dir / "actions.txt", "right*4\n\x1b[2J\x7f\r*4\n");
  expect(1, "actions.txt: line 2: actions: expected left", {"--data", kHeldOut, "--actions", dir / "actions.txt"});
  const ProgramResult binary = sample(dir / "x", {"--data", kHeldOut, "--actions", dir / "actions.txt"});
  CHECK(binary.err.find('\x1b') == std::string::npos);
  CHECK(binary.err.find('\r') == std::string::npos);
  expect(2, "ddpm takes every step", {"--data", kHeldOut, "--sampler", "ddpm"});
  expect(2, "euler", {"--data", kHeldOut, "--sampler", "euler"});
  expect(1, "/missing.h5", {"--data", dir / "missing.h5"});
  expect(1, "multiple", {"--data", kHeldOut, "--size", "1"});
  const ProgramResult wrong_model = run_program(
      {AVID_PROGRAM, "sample", "--base", golden("pixel/classifier/classifier.safetensors"), "--data", kHeldOut, "--out",
       dir / "y"});
  CHECK(wrong_model.exit_code == 1);
  CHECK(wrong_model.err.find("error: ") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(dir / "y"));
  write_text_atomic(dir / "file", "x");
  const ProgramResult unwritable = sample((dir / "file/sub").string(), {"--data", kHeldOut});
  CHECK(unwritable.exit_code == 1);
  CHECK(unwritable.err.find("cannot make this folder") != std::string::npos);
}

}  // namespace avid::test
