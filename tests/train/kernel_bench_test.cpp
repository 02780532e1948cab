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
  for (const double ms : {4.0, 2.0, 3.0, 3.0})
    calls.push_back(
        {.op = "temporal_attention",
         .module = "downs.0",
         .seconds = ms * 1e-3,
         .bytes = 1e6,
         .elements = 9,
         .flops = 6e9,
         .sizes = {
             {"clips", 2},
             {"frames", 8},
             {"height", 4},
             {"width", 4},
             {"channels", 6},
             {"heads", 2},
             {"head_dim", 3}}});
  for (const double ms : {10.0, 10.0})
    calls.push_back(
        {.op = "conv3d_bwd",
         .module = "mid",
         .seconds = ms * 1e-3,
         .bytes = 1e6,
         .elements = 9,
         .flops = 5e9,
         .sizes =
             {{"clips", 2},
              {"frames", 8},
              {"height", 4},
              {"width", 4},
              {"channels", 6},
              {"channels2", 2},
              {"outputs", 5},
              {"kernel_frames", 1},
              {"kernel_height", 3},
              {"kernel_width", 3},
              {"stride_height", 2},
              {"weights", 1}},
         .holds_ops = true});
  calls.push_back({.op = "linear", .module = "mid", .seconds = 1, .bytes = 1e6, .elements = 9, .flops = 1});
  calls.push_back({.op = "outer", .module = "mid", .seconds = 1, .bytes = 1e6, .elements = 9, .holds_ops = true});
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
  out.products = product_rows(two_steps(), 2);
  out.memory = memory_rows(two_steps(), 2);
  out.peaks = DevicePeaks{1e12, 10e9, "a test"};
  return out;
}

}  // namespace

TEST_CASE("kernel_bench/rows/per op and size, the longest in a step first") {
  const auto rows = memory_rows(two_steps(), 2);
  REQUIRE(rows.size() == 3);  // a view moves nothing; products and what holds ops do not belong here
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

TEST_CASE("kernel_bench/products/per op and sizes, the longest in a step first") {
  const auto rows = product_rows(two_steps(), 2);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].op == "conv3d_bwd");
  CHECK(rows[0].module == "mid");
  CHECK(rows[0].calls == 1);
  CHECK(rows[0].sizes.at("channels2") == 2);
  CHECK(rows[0].flops_per_s() == doctest::Approx(5e11));
  CHECK(rows[1].op == "temporal_attention");
  CHECK(rows[1].calls == 2);
  CHECK(rows[1].seconds.median == doctest::Approx(3e-3));
  CHECK(rows[1].flops_per_s() == doctest::Approx(2e12));
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
  REQUIRE(out["products"].size() == 2);
  const Json& attention = out["products"][1];
  CHECK(attention["op"] == "temporal_attention");
  CHECK(attention["sizes"]["head_dim"] == 3);
  CHECK(attention["size"] == "2x8x4x4x6, 2 heads of 3");
  CHECK(attention["ms"].get<double>() == doctest::Approx(3));
  CHECK(attention["quartiles_ms"][0].get<double>() == doctest::Approx(2.75));
  CHECK(attention["quartiles_ms"][1].get<double>() == doctest::Approx(3.25));
  CHECK(attention["gflop"].get<double>() == doctest::Approx(6));
  CHECK(attention["tflop_per_s"].get<double>() == doctest::Approx(2));
  CHECK(attention["share_of_product"].get<double>() == doctest::Approx(2));  // of 1 TFLOP/s
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
  REQUIRE(lines.size() == 18);
  CHECK(lines[1] == Words{"large", "1", "20.0000", "19.0000-22.0000", "10.0000", "9.0000-11.0000", "0.50"});
  CHECK(lines[2] == Words{"alone", "1", "5.0000", "5.0000-5.0000", "-", "cuDNN", "has", "none"});
  CHECK(lines[3] == Words{"small", "2", "1.0000", "1.0000-2.0000", "4.0000", "3.0000-5.0000", "4.00"});
  CHECK(
      lines[8] == Words{
                      "conv3d_bwd", "2x8x4x4x6+2", "to", "5,", "3x3/2", "weights", "1", "10.0000", "10.0000-10.0000",
                      "0.50", "50%"});
  CHECK(
      lines[9] ==
      Words{
          "temporal_attention", "2x8x4x4x6,", "2", "heads", "of", "3", "2", "3.0000", "2.7500-3.2500", "2.00", "200%"});
  CHECK(lines[13] == Words{"adam_update", "-", "100.000", "1", "50000.0", "50000.0-50000.0", "2.0", "20%"});
  CHECK(lines[14] == Words{"norm", "downs.0", "4.000", "2", "2500.0", "1750.0-3750.0", "1.6", "16%"});
  CHECK(lines[15] == Words{"norm", "mid", "1.000", "1", "2000.0", "1500.0-2500.0", "0.5", "5%"});
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
  const std::vector<WatchedCall> calls = time_ops(request);
  std::map<std::string, MemoryRow> largest;
  for (const MemoryRow& row : memory_rows(calls, request.steps)) {
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
  // Every convolution and attention block of the network, forward and backward.
  std::map<std::string, double> num_calls;
  for (const ProductRow& row : product_rows(calls, request.steps)) {
    CHECK(row.seconds.median > 0);
    num_calls[row.op] += row.calls;
  }
  CHECK(
      num_calls == std::map<std::string, double>{
                       {"conv3d", 24},
                       {"conv3d_bwd", 24},
                       {"conv_transpose3d", 1},
                       {"conv_transpose3d_bwd", 1},
                       {"linear_attention", 4},
                       {"linear_attention_bwd", 4},
                       {"spatial_attention", 1},
                       {"spatial_attention_bwd", 1},
                       {"temporal_attention", 6},
                       {"temporal_attention_bwd", 6}});
}
