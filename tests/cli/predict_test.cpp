// tests/cli/predict_test.cpp -- avid bench step --predict: what it prints adds up and agrees with the network's cost
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

using Json = nlohmann::json;
using test::ProgramResult;

const std::filesystem::path kRoot = AVID_SOURCE_DIR;

ProgramResult predict(const std::vector<std::string>& more) {
  std::vector<std::string> words{AVID_PROGRAM, "bench", "step"};
  words.insert(words.end(), more.begin(), more.end());
  return test::run_program(words);
}

/// Builds with sanitizers have no such program.
bool has_traffic_program() {
  return std::filesystem::exists(std::filesystem::path(AVID_PROGRAM).parent_path() / "avid_traffic");
}

}  // namespace

TEST_CASE("predict/bad values/one line") {
  const std::string config = (kRoot / "configs/tiny/base.toml").string();
  struct Case {
    std::vector<std::string> words;
    std::string text;
  };
  for (const Case& c :
       {Case{{"--predict", "b200", "--config", config}, "--predict: b200 not in {a100,h100,h200}"},
        Case{{"--predict", "a100"}, "bench step: --predict needs --config"},
        Case{{"--predict", "a100", "--config", config, "--device", "sim"}, "--predict needs no device"},
        Case{{"--kernels", "--config", config}, "bench step: --kernels goes with --predict"}}) {
    const ProgramResult result = predict(c.words);
    CAPTURE(result.err);
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    CHECK(result.err.find(c.text) != std::string::npos);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  }
}

TEST_CASE("predict/sampling step/lines add up") {
  const std::vector<std::string> words{
      "--predict", "a100", "--kind",  "sample", "--config", (kRoot / "configs/tiny/base.toml").string(),
      "--clips",   "2",    "--dtype", "bf16",   "--json"};
  const ProgramResult result = predict(words);
  CAPTURE(result.err);
  if (!has_traffic_program()) {
    CHECK(result.exit_code == 2);
    CHECK(result.err.find("avid_traffic, which is built with the tests") != std::string::npos);
    return;
  }
  REQUIRE(result.exit_code == 0);
  const Json out = Json::parse(result.out);
  CHECK(out["note"] == "predicted, not measured");
  CHECK(out["gpu"] == "A100 SXM 40 GB");
  CHECK(out["clips"] == 2);
  double ms = 0, useful = 0, kernels_ms = 0, launches = 0, kernel_launches = 0;
  for (const Json& line : out["lines"]) {
    CAPTURE(line.dump());
    ms += line["predicted_ms"].get<double>();
    useful += line["tflop"].get<double>();
    launches += line["launches"].get<double>();
    CHECK(line["predicted_ms"].get<double>() >= line["floor_ms"].get<double>());
    // What tensor cores are given is never less than what the networks need.
    if (line["line"] == "conv 3x3") CHECK(line["issued_tflop"].get<double>() >= 0.99 * line["tflop"].get<double>());
  }
  for (const Json& kernel : out["kernels"]) {
    kernels_ms += kernel["predicted_ms"].get<double>();
    kernel_launches += kernel["launches"].get<double>();
    // Blocks that are resident share a multiprocessor's 164 KiB, and each reserves one.
    CAPTURE(kernel.dump());
    const double shared = kernel["shared_bytes"], resident = kernel["resident_blocks"];
    CHECK(resident * (shared + 1024) <= 164 * 1024);
    if (kernel["kernel"].get<std::string>().rfind("gather_gemm", 0) == 0) CHECK(shared > 4096);
  }
  const double total = out["predicted_ms"];
  CHECK(total > 0);
  CHECK(ms == doctest::Approx(total).epsilon(1e-9));
  CHECK(kernels_ms == doctest::Approx(total).epsilon(1e-9));
  CHECK(kernel_launches == launches);
  CHECK(launches > 50);
  // The same products as models/cost.h has; fused norms say a few more.
  CHECK(useful == doctest::Approx(out["tflop_per_step"].get<double>()).epsilon(0.05));
  CHECK(
      out["share_of_gemm"].get<double>() ==
      doctest::Approx(out["tflop_per_step"].get<double>() / (271 * total * 1e-3)).epsilon(1e-9));
}

}  // namespace avid
