// tests/kernels/vendor_graph_test.cpp -- the steps that cuDNN is told attention consists of, carried out here by plain
// loops, against the reference; extents and buffers around them
#include <cmath>
#include <memory>
#include <random>

#include "kernels/attention.h"
#include "kernels/layer_norm.h"
#include "kernels/vendor/attention_problem.h"
#include "kernels/vendor/norm_problem.h"
#include "tests/doctest.h"

using avid::BFloat16;
using namespace avid::kernels;
using namespace avid::kernels::vendor;
namespace tensors = avid::kernels::vendor::attention_tensor;

namespace {

using Index = std::array<std::int64_t, 4>;
using Numbers = std::shared_ptr<std::vector<double>>;

Numbers numbers(std::int64_t count, double value) {
  return std::make_shared<std::vector<double>>(static_cast<std::size_t>(count), value);
}

/// A graph and the memory behind its tensors. Nothing is converted: types only say what cuDNN would round.
struct Machine {
  GraphDescription graph;
  std::vector<Numbers> memory;

  explicit Machine(const GraphDescription& g) : graph(g), memory(g.tensors.size()) {}

  double& at(int tensor, const Index& i) {
    const GraphTensor& t = graph.tensors.at(static_cast<std::size_t>(tensor));
    std::int64_t offset = 0;
    for (std::size_t d = 0; d < 4; ++d) offset += (t.dims[d] == 1 ? 0 : i[d]) * t.strides[d];
    return memory.at(static_cast<std::size_t>(tensor))->at(static_cast<std::size_t>(offset));
  }
  template <class F>
  void for_each(int tensor, F&& f) {
    const Index n = graph.tensors.at(static_cast<std::size_t>(tensor)).dims;
    for (std::int64_t a = 0; a < n[0]; ++a)
      for (std::int64_t b = 0; b < n[1]; ++b)
        for (std::int64_t c = 0; c < n[2]; ++c)
          for (std::int64_t d = 0; d < n[3]; ++d) f(Index{a, b, c, d});
  }
  const Index& dims(int tensor) const { return graph.tensors.at(static_cast<std::size_t>(tensor)).dims; }

  void run(const GraphStep& s) {
    auto& out_memory = memory.at(static_cast<std::size_t>(s.out));
    if (s.step == Step::turned) {  // the same numbers
      REQUIRE(dims(s.out) == Index{dims(s.a)[0], dims(s.a)[1], dims(s.a)[3], dims(s.a)[2]});
      out_memory = memory.at(static_cast<std::size_t>(s.a));
      return;
    }
    if (!out_memory) {
      const Index n = dims(s.out);
      out_memory = numbers(n[0] * n[1] * n[2] * n[3], std::nan(""));
    }
    if (s.step == Step::maximum || s.step == Step::sum)
      for_each(s.out, [&](Index i) { at(s.out, i) = s.step == Step::sum ? 0.0 : -INFINITY; });
    if (s.step == Step::maximum)
      return for_each(s.a, [&](Index i) { at(s.out, i) = std::max(at(s.out, i), at(s.a, i)); });
    if (s.step == Step::sum) return for_each(s.a, [&](Index i) { at(s.out, i) += at(s.a, i); });
    for_each(s.out, [&](Index i) {
      double result = 0;
      switch (s.step) {
        case Step::product:
          REQUIRE(dims(s.a)[3] == dims(s.b)[2]);
          for (std::int64_t l = 0; l < dims(s.a)[3]; ++l)
            result += at(s.a, {i[0], i[1], i[2], l}) * at(s.b, {i[0], i[1], l, i[3]});
          break;
        case Step::multiply: result = at(s.a, i) * at(s.b, i); break;
        case Step::subtract: result = at(s.a, i) - at(s.b, i); break;
        case Step::add: result = at(s.a, i) + at(s.b, i); break;
        case Step::divide: result = at(s.a, i) / at(s.b, i); break;
        case Step::exp: result = std::exp(at(s.a, i)); break;
        default: result = std::log(at(s.a, i)); break;
      }
      at(s.out, i) = result;
    });
  }
};

/// Rows of heads with gaps of NaN; random, or NaN everywhere.
Numbers rows(std::int64_t count, std::int64_t cols, std::int64_t pitch, std::uint64_t seed) {
  Numbers out = numbers(count * pitch, std::nan(""));
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (std::int64_t r = 0; seed > 0 && r < count; ++r)
    for (std::int64_t c = 0; c < cols; ++c) (*out)[static_cast<std::size_t>(r * pitch + c)] = uniform(random);
  return out;
}

/// NaN in one is NaN in the other: gaps stay as they were.
double largest_difference(const Numbers& a, const Numbers& b) {
  double worst = 0;
  for (std::size_t i = 0; i < b->size(); ++i) {
    const double x = a->at(i), y = b->at(i);
    if (std::isnan(x) && std::isnan(y)) continue;
    const double d = std::abs(x - y);
    worst = std::isnan(d) ? 1e30 : std::max(worst, d);
  }
  return worst;
}

Rows<double> view(const Numbers& n, std::int64_t pitch) { return {n->data(), pitch}; }

BFloat16 somewhere[1];  // an address that nobody reads

AttentionArgs<BFloat16> call(std::int64_t D, std::int64_t pitch, bool wants_log_sum) {
  const Rows<const BFloat16> in{somewhere, pitch};
  AttentionArgs<BFloat16> p;
  p.B = 3, p.Q = 64, p.K = 40, p.N = 2, p.D = D;
  p.q = p.k = p.v = in;
  p.out = {somewhere, 2 * D};
  p.log_sum = wants_log_sum ? somewhere : nullptr;
  return p;
}

}  // namespace

TEST_CASE("vendor_graph/attention/the steps are attention's") {
  for (const auto& [Q, K, D] : {std::array<std::int64_t, 3>{5, 7, 3}, {1, 1, 1}, {4, 2, 8}}) {
    CAPTURE(Q);
    const std::int64_t B = 2, N = 2, C = N * D;
    AttentionProblem problem{.pass = AttentionPass::fwd, .B = B, .Q = Q, .K = K, .N = N, .D = D};
    problem.q = C + 3, problem.k = C + 1, problem.v = C + 2, problem.out = C + 5;
    problem.d_out = C + 4, problem.d_q = C, problem.d_k = C + 6, problem.d_v = C + 7;
    const double scale = 0.7;
    const Numbers q = rows(B * Q, C, problem.q, 1), k = rows(B * K, C, problem.k, 2), v = rows(B * K, C, problem.v, 3),
                  d_out = rows(B * Q, C, problem.d_out, 4);

    const Numbers out = rows(B * Q, C, problem.out, 0), log_sum = numbers(B * N * Q, std::nan(""));
    AttentionArgs<double> expect;
    expect.B = B, expect.Q = Q, expect.K = K, expect.N = N, expect.D = D, expect.scale = scale;
    expect.q = view(q, problem.q), expect.k = view(k, problem.k), expect.v = view(v, problem.v);
    expect.out = view(out, problem.out), expect.log_sum = log_sum->data();
    attention_fwd<double>(expect);

    Machine fwd(attention_graph(problem));
    fwd.memory[tensors::q] = q, fwd.memory[tensors::k] = k, fwd.memory[tensors::v] = v;
    fwd.memory[tensors::scale] = numbers(1, scale);
    fwd.memory[tensors::out] = rows(B * Q, C, problem.out, 0);
    fwd.memory[tensors::log_sum] = numbers(B * N * Q, std::nan(""));
    for (const GraphStep& s : fwd.graph.steps) fwd.run(s);
    CHECK(largest_difference(fwd.memory[tensors::out], out) < 1e-12);
    CHECK(largest_difference(fwd.memory[tensors::log_sum], log_sum) < 1e-12);

    const Numbers d_q = rows(B * Q, C, problem.d_q, 0), d_k = rows(B * K, C, problem.d_k, 0),
                  d_v = rows(B * K, C, problem.d_v, 0);
    attention_bwd<double>(
        expect, {.d_out = view(d_out, problem.d_out),
                 .d_q = view(d_q, problem.d_q),
                 .d_k = view(d_k, problem.d_k),
                 .d_v = view(d_v, problem.d_v)});
    problem.pass = AttentionPass::bwd;
    Machine bwd(attention_graph(problem));
    bwd.memory[tensors::q] = q, bwd.memory[tensors::k] = k, bwd.memory[tensors::v] = v;
    bwd.memory[tensors::out] = out, bwd.memory[tensors::log_sum] = log_sum, bwd.memory[tensors::d_out] = d_out;
    bwd.memory[tensors::scale] = numbers(1, scale), bwd.memory[tensors::one] = numbers(1, 1);
    bwd.memory[tensors::delta] = numbers(B * N * Q, std::nan(""));
    bwd.memory[tensors::d_q] = rows(B * Q, C, problem.d_q, 0);
    bwd.memory[tensors::d_k] = rows(B * K, C, problem.d_k, 0);
    bwd.memory[tensors::d_v] = rows(B * K, C, problem.d_v, 0);
    for (const GraphStep& s : bwd.graph.steps) bwd.run(s);
    CHECK(largest_difference(bwd.memory[tensors::d_q], d_q) < 1e-12);
    CHECK(largest_difference(bwd.memory[tensors::d_k], d_k) < 1e-12);
    CHECK(largest_difference(bwd.memory[tensors::d_v], d_v) < 1e-12);
  }
}

TEST_CASE("vendor_graph/attention/products read bf16, sums stay f32") {
  for (const AttentionPass pass : {AttentionPass::fwd, AttentionPass::bwd}) {
    const GraphDescription graph =
        attention_graph({.pass = pass, .B = 1, .Q = 4, .K = 4, .N = 1, .D = 8, .q = 8, .k = 8, .v = 8, .out = 8});
    for (const GraphStep& s : graph.steps) {
      const auto bf16 = [&](int tensor) { return graph.tensors.at(static_cast<std::size_t>(tensor)).bf16; };
      if (s.step == Step::product) CHECK((bf16(s.a) && bf16(s.b)));
      if (s.step == Step::sum || s.step == Step::maximum || s.step == Step::exp) CHECK_FALSE(bf16(s.out));
    }
  }
}

TEST_CASE("vendor_graph/attention/rows as they lie, or copies where heads start between chunks") {
  const AttentionProblem plain = attention_problem(call(32, 192, true));
  CHECK((plain.D == 32 && plain.q == 192 && plain.k == 192 && plain.out == 64));
  CHECK(attention_buffers(call(32, 192, true)).total() == 0);
  CHECK(attention_buffers(call(32, 192, false)).total() == 3 * 2 * 64 * 4);  // log_sum: nobody asked

  const AttentionProblem wide = attention_problem(call(50, 304, true));
  CHECK((wide.D == 56 && wide.q == 112 && wide.k == 112 && wide.v == 112 && wide.out == 112));
  const std::int64_t queries = 3 * 64 * 112 * 2, keys = (3 * 40 * 112 * 2 + 255) / 256 * 256;  // 26880 is no multiple
  CHECK(attention_buffers(call(50, 304, true)).total() == 2 * queries + 2 * keys);

  AttentionGrads<BFloat16> g;
  g.d_out = {somewhere, 64};
  g.d_q = {somewhere, 192};
  const AttentionProblem some = attention_problem(call(32, 192, true), g);
  CHECK((some.pass == AttentionPass::bwd && some.d_out == 64 && some.d_q == 192 && some.d_k == 64 && some.d_v == 64));
  CHECK(attention_buffers(call(32, 192, true), g).total() == 2 * 3 * 40 * 64 * 2);  // d_k, d_v: nobody asked
  CHECK(attention_buffers(call(50, 304, true), g).total() == 4 * queries + 4 * keys);
  CHECK(attention_problem(call(50, 304, true), g).d_k == 112);
  CHECK(
      describe({.pass = AttentionPass::bwd, .bf16 = true, .B = 640, .Q = 64, .K = 64, .N = 8, .D = 50}) ==
      "attention_bwd bf16 [640,64 x 64], 8 heads of 50");
}

TEST_CASE("vendor_graph/norm/buffers do not overlap") {
  const NormProblem p{.pass = NormPass::bwd, .bf16 = true, .num_rows = 10, .C = 100};
  const NormBuffers b = norm_buffers(p);
  CHECK((b.mean == 0 && b.inv_deviation == 256 && b.out == 512));
  CHECK((b.d_x == 512 + 2048 && b.d_gamma == b.d_x + 2048 && b.d_beta == b.d_gamma + 512 && b.total == b.d_beta + 512));
  CHECK(norm_buffers({.pass = NormPass::fwd, .num_rows = 65, .C = 100}).total == 2 * 512);
  CHECK(describe(p) == "layer_norm_bwd bf16 [10,100]");
}
