// tests/cli/bench_kernels_test.cpp -- avid bench kernels where there is no GPU: the ops without products, and refusals
#include <algorithm>
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

}  // namespace

TEST_CASE("bench_kernels/cpu/ops without products beside a copy") {
  const auto result = bench({"--json"});
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
  bool attention = false, kernel_7x7 = false;
  for (const Json& row : out["products"]) {
    const Json& sizes = row["sizes"];
    CHECK(row["tflop_per_s"].get<double>() == doctest::Approx(row["gflop"].get<double>() / row["ms"].get<double>()));
    if (row["op"] == "temporal_attention" && sizes["height"] == 16) {
      attention = true;
      CHECK(row["calls"] == 3.0);
      CHECK(
          sizes == Json{
                       {"clips", 1},
                       {"frames", 8},
                       {"height", 16},
                       {"width", 16},
                       {"channels", 8},
                       {"heads", 1},
                       {"head_dim", 8}});
      // Of 2048 positions: four projections of 8 x 8, and 8 x 8 products with keys and with values.
      CHECK(row["gflop"].get<double>() == doctest::Approx(2e-9 * 2048 * (4 * 64 + 2 * 64)));
    }
    if (row["op"] == "conv3d" && sizes["kernel_height"] == 7) {
      kernel_7x7 = true;
      CHECK(sizes["channels"] == 9);
      CHECK(sizes["outputs"] == 8);
      CHECK(sizes["padding_width"] == 3);
      CHECK(sizes["fwd"] == 1);
    }
  }
  CHECK(attention);
  CHECK(kernel_7x7);
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
