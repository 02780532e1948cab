// tests/train/predict_test.cpp -- the time of a launch by the model, against the same sums by hand
#include "train/predict_model.h"

#include "tensor/error.h"
#include "tests/doctest.h"
#include "train/predict.h"

using namespace avid;
using namespace avid::train;

namespace {

// Two blocks of 128 threads and 256 registers share a multiprocessor's 65536.
const KernelTable& table() {
  static const KernelTable table(
      "# comment\nfile\tkernel\tarch\tregisters\tshared\tloop_per_mma\n"
      "a.cu\tproduct_kernel<bf16, Tile<1, 2> >\tsm_80\t256\t0\t3.0\n"
      "a.cu\tproduct_kernel<bf16, Tile<1, 2> >\tsm_90a\t128\t0\t3.0\n"
      "b.cu\thelper_kernel\tsm_80\t16\t0\t0.0\n"
      "c.cu\thelper_kernel\tsm_80\t32\t0\t0.0\n"
      "d.cu\ttemporal_fused_kernel\tsm_80\t256\t0\t0\n");
  return table;
}

const GpuModel& a100() { return gpu_model("a100"); }

}  // namespace

TEST_CASE("predict/table/kernels by name and architecture, whatever their blanks") {
  REQUIRE(table().find("product_kernel<BFloat16, Tile<1, 2>>", 80) != nullptr);
  CHECK(table().find("product_kernel<bf16, Tile<1,2> >", 80)->registers == 256);
  CHECK(table().find("product_kernel<bf16, Tile<1,2> >", 90)->registers == 128);
  CHECK(table().find("product_kernel<bf16, Tile<1,2> >", 90)->instructions_per_mma == 3);
  CHECK(table().find("helper_kernel", 80)->registers == 32);  // of equal names the one that needs most
  CHECK(table().find("product_kernel<float, Tile<1,2> >", 80) == nullptr);
  CHECK(table().find("helper_kernel", 90) == nullptr);
  CHECK_THROWS_WITH_AS(
      KernelTable("file\tkernel\tregisters\n"), "kernels/resources.tsv: expected a column arch, got none", FileError);
  CHECK_THROWS_AS(KernelTable("file\tkernel\tarch\tregisters\na\tb\n"), FileError);
  // The one inside the program is that of the repository.
  REQUIRE(KernelTable::built_in().find("mask_mix_fwd_kernel<bf16>", 80) != nullptr);
  CHECK(KernelTable::built_in().find("mask_mix_fwd_kernel<bf16>", 80)->registers > 0);
  CHECK_THROWS_WITH_AS(gpu_model("b200"), "predict: expected a100, h100 or h200, got b200", UsageError);
}

TEST_CASE("predict/tensor/whole waves of products") {
  // 216 blocks fit at once: 432 are two waves without a rest, 217 two waves of which the second is nearly empty.
  LaunchDemand d{.kernel = "product_kernel<bf16, Tile<1, 2>>", .blocks = 432, .threads = 128, .mma = 156e9};
  LaunchTime time = predict_launch(a100(), d, table());
  CHECK(time.known);
  CHECK(time.resident == 2);
  CHECK(time.waves == 2);
  const double one_ms = 1e-3 / (0.85 * 0.88);  // 312 GFLOP at 312 TFLOP/s
  CHECK(time.tensor == doctest::Approx(one_ms).epsilon(1e-12));
  CHECK(time.seconds == doctest::Approx(one_ms + 1.4e-6).epsilon(1e-12));
  CHECK(std::string(time.bound()) == "tensor");
  d.blocks = 217;
  CHECK(predict_launch(a100(), d, table()).tensor == doctest::Approx(one_ms * 432 / 217).epsilon(1e-12));
  // Fewer blocks than fit: the busiest multiprocessor has two of 109.
  d.blocks = 109;
  time = predict_launch(a100(), d, table());
  CHECK(time.waves == 1);
  CHECK(time.tensor == doctest::Approx(one_ms * 2 * 108 / 109).epsilon(1e-12));
}

TEST_CASE("predict/parts/each by its own rate, and 15 % of the next") {
  LaunchDemand d{.kernel = "product_kernel<bf16, Tile<1, 2>>", .blocks = 216, .threads = 128};
  d.memory_bytes = 1.38e9;  // a millisecond of copying
  d.cache_bytes = 1.35e9;   // a quarter of one
  LaunchTime time = predict_launch(a100(), d, table());
  CHECK(time.memory == doctest::Approx(1e-3 / 0.92).epsilon(1e-12));
  CHECK(time.cache == doctest::Approx(0.25e-3 / (0.85 * 0.75)).epsilon(1e-12));
  CHECK(time.seconds == doctest::Approx(time.memory + 0.15 * time.cache + 1.4e-6).epsilon(1e-12));
  CHECK(std::string(time.bound()) == "DRAM");

  const double clocks = 108 * 1.41e9;  // of all multiprocessors, in a second
  d.passes = clocks * 1e-3;
  d.mma_instructions = clocks * 1e-3;
  time = predict_launch(a100(), d, table());
  CHECK(time.shared == doctest::Approx(1e-3 / (0.85 * 0.90)).epsilon(1e-12));
  CHECK(time.issue == doctest::Approx(1e-3 * 3 / 4 / (0.85 * 0.80)).epsilon(1e-12));  // three each, four a clock
  CHECK(std::string(time.bound()) == "shared");

  // One block, a warp of which waits for 100 loads, four at a time, 600 clocks each.
  const LaunchDemand serial{.kernel = "helper_kernel", .blocks = 1, .threads = 64, .loads = 200};
  time = predict_launch(a100(), serial, table());
  CHECK(time.latency == doctest::Approx(100 * 600 / 4 / 1.41e9).epsilon(1e-12));
  CHECK(std::string(time.bound()) == "latency");

  const LaunchDemand copy{.kernel = "copy", .memory_bytes = 0, .is_kernel = false};
  time = predict_launch(a100(), copy, table());
  CHECK(time.seconds == 1.4e-6);
  CHECK(std::string(time.bound()) == "launch");
}

TEST_CASE("predict/rates/of families and of Hopper's two instructions") {
  const LaunchDemand fused{.kernel = "temporal_fused_kernel", .blocks = 216, .threads = 128, .mma = 156e9};
  CHECK(predict_launch(a100(), fused, table()).tensor == doctest::Approx(1e-3 / 0.50).epsilon(1e-12));
  LaunchDemand d{.kernel = "product_kernel<bf16, Tile<1, 2>>", .blocks = 264, .threads = 128, .wgmma = 394e9};
  const GpuModel& h200 = gpu_model("h200");
  CHECK(predict_launch(h200, d, table()).tensor == doctest::Approx(1e-3 / (0.85 * 0.88)).epsilon(1e-12));
  d.wgmma = 0;
  d.mma = 330e9;
  CHECK(predict_launch(h200, d, table()).tensor == doctest::Approx(1e-3 / (0.85 * 0.88)).epsilon(1e-12));
  d.mma = 0;
  d.tf32 = 165e9;  // half as fast
  CHECK(predict_launch(h200, d, table()).tensor == doctest::Approx(1e-3 / (0.85 * 0.88)).epsilon(1e-12));
  CHECK(h200.arch == 90);
  CHECK(a100().arch == 80);
}

TEST_CASE("predict/step/only in the program with race hooks") {
  BenchRequest request;
  request.config = "missing.toml";
  CHECK_THROWS_WITH_AS(
      predict_step(request, a100()), "predict: needs kernels with race hooks | use avid_traffic", UsageError);
}
