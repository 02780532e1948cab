// tests/train/kernel_bench_test.cpp -- rows, tables and JSON of avid bench kernels, from numbers worked out by hand
#include "train/kernel_bench.h"

#include <map>
#include <sstream>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::train;
using avid::kernels::WatchedCall;

namespace {

// Two steps. A norm of 4 MB is called twice in each and takes 1, 2, 3, 6 ms; one of 1 MB once, 1 and 3 ms; Adam 50 ms.
std::vector<WatchedCall> two_steps() {
  std::vector<WatchedCall> calls;
  for (const double ms : {2.0, 1.0, 6.0, 3.0})
    calls.push_back({.op = "norm", .module = "downs.0", .seconds = ms * 1e-3, .bytes = 4e6, .elements = 500000});
  for (const double ms : {3.0, 1.0})
    calls.push_back({.op = "norm", .module = "mid", .seconds = ms * 1e-3, .bytes = 1e6, .elements = 125000});
  for (int i = 0; i < 2; ++i)
    calls.push_back({.op = "adam_update", .module = "", .seconds = 0.05, .bytes = 100e6, .elements = 9});
  calls.push_back({.op = "reshape", .module = "mid", .seconds = 1, .bytes = 0, .elements = 0});
  return calls;
}

// 10 GB/s.
KernelBench bench() {
  KernelBench out{.device = "cuda:0 (a test)", .dtype = "bf16", .kind = "base"};
  out.opponents = {
      {.what = "small", .native_ms = {1, 1, 2}, .library_ms = kernels::Spread{3, 4, 5}, .refusal = "", .calls = 4},
      {.what = "large", .native_ms = {19, 20, 22}, .library_ms = kernels::Spread{9, 10, 11}, .refusal = "", .calls = 2},
      {.what = "alone", .native_ms = {5, 5, 5}, .library_ms = {}, .refusal = "cuDNN has none", .calls = 2}};
  out.opponent_steps = 2;
  out.memory = memory_rows(two_steps(), 2);
  out.peaks = DevicePeaks{1e12, 10e9, "a test"};
  return out;
}

}  // namespace

TEST_CASE("kernel_bench/rows/per op and size, the longest in a step first") {
  const auto rows = memory_rows(two_steps(), 2);
  REQUIRE(rows.size() == 3);  // a view moves nothing
  CHECK(rows[0].op == "adam_update");
  CHECK(rows[0].calls == 1);
  CHECK(rows[1].op == "norm");
  CHECK(rows[1].module == "downs.0");
  CHECK(rows[1].elements == 500000);
  CHECK(rows[1].calls == 2);
  CHECK(rows[1].seconds.low == doctest::Approx(1.75e-3));
  CHECK(rows[1].seconds.median == doctest::Approx(2.5e-3));
  CHECK(rows[1].seconds.high == doctest::Approx(3.75e-3));
  CHECK(rows[1].bytes_per_s() == doctest::Approx(1.6e9));
  CHECK(rows[1].copy_share({1e12, 10e9, ""}) == doctest::Approx(0.16));
  CHECK(rows[2].module == "mid");
  CHECK(rows[2].bytes_per_s() == doctest::Approx(0.5e9));
}

TEST_CASE("kernel_bench/json/medians, quartiles, shares, sums") {
  const Json out = kernel_json(bench());
  REQUIRE(out["kernels"].size() == 3);
  const Json& large = out["kernels"][0];
  CHECK(large["op"] == "large");
  CHECK(large["calls"] == 1.0);
  CHECK(large["ours_ms"] == 20.0);
  CHECK(large["ours_quartiles_ms"] == Json::array({19.0, 22.0}));
  CHECK(large["library_ms"] == 10.0);
  CHECK(large["library_quartiles_ms"] == Json::array({9.0, 11.0}));
  const Json& alone = out["kernels"][1];
  CHECK(alone["refusal"] == "cuDNN has none");
  CHECK_FALSE(alone.contains("library_ms"));
  CHECK_FALSE(alone.contains("library_quartiles_ms"));
  CHECK(out["ours_ms_per_step"] == 22.0);  // 1 x 20 + 2 x 1, where both compute
  CHECK(out["library_ms_per_step"] == 18.0);
  CHECK(out["copy_gbyte_per_s"] == 10.0);
  // 100 MB + 2 x 4 MB + 1 MB at 10 GB/s: 10.9 ms, in 50 + 2 x 2.5 + 2 ms.
  CHECK(out["memory_bound_share_of_copy"].get<double>() == doctest::Approx(10.9 / 57));
  REQUIRE(out["memory_bound"].size() == 3);
  const Json& norm = out["memory_bound"][1];
  CHECK(norm["op"] == "norm");
  CHECK(norm["elements"] == 500000);
  CHECK(norm["mbyte"].get<double>() == doctest::Approx(4));
  CHECK(norm["us"].get<double>() == doctest::Approx(2500));
  CHECK(norm["quartiles_us"][0].get<double>() == doctest::Approx(1750));
  CHECK(norm["quartiles_us"][1].get<double>() == doctest::Approx(3750));
  CHECK(norm["gbyte_per_s"].get<double>() == doctest::Approx(1.6));
  CHECK(norm["share_of_copy"].get<double>() == doctest::Approx(0.16));
}

TEST_CASE("kernel_bench/table/says the same in columns") {
  std::istringstream in(kernel_table(bench()));
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    auto& list = lines.emplace_back();
    for (std::string word; words >> word;) list.push_back(word);
  }
  using Words = std::vector<std::string>;
  REQUIRE(lines.size() == 13);
  CHECK(lines[1] == Words{"large", "1", "20.0000", "19.0000-22.0000", "10.0000", "9.0000-11.0000", "0.50"});
  CHECK(lines[2] == Words{"alone", "1", "5.0000", "5.0000-5.0000", "-", "cuDNN", "has", "none"});
  CHECK(lines[3] == Words{"small", "2", "1.0000", "1.0000-2.0000", "4.0000", "3.0000-5.0000", "4.00"});
  CHECK(lines[8] == Words{"adam_update", "-", "100.000", "1", "50000.0", "50000.0-50000.0", "2.0", "20%"});
  CHECK(lines[9] == Words{"norm", "downs.0", "4.000", "2", "2500.0", "1750.0-3750.0", "1.6", "16%"});
  CHECK(lines[10] == Words{"norm", "mid", "1.000", "1", "2000.0", "1500.0-2500.0", "0.5", "5%"});
  // Without opponents and without a copy there is one table, and nothing is a share.
  KernelBench alone = bench();
  alone.opponents.clear();
  alone.peaks.reset();
  const std::string text = kernel_table(alone);
  CHECK(text.find("library") == std::string::npos);
  CHECK(text.find("copy") == std::string::npos);
  CHECK(text.find("norm") != std::string::npos);
}

TEST_CASE("kernel_bench/step/the passes over memory of a step are timed on the CPU") {
  BenchRequest request;
  request.kind = "base";
  request.config = std::string(AVID_SOURCE_DIR) + "/configs/tiny/base.toml";
  request.clips = 1;
  request.steps = 1;
  request.warmup = 1;
  std::map<std::string, MemoryRow> largest;
  for (const MemoryRow& row : time_memory_bound(request)) {
    CHECK(row.seconds.median > 0);
    CHECK(row.seconds.low <= row.seconds.median);
    CHECK(row.seconds.median <= row.seconds.high);
    MemoryRow& kept = largest[row.op];
    if (row.bytes > kept.bytes) kept = row;
  }
  for (const char* product : {"conv3d", "linear", "temporal_attention", "conv3d_bwd"})
    CHECK_FALSE(largest.contains(product));
  for (const char* op : {"rms_norm_film_silu", "rms_norm_film_silu_bwd", "weighted_mse", "add_in_place"}) {
    CAPTURE(op);
    CHECK(largest.contains(op));
  }
  // x and out of the norm; both and the sum again of the sum; weights, gradients (twice), two moments (written too).
  CHECK(largest["add_in_place"].bytes == 12.0 * static_cast<double>(largest["add_in_place"].elements));
  REQUIRE(largest.contains("adam_update"));
  CHECK(largest["adam_update"].calls == 1);
}
