// tests/sim/attention_test.cpp -- softmax attention on the simulator, against the CPU loops in f64
#include "kernels/attention.h"

#include <vector>

#include "tests/doctest.h"
#include "tests/sim/attention_support.h"
#include "tests/sim/orders.h"

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
  DeviceMatrix<Elem> q, k, v, d_out;

  AttentionCase(const Size& s, std::uint64_t seed, double factor)
      : size(s),
        q(s.B * s.Q, s.N * s.D, seed, factor),
        k(s.B * s.K, s.N * s.D, seed + 1, 1.0),
        v(s.B * s.K, s.N * s.D, seed + 2, 1.0),
        d_out(s.B * s.Q, s.N * s.D, seed + 3, 1.0) {}

  template <class E>
  kernels::AttentionArgs<E> sizes() const {
    kernels::AttentionArgs<E> p;
    p.B = size.B, p.Q = size.Q, p.K = size.K, p.N = size.N, p.D = size.D;
    p.scale = 1 / std::sqrt(static_cast<double>(size.D));
    return p;
  }
};

/// Returns everything that was computed, for comparison of runs.
template <class Elem>
std::vector<double> check_attention(const AttentionCase<Elem>& c, double tolerance) {
  const Size& s = c.size;
  const std::int64_t width = s.N * s.D;
  INFO("B" << s.B << " Q" << s.Q << " K" << s.K << " N" << s.N << " D" << s.D);
  std::vector<double> out(c.q.values.size()), log_sum(static_cast<std::size_t>(s.B * s.N * s.Q)), d_q(out.size()),
      d_k(c.k.values.size()), d_v(d_k.size());
  auto host = c.template sizes<double>();
  host.q = {c.q.values.data(), width}, host.k = {c.k.values.data(), width}, host.v = {c.v.values.data(), width};
  host.out = {out.data(), width}, host.log_sum = log_sum.data();
  kernels::attention_fwd(host);
  kernels::attention_bwd<double>(
      host, {.d_out = {c.d_out.values.data(), width},
             .d_q = {d_q.data(), width},
             .d_k = {d_k.data(), width},
             .d_v = {d_v.data(), width}});

  auto device = c.template sizes<Elem>();
  auto got = DeviceMatrix<Elem>::dirty(c.q.num_rows, width), got_d_q = got;
  auto got_d_k = DeviceMatrix<Elem>::dirty(c.k.num_rows, width), got_d_v = got_d_k;
  std::vector<float> got_log_sum(log_sum.size(), nan_of<float>()), deltas(log_sum.size(), nan_of<float>());
  device.q = c.q.rows(), device.k = c.k.rows(), device.v = c.v.rows();
  device.out = got.mutable_rows(), device.log_sum = got_log_sum.data();
  kernels::attention_fwd<Sim, Elem>(Stream{}, device);
  CHECK(relative_l2(got.read(), out) < tolerance);
  CHECK(relative_l2(doubles(got_log_sum), log_sum) < tolerance);
  kernels::attention_bwd<Sim, Elem>(
      Stream{}, device,
      {.d_out = c.d_out.rows(),
       .d_q = got_d_q.mutable_rows(),
       .d_k = got_d_k.mutable_rows(),
       .d_v = got_d_v.mutable_rows(),
       .workspace = deltas.data()});
  CHECK(relative_l2(got_d_v.read(), d_v) < 2 * tolerance);
  if (s.K > 1) {  // one key: the softmax is constant, q and k have no gradient
    CHECK(relative_l2(got_d_q.read(), d_q) < 2 * tolerance);
    CHECK(relative_l2(got_d_k.read(), d_k) < 2 * tolerance);
  }
  std::vector<double> all = got.read();
  for (const std::vector<double>& more : {doubles(got_log_sum), got_d_q.read(), got_d_k.read(), got_d_v.read()})
    all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// Against the reference in every order of threads and blocks, with the same bits in each.
template <class Elem>
void check_in_every_order(const AttentionCase<Elem>& c, double tolerance) {
  std::vector<double> first;
  for_each_order([&] {
    const std::vector<double> got = check_attention(c, tolerance);
    if (first.empty()) first = got;
    CHECK(got == first);
  });
}

}  // namespace

TEST_CASE("attention/sim/f32 equals loops in f64 over awkward sizes") {
  std::uint64_t seed = 0;
  for (const Size& s : std::vector<Size>{
           {1, 1, 1, 1, 4},
           {1, 40, 40, 2, 64},
           {2, 5, 77, 1, 32},
           {1, 66, 3, 2, 50},
           {1, 65, 130, 1, 13},
           {1, 64, 64, 1, 64}}) {
    const AttentionCase<float> c(s, seed += 10, 1.5);
    check_in_every_order(c, 2e-6);
  }
}

TEST_CASE("attention/sim/bf16 equals loops in f64 up to rounding") {
  std::uint64_t seed = 500;
  for (const Size& s : std::vector<Size>{
           {1, 1, 1, 1, 4},
           {1, 40, 40, 2, 64},
           {2, 5, 77, 1, 32},
           {1, 66, 3, 2, 50},
           {1, 129, 93, 1, 64},
           {1, 7, 9, 1, 13}}) {
    const AttentionCase<BFloat16> c(s, seed += 10, 1.5);
    check_in_every_order(c, 8e-3);
  }
}

TEST_CASE("attention/sim/large logits stay finite and a later tile may hold the largest") {
  AttentionCase<float> c({1, 3, 130, 1, 8}, 900, 40.0);
  check_attention(c, 1e-4);  // logits of some hundred carry an absolute error near 1e-5
}

}  // namespace avid::test
