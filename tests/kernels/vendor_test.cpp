// tests/kernels/vendor_test.cpp -- what the libraries are told, carried out here by plain loops, against the
// references; and the choice between them and us
#include <cmath>
#include <map>
#include <random>
#include <stdexcept>

#include "kernels/vendor/conv_problem.h"
#include "kernels/vendor/cuda_stopwatch.h"
#include "kernels/vendor/linear_products.h"
#include "kernels/vendor/route.h"
#include "tests/doctest.h"

using namespace avid::kernels;
using namespace avid::kernels::vendor;

namespace {

/// Rows of doubles with gaps of NaN: a description that reads a gap shows itself.
struct Matrix {
  std::int64_t rows = 0, cols = 0, pitch = 0;
  std::vector<double> values;
  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c, std::int64_t p, std::uint64_t seed, double gap = std::nan(""))
      : rows(r), cols(c), pitch(p), values(static_cast<std::size_t>(r * p), gap) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (std::int64_t i = 0; i < r; ++i)
      for (std::int64_t k = 0; k < c; ++k)
        values[static_cast<std::size_t>(i * p + k)] = seed == 0 ? gap : uniform(random);
  }
  Rows<const double> view() const {
    return values.empty() ? Rows<const double>{} : Rows<const double>{values.data(), pitch};
  }
  Rows<double> view() { return values.empty() ? Rows<double>{} : Rows<double>{values.data(), pitch}; }
};

double largest_difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) {
      const auto i = static_cast<std::size_t>(r * a.pitch + c), k = static_cast<std::size_t>(r * b.pitch + c);
      const double d = std::abs(a.values[i] - b.values[k]);
      if (!(d <= worst)) worst = std::isnan(d) ? 1e30 : d;
    }
  return worst;
}

/// D = op(A) op(B) + beta C + bias, column-major, element by element: cuBLASLt's definition.
void carry_out(const Product& p, std::map<Operand, Matrix*>& tensors, const std::vector<double>& bias) {
  const auto at = [&](const MatrixAt& m, std::int64_t row, std::int64_t column) -> double& {
    return tensors.at(m.operand)->values.at(static_cast<std::size_t>(m.offset + column * m.leading + row));
  };
  std::vector<double> result;
  for (std::int64_t j = 0; j < p.n; ++j)
    for (std::int64_t i = 0; i < p.m; ++i) {
      double sum = 0;
      for (std::int64_t l = 0; l < p.k; ++l)
        sum += (p.transpose_a ? at(p.a, l, i) : at(p.a, i, l)) * (p.transpose_b ? at(p.b, j, l) : at(p.b, l, j));
      if (p.beta != 0) sum += p.beta * at(p.c, i, j);
      if (p.bias) sum += bias.at(static_cast<std::size_t>(i));
      result.push_back(sum);
    }
  std::size_t next = 0;
  for (std::int64_t j = 0; j < p.n; ++j)
    for (std::int64_t i = 0; i < p.m; ++i) at(p.d, i, j) = result[next++];
}

struct LinearCase {
  LinearSize size;
  bool residual, bias;
};

const LinearCase kLinear[] = {
    {{.P = 7, .I = 5, .O = 3}, false, false},
    {{.P = 4, .I = 8, .O = 6}, true, true},
    {{.P = 3, .I = 5, .I2 = 7, .O = 9}, false, true},
    {{.P = 6, .I = 1, .I2 = 2, .O = 1}, true, true},
    {{.P = 0, .I = 4, .O = 4}, false, true}};

}  // namespace

TEST_CASE("vendor/stopwatch/twice the second-level cache is read, or more") {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  CHECK(flush_bytes(40 * kMiB) == 128 * kMiB);   // A100
  CHECK(flush_bytes(50 * kMiB) == 128 * kMiB);   // H100
  CHECK(flush_bytes(126 * kMiB) == 256 * kMiB);  // B200
  CHECK(flush_bytes(64 * kMiB) == 128 * kMiB);
  CHECK(flush_bytes(64 * kMiB + 1) == 256 * kMiB);
  CHECK(flush_bytes(32 << 10) == 64 << 10);  // kernels/ptx
  CHECK(flush_bytes(0) == 128 * kMiB);
}

TEST_CASE("vendor/linear/forward products are linear's") {
  for (const LinearCase& c : kLinear) {
    const LinearSize& s = c.size;
    CAPTURE(s.P);
    CAPTURE(s.I2);
    Matrix x(s.P, s.I, s.I + 3, 1),
        x2 = s.I2 > 0 ? Matrix(s.P, s.I2, s.I2 + 1, 2) : Matrix(), w(s.O, s.I + s.I2, s.I + s.I2 + 2, 3),
        residual = c.residual ? Matrix(s.P, s.O, s.O + 4, 4) : Matrix(), out(s.P, s.O, s.O + 5, 0),
        expected(s.P, s.O, s.O, 0);
    std::vector<double> bias(static_cast<std::size_t>(s.O));
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = 0.1 * static_cast<double>(i) - 0.3;
    linear_ref_fwd<double>(
        s, x.view(), x2.view(), w.view(), c.bias ? bias.data() : nullptr, residual.view(), expected.view());
    std::map<Operand, Matrix*> tensors{
        {Operand::x, &x}, {Operand::x2, &x2}, {Operand::w, &w}, {Operand::residual, &residual}, {Operand::out, &out}};
    const LinearPitches pitches{x.pitch, x2.pitch, w.pitch, residual.pitch, out.pitch};
    for (const Product& p : linear_fwd_products(s, pitches, c.residual, c.bias)) carry_out(p, tensors, bias);
    CHECK(largest_difference(out, expected) < 1e-12);
    for (std::int64_t r = 0; r < s.P; ++r) CHECK(std::isnan(out.values[static_cast<std::size_t>(r * out.pitch + s.O)]));
  }
}

TEST_CASE("vendor/linear/backward products are linear's") {
  for (const LinearCase& c : kLinear) {
    const LinearSize& s = c.size;
    CAPTURE(s.P);
    CAPTURE(s.I2);
    Matrix x(s.P, s.I, s.I + 3, 1),
        x2 = s.I2 > 0 ? Matrix(s.P, s.I2, s.I2 + 1, 2) : Matrix(), w(s.O, s.I + s.I2, s.I + s.I2 + 2, 3),
        d_out(s.P, s.O, s.O + 1, 5), d_x(s.P, s.I, s.I + 3, 0),
        d_x2 = s.I2 > 0 ? Matrix(s.P, s.I2, s.I2 + 1, 0) : Matrix(), d_w(s.O, s.I + s.I2, s.I + s.I2 + 2, 0);
    Matrix expect_x = d_x, expect_x2 = d_x2, expect_w = d_w;
    linear_ref_bwd_data<double>(s, d_out.view(), w.view(), expect_x.view(), expect_x2.view());
    linear_ref_bwd_weight<double>(s, d_out.view(), x.view(), x2.view(), expect_w.view(), nullptr);
    std::map<Operand, Matrix*> tensors{{Operand::x, &x},         {Operand::x2, &x2},   {Operand::w, &w},
                                       {Operand::d_out, &d_out}, {Operand::d_x, &d_x}, {Operand::d_x2, &d_x2},
                                       {Operand::d_w, &d_w}};
    const LinearPitches pitches{.x = x.pitch, .x2 = x2.pitch, .w = w.pitch, .out = d_out.pitch};
    for (const Product& p : linear_bwd_data_products(s, pitches, true, s.I2 > 0)) carry_out(p, tensors, {});
    for (const Product& p : linear_bwd_weight_products(s, pitches)) carry_out(p, tensors, {});
    CHECK(largest_difference(d_x, expect_x) < 1e-12);
    CHECK(largest_difference(d_x2, expect_x2) < 1e-12);
    CHECK(largest_difference(d_w, expect_w) < 1e-12);
    CHECK(linear_bwd_data_products(s, pitches, false, s.I2 > 0).size() == (s.P > 0 && s.I2 > 0 ? 1 : 0));
  }
}

TEST_CASE("vendor/conv/layouts are cuDNN's dimensions over our rows") {
  // Carried out from dimensions and strides alone; gaps of x and w are zero, as tensors promise.
  for (const std::int64_t channels : {3, 8}) {
    Conv3dSize s{
        .B = 2,
        .in = {2, 4, 5},
        .out = {2, 2, 3},
        .I = channels,
        .O = 5,
        .kernel = {1, 3, 3},
        .stride = {1, 2, 2},
        .padding = {0, 1, 1}};
    const std::int64_t pitch = (channels + 3) / 4 * 4, out_pitch = 8;
    Matrix x(s.in_positions(), s.I, pitch, 1, 0.0), w(s.O * s.taps(), s.I, pitch, 2, 0.0),
        out(s.out_positions(), s.O, out_pitch, 0), expected = out;
    conv3d_ref_fwd<double>(s, x.view(), {}, w.view(), nullptr, expected.view());
    const ConvPitches pitches{pitch, pitch, out_pitch};
    CHECK_FALSE(needs_joined_rows(s, pitches));
    const ConvProblem p = conv_problem(ConvPass::fwd, ElementType::f32, s, pitches);
    const auto at = [](const Layout& l, std::array<std::int64_t, 5> i) {
      std::int64_t offset = 0;
      for (std::size_t d = 0; d < 5; ++d) offset += i[d] * l.strides[d];
      return static_cast<std::size_t>(offset);
    };
    for (std::int64_t b = 0; b < p.y.dims[0]; ++b)
      for (std::int64_t o = 0; o < p.y.dims[1]; ++o)
        for (std::int64_t t = 0; t < p.y.dims[2]; ++t)
          for (std::int64_t y = 0; y < p.y.dims[3]; ++y)
            for (std::int64_t z = 0; z < p.y.dims[4]; ++z) {
              double sum = 0;
              for (std::int64_t c = 0; c < p.w.dims[1]; ++c)
                for (std::int64_t kt = 0; kt < p.w.dims[2]; ++kt)
                  for (std::int64_t ky = 0; ky < p.w.dims[3]; ++ky)
                    for (std::int64_t kx = 0; kx < p.w.dims[4]; ++kx) {
                      const std::int64_t it = t * p.stride[0] - p.padding[0] + kt,
                                         iy = y * p.stride[1] - p.padding[1] + ky,
                                         ix = z * p.stride[2] - p.padding[2] + kx;
                      if (it < 0 || iy < 0 || ix < 0 || it >= p.x.dims[2] || iy >= p.x.dims[3] || ix >= p.x.dims[4])
                        continue;
                      sum += x.values.at(at(p.x, {b, c, it, iy, ix})) * w.values.at(at(p.w, {o, c, kt, ky, kx}));
                    }
              out.values.at(at(p.y, {b, o, t, y, z})) = sum;
            }
    CHECK(largest_difference(out, expected) < 1e-12);
    // A filter without gaps: cuDNN asks for it.
    std::int64_t dense = 1;
    for (const std::int64_t extent : p.w.dims) dense *= extent;
    CHECK(p.w.strides[0] * p.w.dims[0] == dense);
  }
}

TEST_CASE("vendor/conv/buffers for joined sources and bf16 gradients") {
  const Conv3dSize one{.B = 2, .in = {8, 16, 16}, .out = {8, 16, 16}, .I = 50, .O = 90, .kernel = {1, 3, 3}};
  Conv3dSize two = one;
  two.I2 = 14;
  const ConvPitches pitches{56, 56, 96}, joined{56, 64, 96};
  CHECK(conv_buffers(ConvPass::fwd, ElementType::bf16, one, pitches).total() == 0);
  CHECK(needs_joined_rows(two, joined));
  CHECK(needs_joined_rows(one, {60, 56, 96}));  // rows of x with another pitch
  CHECK(conv_buffers(ConvPass::fwd, ElementType::bf16, two, joined).joined_bytes == 2 * 8 * 16 * 16 * 64 * 2);
  CHECK(conv_buffers(ConvPass::fwd, ElementType::bf16, two, joined).d_w_bytes == 0);
  CHECK(conv_buffers(ConvPass::bwd_weight, ElementType::f32, one, pitches).total() == 0);
  const std::int64_t d_w = 90 * 9 * 56 * 2;  // 90720, to the next multiple of 256
  CHECK(conv_buffers(ConvPass::bwd_weight, ElementType::bf16, one, pitches).d_w_bytes == (d_w + 255) / 256 * 256);
  CHECK(
      describe(ConvPass::bwd_data, ElementType::bf16, two) ==
      "conv3d_bwd_data bf16 [2,8,16,16] 50+14 -> 90, kernel 1,3,3");
}

TEST_CASE("vendor/conv/engines that may be used") {
  CHECK(engine_allowed({}, ElementType::f32));
  CHECK(engine_allowed({.tensor_core = true}, ElementType::bf16));
  CHECK_FALSE(engine_allowed({.tensor_core = true}, ElementType::f32));  // TF32
  CHECK_FALSE(engine_allowed({.down_convert = true}, ElementType::f32));
  for (const ElementType type : {ElementType::f32, ElementType::bf16}) {
    CHECK_FALSE(engine_allowed({.reduced_reduction = true}, type));
    CHECK_FALSE(engine_allowed({.nondeterministic = true}, type));
    CHECK_FALSE(engine_allowed({.fft = true}, type));
    CHECK_FALSE(engine_allowed({.winograd = true}, type));
  }
}

TEST_CASE("vendor/alignment/largest power of two that divides") {
  alignas(512) static char place[1024];
  CHECK(alignment_of(place) == 256);
  CHECK(alignment_of(place + 16) == 16);
  CHECK(alignment_of(place + 6) == 2);
  CHECK(alignment_of(place + 1) == 1);
  CHECK(alignment_of(place + 384) == 128);
}

TEST_CASE("vendor/route/names are read, others refused in one line") {
  CHECK(parse_route(Family::conv, "cudnn") == Route::library);
  CHECK(parse_route(Family::gemm, "cublaslt") == Route::library);
  CHECK(parse_route(Family::gemm, "auto") == Route::automatic);
  CHECK(parse_route(Family::conv, "native") == Route::native);
  CHECK(parse_route(Family::attention, "cudnn") == Route::library);
  CHECK(parse_route(Family::norm, "auto") == Route::automatic);
  try {
    parse_route(Family::gemm, "cudnn");
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()) == "--gemm: expected native, cublaslt or auto, got 'cudnn'");
  }
  try {
    parse_route(Family::norm, "cublaslt");
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()) == "--norm: expected native, cudnn or auto, got 'cublaslt'");
  }
  CHECK(std::string(name_of(Family::attention)) == "attention");
  CHECK(std::string(library_of(Family::attention)) == "cuDNN");
  CHECK(std::string(library_of(Family::gemm)) == "cuBLASLt");
}

TEST_CASE("vendor/route/runs what was asked for") {
  int ours = 0, theirs = 0, named = 0;
  const auto what = [&] { return ++named, std::string("shape"); };
  const auto run = [&](const Stopwatch& stopwatch) {
    run_either(
        Family::gemm, what, [&] { ++ours; }, [&] { ++theirs; }, stopwatch);
  };
  const Stopwatch never = [](const std::function<void()>&) -> std::optional<Spread> {
    FAIL("timed");
    return {};
  };
  run(never);
  CHECK((ours == 1 && theirs == 0 && named == 0));
  set_route(Family::gemm, Route::library);
  run(never);
  CHECK((ours == 1 && theirs == 1));
  // A refusal of what was asked for by name is an error.
  CHECK_THROWS_AS(
      run_either(
          Family::gemm, what, [] {}, [] { throw LibraryError("none"); }, never),
      LibraryError);

  set_route(Family::gemm, Route::automatic);
  const auto takes = [&](double our_time, double their_time) {
    return [=, turn = 0](const std::function<void()>& f) mutable -> std::optional<Spread> {
      f();
      const double time = turn++ % 2 == 0 ? our_time : their_time;
      return Spread{0.5 * time, time, 9};  // medians are compared
    };
  };
  ours = theirs = 0;
  run(takes(2.0, 1.0));
  CHECK((ours == 1 && theirs == 2));  // timed once each, then the faster one
  run(never);
  CHECK((ours == 1 && theirs == 3));
  REQUIRE(choices().size() == 1);
  CHECK(choices()[0].calls == 2);
  CHECK(describe(Family::gemm, choices()[0]) == "auto: shape: ours 2 ms, cuBLASLt 1 ms: cuBLASLt");

  set_route(Family::gemm, Route::automatic);  // forgets
  run(takes(1.0, 1.0));
  CHECK(theirs == 4);
  run(never);
  CHECK(theirs == 4);  // ours where they are no faster
  set_route(Family::gemm, Route::automatic);
  run_either(
      Family::gemm, what, [&] { ++ours; }, [] { throw LibraryError("has none"); }, takes(1.0, 1.0));
  CHECK(describe(Family::gemm, choices()[0]) == "auto: shape: ours 1 ms, cuBLASLt refused: ours (has none)");

  set_route(Family::gemm, Route::automatic);
  ours = 0;
  run([](const std::function<void()>&) { return std::optional<Spread>(); });  // inside a graph: no clock
  CHECK(ours == 1);
  CHECK(choices().empty());
  set_route(Family::gemm, Route::native);
}
