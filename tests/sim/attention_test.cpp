// tests/sim/attention_test.cpp -- softmax attention on the simulator, against the CPU loops in f64
#include "kernels/attention.h"

#include <vector>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;

struct Size {
  std::int64_t B, Q, K, N, D;
};

template <class Elem>
struct AttentionCase {
  Size size;
  Pitched<Elem> q, k, v, d_out;
  double sign = 1;  // of the logits' scale

  AttentionCase(const Size& s, unsigned seed, double factor)
      : size(s),
        q(fine_rows<Elem>(s.B * s.Q, s.N * s.D, seed, factor)),
        k(fine_rows<Elem>(s.B * s.K, s.N * s.D, seed + 1, 1.7)),
        v(fine_rows<Elem>(s.B * s.K, s.N * s.D, seed + 2, 1.7)),
        d_out(fine_rows<Elem>(s.B * s.Q, s.N * s.D, seed + 3, 1.7)) {}

  template <class E>
  kernels::AttentionArgs<E> sizes() const {
    kernels::AttentionArgs<E> p;
    p.B = size.B, p.Q = size.Q, p.K = size.K, p.N = size.N, p.D = size.D;
    p.scale = sign / std::sqrt(static_cast<double>(size.D));
    return p;
  }
};

template <class Elem, class LogSum = float>
struct Results {
  Pitched<Elem> out, d_q, d_k, d_v;
  Pitched<LogSum> log_sum;

  explicit Results(const Size& s)
      : out(poisoned_rows<Elem>(s.B * s.Q, s.N * s.D)),
        d_q(out),
        d_k(poisoned_rows<Elem>(s.B * s.K, s.N * s.D)),
        d_v(d_k),
        log_sum(poisoned_rows<LogSum>(1, s.B * s.N * s.Q)) {}
};

template <class Elem>
Results<double, double> run_reference(const AttentionCase<Elem>& c) {
  const auto q = in_f64(c.q), k = in_f64(c.k), v = in_f64(c.v), d_out = in_f64(c.d_out);
  Results<double, double> r(c.size);
  auto p = c.template sizes<double>();
  p.q = q.view(), p.k = k.view(), p.v = v.view();
  p.out = r.out.view(), p.log_sum = r.log_sum.values.data();
  kernels::attention_fwd(p);
  kernels::attention_bwd<double>(
      p, {.d_out = d_out.view(), .d_q = r.d_q.view(), .d_k = r.d_k.view(), .d_v = r.d_v.view()});
  return r;
}

template <class Elem>
Results<Elem> run_device(const AttentionCase<Elem>& c) {
  Results<Elem> r(c.size);
  auto p = c.template sizes<Elem>();
  p.q = c.q.view(), p.k = c.k.view(), p.v = c.v.view();
  p.out = r.out.view(), p.log_sum = r.log_sum.values.data();
  kernels::attention_fwd<Sim, Elem>(Stream{}, p);
  const Workspace deltas(c.size.B * c.size.N * c.size.Q * std::int64_t{sizeof(float)});
  kernels::attention_bwd<Sim, Elem>(
      Stream{}, p,
      {.d_out = c.d_out.view(),
       .d_q = r.d_q.view(),
       .d_k = r.d_k.view(),
       .d_v = r.d_v.view(),
       .workspace = deltas.template data<float>()});
  return r;
}

/// Against the reference in every order of threads and blocks, with the same bits in each.
template <class Elem>
void check_attention(const AttentionCase<Elem>& c, double tolerance) {
  const Size& s = c.size;
  INFO("B" << s.B << " Q" << s.Q << " K" << s.K << " N" << s.N << " D" << s.D);
  const Results<double, double> exact = run_reference(c);
  std::vector<Results<Elem>> runs;
  for_each_order([&] {
    runs.push_back(run_device(c));
    const Results<Elem>& got = runs.back();
    CHECK(rel_l2(got.out, exact.out) < tolerance);
    CHECK(rel_l2(got.log_sum, exact.log_sum) < tolerance);
    CHECK(rel_l2(got.d_v, exact.d_v) < 2 * tolerance);
    if (s.K > 1) {  // one key: the softmax is constant, q and k have no gradient
      CHECK(rel_l2(got.d_q, exact.d_q) < 2 * tolerance);
      CHECK(rel_l2(got.d_k, exact.d_k) < 2 * tolerance);
    }
    CHECK(same_bits(got.out, runs.front().out));
    CHECK(same_bits(got.log_sum, runs.front().log_sum));
    CHECK(same_bits(got.d_q, runs.front().d_q));
    CHECK(same_bits(got.d_k, runs.front().d_k));
    CHECK(same_bits(got.d_v, runs.front().d_v));
  });
}

}  // namespace

TEST_CASE("attention/sim/f32 equals loops in f64 over awkward sizes") {
  unsigned seed = 0;
  for (const Size& s : std::vector<Size>{
           {1, 1, 1, 1, 4},
           {1, 40, 40, 2, 64},
           {2, 5, 77, 1, 32},
           {1, 66, 3, 2, 50},
           {1, 65, 130, 1, 13},
           {1, 64, 64, 1, 64}}) {
    const AttentionCase<float> c(s, seed += 10, 2.6);
    check_attention(c, 5e-6);  // sums of 64 terms are cut, not rounded
  }
}

// Tensor cores cut their sums towards zero: left to them over a thousand rows, numbers of one sign lose 1e-5. Here all
// terms of a gradient have one sign: every other key and value is negative as a whole.
TEST_CASE("attention/sim/f32 sums over many tiles are rounded and not cut") {
  for (const Size& s : std::vector<Size>{{1, 1000, 20, 1, 64}, {1, 20, 1000, 1, 64}, {1, 1000, 20, 1, 32}}) {
    INFO("Q" << s.Q << " K" << s.K << " D" << s.D);
    AttentionCase<float> c(s, 700, 0.3);
    for (Pitched<float>* t : {&c.q, &c.k, &c.v, &c.d_out})
      for (std::int64_t r = 0; r < t->rows; ++r)
        for (std::int64_t e = 0; e < t->cols; ++e)
          t->at(r, e) = std::copysign(t->at(r, e), (t == &c.k || t == &c.v) && r % 2 == 1 ? -1.0f : 1.0f);
    const Results<double, double> exact = run_reference(c);
    const Results<float> got = run_device(c);
    CHECK(rel_l2(got.out, exact.out) < 2e-6);
    CHECK(rel_l2(got.d_q, exact.d_q) < 3e-6);
    CHECK(rel_l2(got.d_k, exact.d_k) < 3e-6);
    CHECK(rel_l2(got.d_v, exact.d_v) < 2e-6);
  }
}

TEST_CASE("attention/sim/bf16 equals loops in f64 up to rounding") {
  unsigned seed = 500;
  for (const Size& s : std::vector<Size>{
           {1, 1, 1, 1, 4},
           {1, 40, 40, 2, 64},
           {2, 5, 77, 1, 32},
           {1, 66, 3, 2, 50},
           {1, 129, 93, 1, 64},
           {2, 200, 150, 2, 32},
           {1, 130, 70, 2, 50},
           {1, 7, 9, 1, 13}}) {
    const AttentionCase<BFloat16> c(s, seed += 10, 2.6);
    check_attention(c, 8e-3);
  }
}

TEST_CASE("attention/sim/2560 queries of width 64 across 77 keys") {
  const AttentionCase<BFloat16> c({1, 2560, 77, 1, 64}, 600, 2.6);  // a frame and a text of a latent model
  const Results<double, double> exact = run_reference(c);
  const Results<BFloat16> got = run_device(c);
  CHECK(rel_l2(got.out, exact.out) < 8e-3);
  CHECK(rel_l2(got.d_q, exact.d_q) < 1.6e-2);
  CHECK(rel_l2(got.d_k, exact.d_k) < 1.6e-2);
  CHECK(rel_l2(got.d_v, exact.d_v) < 1.6e-2);
}

TEST_CASE("attention/sim/large logits stay finite and a later tile may hold the largest") {
  const AttentionCase<float> c({1, 3, 130, 1, 8}, 900, 70.0);
  check_attention(c, 3e-4);  // logits of some hundred carry an absolute error near 3e-5
}

TEST_CASE("attention/sim/a negative scale prefers the keys that are least alike") {
  AttentionCase<float> c({1, 5, 70, 2, 32}, 1000, 2.6);
  c.sign = -1;
  check_attention(c, 5e-6);
  AttentionCase<BFloat16> wide({1, 130, 70, 2, 64}, 1010, 2.6);
  wide.sign = -1;
  check_attention(wide, 8e-3);
}

TEST_CASE("attention/sim/keys without queries have no gradient") {
  const Results<float> r = run_device(AttentionCase<float>({2, 0, 70, 1, 32}, 950, 1.0));
  for (std::int64_t i = 0; i < r.d_k.rows; ++i)
    for (std::int64_t c = 0; c < r.d_k.cols; ++c) CHECK((r.d_k(i, c) == 0 && r.d_v(i, c) == 0));
}

}  // namespace avid::test
