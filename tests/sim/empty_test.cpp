// tests/sim/empty_test.cpp -- kernels of empty tensors launch nothing, and sums over nothing are zero
//
// A tensor without rows has no memory: its pointer is null. An empty grid is an error on a GPU and in the simulator.
// Ops with more to say of empty input (attention, norms, conv3d, linear, mask_mix, adam ...) say it in their own files;
// weighted_mse and cross_entropy are refused by their ops.
#include "kernels/accumulate.h"
#include "kernels/bias_rows.h"
#include "kernels/cast.h"
#include "kernels/conv_transpose3d.h"
#include "kernels/elementwise.h"
#include "kernels/fill.h"
#include "kernels/film_condition.h"
#include "kernels/frames.h"
#include "kernels/moments.h"
#include "kernels/philox.h"
#include "kernels/timestep_code.h"
#include "kernels/unet_input.h"
#include "tests/doctest.h"
#include "tests/sim/pitched.h"

namespace avid::test {
namespace {

using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

}  // namespace

TEST_CASE_TEMPLATE("empty/rows/nothing is launched", Elem, float, bf16) {
  const Rows<Elem> none{nullptr, 8};
  CHECK_NOTHROW((kernels::accumulate<Sim, Elem>(Stream{}, nullptr, nullptr, 0)));
  CHECK_NOTHROW((kernels::silu_fwd<Sim, Elem>(Stream{}, nullptr, nullptr, 0)));
  CHECK_NOTHROW((kernels::silu_bwd<Sim, Elem>(Stream{}, nullptr, nullptr, nullptr, 0)));
  CHECK_NOTHROW((kernels::gelu_fwd<Sim, Elem>(Stream{}, nullptr, nullptr, 0)));
  CHECK_NOTHROW((kernels::gelu_bwd<Sim, Elem>(Stream{}, nullptr, nullptr, nullptr, 0)));
  CHECK_NOTHROW((kernels::add_fwd<Sim, Elem>(Stream{}, nullptr, nullptr, nullptr, 0)));
  CHECK_NOTHROW((kernels::scale_fwd<Sim, Elem>(Stream{}, nullptr, 2.0f, nullptr, 0)));
  CHECK_NOTHROW((kernels::clamp_unit<Sim, Elem>(Stream{}, nullptr, 0)));
  std::int32_t found = 0;
  CHECK_NOTHROW((kernels::find_non_finite<Sim, Elem>(Stream{}, nullptr, 0, &found)));
  CHECK(found == 0);
  CHECK_NOTHROW((kernels::add_bias_rows<Sim, Elem>(Stream{}, {.P = 0, .C = 5, .bias = nullptr, .rows = none})));
  CHECK_NOTHROW((kernels::fill<Sim, Elem>(Stream{}, {.P = 0, .C = 5, .to = none, .value = 1})));
  CHECK_NOTHROW((kernels::film_condition_fwd<Sim, Elem>(
      Stream{}, {.B = 0, .T = 2, .time_width = 5, .action_width = 3}, none, none, none)));
  CHECK_NOTHROW((kernels::film_condition_bwd<Sim, Elem>(
      Stream{}, {.B = 0, .T = 2, .time_width = 5, .action_width = 3}, none, none, none)));
  CHECK_NOTHROW(
      (kernels::unet_input_fwd<Sim, Elem>(Stream{}, {.B = 0, .T = 2, .K = 1, .S = 4, .C = 3}, none, none, none, none)));
  CHECK_NOTHROW(
      (kernels::unet_input_bwd<Sim, Elem>(Stream{}, {.B = 2, .T = 2, .K = 1, .S = 0, .C = 3}, none, none, none)));
  CHECK_NOTHROW((kernels::frames_from_u8<Sim, Elem>(Stream{}, {nullptr, 3}, 0, 3, none)));
  CHECK_NOTHROW((kernels::frames_to_u8<Sim, Elem>(Stream{}, none, 0, 3, {nullptr, 3})));
  CHECK_NOTHROW((kernels::normal_fill<Sim, Elem>(Stream{}, nullptr, 0, 3, 8, {}, 5)));
  CHECK_NOTHROW((kernels::normal_fill<Sim, Elem>(Stream{}, nullptr, 3, 0, 8, {}, 5)));
  CHECK_NOTHROW((kernels::uniform_fill<Sim, Elem>(Stream{}, nullptr, 0, 3, 8, {}, 5, -1, 1)));
  CHECK_NOTHROW((kernels::timestep_code<Sim, Elem>(Stream{}, nullptr, 0, 8, none)));
}

TEST_CASE("empty/rows/of one type") {
  CHECK_NOTHROW(
      (kernels::cast<Sim, bf16, float>(Stream{}, {.P = 0, .C = 5, .from = {nullptr, 8}, .to = {nullptr, 8}})));
  CHECK_NOTHROW(
      (kernels::cast<Sim, float, bf16>(Stream{}, {.P = 3, .C = 0, .from = {nullptr, 8}, .to = {nullptr, 8}})));
  CHECK(kernels::moments_blocks(0) == 0);
  CHECK_NOTHROW((kernels::moments<Sim>(Stream{}, {.P = 0, .C = 3, .x = {nullptr, 4}, .partials = nullptr})));
}

TEST_CASE_TEMPLATE("empty/conv_transpose3d/no clips have gradients of zero", Elem, float, bf16) {
  kernels::ConvTranspose3dSize s{.B = 0, .in = {1, 3, 4}, .out = {1, 6, 8}, .I = 5, .O = 6};
  s.kernel = {1, 4, 4}, s.stride = {1, 2, 2}, s.padding = {0, 1, 1};
  const Pitched<Elem> w = random_rows<Elem>(s.I * s.taps(), s.O, 1);
  const Pitched<float> bias = random_rows<float>(1, s.O, 2);
  const Rows<Elem> none{nullptr, 8};
  Workspace space(kernels::conv_transpose3d_fwd_workspace_bytes<Elem>(s));
  CHECK_NOTHROW((kernels::conv_transpose3d_fwd<Sim, Elem>(
      Stream{}, s, none, w.view(), bias.values.data(), none, space.data<void>())));
  CHECK_NOTHROW((kernels::conv_transpose3d_bwd_data<Sim, Elem>(Stream{}, s, none, w.view(), none)));
  Pitched<float> d_w = poisoned_rows<float>(s.I * s.taps(), s.O), d_bias = poisoned_rows<float>(1, s.O);
  space.allocate(kernels::conv_transpose3d_bwd_weight_workspace_bytes<Elem>(s));
  kernels::conv_transpose3d_bwd_weight<Sim, Elem>(
      Stream{}, s, none, none, d_w.view(), d_bias.values.data(), space.data<void>());
  bool zero = true;
  for (std::int64_t r = 0; r < d_w.rows; ++r)
    for (std::int64_t c = 0; c < d_w.cols; ++c) zero = zero && d_w(r, c) == 0;
  for (std::int64_t c = 0; c < s.O; ++c) zero = zero && d_bias(0, c) == 0;
  CHECK(zero);
}

}  // namespace avid::test
