// tests/kernels/cudnn_plan_test.cpp -- our descriptors before cuDNN itself, for a GPU that is only described
//
// Makes no use of a GPU: cuDNN checks tensors, operation and graph, proposes engines, and builds plans for the device
// that the description names. Shown as skipped where the build has no CUDA or the machine no cuDNN.
#include "kernels/vendor/cudnn_plan.h"

#include <cstdio>

#include "tests/doctest.h"
#include "tests/kernels/described_gpus.h"

using namespace avid::kernels;
using namespace avid::kernels::vendor;

#if AVID_HAVE_CUDA

namespace {

const std::string kH100 = avid::test::described_gpu(true);

std::int64_t padded(std::int64_t channels, ElementType type) {
  const std::int64_t chunk = type == ElementType::bf16 ? 8 : 4;
  return (channels + chunk - 1) / chunk * chunk;
}

/// Plans of a pass; nothing when there is no cuDNN to ask.
std::vector<CudnnPlan> plans(ConvPass pass, ElementType type, const Conv3dSize& s) {
  const ConvPitches pitches{padded(s.I2 > 0 ? 1000 : s.I, type), padded(s.I + s.I2, type), padded(s.O, type)};
  return cudnn_plans(conv_problem(pass, type, s, pitches), 3, kH100);
}

bool have_cudnn() {
  return avid::test::cudnn_answers([] {
    plans(ConvPass::fwd, ElementType::f32, {.B = 1, .in = {1, 8, 8}, .out = {1, 8, 8}, .I = 8, .O = 8});
  });
}

}  // namespace

TEST_CASE("cudnn_plan/networks/every pass has a deterministic engine of the right precision") {
  if (!have_cudnn()) return;
  const Conv3dSize cases[] = {
      {.B = 8, .in = {16, 64, 64}, .out = {16, 64, 64}, .I = 90, .O = 90, .kernel = {1, 3, 3}, .padding = {0, 1, 1}},
      {.B = 8, .in = {16, 64, 64}, .out = {16, 64, 64}, .I = 48, .O = 96, .kernel = {1, 3, 3}, .padding = {0, 1, 1}},
      {.B = 8,
       .in = {16, 8, 8},
       .out = {16, 8, 8},
       .I = 360,
       .I2 = 360,
       .O = 180,
       .kernel = {1, 3, 3},
       .padding = {0, 1, 1}},
      {.B = 2, .in = {8, 32, 32}, .out = {8, 32, 32}, .I = 9, .O = 24, .kernel = {1, 7, 7}, .padding = {0, 3, 3}},
      {.B = 2,
       .in = {8, 32, 32},
       .out = {8, 16, 16},
       .I = 24,
       .O = 24,
       .kernel = {1, 4, 4},
       .stride = {1, 2, 2},
       .padding = {0, 1, 1}},
      {.B = 2, .in = {8, 32, 32}, .out = {8, 32, 32}, .I = 24, .O = 3}};
  for (const Conv3dSize& s : cases)
    for (const ElementType type : {ElementType::f32, ElementType::bf16})
      for (const ConvPass pass : {ConvPass::fwd, ConvPass::bwd_data, ConvPass::bwd_weight}) {
        CAPTURE(describe(pass, type, s));
        const auto found = plans(pass, type, s);
        REQUIRE(!found.empty());
        for (const CudnnPlan& plan : found) {
          CHECK(engine_allowed(plan.notes(), type));
          CHECK(plan.workspace_bytes() >= 0);
          CHECK(plan.workspace_bytes() <= kLibraryWorkspaceBytes);
        }
      }
}

TEST_CASE("cudnn_plan/networks/bf16 runs on tensor cores") {
  if (!have_cudnn()) return;
  const Conv3dSize s{
      .B = 8, .in = {16, 64, 64}, .out = {16, 64, 64}, .I = 96, .O = 96, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  for (const ConvPass pass : {ConvPass::fwd, ConvPass::bwd_data, ConvPass::bwd_weight})
    CHECK(plans(pass, ElementType::bf16, s).front().notes().tensor_core);
}

TEST_CASE("cudnn_plan/errors/what cuDNN refuses is one line with its words") {
  if (!have_cudnn()) return;
  const Conv3dSize s{
      .B = 2, .in = {1, 8, 8}, .out = {1, 8, 8}, .I = 8, .O = 8, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  ConvProblem p = conv_problem(ConvPass::fwd, ElementType::f32, s, {8, 8, 8});
  p.y.dims[3] = 9;  // not what kernel and padding give
  try {
    cudnn_plans(p, 1, kH100);
    FAIL("accepted");
  } catch (const LibraryError& error) {
    const std::string text = error.what();
    CHECK(text.starts_with("conv: cuDNN: operation: CUDNN_STATUS_BAD_PARAM"));
    CHECK(text.ends_with("| use --conv native"));
    CHECK(text.find('\n') == std::string::npos);
  }
  p = conv_problem(ConvPass::fwd, ElementType::f32, s, {12, 12, 8});
  for (std::size_t d : {0, 2, 3, 4}) p.w.strides[d] *= 2;  // a filter with gaps
  CHECK_THROWS_AS(cudnn_plans(p, 1, kH100), LibraryError);
}

#else

TEST_CASE("cudnn_plan/skipped without CUDA") { std::printf("skipped: no cuDNN: this build has no CUDA\n"); }

#endif
