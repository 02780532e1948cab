// tests/kernels/cuda_errors_test.cpp -- what messages about a GPU say, without one
#include "kernels/device/cuda_errors.h"

#include "kernels/device/launch_context.h"
#include "kernels/op_timer.h"
#include "tests/doctest.h"

using namespace avid::kernels;

namespace {
constexpr std::size_t kGib = std::size_t{1} << 30;
}

TEST_CASE("cuda_errors/advice/one_line_that_says_what_to_do") {
  for (const int error : {2, 35, 46, 209, 214, 700, 702, 714, 716, 719, 802, 803}) {
    CAPTURE(error);
    const std::string advice = cuda_advice(error);
    CHECK(advice.starts_with(" | "));
    CHECK(advice.find('\n') == std::string::npos);
  }
  CHECK(cuda_advice(2).find("nvidia-smi") != std::string::npos);
  CHECK(cuda_advice(209).find("AVID_CUDA_ARCHS") != std::string::npos);
  CHECK(cuda_advice(719).find("CUDA_LAUNCH_BLOCKING") != std::string::npos);
  CHECK(cuda_advice(0).empty());
  CHECK(cuda_advice(1).empty());  // an invalid value is ours to understand
}

TEST_CASE("cuda_errors/arch/what_code_runs_where") {
  CHECK(arch_problem("80,90", 8, 0).empty());
  CHECK(arch_problem("80,90", 8, 9).empty());
  CHECK(arch_problem("80,90", 9, 0).empty());
  CHECK(arch_problem("80,90", 12, 0).empty());  // from PTX
  CHECK(arch_problem("80", 9, 0).empty());
  CHECK(
      arch_problem("90", 8, 0) ==
      "compute capability 8.0, this build has code for 90 | rebuild with -DAVID_CUDA_ARCHS=80");
  CHECK(!arch_problem("90", 8, 9).empty());
  CHECK(!arch_problem("80-real", 9, 0).empty());
  CHECK(arch_problem("80-real", 8, 6).empty());
  CHECK(!arch_problem("86-real", 8, 0).empty());
  CHECK(arch_problem("80-virtual", 9, 0).empty());
  CHECK(arch_problem("80-real,90-virtual", 10, 0).empty());
  CHECK(!arch_problem("90a", 9, 0).empty());
  CHECK(arch_problem("native", 8, 0).empty());
}

TEST_CASE("cuda_errors/memory/others_are_named_where_they_hold_much") {
  CHECK(memory_left(80 * kGib, 3 * kGib, 76 * kGib) == ", the device has 3.0 of 80.0 GiB left");
  CHECK(
      memory_left(80 * kGib, kGib / 4, 10 * kGib) ==
      ", the device has 0.2 of 80.0 GiB left, other processes hold about 69.8 GiB (nvidia-smi lists them)");
  CHECK(memory_left(64 << 20, 6 << 20, 58 << 20) == ", the device has 6.0 of 64.0 MiB left");
  CHECK(memory_left(0, 0, 0).empty());
  CHECK(memory_left(~std::size_t{0}, ~std::size_t{0}, 0).empty());
}

TEST_CASE("cuda_errors/context/the_running_op_its_module_and_its_tensors") {
  const std::int64_t clip[] = {8, 2, 64, 64, 90}, bias[] = {90};
  note_device_tensor("f32", bias);
  CHECK(running_op().empty());
  CHECK(tensors_of_running_op().empty());
  const ModuleRange outer("adapter"), inner("downs.0");
  {
    const OpTimer op("conv3d");
    CHECK(running_op() == "conv3d in adapter.downs.0");
    CHECK(tensors_of_running_op().empty());
    note_device_tensor("bf16", clip);
    note_device_tensor("f32", bias);
    CHECK(tensors_of_running_op() == "bf16 [8,2,64,64,90], f32 [90]");
  }
  CHECK(tensors_of_running_op().empty());
  const OpTimer op("conv3d");  // another call: nothing of the first
  CHECK(tensors_of_running_op().empty());
  for (std::int64_t i = 0; i < 9; ++i) {
    const std::int64_t extents[] = {i};
    note_device_tensor("f32", extents);
  }
  CHECK(tensors_of_running_op() == "f32 [1], f32 [2], f32 [3], f32 [4], f32 [5], f32 [6], f32 [7], f32 [8]");
}
