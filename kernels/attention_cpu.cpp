// kernels/attention_cpu.cpp -- softmax attention on the CPU, f32 and f64
//
// Math       kernels/attention.h; gradients: with P the probabilities and delta_i = sum_j P_ij (d_out_i . v_j):
//              d_S_ij = P_ij (d_out_i . v_j - delta_i);  d_v_j = sum_i P_ij d_out_i
//              d_q_i = scale sum_j d_S_ij k_j;           d_k_j = scale sum_i d_S_ij q_i
// Parallel   heads of sequences are shared among the threads; within one, queries in order. Channels lie in SIMD lanes.
// Numerics   all in Elem; the largest logit is taken off before exp
// Open       no tiling: a key row is read once per query (64 KB of keys at K = 256, D = 64 stay in cache)
// Oracle     f64: a composition in tests/autograd/attention_test.cpp; f32: f64
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "kernels/threads.h"
#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

template <class Elem>
Elem dot(const Elem* a, const Elem* b, std::int64_t n) {
  Elem sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// to += factor * from
template <class Elem>
void add_scaled(Elem* to, Elem factor, const Elem* from, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

/// One head of one sequence: rows as pointers.
template <class Elem>
struct Head {
  std::int64_t b, n;
  const AttentionArgs<Elem>& p;
  Head(const AttentionArgs<Elem>& args, std::int64_t item) : b(item / args.N), n(item % args.N), p(args) {}
  template <class E>
  E* query(Rows<E> rows, std::int64_t i) const {
    return rows.row(b * p.Q + i) + n * p.D;
  }
  template <class E>
  E* key(Rows<E> rows, std::int64_t j) const {
    return rows.row(b * p.K + j) + n * p.D;
  }
  Elem& log_sum(std::int64_t i) const { return static_cast<Elem*>(p.log_sum)[(b * p.N + n) * p.Q + i]; }
};

/// One buffer of `size` per thread, made before the threads start: no exception inside them.
template <class Elem>
std::vector<std::vector<Elem>> per_thread(std::int64_t size) {
  return std::vector<std::vector<Elem>>(
      static_cast<std::size_t>(num_threads()), std::vector<Elem>(static_cast<std::size_t>(size)));
}

}  // namespace

template <class Elem>
void attention_fwd(const AttentionArgs<Elem>& p) {
  auto logits_of_thread = per_thread<Elem>(p.K);
  const Elem scale = static_cast<Elem>(p.scale);
  parallel_for(p.B * p.N, [&](std::int64_t item, int thread) {
    const Head<Elem> head(p, item);
    Elem* weight = logits_of_thread[static_cast<std::size_t>(thread)].data();
    for (std::int64_t i = 0; i < p.Q; ++i) {
      for (std::int64_t j = 0; j < p.K; ++j) weight[j] = scale * dot(head.query(p.q, i), head.key(p.k, j), p.D);
      const Elem largest = *std::max_element(weight, weight + p.K);
      Elem sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t j = 0; j < p.K; ++j) sum += weight[j] = exp_of(weight[j] - largest);
      Elem* out = head.query(p.out, i);
      std::fill_n(out, p.D, Elem{0});
      for (std::int64_t j = 0; j < p.K; ++j) add_scaled(out, weight[j] / sum, head.key(p.v, j), p.D);
      head.log_sum(i) = largest + std::log(sum);
    }
  });
}

template <class Elem>
void attention_bwd(const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g) {
  auto rows_of_thread = per_thread<Elem>(2 * p.K);
  const Elem scale = static_cast<Elem>(p.scale);
  parallel_for(p.B * p.N, [&](std::int64_t item, int thread) {
    const Head<Elem> head(p, item);
    Elem* prob = rows_of_thread[static_cast<std::size_t>(thread)].data();
    Elem* d_logit = prob + p.K;
    for (std::int64_t j = 0; j < p.K; ++j) {
      if (g.d_k) std::fill_n(head.key(g.d_k, j), p.D, Elem{0});
      if (g.d_v) std::fill_n(head.key(g.d_v, j), p.D, Elem{0});
    }
    for (std::int64_t i = 0; i < p.Q; ++i) {
      const Elem* q = head.query(p.q, i);
      const Elem* d_out = head.query(g.d_out, i);
      for (std::int64_t j = 0; j < p.K; ++j) prob[j] = scale * dot(q, head.key(p.k, j), p.D) - head.log_sum(i);
#pragma omp simd
      for (std::int64_t j = 0; j < p.K; ++j) prob[j] = exp_of(prob[j]);
      for (std::int64_t j = 0; g.d_v && j < p.K; ++j) add_scaled(head.key(g.d_v, j), prob[j], d_out, p.D);
      if (!g.d_q && !g.d_k) continue;
      for (std::int64_t j = 0; j < p.K; ++j) d_logit[j] = dot(d_out, head.key(p.v, j), p.D);
      const Elem delta = dot(prob, d_logit, p.K);
#pragma omp simd
      for (std::int64_t j = 0; j < p.K; ++j) d_logit[j] = scale * prob[j] * (d_logit[j] - delta);
      for (std::int64_t j = 0; g.d_k && j < p.K; ++j) add_scaled(head.key(g.d_k, j), d_logit[j], q, p.D);
      if (!g.d_q) continue;
      std::fill_n(head.query(g.d_q, i), p.D, Elem{0});
      for (std::int64_t j = 0; j < p.K; ++j) add_scaled(head.query(g.d_q, i), d_logit[j], head.key(p.k, j), p.D);
    }
  });
}

template void attention_fwd(const AttentionArgs<float>&);
template void attention_fwd(const AttentionArgs<double>&);
template void attention_bwd(const AttentionArgs<float>&, const AttentionGrads<float>&);
template void attention_bwd(const AttentionArgs<double>&, const AttentionGrads<double>&);

}  // namespace avid::kernels
