// tests/cli/export_test.cpp -- avid export: samples as .npz, .mp4 and PNG files, and what cannot be
#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/media/mp4.h"
#include "tensor/io/npz.h"
#include "tests/boolean_npz.h"
#include "tests/cli/report_fixture.h"
#include "tests/doctest.h"

namespace avid::test {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

ProgramResult export_to(std::vector<std::string> words) {
  words.insert(words.begin(), {AVID_PROGRAM, "export"});
  return run_program(words);
}

void expect_error(int exit_code, const std::string& text, const std::vector<std::string>& words) {
  CAPTURE(text);
  const ProgramResult result = export_to(words);
  CAPTURE(result.err);
  CHECK(result.exit_code == exit_code);
  CHECK(result.out.empty());
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.find(text) != std::string::npos);
}

const std::string kData = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5";

}  // namespace

TEST_CASE("export/samples/npz_keeps_every_tensor") {
  const TempDir dir;
  write_samples(dir / "s", 10, true);
  REQUIRE(export_to({dir / "s", "--out", dir / "all.npz"}).exit_code == 0);
  const auto from = open_tensor_file(dir / "s/samples.safetensors");
  const NpzFile to(dir / "all.npz");
  CHECK(to.names().size() == from->names().size());
  for (const std::string& name : from->names()) CHECK(same_bits(to.load(name), from->load(name)));
  // Back in as videos: metrics take the file as it is.
  const ProgramResult metrics = run_program(
      {AVID_PROGRAM, "metrics", "--real", (dir / "all.npz").string() + ":generated", "--generated",
       (dir / "s/samples.safetensors").string() + ":generated", "--metrics", "mse", "--json"});
  REQUIRE(metrics.exit_code == 0);
  CHECK(Json::parse(metrics.out)["mse"] == 0);

  REQUIRE(export_to({dir / "s/samples.safetensors", "--clip", "1", "--out", dir / "one.npz"}).exit_code == 0);
  const Tensor all = from->load("generated"), one = NpzFile(dir / "one.npz").load("generated");
  CHECK(same_bits(one, all.slice(1, 2)));
}

TEST_CASE("export/samples/pictures_of_every_frame") {
  const TempDir dir;
  write_samples(dir / "s", 10, true);
  const ProgramResult result = export_to({dir / "s", "--out", dir / "png", "--scale", "3", "--json"});
  REQUIRE(result.exit_code == 0);
  const Json json = Json::parse(result.out);
  CHECK(json["clips"] == 2);
  CHECK(json["files"].size() == 2 * (2 + 4));
  for (const Json& file : json["files"]) CHECK(read_text(file.get<std::string>()).starts_with("\x89PNG"));
}

TEST_CASE("export/mp4/a_video_or_one_line_that_says_why_not") {
  const TempDir dir;
  write_samples(dir / "s", 10, false);
  const std::string from_samples = dir / "s.mp4", from_data = dir / "d.mp4";
  if (!eval::mp4_problem().empty()) {
    expect_error(1, "this build has no video encoder", {dir / "s", "--out", from_samples});
    expect_error(1, "this build has no video encoder", {kData, "--out", from_data});
    return;
  }
  REQUIRE(export_to({dir / "s", "--out", from_samples}).exit_code == 0);
  REQUIRE(export_to({kData, "--frames", "5", "--out", from_data}).exit_code == 0);
  CHECK(read_text(from_samples).substr(4, 4) == "ftyp");
  CHECK(read_text(from_data).substr(4, 4) == "ftyp");
  CHECK(fs::file_size(from_samples) > fs::file_size(from_data));  // noise in 12 frames, a game in 5
}

TEST_CASE("export/errors/one_line_each") {
  const TempDir dir;
  write_samples(dir / "s", 10, false);
  expect_error(2, "--clip: expected 0 to 1, got 2", {dir / "s", "--clip", "2", "--out", dir / "a.npz"});
  expect_error(2, "these are samples", {dir / "s", "--level", "3", "--out", dir / "a.npz"});
  expect_error(2, "--frames: these are samples", {dir / "s", "--frames", "3", "--out", dir / "a.npz"});
  expect_error(2, "an .npz holds the frames as they are", {dir / "s", "--scale", "8", "--out", dir / "a.npz"});
  expect_error(2, "--level: expected a number of at least 0", {kData, "--level", "-3", "--out", dir / "a.npz"});
  expect_error(2, "chooses among samples", {kData, "--clip", "0", "--out", dir / "a.npz"});
  save_safetensors(dir / "half.safetensors", {{"generated", Tensor::zeros({1, 2, 8, 8, 3}, DType::u8)}}, {});
  expect_error(1, "expected tensors 'generated' and 'cond'", {dir / "half.safetensors", "--out", dir / "a.npz"});
  save_safetensors(
      dir / "odd.safetensors",
      {{"generated", Tensor::zeros({1, 2, 8, 8, 3}, DType::u8)}, {"cond", Tensor::zeros({2, 2, 8, 8, 3}, DType::u8)}},
      {});
  expect_error(1, "cond: expected u8 frames that go with generated", {dir / "odd.safetensors", "--out", dir / "a.npz"});
  save_npz_with_booleans(
      dir / "flags.npz",
      {{"generated", Tensor::zeros({1, 2, 8, 8, 3}, DType::u8)}, {"cond", Tensor::zeros({1, 2, 8, 8, 3}, DType::u8)}},
      "generated");
  expect_error(1, "tensor 'generated': expected numbers, got booleans", {dir / "flags.npz", "--out", dir / "a.npz"});
  expect_error(2, "--frames: expected a number above 0, got 0", {kData, "--frames", "0", "--out", dir / "a.npz"});
  CHECK_FALSE(fs::exists(dir / "a.npz"));
}

}  // namespace avid::test
