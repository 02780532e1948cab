// tensor/ops/library_route.h -- an op's kernels or a library's, as kernels/vendor/route.h says; part of the dispatch of
// ops
#pragma once

#include <fmt/format.h>

#include <type_traits>
#include <utility>

#include "kernels/attention.h"
#include "kernels/vendor/attention_problem.h"
#include "kernels/vendor/cublaslt.h"
#include "kernels/vendor/cuda_stopwatch.h"
#include "kernels/vendor/cudnn.h"
#include "kernels/vendor/route.h"
#include "tensor/ops/on_device.h"

namespace avid::detail {

using kernels::vendor::Family;

/// Libraries compute on CUDA devices only. Code that names library_... stands under `if constexpr
/// (kHasLibraries<Backend>)`.
template <class Backend>
inline constexpr bool kHasLibraries = std::is_same_v<Backend, kernels::Cuda>;

/// Does the family's route leave its ops to our kernels alone? Then they may do what no library's op does.
template <class Backend>
bool takes_native(Family family) {
  if constexpr (kHasLibraries<Backend>) return kernels::vendor::route(family) == kernels::vendor::Route::native;
  return true;
}

/// native(), or library() where the family's route says so. Both overwrite the same outputs.
template <class What, class Native, class Library>
void run_either(Family family, const kernels::Stream& stream, What&& what, Native&& native, Library&& library) {
  if (kernels::vendor::route(family) == kernels::vendor::Route::native) {
    native();
    return;
  }
  kernels::vendor::run_either(
      family, std::forward<What>(what), std::forward<Native>(native), std::forward<Library>(library),
      kernels::vendor::cuda_stopwatch(stream));
}

/// "linear_fwd bf16 [4096,64+32] -> 128"
template <class Elem>
std::string describe_linear(const char* pass, const kernels::LinearSize& s) {
  return fmt::format(
      "{} {} [{},{}{}] -> {}", pass, std::is_same_v<Elem, float> ? "f32" : "bf16", s.P, s.I,
      s.I2 > 0 ? fmt::format("+{}", s.I2) : "", s.O);
}

using kernels::vendor::AttentionPass;

/// "attention_fwd bf16 [640,64 x 64], 8 heads of 64"
template <class Elem>
std::string describe_attention(AttentionPass pass, const kernels::AttentionArgs<Elem>& p) {
  return kernels::vendor::describe(kernels::vendor::AttentionShape{
      .pass = pass, .bf16 = !std::is_same_v<Elem, float>, .B = p.B, .Q = p.Q, .K = p.K, .N = p.N, .D = p.D});
}

/// Softmax attention by ours() or by cuDNN, which gets its workspace on the device of `like`. CUDA alone.
template <class Elem, class Ours>
void attention_fwd_either(
    const kernels::Stream& stream, const kernels::AttentionArgs<Elem>& p, const Tensor& like, Ours&& ours) {
  run_either(
      Family::attention, stream, [&] { return describe_attention(AttentionPass::fwd, p); }, std::forward<Ours>(ours),
      [&] {
        Tensor workspace = device_workspace(kernels::vendor::library_attention_workspace_bytes<Elem>(p), like);
        kernels::vendor::library_attention_fwd<Elem>(stream, p, device_mutable_data<float>(workspace));
      });
}
template <class Elem, class Ours>
void attention_bwd_either(
    const kernels::Stream& stream, const kernels::AttentionArgs<Elem>& p, const kernels::AttentionGrads<Elem>& g,
    const Tensor& like, Ours&& ours) {
  run_either(
      Family::attention, stream, [&] { return describe_attention(AttentionPass::bwd, p); }, std::forward<Ours>(ours),
      [&] {
        Tensor workspace = device_workspace(kernels::vendor::library_attention_workspace_bytes<Elem>(p, g), like);
        kernels::vendor::library_attention_bwd<Elem>(stream, p, g, device_mutable_data<float>(workspace));
      });
}

}  // namespace avid::detail
