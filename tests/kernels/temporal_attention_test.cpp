// tests/kernels/temporal_attention_test.cpp -- hand values, a composition, SIMD path against reference
#include <omp.h>

#include <cmath>
#include <complex>

#include "kernels/relative_bias.h"
#include "kernels/rotary.h"
#include "kernels/temporal_attention.h"
#include "tests/doctest.h"
#include "tests/kernels/attention_block_cases.h"

namespace avid::test {
namespace {

using kernels::relative_bias_bucket;

struct TemporalOperands : AttentionOperands {
  Tensor table;
  std::vector<float> freqs;

  TemporalOperands(const AttentionCase& c, std::uint64_t seed)
      : AttentionOperands(c, seed),
        table(random_tensor({32, c.N}, DType::f64, seed + 9)),
        freqs(rotary_frequencies(c.D)) {
    table = table.to(DType::f32).to(DType::f64);
  }
  TemporalOperands to(DType dtype) const {
    TemporalOperands out = *this;
    static_cast<AttentionOperands&>(out) = AttentionOperands::to(dtype);
    out.table = table.to(dtype);
    return out;
  }
  kernels::TemporalAttentionArgs args(Tensor& y) const {
    kernels::TemporalAttentionArgs p;
    set(p, y, false);
    p.bias_table = table.raw_data(), p.bias_table_pitch = table.pitch();
    p.rotary_freqs = freqs.data(), p.R = static_cast<std::int64_t>(freqs.size());
    return p;
  }
};

/// The block written once more: complex rotations, one (pixel, head, query) at a time.
Tensor composed(const TemporalOperands& in) {
  const auto [B, T, H, W, C, N, D] = in.size;
  const std::int64_t S = H * W, width = N * D, R = static_cast<std::int64_t>(in.freqs.size());
  const Rows qkv = project_qkv(in), table(in.table);
  Rows a(in.x.rows(), width);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t s = 0; s < S; ++s) {
      for (std::int64_t n = 0; n < N; ++n) {
        for (std::int64_t i = 0; i < T; ++i) {
          std::vector<double> weight(static_cast<std::size_t>(T));
          double total = 0;
          for (std::int64_t j = 0; j < T; ++j) {
            const std::int64_t query = (b * T + i) * S + s, key = (b * T + j) * S + s;
            double logit = 0;
            for (std::int64_t r = 0; r < R; ++r) {  // Re(q e^{i f p} conj(k e^{i f p'})): only p - p' matters
              const std::complex<double> q(qkv.at(query, n * D + 2 * r), qkv.at(query, n * D + 2 * r + 1));
              const std::complex<double> k(qkv.at(key, width + n * D + 2 * r), qkv.at(key, width + n * D + 2 * r + 1));
              logit += std::real(q * std::conj(k) * std::polar(1.0, static_cast<double>(i - j) * in.freqs[r]));
            }
            for (std::int64_t d = 2 * R; d < D; ++d) logit += qkv.at(query, n * D + d) * qkv.at(key, width + n * D + d);
            logit = logit / std::sqrt(static_cast<double>(D)) + table.at(relative_bias_bucket(j - i), n);
            total += weight[static_cast<std::size_t>(j)] = std::exp(logit);
          }
          for (std::int64_t j = 0; j < T; ++j) {
            for (std::int64_t d = 0; d < D; ++d) {
              a.at((b * T + i) * S + s, n * D + d) +=
                  weight[static_cast<std::size_t>(j)] / total * qkv.at((b * T + j) * S + s, 2 * width + n * D + d);
            }
          }
        }
      }
    }
  }
  return finish_block(in, a, false);
}

const std::vector<AttentionCase> kCases = {
    {.B = 1, .T = 1, .H = 1, .W = 1, .C = 3, .N = 1, .D = 24},
    {.B = 2, .T = 3, .H = 3, .W = 5, .C = 7, .N = 2, .D = 24},
    {.B = 1, .T = 8, .H = 5, .W = 7, .C = 8, .N = 2, .D = 32},
    {.B = 2, .T = 4, .H = 1, .W = 17, .C = 12, .N = 3, .D = 40},
    {.B = 1, .T = 10, .H = 3, .W = 3, .C = 50, .N = 2, .D = 50},
    {.B = 2, .T = 8, .H = 8, .W = 9, .C = 24, .N = 2, .D = 64},
    {.B = 1, .T = 12, .H = 2, .W = 2, .C = 1, .N = 1, .D = 2},
};

}  // namespace

TEST_CASE("temporal_attention/buckets/property_20 rows and full map") {
  const auto row = [](std::int64_t T, std::int64_t query) {
    std::vector<std::int64_t> buckets;
    for (std::int64_t key = 0; key < T; ++key) buckets.push_back(relative_bias_bucket(key - query));
    return buckets;
  };
  CHECK(row(8, 0) == std::vector<std::int64_t>{0, 17, 18, 19, 20, 21, 22, 23});
  CHECK(row(8, 7) == std::vector<std::int64_t>{7, 6, 5, 4, 3, 2, 1, 0});
  CHECK(row(10, 0) == std::vector<std::int64_t>{0, 17, 18, 19, 20, 21, 22, 23, 24, 24});
  CHECK(row(10, 9) == std::vector<std::int64_t>{8, 8, 7, 6, 5, 4, 3, 2, 1, 0});
  const std::vector<std::int64_t> by_distance = {0,  1,  2,  3,  4,  5,  6,  7,  8,  8,  9,  9,  10, 10, 11, 11,
                                                 12, 12, 12, 12, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15, 15};
  for (std::int64_t m = 0; m < 32; ++m) {
    CHECK(relative_bias_bucket(-m) == by_distance[static_cast<std::size_t>(m)]);
    if (m > 0) CHECK(relative_bias_bucket(m) == 16 + by_distance[static_cast<std::size_t>(m)]);
  }
  CHECK(relative_bias_bucket(-1000) == 15);
  CHECK(relative_bias_bucket(1000) == 31);
}

TEST_CASE("temporal_attention/rotary/the example of the specification") {
  std::vector<double> head(50);
  for (std::size_t i = 0; i < head.size(); ++i) head[i] = static_cast<double>(i);
  const auto freqs = rotary_frequencies(50);
  kernels::rotate_pairs(head.data(), freqs.data(), 16, 1.0);
  const double expected[] = {-0.84147, 0.54030, 0.09251, 3.60436, 2.24674, 5.99601};
  for (std::size_t i = 0; i < 6; ++i) CHECK(std::abs(head[i] - expected[i]) < 6e-6);
  CHECK(std::abs(head[30] - 29.994488) < 2e-6);  // the example was computed in f32
  CHECK(std::abs(head[31] - 31.005335) < 2e-6);
  for (std::size_t i = 32; i < 50; ++i) CHECK(head[i] == static_cast<double>(i));
}

TEST_CASE("temporal_attention/rotary/property_19 norms, frame differences, identity") {
  const auto freqs = rotary_frequencies(50);
  const auto turned = [&](std::uint64_t seed, double position) {
    auto v = random_tensor({50}, DType::f64, seed).to_doubles();
    kernels::rotate_pairs(v.data(), freqs.data(), 16, position);
    return v;
  };
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  const auto still = turned(1, 0), moved = turned(1, 5);
  CHECK(still == random_tensor({50}, DType::f64, 1).to_doubles());
  for (std::size_t r = 0; r < 16; ++r) {
    CHECK(
        std::hypot(moved[2 * r], moved[2 * r + 1]) ==
        doctest::Approx(std::hypot(still[2 * r], still[2 * r + 1])).epsilon(1e-12));
  }
  for (std::size_t d = 32; d < 50; ++d) CHECK(moved[d] == still[d]);
  CHECK(dot(turned(1, 5), turned(2, 2)) == doctest::Approx(dot(turned(1, 7), turned(2, 4))).epsilon(1e-12));
  CHECK(std::abs(dot(turned(1, 5), turned(2, 2)) - dot(turned(1, 5), turned(2, 3))) > 1e-3);
}

TEST_CASE("temporal_attention/reference/equals a composition in f64") {
  std::uint64_t seed = 10;
  for (const AttentionCase& c : kCases) {
    const TemporalOperands in(c, seed += 20);
    Tensor y;
    kernels::temporal_attention_fwd_reference(in.args(y));
    CHECK_MESSAGE(rel_l2(y, composed(in)) < 1e-13, c.name());
    CHECK(gaps_are_zero(y));
  }
}

TEST_CASE("temporal_attention/channel_major/forward equals the f64 reference over awkward sizes") {
  std::uint64_t seed = 1000;
  for (const AttentionCase& c : kCases) {
    const TemporalOperands in(c, seed += 20), in32 = in.to(DType::f32);
    Tensor y, y32;
    kernels::temporal_attention_fwd_reference(in.args(y));
    kernels::temporal_attention_fwd(in32.args(y32));
    CHECK_MESSAGE(rel_l2(y32, y) < 1e-6, c.name(), rel_l2(y32, y));
    CHECK_MESSAGE(gaps_are_zero(y32), c.name());
  }
}

TEST_CASE("temporal_attention/channel_major/gradients equal the f64 reference over awkward sizes") {
  std::uint64_t seed = 2000;
  for (const AttentionCase& c : kCases) {
    if (c.C == 1) continue;  // xhat is 0 there: every gradient through it is noise
    const TemporalOperands in(c, seed += 20), in32 = in.to(DType::f32);
    Tensor y, y32;
    kernels::TemporalAttentionGrads g, g32;
    const AttentionGradTensors out(in, g, false), out32(in32, g32, false);
    Tensor d_table = Tensor::full(in.table.shape(), 7, DType::f64), d_table32 = Tensor::full(in.table.shape(), 7);
    g.d_bias_table = d_table.raw_data(), g.d_bias_table_pitch = d_table.pitch();
    g32.d_bias_table = d_table32.raw_data(), g32.d_bias_table_pitch = d_table32.pitch();
    kernels::temporal_attention_bwd_reference(in.args(y), g);
    kernels::temporal_attention_bwd(in32.args(y32), g32);
    if (c.T == 1) {  // one token: the softmax is constant, q, k and the table have exactly no gradient
      CHECK(max_abs_diff(d_table, Tensor::zeros(d_table.shape(), DType::f64)) < 1e-12);
      CHECK(max_abs_diff(d_table32, Tensor::zeros(d_table.shape())) < 1e-5);
    } else {
      CHECK_MESSAGE(rel_l2(d_table32, d_table) < 1e-5, c.name(), rel_l2(d_table32, d_table));
    }
    CHECK_MESSAGE(out32.differences(out, 1e-5) == "", c.name());
    CHECK(gaps_are_zero(d_table32));
  }
}

TEST_CASE("temporal_attention/channel_major/gradients that nobody wants are not written") {
  const TemporalOperands in =
      TemporalOperands({.B = 1, .T = 4, .H = 3, .W = 3, .C = 8, .N = 2, .D = 24}, 77).to(DType::f32);
  Tensor y;
  const auto args = in.args(y);
  kernels::TemporalAttentionGrads all;
  const AttentionGradTensors expected(in, all, false);
  Tensor d_table = Tensor::empty(in.table.shape());
  all.d_bias_table = d_table.raw_data(), all.d_bias_table_pitch = d_table.pitch();
  kernels::temporal_attention_bwd(args, all);
  for (int only = 0; only < 5; ++only) {
    kernels::TemporalAttentionGrads one;
    const AttentionGradTensors got(in, one, false);
    Tensor d_table_one = Tensor::full(in.table.shape(), 7);
    one.d_bias_table = only == 4 ? d_table_one.raw_data() : nullptr, one.d_bias_table_pitch = d_table_one.pitch();
    if (only != 0) one.d_x = nullptr;
    if (only != 1) one.d_gamma = nullptr;
    if (only != 2) one.d_w_qkv = nullptr;
    if (only != 3) one.d_w_out = nullptr;
    kernels::temporal_attention_bwd(args, one);
    const std::vector<std::pair<const Tensor*, const Tensor*>> pairs = {
        {&got.d_x, &expected.d_x},
        {&got.d_gamma, &expected.d_gamma},
        {&got.d_w_qkv, &expected.d_w_qkv},
        {&got.d_w_out, &expected.d_w_out},
        {&d_table_one, &d_table}};
    for (int i = 0; i < 5; ++i) {
      const Tensor& t = *pairs[static_cast<std::size_t>(i)].first;
      if (i == only) {
        CHECK_MESSAGE(same_bits(t, *pairs[static_cast<std::size_t>(i)].second), i);
      } else {
        CHECK_MESSAGE(max_abs_diff(t, Tensor::full(t.shape(), 7)) == 0, only, " wrote ", i);
      }
    }
  }
}

TEST_CASE(
    "temporal_attention/channel_major/property_18 pixels are independent and property_20 unused rows get no gradient") {
  const TemporalOperands in =
      TemporalOperands({.B = 2, .T = 8, .H = 4, .W = 5, .C = 8, .N = 2, .D = 24}, 5).to(DType::f32);
  Tensor y, changed_y;
  kernels::temporal_attention_fwd(in.args(y));
  TemporalOperands changed = in;
  changed.x = in.x.clone();
  const std::int64_t pixel = 7;
  for (std::int64_t t = 0; t < 8; ++t) changed.x.data<float>()[(t * 20 + pixel) * in.x.pitch() + 3] += 1.0f;
  kernels::temporal_attention_fwd(changed.args(changed_y));
  for (std::int64_t row = 0; row < y.rows(); ++row) {
    bool same = true;
    for (std::int64_t c = 0; c < 8; ++c) {
      same = same && y.data<float>()[row * y.pitch() + c] == changed_y.data<float>()[row * y.pitch() + c];
    }
    CHECK(same == !(row < 8 * 20 && row % 20 == pixel));
  }

  kernels::TemporalAttentionGrads g;
  const AttentionGradTensors out(in, g, false);
  Tensor d_table = Tensor::full(in.table.shape(), 7);
  g.d_bias_table = d_table.raw_data(), g.d_bias_table_pitch = d_table.pitch();
  kernels::temporal_attention_bwd(in.args(y), g);
  const auto values = d_table.to_doubles();
  for (std::size_t row = 0; row < 32; ++row) {
    const bool used = row <= 7 || (row >= 17 && row <= 23);
    CHECK((values[2 * row] != 0) == used);
    CHECK((values[2 * row + 1] != 0) == used);
  }
}

TEST_CASE("temporal_attention/channel_major/the number of threads changes no bit") {
  const TemporalOperands in =
      TemporalOperands({.B = 2, .T = 8, .H = 17, .W = 16, .C = 12, .N = 2, .D = 32}, 9).to(DType::f32);
  const int threads = omp_get_max_threads();
  std::vector<AttentionGradTensors> results;
  std::vector<Tensor> outputs(2), d_tables;
  for (int run = 0; run < 2; ++run) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    kernels::temporal_attention_fwd(in.args(outputs[static_cast<std::size_t>(run)]));
    kernels::TemporalAttentionGrads g;
    results.emplace_back(in, g, false);
    d_tables.push_back(Tensor::empty(in.table.shape()));
    g.d_bias_table = d_tables.back().raw_data(), g.d_bias_table_pitch = d_tables.back().pitch();
    Tensor y;
    kernels::temporal_attention_bwd(in.args(y), g);
  }
  omp_set_num_threads(threads);
  CHECK(same_bits(outputs[0], outputs[1]));
  CHECK(same_bits(results[0].d_x, results[1].d_x));
  CHECK(same_bits(results[0].d_gamma, results[1].d_gamma));
  CHECK(same_bits(results[0].d_w_qkv, results[1].d_w_qkv));
  CHECK(same_bits(results[0].d_w_out, results[1].d_w_out));
  CHECK(same_bits(d_tables[0], d_tables[1]));
}

TEST_CASE("temporal_attention/channel_major/large logits stay finite") {
  TemporalOperands in({.B = 1, .T = 8, .H = 2, .W = 3, .C = 8, .N = 1, .D = 32}, 6);
  auto w = in.w_qkv.to_doubles();
  for (double& value : w) value *= 40;
  in.w_qkv = Tensor::from_values(w, in.w_qkv.shape()).to(DType::f32).to(DType::f64);
  const TemporalOperands in32 = in.to(DType::f32);
  Tensor y, y32;
  kernels::temporal_attention_fwd_reference(in.args(y));
  kernels::temporal_attention_fwd(in32.args(y32));
  CHECK(rel_l2(y32, y) < 1e-4);  // logits near 1e4 carry an absolute error near 1e-3
}

TEST_CASE("temporal_attention/empty/no pixels, no frames, no clips") {
  for (const AttentionCase& c :
       {AttentionCase{.B = 0, .T = 2, .H = 2, .W = 2, .C = 4, .N = 1, .D = 8},
        AttentionCase{.B = 1, .T = 0, .H = 2, .W = 2, .C = 4, .N = 1, .D = 8},
        AttentionCase{.B = 1, .T = 2, .H = 0, .W = 2, .C = 4, .N = 1, .D = 8}}) {
    for (DType dtype : {DType::f32, DType::f64}) {
      const TemporalOperands in = TemporalOperands(c, 8).to(dtype);
      Tensor y;
      kernels::temporal_attention_fwd(in.args(y));
      kernels::TemporalAttentionGrads g;
      const AttentionGradTensors out(in, g, false);
      Tensor d_table = Tensor::full(in.table.shape(), 7, dtype);
      g.d_bias_table = d_table.raw_data(), g.d_bias_table_pitch = d_table.pitch();
      kernels::temporal_attention_bwd(in.args(y), g);
      for (const Tensor* t : std::initializer_list<const Tensor*>{&out.d_gamma, &out.d_w_qkv, &out.d_w_out, &d_table}) {
        CHECK(max_abs_diff(*t, Tensor::zeros(t->shape(), dtype)) == 0);
      }
    }
  }
}

}  // namespace avid::test
