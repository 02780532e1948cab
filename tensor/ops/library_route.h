// tensor/ops/library_route.h -- an op's kernels or a library's, as kernels/vendor/route.h says; part of the dispatch of
// ops
#pragma once

#include <fmt/format.h>

#include <type_traits>
#include <utility>

#include "kernels/vendor/cublaslt.h"
#include "kernels/vendor/cuda_stopwatch.h"
#include "kernels/vendor/cudnn.h"
#include "kernels/vendor/route.h"

namespace avid::detail {

using kernels::vendor::Family;

/// Libraries compute on CUDA devices only. Code that names library_... stands under `if constexpr
/// (kHasLibraries<Backend>)`.
template <class Backend>
inline constexpr bool kHasLibraries = std::is_same_v<Backend, kernels::Cuda>;

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

}  // namespace avid::detail
