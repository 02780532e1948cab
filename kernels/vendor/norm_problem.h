// kernels/vendor/norm_problem.h -- layer norm as cuDNN wants it described; plain data
//
// cuDNN takes rows without gaps only, and its backward pass wants mean and deviation of every row. We keep neither: the
// forward pass is done once more for them.
#pragma once

#include <compare>
#include <string>

#include "kernels/layer_norm.h"

namespace avid::kernels::vendor {

enum class NormPass { fwd, bwd };

/// Tensors of a problem, by index: x, out, d_out, d_x [num_rows,C]; gamma, beta and their gradients [C], f32; mean and
/// 1 / deviation [num_rows], f32; eps in host memory.
namespace norm_tensor {
enum Name { x, gamma, beta, eps, out, mean, inv_deviation, d_out, d_x, d_gamma, d_beta, count };
}

struct NormProblem {
  NormPass pass = NormPass::fwd;
  bool bf16 = false;  ///< of x, out, d_out, d_x; else f32
  bool has_beta = false;
  std::int64_t num_rows = 0, C = 0;
  bool operator==(const NormProblem&) const = default;
  auto operator<=>(const NormProblem&) const = default;
};

/// Byte offsets into a workspace, multiples of 256, and what it takes in all before the library's own part. Backward:
/// the forward pass's output, and gradients that nobody asked for.
struct NormBuffers {
  std::int64_t mean = 0, inv_deviation = 0, out = 0, d_x = 0, d_gamma = 0, d_beta = 0, total = 0;
};
NormBuffers norm_buffers(const NormProblem& problem);

/// "layer_norm_fwd f32 [512,8192]"
std::string describe(const NormProblem& problem);

}  // namespace avid::kernels::vendor
