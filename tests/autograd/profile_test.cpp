// tests/autograd/profile_test.cpp -- what a profile charges real ops with, against counts by hand
#include "autograd/ops/conv3d.h"
#include "autograd/ops/linear_attention.h"
#include "kernels/op_timer.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {

TEST_CASE("profile/conv3d/flops, bytes and module of forward and backward") {
  // 3x3 over 2 x 3 frames of 4x5 with 6 -> 10 channels: rows of 6 and 10 floats lie 8 and 12 apart.
  const Var x(Tensor::full({2, 3, 4, 5, 6}, 0.5), true), w(Tensor::full({10, 1, 3, 3, 6}, 0.1), true),
      b(Tensor::full({10}, 0.1), true);
  kernels::set_op_timing(kernels::Collect::events);
  Var out;
  {
    const kernels::ModuleRange range("net");
    const kernels::ModuleRange inner("conv");
    out = conv3d(x, w, b, {.padding = {0, 1, 1}});
  }
  out.backward(Tensor::full(out.shape(), 1.0));
  const auto times = kernels::op_times();
  const auto events = kernels::op_events();
  kernels::set_op_timing(kernels::Collect::nothing);
  constexpr double kPositions = 2 * 3 * 4 * 5, kProduct = 2 * kPositions * 10 * 9 * 6;
  constexpr double kX = kPositions * 8 * 4, kW = 10 * 9 * 8 * 4, kOut = kPositions * 12 * 4, kB = 12 * 4;
  CHECK(times.at("conv3d").flops == kProduct);
  CHECK(times.at("conv3d").bytes == kX + kW + kB + kOut);
  CHECK(times.at("conv3d_bwd").flops == 2 * kProduct);
  CHECK(times.at("conv3d_bwd").bytes == 2 * kX + 2 * kW + kB + kOut);
  int seen = 0;
  for (const auto& event : events) {
    if (event.is_module) continue;
    CHECK(event.module == "net.conv");
    ++seen;
  }
  CHECK(seen == 2);
}

TEST_CASE("profile/linear_attention/products of projections and core") {
  const std::int64_t S = 3 * 4, C = 5, N = 2, D = 32;
  const Tensor x = Tensor::full({2, 2, 3, 4, C}, 0.5), gamma = Tensor::full({C}, 1.0),
               w_qkv = Tensor::full({3 * N * D, C}, 0.1), w_out = Tensor::full({C, N * D}, 0.1),
               b_out = Tensor::full({C}, 0.1);
  kernels::set_op_timing(kernels::Collect::sums);
  linear_attention(Var(x), Var(gamma), Var(w_qkv), Var(w_out), Var(b_out), {.heads = N, .head_dim = D});
  const auto times = kernels::op_times();
  kernels::set_op_timing(kernels::Collect::nothing);
  // per frame: q, k, v and the output; k v^T and q (k v^T) for every head
  const double frame = 2.0 * (S * C * 3 * N * D + S * N * D * C + 2 * N * S * D * D);
  CHECK(times.at("linear_attention").flops == 4 * frame);
}

}  // namespace avid
