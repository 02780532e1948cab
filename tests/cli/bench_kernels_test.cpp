// tests/cli/bench_kernels_test.cpp -- avid bench kernels without NVIDIA's libraries, on the CPU or a GPU; refusals
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

using Json = nlohmann::json;

test::ProgramResult bench(const std::vector<std::string>& more) {
  std::vector<std::string> words{
      AVID_PROGRAM, "bench", "kernels", "--kind", "sample", "--config", AVID_SOURCE_DIR "/configs/tiny/base.toml",
      "--clips",    "1",     "--steps", "2"};
  words.insert(words.end(), more.begin(), more.end());
  return test::run_program(words);
}

/// What a forward pass at a row's sizes has to do, two FLOPs per multiply-add.
double flops_of(const Json& row) {
  const auto size = [&row](const char* name) { return row["sizes"].value(name, 0.0); };
  double positions = size("clips") * size("frames") * size("height") * size("width");
  if (row["sizes"].contains("heads")) {
    const double inner = size("heads") * size("head_dim");
    // Four projections, then two products per position: with all keys it sees, or with a head's matrix.
    const std::map<std::string, double> seen = {
        {"temporal_attention", size("frames")},
        {"spatial_attention", size("height") * size("width")},
        {"linear_attention", size("head_dim")}};
    return 2 * positions * inner * (4 * size("channels") + 2 * seen.at(row["op"]));
  }
  if (row["op"] != "conv_transpose3d") positions /= size("stride_height") * size("stride_width");
  return 2 * positions * size("outputs") * (size("channels") + size("channels2")) * size("kernel_height") *
         size("kernel_width");
}

}  // namespace

TEST_CASE("bench_kernels/step/every convolution and attention, ops without products beside a copy") {
  const Device device = test::device_under_test();
  const bool gpu = device.kind == DeviceKind::cuda;
  const auto result = bench({"--json", "--no-libraries", "--device", gpu ? device.to_string() : "cpu"});
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const Json out = Json::parse(result.out);
  CHECK(out["kernels"].empty());
  CHECK(out["copy_gbyte_per_s"].get<double>() > 0);
  bool norm = false;
  for (const Json& row : out["memory_bound"]) {
    norm |= row["op"] == "rms_norm_film_silu";
    const double us = row["us"].get<double>();
    CHECK(row["quartiles_us"][0].get<double>() <= us);
    CHECK(row["quartiles_us"][1].get<double>() >= us);
    CHECK(row["gbyte_per_s"].get<double>() == doctest::Approx(row["mbyte"].get<double>() / us * 1e3));
    CHECK(
        row["share_of_copy"].get<double>() ==
        doctest::Approx(row["gbyte_per_s"].get<double>() / out["copy_gbyte_per_s"].get<double>()));
  }
  CHECK(norm);
  std::map<std::string, double> calls;
  for (const Json& row : out["products"]) {
    CAPTURE(row.dump());
    CHECK(row["tflop_per_s"].get<double>() == doctest::Approx(row["gflop"].get<double>() / row["ms"].get<double>()));
    CHECK(row["share_of_product"].get<double>() > 0);
    CHECK(row["gflop"].get<double>() == doctest::Approx(1e-9 * flops_of(row)));
    const Json& sizes = row["sizes"];
    CHECK(sizes["clips"] == 1);
    CHECK(sizes["frames"] == 8);
    const std::string what = sizes.contains("heads") ? row["op"].get<std::string>()
                                                     : sizes["kernel_height"].dump() + sizes["stride_height"].dump();
    calls[what] += row["calls"].get<double>();
    if (what == "71") {
      CHECK(sizes["height"] == 16);
      CHECK(sizes["channels"] == 9);  // three of the noisy frame, three of each of two known ones
      CHECK(sizes["outputs"] == 8);
      CHECK(sizes["fwd"] == 1);
    }
  }
  // Two residual blocks at each of two levels, down and up, two in the middle and one at the end, of two 3x3 each; a
  // step down and one up. Linear attention at each level, down and up, spatial in the middle; through time in all these
  // places and behind the first convolution.
  CHECK(
      calls == std::map<std::string, double>{
                   {"71", 1},
                   {"31", 22},
                   {"42", 2},
                   {"temporal_attention", 6},
                   {"linear_attention", 4},
                   {"spatial_attention", 1}});
}

TEST_CASE("bench_kernels/options/what cannot be timed is refused in one line") {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"--device", "sim"}, "expected --device cpu or cuda, or --sim"},
      {{"--dtype", "f64"}, "--dtype: expected f32 or bf16, got f64"}};
  for (const auto& [words, message] : cases) {
    CAPTURE(message);
    const auto result = bench(words);
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    CHECK(result.err.find(message) != std::string::npos);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  }
}

}  // namespace avid
