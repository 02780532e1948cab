// tests/sim/temporal_attention_core_test.cpp -- attention through time on projected rows, against loops in f64
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/relative_bias.h"
#include "kernels/temporal_attention_core.h"
#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

namespace avid::test {
namespace {

using kernels::Rows;
using kernels::Sim;
using kernels::Stream;
using kernels::TemporalCoreSize;

/// Operands of one case. Each row of qkv and d_o is one head of one part: D numbers and a gap of zeros.
template <class Elem>
struct CoreCase {
  TemporalCoreSize size;
  std::int64_t R, head_pitch, inner, num_rows;
  Pitched<Elem> qkv, d_o;           // [num_rows * 3 * N, D], [num_rows * N, D]
  std::vector<float> bias, rotary;  // [N,T,T], [T,num_pairs,2]

  CoreCase(TemporalCoreSize sizes, std::int64_t rotated_pairs, unsigned seed)
      : size(sizes),
        R(rotated_pairs),
        head_pitch((size.D + 7) / 8 * 8),
        inner(size.N * head_pitch),
        num_rows(size.B * size.T * size.S),
        qkv(num_rows * 3 * size.N, size.D, head_pitch),
        d_o(num_rows * size.N, size.D, head_pitch) {
    size.num_pairs = std::max<std::int64_t>(16, (R + 15) / 16 * 16);
    fill_fine(qkv, 3 * seed, 2.2);
    fill_fine(d_o, 3 * seed + 1, 1.7);
    bias = fine_rows<float>(1, size.N * size.T * size.T, 3 * seed + 2, 1.7).values;
    bias.resize(static_cast<std::size_t>(size.N * size.T * size.T));
    for (std::int64_t t = 0; t < size.T; ++t) {
      for (std::int64_t r = 0; r < size.num_pairs; ++r) {
        const double angle = r < R ? static_cast<double>(t) * std::pow(100.0, -static_cast<double>(r) / 16.0) : 0.0;
        rotary.push_back(static_cast<float>(std::cos(angle)));
        rotary.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }

  std::string name() const {
    return "B" + std::to_string(size.B) + " T" + std::to_string(size.T) + " S" + std::to_string(size.S) + " N" +
           std::to_string(size.N) + " D" + std::to_string(size.D) + " R" + std::to_string(R);
  }
};

struct CoreResult {
  Pitched<double> o, d_qkv, d_bias;
};

/// Everything in f64, one head of one pixel at a time.
template <class Elem>
CoreResult reference(const CoreCase<Elem>& c) {
  const auto [B, T, S, N, D, pairs] = c.size;
  const Pitched<double> qkv = in_f64(c.qkv), upstream = in_f64(c.d_o);
  CoreResult out{
      Pitched<double>(c.d_o.rows, D, c.head_pitch), Pitched<double>(c.qkv.rows, D, c.head_pitch),
      Pitched<double>(1, N * T * T)};
  const double scale = 1 / std::sqrt(static_cast<double>(D));
  for (std::int64_t pixel = 0; pixel < B * S; ++pixel) {
    for (std::int64_t n = 0; n < N; ++n) {
      const auto row = [&](std::int64_t t) { return (pixel / S * T + t) * S + pixel % S; };
      const auto column = [&](std::int64_t part, std::int64_t t) {
        return static_cast<std::size_t>(row(t) * 3 * c.inner + part * c.inner + n * c.head_pitch);
      };
      const auto out_column = [&](std::int64_t t) {
        return static_cast<std::size_t>(row(t) * c.inner + n * c.head_pitch);
      };
      const auto turned = [&, D = D, pairs = pairs](std::vector<double> v, std::int64_t t, double direction) {
        for (std::int64_t r = 0; r < c.R; ++r) {
          const double cosine = c.rotary[static_cast<std::size_t>((t * pairs + r) * 2)];
          const double sine = direction * c.rotary[static_cast<std::size_t>((t * pairs + r) * 2 + 1)];
          const double a = v[static_cast<std::size_t>(2 * r)], b = v[static_cast<std::size_t>(2 * r + 1)];
          v[static_cast<std::size_t>(2 * r)] = a * cosine - b * sine;
          v[static_cast<std::size_t>(2 * r + 1)] = b * cosine + a * sine;
        }
        v.resize(static_cast<std::size_t>(D));
        return v;
      };
      const auto load = [&, D = D](const Pitched<double>& from, std::size_t at) {
        const auto begin = from.values.begin() + static_cast<std::ptrdiff_t>(at);
        return std::vector<double>(begin, begin + D);
      };
      const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
        double sum = 0;
        for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
        return sum;
      };
      std::vector<std::vector<double>> q, k, v, d_o;
      for (std::int64_t t = 0; t < T; ++t) {
        q.push_back(turned(load(qkv, column(0, t)), t, 1));
        k.push_back(turned(load(qkv, column(1, t)), t, 1));
        v.push_back(load(qkv, column(2, t)));
        d_o.push_back(load(upstream, out_column(t)));
      }
      std::vector<std::vector<double>> d_q(q.size(), std::vector<double>(static_cast<std::size_t>(D))), d_k = d_q;
      for (std::size_t i = 0; i < q.size(); ++i) {
        std::vector<double> p(q.size()), d_p(q.size());
        double sum = 0, mean = 0;
        const auto bias_at = [&, T = T](std::size_t j) {
          return static_cast<std::size_t>((n * T + static_cast<std::int64_t>(i)) * T + static_cast<std::int64_t>(j));
        };
        for (std::size_t j = 0; j < q.size(); ++j)
          sum += p[j] = std::exp(dot(q[i], k[j]) * scale + static_cast<double>(c.bias[bias_at(j)]));
        for (std::size_t j = 0; j < q.size(); ++j) {
          p[j] /= sum;
          d_p[j] = dot(d_o[i], v[j]);
          mean += p[j] * d_p[j];
        }
        for (std::size_t j = 0; j < q.size(); ++j) {
          const double d_logit = p[j] * (d_p[j] - mean);
          out.d_bias.values[bias_at(j)] += d_logit;
          for (std::size_t d = 0; d < v[j].size(); ++d) {
            out.o.values[out_column(static_cast<std::int64_t>(i)) + d] += p[j] * v[j][d];
            out.d_qkv.values[column(2, static_cast<std::int64_t>(j)) + d] += p[j] * d_o[i][d];
            d_q[i][d] += d_logit * k[j][d] * scale;
            d_k[j][d] += d_logit * q[i][d] * scale;
          }
        }
      }
      for (std::int64_t t = 0; t < T; ++t) {
        const auto back_q = turned(d_q[static_cast<std::size_t>(t)], t, -1);
        const auto back_k = turned(d_k[static_cast<std::size_t>(t)], t, -1);
        for (std::size_t d = 0; d < back_q.size(); ++d) {
          out.d_qkv.values[column(0, t) + d] = back_q[d];
          out.d_qkv.values[column(1, t) + d] = back_k[d];
        }
      }
    }
  }
  return out;
}

template <class Elem>
void check_case(const CoreCase<Elem>& c, double tolerance) {
  INFO(c.name());
  const CoreResult expected = reference(c);
  const auto& size = c.size;
  Pitched<Elem> qkv = c.qkv, o = c.d_o;
  for (Elem& v : o.values) v = Elem(std::numeric_limits<float>::quiet_NaN());
  kernels::TemporalCoreArgs<Elem> args{
      .B = size.B,
      .T = size.T,
      .S = size.S,
      .N = size.N,
      .D = size.D,
      .head_pitch = c.head_pitch,
      .qkv = {qkv.values.data(), 3 * c.inner},
      .bias = c.bias.data(),
      .rotary = c.rotary.data(),
      .num_pairs = size.num_pairs,
      .o = {o.values.data(), c.inner}};
  kernels::temporal_core_fwd<Sim, Elem>(Stream{}, args);
  CHECK(rel_l2(o, expected.o) < tolerance);
  CHECK(gaps_are_zero(o));

  const auto plan = kernels::temporal_core_plan(size, dtype_of<Elem>, true);
  std::vector<float> partials(
      static_cast<std::size_t>(plan.num_partials) * c.bias.size(), std::numeric_limits<float>::quiet_NaN());
  o = c.d_o;
  args.o.data = o.values.data();
  args.d_bias_partials = partials.data();
  kernels::temporal_core_bwd<Sim, Elem>(Stream{}, args);
  Pitched<double> d_bias(1, expected.d_bias.cols);
  for (std::size_t i = 0; i < partials.size(); ++i)
    d_bias.values[i % c.bias.size()] += static_cast<double>(partials[i]);
  CHECK(rel_l2(o, expected.o) < tolerance);
  CHECK(rel_l2(qkv, expected.d_qkv) < 2 * tolerance);
  CHECK(gaps_are_zero(o));
  CHECK(gaps_are_zero(qkv));
  if (size.T > 1) {
    CHECK(rel_l2(d_bias, expected.d_bias) < 2 * tolerance);
  } else {  // one key: the softmax is constant
    for (std::int64_t n = 0; n < size.N; ++n) CHECK(std::abs(d_bias(0, n)) < 1e-5);
  }
}

}  // namespace

TEST_CASE("temporal_attention_core/f32/equals loops in f64") {
  unsigned seed = 0;
  for (const auto& [size, R] : std::vector<std::pair<TemporalCoreSize, std::int64_t>>{
           {{1, 8, 3, 2, 50}, 16},
           {{2, 8, 2, 1, 32}, 16},
           {{1, 1, 5, 1, 4}, 2},
           {{1, 2, 1, 3, 3}, 1},
           {{2, 7, 3, 1, 64}, 16},
           {{1, 10, 3, 2, 40}, 16},
           {{1, 16, 2, 1, 64}, 16},
           {{1, 20, 1, 1, 72}, 20},
           {{1, 33, 1, 1, 8}, 0}}) {
    const CoreCase<float> c(size, R, ++seed);
    for_each_order([&] { check_case(c, 1e-6); });
  }
}

TEST_CASE("temporal_attention_core/bf16/tensor cores and shared memory equal loops in f64 to rounding") {
  unsigned seed = 100;
  for (const auto& [size, R] : std::vector<std::pair<TemporalCoreSize, std::int64_t>>{
           {{1, 8, 3, 2, 50}, 16},
           {{2, 8, 4, 1, 32}, 16},
           {{1, 1, 5, 1, 4}, 2},
           {{1, 2, 1, 3, 3}, 1},
           {{2, 7, 3, 1, 64}, 16},
           {{1, 10, 3, 2, 40}, 16},
           {{1, 16, 2, 1, 64}, 16},
           {{1, 13, 2, 2, 24}, 12},
           {{1, 8, 1, 1, 8}, 0},
           {{1, 8, 1, 1, 64}, 32},
           {{1, 20, 1, 1, 72}, 20}}) {
    const CoreCase<BFloat16> c(size, R, ++seed);
    for_each_order([&] { check_case(c, 8e-3); });
  }
}

TEST_CASE("temporal_attention_core/sim/a warp walks over several pixels") {
  // So many heads leave one block of four warps for the ten pixels: each uses its shared memory several times.
  check_case(CoreCase<float>({1, 2, 10, 1024, 2}, 1, 200), 1e-6);
  check_case(CoreCase<BFloat16>({1, 2, 10, 1024, 2}, 1, 201), 8e-3);
  check_case(CoreCase<BFloat16>({1, 17, 5, 1024, 2}, 1, 202), 8e-3);
}

TEST_CASE("temporal_attention_core/plan/refuses a sequence that does not fit shared memory") {
  CHECK_THROWS_WITH_AS(
      kernels::temporal_core_plan({1, 150, 4, 1, 64, 16}, DType::f32, false),
      "temporal_attention: expected a clip whose sequences fit 163840 bytes of shared memory, got T = 150, D = 64, "
      "which "
      "need 207024 | use fewer frames",
      std::invalid_argument);
}

}  // namespace avid::test
