// kernels/vendor/norm_problem.cpp -- buffers and name of a layer norm for cuDNN
#include "kernels/vendor/norm_problem.h"

namespace avid::kernels::vendor {

NormBuffers norm_buffers(const NormProblem& problem) {
  NormBuffers buffers;
  const auto take = [&buffers](std::int64_t bytes) {
    const std::int64_t at = buffers.total;
    buffers.total += (bytes + 255) / 256 * 256;
    return at;
  };
  buffers.mean = take(problem.num_rows * 4);
  buffers.inv_deviation = take(problem.num_rows * 4);
  if (problem.pass == NormPass::bwd) {
    const std::int64_t rows = problem.num_rows * problem.C * (problem.bf16 ? 2 : 4);
    buffers.out = take(rows);
    buffers.d_x = take(rows);
    buffers.d_gamma = take(problem.C * 4);
    buffers.d_beta = take(problem.C * 4);
  }
  return buffers;
}

std::string describe(const NormProblem& problem) {
  return std::string(problem.pass == NormPass::fwd ? "layer_norm_fwd " : "layer_norm_bwd ") +
         (problem.bf16 ? "bf16 [" : "f32 [") + std::to_string(problem.num_rows) + "," + std::to_string(problem.C) + "]";
}

}  // namespace avid::kernels::vendor
