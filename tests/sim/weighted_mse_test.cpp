// tests/sim/weighted_mse_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/weighted_mse.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

struct Case {
  std::int64_t B, rows_per_clip, C;
  bool vector = false;  ///< the B elements of a vector, one after the other
};

template <class Elem>
struct Result {
  float loss = std::numeric_limits<float>::quiet_NaN();
  Pitched<Elem> d_prediction;
};

std::vector<float> weights(std::int64_t B) {
  std::vector<float> w;
  for (std::int64_t b = 0; b < B; ++b) w.push_back(0.5f + 0.75f * static_cast<float>(b));
  return w;
}

template <class Elem>
Result<Elem> run_device(const Case& c) {
  const std::int64_t rows = c.vector ? 1 : c.B * c.rows_per_clip, cols = c.vector ? c.B : c.C;
  const Pitched<Elem> p = random_rows<Elem>(rows, cols, 1, 2.0), t = random_rows<Elem>(rows, cols, 2);
  Result<Elem> r{.d_prediction = poisoned_rows<Elem>(rows, cols)};
  const std::vector<float> weight = weights(c.B);
  const auto view = [&](auto rows_view) {
    if (c.vector) rows_view.pitch = 1;
    return rows_view;
  };
  const kernels::WeightedMseDeviceArgs<Elem> args{
      .size = {.B = c.B, .rows_per_clip = c.rows_per_clip, .C = c.C},
      .prediction = view(p.view()),
      .target = view(t.view()),
      .weight = weight.data()};
  std::vector<double> workspace(
      static_cast<std::size_t>(kernels::weighted_mse_workspace(args.size)), std::numeric_limits<double>::quiet_NaN());
  kernels::weighted_mse_fwd<Sim>(Stream{}, args, &r.loss, workspace.data());
  const float d_loss = 1.5f;
  kernels::weighted_mse_bwd<Sim>(Stream{}, args, &d_loss, view(r.d_prediction.view()));
  return r;
}

template <class Elem>
void check_case(const Case& c, double bound) {
  CAPTURE(c.B);
  CAPTURE(c.rows_per_clip);
  CAPTURE(c.C);
  const std::int64_t rows = c.vector ? 1 : c.B * c.rows_per_clip, cols = c.vector ? c.B : c.C;
  const Pitched<double> p = random_rows<double>(rows, cols, 1, 2.0), t = random_rows<double>(rows, cols, 2);
  Pitched<double> d(rows, cols);
  const std::vector<float> weight = weights(c.B);
  const std::vector<double> weight64(weight.begin(), weight.end());
  const std::int64_t pitch = c.vector ? 1 : p.pitch;
  const kernels::WeightedMseSizes size{.B = c.B, .rows_per_clip = c.rows_per_clip, .C = c.C};
  const double loss =
      kernels::weighted_mse_fwd<double>(size, {p.values.data(), pitch}, {t.values.data(), pitch}, weight64.data());
  kernels::weighted_mse_bwd<double>(
      size, {p.values.data(), pitch}, {t.values.data(), pitch}, weight64.data(), 1.5, {d.values.data(), pitch});
  const Result<Elem> got = run_device<Elem>(c);
  CHECK(std::abs(got.loss - loss) <= 1e-6 * loss);  // the squares are added in f32 and f64 whatever Elem is
  CHECK(rel_l2(got.d_prediction, d) <= bound);
  if (!c.vector) CHECK(gaps_are_zero(got.d_prediction));
}

}  // namespace

TEST_CASE("weighted_mse/sim/equals_the_reference") {
  for_each_order([] {
    for (const Case& c :
         {Case{1, 1, 1},
          {3, 7, 3},
          {2, 300, 3},
          {2, 5, 4},
          {1, 3, 50},
          {2, 2100, 3},
          {5, 1, 1, true},
          {1, 1, 1, true}}) {
      check_case<float>(c, 1e-6);
      check_case<BFloat16>(c, 4e-3);
    }
  });
}

TEST_CASE("weighted_mse/sim/the_same_bits_in_every_order") {
  const Case c{2, 4500, 3};
  const float first = run_device<float>(c).loss;
  for_each_order([&] { CHECK(run_device<float>(c).loss == first); });
}

TEST_CASE("weighted_mse/sim/a_nan_gradient_of_the_loss_leaves_gaps_zero") {
  const Pitched<BFloat16> p = random_rows<BFloat16>(4, 3, 1), t = random_rows<BFloat16>(4, 3, 2);
  Pitched<BFloat16> d = poisoned_rows<BFloat16>(4, 3);
  const float weight = 1, d_loss = std::numeric_limits<float>::quiet_NaN();
  const kernels::WeightedMseDeviceArgs<BFloat16> args{
      .size = {.B = 1, .rows_per_clip = 4, .C = 3}, .prediction = p.view(), .target = t.view(), .weight = &weight};
  kernels::weighted_mse_bwd<Sim>(Stream{}, args, &d_loss, d.view());
  CHECK(std::isnan(d(3, 2)));
  CHECK(gaps_are_zero(d));
}
