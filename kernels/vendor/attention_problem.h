// kernels/vendor/attention_problem.h -- softmax attention as cuDNN wants it described: a graph of steps; plain data
//
// Our rows of heads are cuDNN's [B,N,L,D] with strides: nothing is copied, unless D is no multiple of 8. Then a head
// would not start at a 16-byte boundary, and the heads are copied to rows where it does, with zeros behind them.
#pragma once

#include <string>

#include "kernels/attention.h"
#include "kernels/vendor/graph_description.h"

namespace avid::kernels::vendor {

enum class AttentionPass { fwd, bwd };

/// Tensors of an attention graph, by index; those from `intermediates` on are results of steps. `delta` is the row sum
/// of d_out out [B,N,Q], `one` the number 1.
namespace attention_tensor {
enum Name { q, k, v, out, log_sum, scale, d_out, delta, one, d_q, d_k, d_v, intermediates };
}

/// bf16, sums in f32. Pitches in elements.
struct AttentionProblem {
  AttentionPass pass = AttentionPass::fwd;
  std::int64_t B = 0, Q = 0, K = 0, N = 0, D = 0;
  std::int64_t q = 0, k = 0, v = 0, out = 0;          ///< pitches
  std::int64_t d_out = 0, d_q = 0, d_k = 0, d_v = 0;  ///< pitches, bwd
  bool operator==(const AttentionProblem&) const = default;
  auto operator<=>(const AttentionProblem&) const = default;
};

/// What a call asks for, as cuDNN gets it: with D, and pitches, of the copies where there are any.
AttentionProblem attention_problem(const AttentionArgs<BFloat16>& p);
AttentionProblem attention_problem(const AttentionArgs<BFloat16>& p, const AttentionGrads<BFloat16>& g);

/// The steps of a forward pass (product, scale, softmax, product), or of the gradients with the same bits in every run:
/// each is one product, nothing is added up across blocks.
GraphDescription attention_graph(const AttentionProblem& p);

/// Width of a head for cuDNN: a multiple of 8.
inline std::int64_t head_width(std::int64_t D) { return (D + 7) / 8 * 8; }

/// Bytes beside what the library asks for, each part a multiple of 256: copies of rows of heads, and results that
/// nobody asked for, but that cuDNN writes.
struct AttentionBuffers {
  bool backward = false;
  bool copied = false;                              ///< every operand goes through a copy
  std::int64_t queries = 0, keys = 0, log_sum = 0;  ///< bytes of B*Q, of B*K rows; of log_sum
  bool spare_log_sum = false, spare_q = false, spare_k = false, spare_v = false;
  std::int64_t total() const;
};
AttentionBuffers attention_buffers(const AttentionArgs<BFloat16>& p);
AttentionBuffers attention_buffers(const AttentionArgs<BFloat16>& p, const AttentionGrads<BFloat16>& g);

struct AttentionShape {
  AttentionPass pass;
  bool bf16;
  std::int64_t B, Q, K, N, D;
};
/// "attention_fwd bf16 [640,64 x 64], 8 heads of 50"
std::string describe(const AttentionShape& shape);

}  // namespace avid::kernels::vendor
