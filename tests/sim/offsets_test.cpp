// tests/sim/offsets_test.cpp -- rows so far apart that element offsets pass 2^31 and byte offsets 2^32: every kernel
// that takes rows gives the bits that it gives on rows close together
//
// Activations of that size exist on a GPU and do not fit here; what can go wrong with them is the arithmetic of
// addresses, and that is the same for few rows that lie far apart (FarRows). layer_norm, rms_norm_film_silu and
// mask_mix have such a case in their own files. Kernels that take one run of n elements or walk whole pitches would
// have to touch all of it: flat_offsets_test.cpp runs their last blocks.
#include <functional>
#include <optional>

#include "kernels/attention.h"
#include "kernels/cast.h"
#include "kernels/conv3d.h"
#include "kernels/cross_entropy.h"
#include "kernels/device/conv_products.h"
#include "kernels/embedding.h"
#include "kernels/fill.h"
#include "kernels/film_condition.h"
#include "kernels/frames.h"
#include "kernels/group_norm_silu.h"
#include "kernels/linear.h"
#include "kernels/linear_attention.h"
#include "kernels/philox.h"
#include "kernels/spatial_attention.h"
#include "kernels/temporal_attention.h"
#include "kernels/timestep_code.h"
#include "kernels/unet_input.h"
#include "kernels/weighted_mse.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/sim/pitched.h"

namespace avid::test {
namespace {

using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

/// A tensor whose rows lie close together, or far apart.
template <class Elem>
class Placed {
 public:
  Placed(bool far, const Pitched<Elem>& t) : near_(t) {
    if (!far) return;
    far_.emplace(t.rows);
    REQUIRE(far_->mapped());
    *far_ = t;
  }
  Rows<Elem> view() { return far_ ? far_->view() : near_.view(); }
  Pitched<Elem> values() const { return far_ ? far_->near(near_.rows, near_.cols) : near_; }

 private:
  Pitched<Elem> near_;
  std::optional<FarRows<Elem>> far_;
};

// Offsets within a clip, a frame or a head pass 2^31, and those of the second one, too: four rows of each.

/// All outputs of an op as numbers, one behind the other, rows and columns without gaps.
using Outputs = std::vector<double>;

template <class Elem>
void add(Outputs& to, const Pitched<Elem>& t) {
  for (std::int64_t r = 0; r < t.rows; ++r)
    for (std::int64_t c = 0; c < t.cols; ++c) to.push_back(t(r, c));
}

/// The same numbers, none of them NaN: what a kernel does not write stays one.
void check_same(const std::function<Outputs(bool far)>& run) {
  const Outputs near = run(false), far = run(true);
  REQUIRE(near.size() == far.size());
  REQUIRE_FALSE(near.empty());
  std::size_t equal = 0;
  for (std::size_t i = 0; i < near.size(); ++i) equal += near[i] == far[i];
  CHECK(equal == near.size());
}

kernels::Conv3dSize conv_size(std::int64_t k, std::int64_t stride, std::int64_t I, std::int64_t I2, std::int64_t O) {
  kernels::Conv3dSize s{.B = 1, .in = {1, 2, 2}, .I = I, .I2 = I2, .O = O};
  s.kernel = {1, k, k}, s.stride = {1, stride, stride}, s.padding = {0, 1, 1};
  s.out = {1, (2 + 2 - k) / stride + 1, (2 + 2 - k) / stride + 1};
  return s;
}

/// The three passes of a convolution with given tiles, all its rows placed.
template <class Elem>
Outputs run_conv(bool far, const kernels::Conv3dSize& s, int tile, int weight_tile) {
  namespace products = kernels::conv_products;
  const std::int64_t in = s.in_positions(), out = s.out_positions(), I = s.I + s.I2;
  Placed<Elem> x(far, random_rows<Elem>(in, s.I, 1)),
      x2(far, random_rows<Elem>(in, std::max<std::int64_t>(s.I2, 1), 2)), d_out(far, random_rows<Elem>(out, s.O, 3)),
      y(far, poisoned_rows<Elem>(out, s.O)), d_x(far, poisoned_rows<Elem>(in, s.I)),
      d_x2(far, poisoned_rows<Elem>(in, std::max<std::int64_t>(s.I2, 1)));
  const Rows<Elem> second = s.I2 > 0 ? x2.view() : Rows<Elem>{};
  const Pitched<Elem> w = random_rows<Elem>(s.O * s.taps(), I, 4);
  const Pitched<float> bias = random_rows<float>(1, s.O, 5);
  Pitched<float> d_w = poisoned_rows<float>(s.O * s.taps(), I), d_bias = poisoned_rows<float>(1, s.O);
  Workspace space(kernels::conv3d_fwd_workspace_bytes<Elem>(s));
  products::forward<Sim, Elem>(
      "test", Stream{}, s, x.view(), second, w.view(), bias.values.data(), {}, y.view(), space.data<void>(), tile);
  space.allocate(kernels::conv3d_bwd_data_workspace_bytes<Elem>(s));
  products::adjoint<Sim, Elem>(
      "test", Stream{}, s, d_out.view(), w.view(), nullptr, {}, {}, d_x.view(), s.I2 > 0 ? d_x2.view() : Rows<Elem>{},
      space.data<void>(), tile);
  if (weight_tile == kernels::kChooseTile) {
    space.allocate(kernels::conv3d_bwd_weight_workspace_bytes<Elem>(s));
    kernels::conv3d_bwd_weight<Sim, Elem>(
        Stream{}, s, d_out.view(), x.view(), second, d_w.view(), d_bias.values.data(), space.data<void>());
  } else {
    auto p = products::weight_grad<Elem>("test", s, d_out.view(), x.view(), second, d_w.view(), nullptr);
    p.tile = weight_tile;
    p.workspace = static_cast<float*>(space.allocate(kernels::gather_weight_grad_workspace_bytes(p)));
    kernels::gather_weight_grad<Sim>(Stream{}, p);
  }
  Outputs all;
  add(all, y.values()), add(all, d_x.values()), add(all, d_w);
  if (s.I2 > 0) add(all, d_x2.values());
  if (weight_tile == kernels::kChooseTile) add(all, d_bias);
  return all;
}

/// A convolution that ends in a norm, whose result and rows before the norm are both written.
Outputs run_conv_norm(bool far, const kernels::Conv3dSize& s, int tile) {
  const std::int64_t out = s.out_positions();
  Placed<bf16> x(far, random_rows<bf16>(s.in_positions(), s.I, 1)), residual(far, random_rows<bf16>(out, s.O, 2)),
      y(far, poisoned_rows<bf16>(out, s.O)), u(far, poisoned_rows<bf16>(out, s.O));
  Placed<float> film(far, random_rows<float>(s.B * s.out[0], 2 * s.O, 3));
  const Pitched<bf16> w = random_rows<bf16>(s.O * s.taps(), s.I, 4);
  const Pitched<float> gamma = random_rows<float>(1, s.O, 5);
  kernels::RowNorm<bf16> norm = kernels::conv_products::row_norm<bf16>(s);
  norm.gamma = gamma.values.data(), norm.film = film.view();
  norm.sums = kernels::chunk_rows("test", "u", u.view(), s.O);
  kernels::conv_products::forward<Sim, bf16>(
      "test", Stream{}, s, x.view(), {}, w.view(), nullptr, residual.view(), y.view(), nullptr, tile, norm);
  Outputs all;
  add(all, y.values()), add(all, u.values());
  return all;
}

/// The data gradient of a convolution behind a norm, through both.
Outputs run_conv_norm_grad(bool far, const kernels::Conv3dSize& s, int tile) {
  const std::int64_t in = s.in_positions();
  Placed<bf16> x(far, random_rows<bf16>(in, s.I, 1)), d_out(far, random_rows<bf16>(s.out_positions(), s.O, 2)),
      d_x(far, poisoned_rows<bf16>(in, s.I));
  Placed<float> film(far, random_rows<float>(s.B * s.in[0], 2 * s.I, 3));
  const Pitched<bf16> w = random_rows<bf16>(s.O * s.taps(), s.I, 4);
  const Pitched<float> gamma = random_rows<float>(1, s.I, 5);
  Workspace space(kernels::conv3d_bwd_data_workspace_bytes<bf16>(s));
  kernels::RowNorm<bf16> norm = kernels::conv_products::row_norm_grad<bf16>(s);
  norm.gamma = gamma.values.data(), norm.film = film.view();
  norm.x = kernels::chunk_rows("test", "x", Rows<const bf16>(x.view()), s.I);
  kernels::GatherGemm<bf16> shape = kernels::conv_products::adjoint_shape<bf16>("test", s);
  shape.norm = norm;
  const kernels::NormSumBlocks blocks = kernels::norm_blocks(shape, tile);
  Pitched<float> sums(blocks.count * blocks.frames * 2, s.I);
  norm.column_sums = sums.values.data();
  kernels::conv_products::adjoint<Sim, bf16>(
      "test", Stream{}, s, d_out.view(), w.view(), nullptr, {}, {}, d_x.view(), {}, space.data<void>(), tile, {}, norm);
  Outputs all;
  add(all, d_x.values()), add(all, sums);
  return all;
}

/// Forward and backward of an attention block of the pixel networks.
template <class Args, class Grads, class Elem, class Bytes, class Fwd, class Bwd>
Outputs run_block(bool far, Args p, Grads g, Bytes&& bytes, Fwd&& fwd, Bwd&& bwd) {
  const std::int64_t rows = p.B * p.T * p.S, inner = p.N * p.D;
  Placed<Elem> x(far, random_rows<Elem>(rows, p.C, 1)), d_y(far, random_rows<Elem>(rows, p.C, 2)),
      y(far, poisoned_rows<Elem>(rows, p.C)), d_x(far, poisoned_rows<Elem>(rows, p.C));
  const Pitched<Elem> w_qkv = random_rows<Elem>(3 * inner, p.C, 3, 0.3), w_out = random_rows<Elem>(p.C, inner, 4, 0.3);
  const Pitched<float> gamma = random_rows<float>(1, p.C, 5);
  Pitched<float> d_gamma = poisoned_rows<float>(1, p.C), d_w_qkv = poisoned_rows<float>(3 * inner, p.C),
                 d_w_out = poisoned_rows<float>(p.C, inner);
  p.x = x.view(), p.gamma = gamma.values.data(), p.w_qkv = w_qkv.view(), p.w_out = w_out.view(), p.y = y.view();
  Workspace space(bytes(p, false));
  p.workspace = space.template data<void>();
  fwd(p);
  g.d_y = d_y.view(), g.d_x = d_x.view(), g.d_gamma = d_gamma.values.data();
  g.d_w_qkv = d_w_qkv.view(), g.d_w_out = d_w_out.view();
  p.workspace = space.allocate(bytes(p, true));
  bwd(p, g);
  Outputs all;
  add(all, y.values()), add(all, d_x.values()), add(all, d_gamma), add(all, d_w_qkv), add(all, d_w_out);
  return all;
}

template <class Elem>
kernels::AttentionBlockDeviceArgs<Elem> two_frames_of_four_rows(std::int64_t C, std::int64_t N, std::int64_t D) {
  kernels::AttentionBlockDeviceArgs<Elem> p;
  p.B = 1, p.T = 2, p.S = 4, p.C = C, p.N = N, p.D = D;
  return p;
}

}  // namespace

TEST_CASE_TEMPLATE("offsets/offsets_conv3d/every_kind_of_tile", Elem, float, bf16) {
  check_same([](bool far) {
    return run_conv<Elem>(far, conv_size(3, 1, 9, 4, 10), kernels::kChooseTile, kernels::kChooseTile);
  });
  check_same([](bool far) {  // stride 2
    return run_conv<Elem>(far, conv_size(4, 2, 10, 0, 6), kernels::kChooseTile, kernels::kChooseTile);
  });
  if constexpr (sizeof(Elem) == 2) {
    check_same([](bool far) {
      return run_conv<bf16>(far, conv_size(3, 1, 24, 0, 20), kernels::kFirstHaloMmaTile, kernels::kChooseTile);
    });
    check_same([](bool far) {                                   // stride 2; of results of 1x1, the halo of 128 fits
      constexpr int kRows128 = kernels::kFirstHaloMmaTile + 9;  // 128x104
      return run_conv<bf16>(far, conv_size(4, 2, 8, 0, 20), kRows128, kernels::kChooseTile);
    });
    const OnArch hopper(90);
    for (const int tile : {kernels::kFirstWgmmaTile, kernels::kFirstHaloTile})
      check_same(
          [tile](bool far) { return run_conv<bf16>(far, conv_size(3, 1, 24, 8, 20), tile, kernels::kFirstWgmmaTile); });
  }
}

TEST_CASE("offsets/offsets_conv3d_norm_film_silu/every_kind_of_tile") {
  kernels::Conv3dSize s = conv_size(3, 1, 24, 0, 20);
  s.in[0] = s.out[0] = 4;  // FiLM of the last frame lies past 2^31 as well
  const OnArch hopper(90);
  for (const int tile : {1, kernels::kFirstHaloMmaTile, kernels::kFirstWgmmaTile, kernels::kFirstHaloTile})
    check_same([&](bool far) { return run_conv_norm(far, s, tile); });
}

TEST_CASE("offsets/offsets_norm_film_silu_conv3d/every_kind_of_tile") {
  kernels::Conv3dSize s = conv_size(3, 1, 24, 0, 20);
  s.in[0] = s.out[0] = 4;
  const OnArch hopper(90);
  for (const int tile : {1, kernels::kFirstHaloMmaTile, kernels::kFirstWgmmaTile, kernels::kFirstHaloTile})
    check_same([&](bool far) { return run_conv_norm_grad(far, s, tile); });
}

TEST_CASE("offsets/offsets_conv3d/a_source_past_its_limit_is_refused") {
  kernels::LinearSize s{.P = 33, .I = 12, .O = 10};  // 32 rows of 2^30 f32 are more than 2^32 chunks
  FarRows<float> x(s.P);
  REQUIRE(x.mapped());
  const Pitched<float> w = random_rows<float>(s.O, s.I, 1), d_out = random_rows<float>(s.P, s.O, 2);
  Pitched<float> out = poisoned_rows<float>(s.P, s.O), d_w = poisoned_rows<float>(s.O, s.I);
  const auto wide = [&] { return x.view(); };
  CHECK_THROWS_WITH_AS(
      (kernels::linear_fwd<Sim, float>(Stream{}, s, wide(), {}, w.view(), nullptr, {}, out.view(), nullptr)),
      doctest::Contains("x: at most 64 GiB"), kernels::GpuError);
  CHECK_THROWS_WITH_AS(
      (kernels::linear_bwd_weight<Sim, float>(Stream{}, s, d_out.view(), wide(), {}, d_w.view(), nullptr, nullptr)),
      doctest::Contains("x: at most 64 GiB"), kernels::GpuError);
  CHECK(is_poisoned(out));
}

TEST_CASE_TEMPLATE("offsets/offsets_linear/all_passes", Elem, float, bf16) {
  check_same([](bool far) {
    const kernels::LinearSize s{.P = 4, .I = 12, .I2 = 8, .O = 10};
    Placed<Elem> x(far, random_rows<Elem>(s.P, s.I, 1)), x2(far, random_rows<Elem>(s.P, s.I2, 2)),
        residual(far, random_rows<Elem>(s.P, s.O, 3)), d_out(far, random_rows<Elem>(s.P, s.O, 4)),
        out(far, poisoned_rows<Elem>(s.P, s.O)), d_x(far, poisoned_rows<Elem>(s.P, s.I)),
        d_x2(far, poisoned_rows<Elem>(s.P, s.I2));
    const Pitched<Elem> w = random_rows<Elem>(s.O, s.I + s.I2, 5);
    const Pitched<float> bias = random_rows<float>(1, s.O, 6);
    Pitched<float> d_w = poisoned_rows<float>(s.O, s.I + s.I2), d_bias = poisoned_rows<float>(1, s.O);
    Workspace space(kernels::linear_fwd_workspace_bytes<Elem>(s));
    kernels::linear_fwd<Sim, Elem>(
        Stream{}, s, x.view(), x2.view(), w.view(), bias.values.data(), residual.view(), out.view(),
        space.data<void>());
    space.allocate(kernels::linear_bwd_data_workspace_bytes<Elem>(s));
    kernels::linear_bwd_data<Sim, Elem>(
        Stream{}, s, d_out.view(), w.view(), d_x.view(), d_x2.view(), space.data<void>());
    space.allocate(kernels::linear_bwd_weight_workspace_bytes<Elem>(s));
    kernels::linear_bwd_weight<Sim, Elem>(
        Stream{}, s, d_out.view(), x.view(), x2.view(), d_w.view(), d_bias.values.data(), space.data<void>());
    Outputs all;
    add(all, out.values()), add(all, d_x.values()), add(all, d_x2.values()), add(all, d_w), add(all, d_bias);
    return all;
  });
}

TEST_CASE_TEMPLATE("offsets/offsets_group_norm_silu/both_passes", Elem, float, bf16) {
  check_same([](bool far) {
    const kernels::GroupNormSize s{.I = 2, .R = 4, .C = 12, .G = 3};
    Placed<Elem> x(far, random_rows<Elem>(8, s.C, 1)), d_out(far, random_rows<Elem>(8, s.C, 2)),
        out(far, poisoned_rows<Elem>(8, s.C)), d_x(far, poisoned_rows<Elem>(8, s.C));
    const Pitched<float> gamma = random_rows<float>(1, s.C, 3), beta = random_rows<float>(1, s.C, 4);
    Pitched<float> d_gamma = poisoned_rows<float>(1, s.C), d_beta = poisoned_rows<float>(1, s.C);
    Workspace space(4 * kernels::group_norm_silu_workspace(s));
    const kernels::GroupNormSiluDeviceArgs<Elem> p{
        s, x.view(), gamma.values.data(), beta.values.data(), out.view(), space.data<float>()};
    kernels::group_norm_silu_fwd<Sim, Elem>(Stream{}, p);
    kernels::group_norm_silu_bwd<Sim, Elem>(
        Stream{}, p, {d_out.view(), d_x.view(), d_gamma.values.data(), d_beta.values.data()});
    Outputs all;
    add(all, out.values()), add(all, d_x.values()), add(all, d_gamma), add(all, d_beta);
    return all;
  });
}

TEST_CASE_TEMPLATE("offsets/offsets_attention/both_passes", Elem, float, bf16) {
  check_same([](bool far) {
    kernels::AttentionArgs<Elem> p{.B = 2, .Q = 4, .K = 4, .N = 2, .D = 16, .scale = 0.25};
    Placed<Elem> q(far, random_rows<Elem>(8, 32, 1)), k(far, random_rows<Elem>(8, 32, 2)),
        v(far, random_rows<Elem>(8, 32, 3)), d_out(far, random_rows<Elem>(8, 32, 4)),
        out(far, poisoned_rows<Elem>(8, 32)), d_q(far, poisoned_rows<Elem>(8, 32)),
        d_k(far, poisoned_rows<Elem>(8, 32)), d_v(far, poisoned_rows<Elem>(8, 32));
    Pitched<float> log_sum = poisoned_rows<float>(1, p.B * p.N * p.Q);
    Workspace space(4 * p.B * p.N * p.Q);
    p.q = q.view(), p.k = k.view(), p.v = v.view(), p.out = out.view(), p.log_sum = log_sum.values.data();
    kernels::attention_fwd<Sim, Elem>(Stream{}, p);
    kernels::attention_bwd<Sim, Elem>(
        Stream{}, p,
        {.d_out = d_out.view(),
         .d_q = d_q.view(),
         .d_k = d_k.view(),
         .d_v = d_v.view(),
         .workspace = space.data<float>()});
    Outputs all;
    add(all, out.values()), add(all, d_q.values()), add(all, d_k.values()), add(all, d_v.values()), add(all, log_sum);
    return all;
  });
}

TEST_CASE_TEMPLATE("offsets/offsets_blocks/linear_and_spatial", Elem, float, bf16) {
  for (const auto& [C, D] : {std::pair{40, 32}, std::pair{12, 16}})  // in two passes where bf16, and composed
    check_same([C = C, D = D](bool far) {
      return run_block<kernels::AttentionBlockDeviceArgs<Elem>, kernels::AttentionBlockDeviceGrads<Elem>, Elem>(
          far, two_frames_of_four_rows<Elem>(C, 2, D), {},
          [](const auto& p, bool backward) { return kernels::linear_attention_workspace_bytes(p, backward); },
          [](const auto& p) { kernels::linear_attention_fwd<Sim, Elem>(Stream{}, p); },
          [](const auto& p, const auto& g) { kernels::linear_attention_bwd<Sim, Elem>(Stream{}, p, g); });
    });
  check_same([](bool far) {
    return run_block<kernels::AttentionBlockDeviceArgs<Elem>, kernels::AttentionBlockDeviceGrads<Elem>, Elem>(
        far, two_frames_of_four_rows<Elem>(20, 2, 32), {},
        [](const auto& p, bool backward) { return kernels::spatial_attention_workspace_bytes(p, backward); },
        [](const auto& p) { kernels::spatial_attention_fwd<Sim, Elem>(Stream{}, p); },
        [](const auto& p, const auto& g) { kernels::spatial_attention_bwd<Sim, Elem>(Stream{}, p, g); });
  });
}

TEST_CASE_TEMPLATE("offsets/offsets_blocks/temporal", Elem, float, bf16) {
  const Pitched<float> table = random_rows<float>(32, 2, 6), freqs = random_rows<float>(1, 8, 7);
  // 8 frames are one kernel forward and one backward in bf16; 3 are composed. Not 64 GiB, which products refuse.
  for (const std::int64_t T : {8, 3})
    check_same([&](bool far) {
      kernels::TemporalAttentionDeviceArgs<Elem> p;
      p.B = T == 8 ? 1 : 2, p.T = T, p.S = T == 8 && sizeof(Elem) == 4 ? 1 : 2, p.C = 32, p.N = 2, p.D = 32, p.R = 8;
      p.bias_table = table.view(), p.rotary_freqs = freqs.values.data();
      Pitched<float> d_table = poisoned_rows<float>(32, 2);
      kernels::TemporalAttentionDeviceGrads<Elem> g;
      g.d_bias_table = d_table.view();
      Outputs all = run_block<decltype(p), decltype(g), Elem>(
          far, p, g,
          [](const auto& a, bool backward) { return kernels::temporal_attention_workspace_bytes(a, backward); },
          [](const auto& a) { kernels::temporal_attention_fwd<Sim, Elem>(Stream{}, a); },
          [](const auto& a, const auto& b) { kernels::temporal_attention_bwd<Sim, Elem>(Stream{}, a, b); });
      add(all, d_table);
      return all;
    });
}

TEST_CASE_TEMPLATE("offsets/offsets_small/ops_around_the_networks", Elem, float, bf16) {
  check_same([](bool far) {  // two clips of a frame of four pixels, and two frames before it
    const kernels::UnetInputSizes size{.B = 2, .T = 1, .K = 2, .S = 4, .C = 3};
    Placed<Elem> cond(far, random_rows<Elem>(16, 3, 1)), x_t(far, random_rows<Elem>(8, 3, 2)),
        base(far, random_rows<Elem>(8, 3, 3)), out(far, poisoned_rows<Elem>(8, 12)),
        d_out(far, random_rows<Elem>(8, 12, 4)), d_x_t(far, poisoned_rows<Elem>(8, 3)),
        d_base(far, poisoned_rows<Elem>(8, 3));
    kernels::unet_input_fwd<Sim, Elem>(Stream{}, size, cond.view(), x_t.view(), base.view(), out.view());
    kernels::unet_input_bwd<Sim, Elem>(Stream{}, size, d_out.view(), d_x_t.view(), d_base.view());
    Outputs all;
    add(all, out.values()), add(all, d_x_t.values()), add(all, d_base.values());
    return all;
  });
  check_same([](bool far) {
    const kernels::FilmConditionSizes size{.B = 2, .T = 2, .time_width = 5, .action_width = 3};
    Placed<Elem> time(far, random_rows<Elem>(2, 5, 1)), action(far, random_rows<Elem>(4, 3, 2)),
        out(far, poisoned_rows<Elem>(4, 8)), d_out(far, random_rows<Elem>(4, 8, 3)),
        d_time(far, poisoned_rows<Elem>(2, 5)), d_action(far, poisoned_rows<Elem>(4, 3));
    kernels::film_condition_fwd<Sim, Elem>(Stream{}, size, time.view(), action.view(), out.view());
    kernels::film_condition_bwd<Sim, Elem>(Stream{}, size, d_out.view(), d_time.view(), d_action.view());
    Outputs all;
    add(all, out.values()), add(all, d_time.values()), add(all, d_action.values());
    return all;
  });
  check_same([](bool far) {
    const kernels::WeightedMseSizes size{.B = 2, .rows_per_clip = 4, .C = 3};
    Placed<Elem> prediction(far, random_rows<Elem>(8, 3, 1)), target(far, random_rows<Elem>(8, 3, 2)),
        d_prediction(far, poisoned_rows<Elem>(8, 3));
    const Pitched<float> weight = random_rows<float>(1, 2, 3);
    Pitched<float> loss = poisoned_rows<float>(1, 1), d_loss = random_rows<float>(1, 1, 4);
    Workspace space(8 * kernels::weighted_mse_workspace(size));
    const kernels::WeightedMseDeviceArgs<Elem> p{size, prediction.view(), target.view(), weight.values.data()};
    kernels::weighted_mse_fwd<Sim, Elem>(Stream{}, p, loss.values.data(), space.data<double>());
    kernels::weighted_mse_bwd<Sim, Elem>(Stream{}, p, d_loss.values.data(), d_prediction.view());
    Outputs all;
    add(all, loss), add(all, d_prediction.values());
    return all;
  });
  check_same([](bool far) {
    const std::vector<std::int64_t> ids{3, 0, 2, 1};
    Placed<Elem> logits(far, random_rows<Elem>(4, 5, 1)), d_logits(far, poisoned_rows<Elem>(4, 5));
    Pitched<float> loss = poisoned_rows<float>(1, 1), d_loss = random_rows<float>(1, 1, 2);
    Workspace space(4 * 4);
    kernels::cross_entropy_fwd<Sim, Elem>(
        Stream{}, logits.view(), ids.data(), 4, 5, loss.values.data(), space.data<float>());
    kernels::cross_entropy_bwd<Sim, Elem>(
        Stream{}, logits.view(), ids.data(), 4, 5, d_loss.values.data(), d_logits.view());
    Outputs all;
    add(all, loss), add(all, d_logits.values());
    return all;
  });
  check_same([](bool far) {  // bytes, which lie close together, to numbers and back
    Pitched<std::uint8_t> bytes(4, 3, 3);
    for (std::size_t i = 0; i < bytes.values.size(); ++i) bytes.values[i] = static_cast<std::uint8_t>(20 * i + 1);
    Placed<Elem> frames(far, poisoned_rows<Elem>(4, 3));
    kernels::frames_from_u8<Sim, Elem>(Stream{}, bytes.view(), 4, 3, frames.view());
    Pitched<std::uint8_t> back(4, 3, 3);
    kernels::frames_to_u8<Sim, Elem>(Stream{}, frames.view(), 4, 3, back.view());
    Outputs all(back.values.begin(), back.values.end());
    add(all, frames.values());
    return all;
  });
  check_same([](bool far) {
    const std::vector<std::int64_t> times{0, 7, 500, 999};
    Placed<Elem> code(far, poisoned_rows<Elem>(4, 8)), filled(far, poisoned_rows<Elem>(4, 3)),
        normal(far, poisoned_rows<Elem>(4, 6)), uniform(far, poisoned_rows<Elem>(4, 6));
    kernels::timestep_code<Sim, Elem>(Stream{}, times.data(), 4, 8, code.view());
    kernels::fill<Sim, Elem>(Stream{}, {.P = 4, .C = 3, .to = filled.view(), .value = 1.5f});
    const kernels::PhiloxStream numbers{.seed = 1, .step = 2, .tag = 3};
    kernels::normal_fill<Sim, Elem>(Stream{}, normal.view().data, 4, 6, normal.view().pitch, numbers, 5);
    kernels::uniform_fill<Sim, Elem>(Stream{}, uniform.view().data, 4, 6, uniform.view().pitch, numbers, 5, -1, 2);
    Outputs all;
    add(all, code.values()), add(all, filled.values()), add(all, normal.values()), add(all, uniform.values());
    return all;
  });
}

TEST_CASE("offsets/offsets_small/f32_alone") {
  check_same([](bool far) {
    const std::vector<std::int64_t> ids{3, -1, 0, 3};
    const kernels::EmbeddingDeviceSizes size{.num_ids = 4, .num_rows = 4, .width = 6};
    Placed<float> table(far, random_rows<float>(4, 6, 1)), out(far, poisoned_rows<float>(4, 6)),
        d_out(far, random_rows<float>(4, 6, 2)), d_table(far, poisoned_rows<float>(4, 6));
    const Pitched<float> null_row = random_rows<float>(1, 6, 3);
    Pitched<float> d_null_row = poisoned_rows<float>(1, 6);
    kernels::embedding_fwd<Sim, float>(Stream{}, size, table.view(), null_row.values.data(), ids.data(), out.view());
    kernels::embedding_bwd<Sim, float>(
        Stream{}, size, d_out.view(), ids.data(), d_table.view(), d_null_row.values.data());
    Outputs all;
    add(all, out.values()), add(all, d_table.values()), add(all, d_null_row);
    return all;
  });
  check_same([](bool far) {
    Placed<float> wide(far, random_rows<float>(4, 6, 1)), again(far, poisoned_rows<float>(4, 6));
    Placed<bf16> narrow(far, poisoned_rows<bf16>(4, 6));
    kernels::cast<Sim, bf16, float>(Stream{}, {.P = 4, .C = 6, .from = wide.view(), .to = narrow.view()});
    kernels::cast<Sim, float, bf16>(Stream{}, {.P = 4, .C = 6, .from = narrow.view(), .to = again.view()});
    Outputs all;
    add(all, narrow.values()), add(all, again.values());
    return all;
  });
}

}  // namespace avid::test
