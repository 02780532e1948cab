// tests/tensor/library_on_device_test.cpp -- attention and layer norm by cuDNN beside ours, through their ops: on a GPU
// the results agree; on the simulator a route changes nothing
#include <cmath>
#include <cstdio>
#include <functional>

#include "kernels/vendor/route.h"
#include "tensor/ops/attention.h"
#include "tensor/ops/layer_norm.h"
#include "tensor/ops/spatial_attention.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;
using kernels::vendor::Family;
using kernels::vendor::Route;

#if AVID_HAVE_SIM
namespace {

const Device kDevice = test::device_under_test();

Tensor random(const Shape& shape, DType dtype, std::uint64_t seed, double scale = 1.0) {
  return random_tensor(shape, DType::f32, seed, scale).to(dtype).to(kDevice);
}

/// Results, by whom the route says; ours again afterwards.
std::vector<Tensor> by(Family family, Route route, const std::function<std::vector<Tensor>()>& op) {
  kernels::vendor::set_route(family, route);
  std::vector<Tensor> results;
  try {
    results = op();
  } catch (...) {
    kernels::vendor::set_route(family, Route::native);
    throw;
  }
  kernels::vendor::set_route(family, Route::native);
  return results;
}

bool lacks_cudnn(const std::string& text) {
  return text.find("cannot be loaded") != std::string::npos || text.find("lacks cuDNN") != std::string::npos ||
         text.find("newer") != std::string::npos;
}

/// Both ways, twice by the library: close to ours, and the same bits in both runs.
void compare(Family family, double tolerance, const std::function<std::vector<Tensor>()>& op) {
  const std::vector<Tensor> ours = by(family, Route::native, op);
  std::vector<Tensor> theirs, again;
  try {
    theirs = by(family, Route::library, op);
    again = by(family, Route::library, op);
  } catch (const kernels::vendor::LibraryError& error) {
    if (!lacks_cudnn(error.what())) throw;
    std::printf("skipped: device: no cuDNN: %s\n", error.what());
    return;
  }
  for (std::size_t i = 0; i < ours.size(); ++i) {
    CAPTURE(i);
    const Tensor a = theirs[i].to(Device{}), b = ours[i].to(Device{});
    CHECK(same_bits(a, again[i].to(Device{})));
    CHECK(gaps_are_zero(a));
    if (kDevice.kind == DeviceKind::sim)
      CHECK(same_bits(a, b));
    else
      CHECK(rel_l2(a.to(DType::f32), b.to(DType::f32)) < tolerance);
  }
}

std::vector<Tensor> attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_out, int heads) {
  const SoftmaxAttention result = attention_fwd(q, k, v, {.heads = heads});
  const SoftmaxAttentionGrads all = attention_bwd(d_out, q, k, v, result, {.heads = heads}, {});
  const SoftmaxAttentionGrads some =
      attention_bwd(d_out, q, k, v, result, {.heads = heads}, {.q = true, .k = false, .v = false});
  return {result.out, result.log_sum, all.d_q, all.d_k, all.d_v, some.d_q};
}

}  // namespace

TEST_CASE("library_on_device/attention/self and cross, whole heads and copied ones") {
  struct Size {
    std::int64_t Q, K, C;
    int heads;
  };
  for (const Size& s : {Size{64, 64, 128, 2}, Size{40, 93, 64, 2}, Size{9, 7, 100, 2}}) {
    CAPTURE(s.C);
    const Tensor q = random({3, s.Q, s.C}, DType::bf16, 1), k = random({3, s.K, s.C}, DType::bf16, 2),
                 v = random({3, s.K, s.C}, DType::bf16, 3), d_out = random({3, s.Q, s.C}, DType::bf16, 4);
    compare(Family::attention, 2e-2, [&] { return attend(q, k, v, d_out, s.heads); });
  }
}

TEST_CASE("library_on_device/spatial_attention/the core alone changes hands") {
  for (const std::int64_t head_dim : {32, 50}) {
    CAPTURE(head_dim);
    const std::int64_t inner = 2 * head_dim;
    const Tensor x = random({1, 3, 4, 4, 24}, DType::bf16, 11, 2.0), d_out = random(x.shape(), DType::bf16, 12),
                 gamma = random({24}, DType::f32, 13, 1.5),
                 w_qkv = random({3 * inner, 24}, DType::bf16, 14, 2.0 / std::sqrt(24.0)),
                 w_out = random({24, inner}, DType::bf16, 15, 1.0 / std::sqrt(static_cast<double>(inner)));
    const AttentionOptions options{.heads = 2, .head_dim = head_dim};
    compare(Family::attention, 2e-2, [&] {
      const AttentionGrads g = spatial_attention_bwd(d_out, x, gamma, w_qkv, w_out, options, {});
      return std::vector<Tensor>{
          spatial_attention_fwd(x, gamma, w_qkv, w_out, options), g.d_x, g.d_norm_gamma, g.d_w_qkv, g.d_w_out};
    });
  }
}

TEST_CASE("library_on_device/layer_norm/rows without gaps") {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t C : {64, 2048}) {
      CAPTURE(C);
      const Tensor x = random({5, 3, C}, dtype, 21, 3.0), d_out = random(x.shape(), dtype, 22),
                   gamma = random({C}, DType::f32, 23), beta = random({C}, DType::f32, 24);
      compare(Family::norm, dtype == DType::f32 ? 1e-5 : 1e-2, [&] {
        const LayerNormGradients g = layer_norm_bwd(d_out, x, gamma, 1e-5, {});
        const LayerNormGradients some =
            layer_norm_bwd(d_out, x, gamma, 1e-5, {.x = true, .gamma = false, .beta = false});
        return std::vector<Tensor>{
            layer_norm_fwd(x, gamma, beta), layer_norm_fwd(x, gamma, {}), g.d_x, g.d_gamma, g.d_beta, some.d_x};
      });
    }
}

TEST_CASE("library_on_device/refusals/one line each") {
  if (kDevice.kind != DeviceKind::cuda) return;  // elsewhere a library computes nothing, and refuses nothing
  const auto refusal = [](Family family, const std::function<std::vector<Tensor>()>& op) -> std::string {
    try {
      by(family, Route::library, op);
    } catch (const kernels::vendor::LibraryError& error) {
      return lacks_cudnn(error.what()) ? "" : error.what();
    }
    FAIL("computed");
    return "";
  };
  const Tensor q = random({1, 4, 64}, DType::f32, 31);
  const std::string f32 = refusal(Family::attention, [&] { return attend(q, q, q, q, 2); });
  if (!f32.empty()) CHECK(f32 == "attention: cuDNN computes bf16, these are f32 | use --attention native, or bf16");
  const Tensor x = random({4, 50}, DType::bf16, 32), gamma = random({50}, DType::f32, 33);
  const std::string gaps = refusal(Family::norm, [&] { return std::vector<Tensor>{layer_norm_fwd(x, gamma, {})}; });
  if (!gaps.empty())
    CHECK(gaps == "norm: cuDNN takes rows without gaps, these have 50 columns and are 56 apart | use --norm native");
}

#endif
