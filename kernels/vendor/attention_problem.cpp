// kernels/vendor/attention_problem.cpp -- the graphs of attention and of its gradients
#include "kernels/vendor/attention_problem.h"

namespace avid::kernels::vendor {
namespace {

using namespace attention_tensor;

/// Appends steps, each with its result.
struct Builder {
  const AttentionProblem& p;
  GraphDescription graph;

  explicit Builder(const AttentionProblem& problem) : p(problem) { graph.tensors.resize(intermediates); }

  /// [B,N,L,D] in rows of heads, or [B,N,D,L]: the same memory.
  GraphTensor heads(std::int64_t length, std::int64_t pitch, bool turned = false) const {
    if (turned) return {{p.B, p.N, p.D, length}, {length * pitch, p.D, 1, pitch}, true, Place::memory};
    return {{p.B, p.N, length, p.D}, {length * pitch, p.D, pitch, 1}, true, Place::memory};
  }
  GraphTensor packed(std::int64_t rows, std::int64_t cols, bool bf16, Place place) const {
    return {{p.B, p.N, rows, cols}, {p.N * rows * cols, rows * cols, cols, 1}, bf16, place};
  }
  void set(Name name, const GraphTensor& tensor) { graph.tensors[name] = tensor; }
  void set_number(Name name) { set(name, {{1, 1, 1, 1}, {1, 1, 1, 1}, false, Place::host}); }

  int into(Step step, int a, int b, int out) {
    graph.steps.push_back({step, a, b, out});
    return out;
  }
  int between(Step step, int a, int b, const GraphTensor& result) {
    graph.tensors.push_back(result);
    return into(step, a, b, static_cast<int>(graph.tensors.size()) - 1);
  }
  /// A step between matrices [Q,K]. What a product reads is bf16.
  int logits(Step step, int a, int b = -1, bool bf16 = false) {
    return between(step, a, b, packed(p.Q, p.K, bf16, Place::between));
  }
  /// A step whose result is a number per query.
  int per_query(Step step, int a, int b = -1) { return between(step, a, b, packed(p.Q, 1, false, Place::between)); }
  /// [Q,K] read as [K,Q], for a product.
  int turned_logits(int a) {
    return between(
        Step::turned, a, -1, {{p.B, p.N, p.K, p.Q}, {p.N * p.Q * p.K, p.Q * p.K, 1, p.K}, true, Place::between});
  }
};

GraphDescription forward(const AttentionProblem& p) {
  Builder b(p);
  b.set(q, b.heads(p.Q, p.q));
  b.set(k, b.heads(p.K, p.k, true));
  b.set(v, b.heads(p.K, p.v));
  b.set(out, b.heads(p.Q, p.out));
  b.set(log_sum, b.packed(p.Q, 1, false, Place::memory));
  b.set_number(scale);
  const int s = b.logits(Step::multiply, b.logits(Step::product, q, k), scale);
  const int most = b.per_query(Step::maximum, s);
  const int e = b.logits(Step::exp, b.logits(Step::subtract, s, most));
  const int sum = b.per_query(Step::sum, e);
  b.into(Step::add, most, b.per_query(Step::log, sum), log_sum);  // without it cuDNN knows no engine
  b.into(Step::product, b.logits(Step::divide, e, sum, true), v, out);
  return b.graph;
}

GraphDescription backward(const AttentionProblem& p) {
  Builder b(p);
  b.set(q, b.heads(p.Q, p.q));
  b.set(k, b.heads(p.K, p.k, true));
  b.set(v, b.heads(p.K, p.v, true));
  b.set(out, b.heads(p.Q, p.out));
  b.set(d_out, b.heads(p.Q, p.d_out));
  b.set(log_sum, b.packed(p.Q, 1, false, Place::memory));
  b.set(delta, b.packed(p.Q, 1, false, Place::memory));
  b.set_number(scale);
  b.set_number(one);
  b.set(d_q, b.heads(p.Q, p.d_q));
  b.set(d_k, b.heads(p.K, p.d_k));
  b.set(d_v, b.heads(p.K, p.d_v));
  const int mixed = b.between(Step::multiply, d_out, out, b.packed(p.Q, p.D, false, Place::between));
  b.into(Step::multiply, b.per_query(Step::sum, mixed), one, delta);
  const int s = b.logits(Step::multiply, b.logits(Step::product, q, k), scale);
  const int probabilities = b.logits(Step::exp, b.logits(Step::subtract, s, log_sum));
  b.into(Step::product, b.turned_logits(probabilities), d_out, d_v);
  const int d_p = b.logits(Step::subtract, b.logits(Step::product, d_out, v), delta);
  const int d_s = b.logits(Step::multiply, b.logits(Step::multiply, d_p, probabilities), scale, true);
  b.into(Step::product, b.turned_logits(d_s), q, d_k);
  GraphTensor keys = b.heads(p.K, p.k);
  keys.place = Place::between;
  b.into(Step::product, d_s, b.between(Step::turned, k, -1, keys), d_q);
  return b.graph;
}

std::int64_t rounded(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }

template <class Elem>
std::int64_t pitch_or(Rows<Elem> rows, std::int64_t otherwise) {
  return rows ? rows.pitch : otherwise;
}

}  // namespace

AttentionProblem attention_problem(const AttentionArgs<BFloat16>& p) {
  const std::int64_t width = head_width(p.D), own = p.N * width;
  const bool copied = width != p.D;
  return {
      .pass = AttentionPass::fwd,
      .B = p.B,
      .Q = p.Q,
      .K = p.K,
      .N = p.N,
      .D = width,
      .q = copied ? own : p.q.pitch,
      .k = copied ? own : p.k.pitch,
      .v = copied ? own : p.v.pitch,
      .out = copied ? own : p.out.pitch};
}

AttentionProblem attention_problem(const AttentionArgs<BFloat16>& p, const AttentionGrads<BFloat16>& g) {
  AttentionProblem problem = attention_problem(p);
  problem.pass = AttentionPass::bwd;
  const std::int64_t own = p.N * problem.D;
  const bool copied = problem.D != p.D;
  problem.d_out = copied ? own : g.d_out.pitch;
  problem.d_q = copied ? own : pitch_or(g.d_q, own);
  problem.d_k = copied ? own : pitch_or(g.d_k, own);
  problem.d_v = copied ? own : pitch_or(g.d_v, own);
  return problem;
}

GraphDescription attention_graph(const AttentionProblem& p) {
  return p.pass == AttentionPass::fwd ? forward(p) : backward(p);
}

AttentionBuffers attention_buffers(const AttentionArgs<BFloat16>& p) {
  const std::int64_t row = p.N * head_width(p.D) * static_cast<std::int64_t>(sizeof(BFloat16));
  AttentionBuffers buffers;
  buffers.copied = head_width(p.D) != p.D;
  buffers.queries = rounded(p.B * p.Q * row);
  buffers.keys = rounded(p.B * p.K * row);
  buffers.log_sum = rounded(p.B * p.N * p.Q * 4);
  buffers.spare_log_sum = p.log_sum == nullptr;
  return buffers;
}

AttentionBuffers attention_buffers(const AttentionArgs<BFloat16>& p, const AttentionGrads<BFloat16>& g) {
  AttentionBuffers buffers = attention_buffers(p);
  buffers.backward = true;
  buffers.spare_q = !g.d_q;
  buffers.spare_k = !g.d_k;
  buffers.spare_v = !g.d_v;
  return buffers;
}

std::int64_t AttentionBuffers::total() const {
  const std::int64_t first = spare_log_sum ? log_sum : 0;
  if (copied) return first + (backward ? 4 * queries + 4 * keys : 2 * queries + 2 * keys);
  return first + (spare_q ? queries : 0) + (spare_k ? keys : 0) + (spare_v ? keys : 0);
}

std::string describe(const AttentionShape& s) {
  std::string text = s.pass == AttentionPass::fwd ? "attention_fwd " : "attention_bwd ";
  text += s.bf16 ? "bf16 [" : "f32 [";
  text += std::to_string(s.B) + "," + std::to_string(s.Q) + " x " + std::to_string(s.K) + "], " + std::to_string(s.N) +
          " heads of " + std::to_string(s.D);
  return text;
}

}  // namespace avid::kernels::vendor
