// tests/kernels/cudnn_fused_plan_test.cpp -- attention and layer norm before cuDNN itself, for GPUs that are only
// described
//
// cuDNN checks the graphs, proposes engines, compiles their kernels and builds plans. A stand-in for the driver takes
// the kernels (fake_libcuda.cpp), here and where there is a GPU. Shown as skipped where the build has no CUDA or the
// machine no cuDNN.
#include "kernels/vendor/cudnn_plan.h"

#include <cstdio>
#include <vector>

#include "tests/doctest.h"
#include "tests/kernels/described_gpus.h"
#include "tests/support.h"

using namespace avid::kernels;
using namespace avid::kernels::vendor;

#if AVID_HAVE_CUDA

#include <dlfcn.h>

namespace {

bool have_cudnn() {
  static void* const driver = dlopen(AVID_FAKE_LIBCUDA, RTLD_NOW | RTLD_GLOBAL);
  REQUIRE_MESSAGE(driver != nullptr, dlerror());
  return avid::test::cudnn_answers(
      [] { cudnn_plans(NormProblem{.num_rows = 8, .C = 64}, 1, avid::test::described_gpu(true)); });
}

/// One fused tensor of q, k, v; K from another one where it differs from Q.
AttentionProblem problem(
    AttentionPass pass, std::int64_t B, std::int64_t Q, std::int64_t K, std::int64_t N, std::int64_t D) {
  const std::int64_t C = N * D, fused = 3 * C;
  return {
      .pass = pass,
      .B = B,
      .Q = Q,
      .K = K,
      .N = N,
      .D = D,
      .q = fused,
      .k = fused,
      .v = fused,
      .out = C,
      .d_out = C,
      .d_q = fused,
      .d_k = fused,
      .d_v = fused};
}

void check_plans(const auto& asked, ElementType type) {
  for (const bool h100 : {true, false}) {
    if (!h100 && !avid::test::full_level()) continue;
    CAPTURE(h100);
    const auto found = cudnn_plans(asked, 1, avid::test::described_gpu(h100));
    REQUIRE(!found.empty());
    CHECK(engine_allowed(found.front().notes(), type));
    CHECK(found.front().workspace_bytes() >= 0);
    CHECK(found.front().workspace_bytes() <= kLibraryWorkspaceBytes);
  }
}

}  // namespace

TEST_CASE("cudnn_fused_plan/attention/the middle block of every network, and cross attention") {
  if (!have_cudnn()) return;
  struct Size {
    std::int64_t B, Q, K, N, D;
  };
  // base.toml; the adapters' heads of 50 in copies of 56; the demo's; few queries; keys of a text and an image.
  std::vector<Size> sizes{{640, 64, 64, 8, 64}};
  if (avid::test::full_level())
    sizes.insert(sizes.end(), {{640, 64, 64, 6, 56}, {40, 16, 16, 2, 32}, {3, 40, 40, 5, 64}, {2, 640, 93, 5, 64}});
  for (const Size& s : sizes)
    for (const AttentionPass pass : {AttentionPass::fwd, AttentionPass::bwd}) {
      CAPTURE(describe(AttentionShape{pass, true, s.B, s.Q, s.K, s.N, s.D}));
      check_plans(problem(pass, s.B, s.Q, s.K, s.N, s.D), ElementType::bf16);
    }
}

TEST_CASE("cudnn_fused_plan/attention/gradients without sums across blocks keep the logits' gradient") {
  if (!avid::test::full_level() || !have_cudnn()) return;
  // [B,N,Q,K] in bf16: what is there instead of additions to d_q in no order.
  const auto plan = cudnn_plans(problem(AttentionPass::bwd, 2, 640, 640, 4, 64), 1, avid::test::described_gpu(true));
  CHECK(plan.front().workspace_bytes() >= 2 * 4 * 640 * 640 * 2);
  CHECK(plan.front().notes().tensor_core);
}

TEST_CASE("cudnn_fused_plan/attention/heads that start between chunks are refused in one line") {
  if (!have_cudnn()) return;
  try {
    cudnn_plans(problem(AttentionPass::fwd, 2, 64, 64, 6, 50), 1, avid::test::described_gpu(true));
    FAIL("accepted");
  } catch (const LibraryError& error) {
    const std::string text = error.what();
    CHECK(text.starts_with("attention: cuDNN: no engine for this"));
    CHECK(text.ends_with("| use --attention native"));
    CHECK(text.find('\n') == std::string::npos);
  }
}

TEST_CASE("cudnn_fused_plan/norm/wide rows of the classifiers, narrow ones of the clip encoder") {
  if (!have_cudnn()) return;
  using Extents = std::pair<std::int64_t, std::int64_t>;
  std::vector<Extents> sizes{{512, 10240}};
  if (avid::test::full_level()) sizes.insert(sizes.end(), {Extents{64, 8192}, Extents{7, 65}});
  for (const auto& [num_rows, C] : sizes)
    for (const NormPass pass : {NormPass::fwd, NormPass::bwd})
      for (const bool bf16 : {false, true}) {
        if (bf16 && !avid::test::full_level()) continue;
        const NormProblem asked{.pass = pass, .bf16 = bf16, .has_beta = true, .num_rows = num_rows, .C = C};
        CAPTURE(describe(asked));
        check_plans(asked, bf16 ? ElementType::bf16 : ElementType::f32);
      }
  if (avid::test::full_level())  // without beta
    check_plans(NormProblem{.pass = NormPass::fwd, .num_rows = 64, .C = 256}, ElementType::f32);
}

#else

TEST_CASE("cudnn_fused_plan/skipped without CUDA") { std::printf("skipped: no cuDNN: this build has no CUDA\n"); }

#endif
