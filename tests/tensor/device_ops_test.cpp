// tests/tensor/device_ops_test.cpp -- the small ops on a device (the simulator, or a GPU) agree with the CPU: dispatch,
// devices, workspaces
//
// What the kernels compute is tested in tests/sim; this is about tensors: that every op finds its kernel, allocates
// where its inputs are, takes bf16, and refuses mixed devices.
#include <cmath>
#include <functional>

#include "tensor/error.h"
#include "tensor/ops/adam.h"
#include "tensor/ops/clip_mix.h"
#include "tensor/ops/conv3d.h"
#include "tensor/ops/cross_entropy.h"
#include "tensor/ops/elementwise.h"
#include "tensor/ops/embedding.h"
#include "tensor/ops/film_condition.h"
#include "tensor/ops/frames.h"
#include "tensor/ops/linear.h"
#include "tensor/ops/mask_mix.h"
#include "tensor/ops/timestep_code.h"
#include "tensor/ops/unet_input.h"
#include "tensor/ops/weighted_mse.h"
#include "tensor/rng.h"
#include "tests/doctest.h"
#include "tests/support.h"

#if AVID_HAVE_SIM

using namespace avid;

namespace {

const Device kDevice = test::device_under_test();
const Device kHost{};

Tensor random(const Shape& shape, std::uint64_t seed, double scale = 1) {
  // Rounded to bf16, so that both element types hold the same numbers.
  return test::random_tensor(shape, DType::f32, seed, scale).to(DType::bf16).to(DType::f32);
}

/// op(inputs) there in f32 and bf16 against the CPU in f32. `op` maps tensors to tensors; integer tensors pass as
/// they are. parameters: inputs from this index on stay f32 on the device whatever the activations are.
void compare(
    const char* what, const std::vector<Tensor>& inputs, std::size_t parameters,
    const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& op, bool with_bf16 = true) {
  CAPTURE(what);
  const std::vector<Tensor> want = op(inputs);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !with_bf16) continue;
    CAPTURE(name_of(dtype));
    std::vector<Tensor> there;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      there.push_back((is_float(inputs[i].dtype()) && i < parameters ? inputs[i].to(dtype) : inputs[i]).to(kDevice));
    const std::vector<Tensor> got = op(there);
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i);
      CHECK(got[i].device() == kDevice);
      const Tensor here = got[i].to(kHost).to(want[i].dtype());
      CHECK(test::gaps_are_zero(got[i].to(kHost)));
      const double error = test::rel_l2(here, want[i]);
      const bool both_zero = test::max_abs_diff(here, want[i]) == 0;
      CHECK((both_zero || error < (dtype == DType::f32 ? 1e-5 : 1.5e-2)));
    }
  }
}

constexpr std::size_t kAll = 100;

}  // namespace

TEST_CASE("device_ops/elementwise") {
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{7}, Shape{}, Shape{2, 0, 3}}) {
    const std::vector<Tensor> xy{random(shape, 1, 4), random(shape, 2)};
    compare("silu", xy, kAll, [](auto& in) { return std::vector{silu_fwd(in[0]), silu_bwd(in[1], in[0])}; });
    compare("gelu", xy, kAll, [](auto& in) { return std::vector{gelu_fwd(in[0]), gelu_bwd(in[1], in[0])}; });
    compare("add", xy, kAll, [](auto& in) { return std::vector{add_fwd(in[0], in[1]), scale_fwd(in[0], -0.5)}; });
    compare("clamp", xy, kAll, [](auto& in) {
      Tensor x = in[0].clone();
      clamp_to_unit(x);
      return std::vector{x};
    });
  }
  compare("slice_frames", {random({2, 5, 3, 3}, 3), random({2, 2, 3, 3}, 4), random({3, 6}, 5)}, kAll, [](auto& in) {
    return std::vector{slice_frames_fwd(in[0], 1, 4), slice_frames_bwd(in[1], 5, 2), slice_frames_fwd(in[2], 2, 5)};
  });
  Tensor bad = random({3, 5}, 6);
  CHECK(all_finite(bad.to(kDevice)));
  bad.data<float>()[9] = std::numeric_limits<float>::infinity();
  CHECK(!all_finite(bad.to(kDevice)));
}

TEST_CASE("device_ops/conditioning") {
  const Tensor ids = Tensor::from_values(std::vector<std::int64_t>{0, -1, 2, 1, 0, 2}, {2, 3});
  compare(
      "embedding", {random({3, 50}, 1), random({50}, 2), ids, random({2, 3, 50}, 3)}, kAll,
      [](auto& in) {
        const EmbeddingGrads grads = embedding_bwd(in[3], in[2], 3, embedding_use(in[2]));
        return std::vector{embedding_fwd(in[0], in[1], in[2]), grads.d_table, grads.d_null_row};
      },
      false);
  compare("film_condition", {random({2, 9}, 1), random({2, 3, 5}, 2), random({2, 3, 14}, 3)}, kAll, [](auto& in) {
    const FilmConditionGrads grads = film_condition_bwd(in[2], 9, true, true);
    return std::vector{
        film_condition_fwd(in[0], in[1], 3), grads.d_time_code, grads.d_action_code, film_condition_fwd(in[0], {}, 3)};
  });
  compare(
      "unet_input",
      {random({2, 2, 3, 4, 3}, 1), random({2, 3, 3, 4, 3}, 2), random({2, 3, 3, 4, 3}, 3), random({2, 3, 3, 4, 12}, 4)},
      kAll, [](auto& in) {
        const UnetInputGrads grads = unet_input_bwd(in[3], 6, 3, true, true);
        return std::vector{
            unet_input_fwd(in[0], in[1], in[2]), unet_input_fwd(in[0], in[1], {}), grads.d_x_t, grads.d_base};
      });
  const Tensor t = Tensor::from_values(std::vector<std::int64_t>{0, 10, 199}, {3});
  CHECK(
      test::max_abs_diff(timestep_code(t.to(kDevice), 50, DType::f32).to(kHost), timestep_code(t, 50, DType::f32)) <
      3e-5);
  const Tensor pixels = Tensor::from_values(std::vector<std::uint8_t>{0, 1, 63, 64, 128, 255}, {2, 3});
  const Tensor frames = frames_from_u8(pixels.to(kDevice));
  CHECK(test::same_bits(frames.to(kHost), frames_from_u8(pixels)));
  CHECK(test::same_bits(frames_to_u8(frames).to(kHost), frames_to_u8(frames_from_u8(pixels))));
}

TEST_CASE("device_ops/mixing_and_losses") {
  const std::vector<Tensor> mix{
      random({2, 3, 4, 5, 3}, 1), random({2, 3, 4, 5, 4}, 2), random({2, 3, 4, 5, 3}, 3), random({1}, 4),
      random({1}, 5)};
  compare("mask_mix", mix, 3, [](auto& in) {
    const MaskMixResult result = mask_mix_fwd(in[0], in[1], in[3], in[4]);
    const MaskMixGradients grads = mask_mix_bwd(in[2], in[0], in[1], in[3], result.mask, {});
    return std::vector{result.out, result.mask, grads.d_base, grads.d_adapter, grads.d_w, grads.d_b};
  });
  compare("mask_mix, base frozen", mix, 3, [](auto& in) {
    const MaskMixResult result = mask_mix_fwd(in[0], in[1], in[3], in[4]);
    const MaskMixGradients grads =
        mask_mix_bwd(in[2], in[0], in[1], in[3], result.mask, {.base = false, .adapter = true, .w = false, .b = false});
    CHECK(!grads.d_base.defined());
    CHECK(!grads.d_w.defined());
    return std::vector{grads.d_adapter};
  });
  const Tensor d_loss = Tensor::scalar(0.75);
  compare("weighted_mse", {random({3, 2, 5, 3}, 1), random({3, 2, 5, 3}, 2), random({3}, 3), d_loss}, 2, [](auto& in) {
    return std::vector{weighted_mse_fwd(in[0], in[1], in[2]), weighted_mse_bwd(in[3], in[0], in[1], in[2])};
  });
  compare("weighted_mse of a vector", {random({5}, 1), random({5}, 2), random({5}, 3), d_loss}, 2, [](auto& in) {
    return std::vector{weighted_mse_fwd(in[0], in[1], in[2]), weighted_mse_bwd(in[3], in[0], in[1], in[2])};
  });
  const Tensor ids = Tensor::from_values(std::vector<std::int64_t>{0, 4, 2, 1}, {2, 2});
  compare("cross_entropy", {random({2, 2, 5}, 1, 3), ids, d_loss}, 2, [](auto& in) {
    return std::vector{cross_entropy_fwd(in[0], in[1]), cross_entropy_bwd(in[2], in[0], in[1])};
  });
}

TEST_CASE("device_ops/data_gradients_begin_at_what_is_there") {
  // The expected sums are made in two steps, on the CPU.
  struct Case {
    const char* what;
    Shape x, x2, w;
    Conv3dOptions options;
  };
  const Case cases[] = {
      {"plane", {2, 3, 5, 7, 9}, {}, {6, 1, 3, 3, 9}, {.padding = {0, 1, 1}}},
      {"rows at hand", {1, 2, 16, 16, 50}, {}, {50, 1, 3, 3, 50}, {.padding = {0, 1, 1}}},
      {"two sources", {1, 2, 4, 4, 10}, {1, 2, 4, 4, 5}, {8, 1, 3, 3, 15}, {.padding = {0, 1, 1}}},
      {"halves", {1, 2, 6, 9, 4}, {}, {12, 1, 4, 4, 4}, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}},
      {"point", {1, 1, 3, 5, 17}, {}, {3, 1, 1, 1, 17}, {}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    Shape out =
        conv3d(Tensor::zeros(c.x), Tensor::zeros(c.w), {}, c.options, c.x2.rank() > 0 ? Tensor::zeros(c.x2) : Tensor())
            .shape();
    std::vector<Tensor> in{random(out, 1), random(c.w, 2), random(c.x, 3)};
    if (c.x2.rank() > 0) in.push_back(random(c.x2, 4));
    for (const bool needs_x : {true, false}) {
      if (!needs_x && c.x2.rank() == 0) continue;
      compare("conv3d", in, kAll, [&](auto& t) {
        const bool there = t[0].device().is_gpu();
        const Tensor add2 = t.size() > 3 ? t[3] : Tensor();
        auto grads = there ? conv3d_bwd_data(t[0], t[1], c.x, c.x2, c.options, needs_x, true, t[2], add2)
                           : conv3d_bwd_data(t[0], t[1], c.x, c.x2, c.options, needs_x);
        if (!there && needs_x) grads.d_x = add_fwd(grads.d_x, t[2]);
        if (!there && add2.defined()) grads.d_x2 = add_fwd(grads.d_x2, add2);
        std::vector<Tensor> all;
        for (const Tensor& d : {grads.d_x, grads.d_x2})
          if (d.defined()) all.push_back(d);
        return all;
      });
    }
  }
  const std::vector<Tensor> in{random({7, 12}, 1), random({12, 9 + 5}, 2), random({7, 9}, 3), random({7, 5}, 4)};
  compare("linear", in, kAll, [](auto& t) {
    if (t[0].device().is_gpu()) {
      const auto grads = linear_bwd_data(t[0], t[1], {7, 9}, {7, 5}, true, true, t[2], t[3]);
      return std::vector{grads.d_x, grads.d_x2};
    }
    const auto grads = linear_bwd_data(t[0], t[1], {7, 9}, {7, 5});
    return std::vector{add_fwd(grads.d_x, t[2]), add_fwd(grads.d_x2, t[3])};
  });
  // Nobody else's storage is written to.
  Tensor sum = random({3, 5}, 1).to(kDevice);
  const Tensor same = sum, x = random({3, 5}, 2).to(kDevice);
  CHECK_THROWS_AS(add_in_place(sum, x), Error);
}

TEST_CASE("device_ops/clip_mix") {
  const Tensor t = Tensor::from_values(std::vector<std::int64_t>{2, 0}, {2});
  const Tensor table = Tensor::from_values(std::vector<double>{0.5, -1, 3}, {3});
  compare("clip_mix", {random({2, 3, 4, 3}, 1), random({2, 3, 4, 3}, 2), t}, kAll, [&](auto& in) {
    const Tensor here = in[0].device() == kDevice ? table.to(DType::f32).to(kDevice) : table;
    Tensor into = in[0].clone();
    clip_mix_into(into, {}, in[1], {.value = 0.25});
    return std::vector{
        clip_mix(in[0], {.table = here}, in[1], {.table = here, .value = -1}, in[2], {.table = here}), into};
  });
  const Tensor there = clip_lookup(table.to(DType::f32).to(kDevice), t.to(kDevice), DType::f32);
  CHECK(there.to_doubles() == std::vector<double>{3, 0.5});
}

TEST_CASE("device_ops/random_numbers_do_not_depend_on_the_device") {
  const RngKey key{.seed = 5, .purpose = RngPurpose::train_noise, .step = 9};
  Tensor here = Tensor::zeros({3, 7, 3}), there = Tensor::zeros({3, 7, 3}, DType::f32, kDevice);
  fill_normal(here, key, 13);
  fill_normal(there, key, 13);
  CHECK(test::max_abs_diff(there.to(kHost), here) <= 1e-6);
  CHECK(test::gaps_are_zero(there.to(kHost)));
  fill_uniform(here, key, -1, 1, 3);
  fill_uniform(there, key, -1, 1, 3);
  CHECK(test::same_bits(there.to(kHost), here));
}

TEST_CASE("device_ops/adam_update") {
  const std::vector<Shape> shapes{{3, 5}, {1}, {40, 10}};  // in bf16 the last one's rows lie further apart
  const auto make = [&](Device device) {
    std::vector<AdamParameter> list;
    for (std::size_t i = 0; i < shapes.size(); ++i)
      list.push_back(
          {.param = random(shapes[i], i).to(device),
           .grad = i == 1 ? Tensor() : random(shapes[i], 10 + i).to(device),
           .m = Tensor::zeros(shapes[i], DType::f32, device),
           .v = Tensor::zeros(shapes[i], DType::f32, device),
           .average = random(shapes[i], 20 + i).to(device)});
    return list;
  };
  std::vector<AdamParameter> here = make(kHost), there = make(kDevice);
  there[2].shadow = Tensor::zeros(shapes[2], DType::bf16, kDevice);
  Tensor state_here = make_adam_state(0, kHost), state_there = make_adam_state(0, kDevice);
  const AdamUpdateOptions options{
      .lr = 0.01, .weight_decay = 0.1, .max_norm = 2, .average_decays = {0.9, 1, 0.5, 0.999}};
  for (int n = 1; n <= 3; ++n) {
    adam_update(here, options, state_here);
    adam_update(there, options, state_there);
    const AdamOutcome a = read_adam_state(state_here), b = read_adam_state(state_there);
    CHECK(a.norm == doctest::Approx(b.norm).epsilon(1e-12));
    CHECK(a.clip_scale == doctest::Approx(b.clip_scale).epsilon(1e-12));
    CHECK(b.num_steps == n);
  }
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    CHECK(test::rel_l2(there[i].param.to(kHost), here[i].param) < 1e-6);
    CHECK(test::rel_l2(there[i].average.to(kHost), here[i].average) < 1e-6);
    CHECK(test::gaps_are_zero(there[i].param.to(kHost)));
  }
  CHECK(test::same_bits(there[2].shadow.to(kHost), there[2].param.to(kHost).to(DType::bf16)));
  // A gradient that is not finite stops the update, on both.
  for (std::vector<AdamParameter>* list : {&here, &there}) {
    Tensor bad = random(shapes[2], 1);
    bad.data<float>()[8] = std::numeric_limits<float>::quiet_NaN();
    (*list)[2].grad = bad.to((*list)[2].param.device());
    Tensor& state = list == &here ? state_here : state_there;
    const Tensor before = (*list)[0].param.clone();
    AdamUpdateOptions again = options;
    again.average_decays = {0.9, 0};
    adam_update(*list, again, state);
    CHECK(
        test::same_bits((*list)[0].average.to(kHost), before.to(kHost)));  // the averages have their turn all the same
    CHECK(read_adam_state(state).first_non_finite == 2);
    CHECK(read_adam_state(state).num_steps == 3);
    CHECK(test::same_bits((*list)[0].param.to(kHost), before.to(kHost)));
  }
  // On the device a bad loss does the same, and rate and decays may come from its memory.
  there[2].grad = random(shapes[2], 12).to(kDevice);
  AdamUpdateOptions sent{.lr = 99, .max_norm = 2, .numbers = make_adam_numbers(1, std::vector<double>{0.0}, kDevice)};
  set_adam_numbers(sent.numbers, 0, std::vector<double>{1.0});
  sent.losses = Tensor::from_values(std::vector<float>{1, std::numeric_limits<float>::infinity()}, {2}).to(kDevice);
  const Tensor before = there[0].param.clone(), average = there[0].average.clone();
  adam_update(there, sent, state_there);
  CHECK(read_adam_state(state_there).first_non_finite == 3);
  sent.losses.fill(0);
  adam_update(there, sent, state_there);
  CHECK(read_adam_state(state_there).first_non_finite == -1);
  CHECK(read_adam_state(state_there).num_steps == 4);
  CHECK(test::same_bits(there[0].param.to(kHost), before.to(kHost)));  // the rate sent last is 0
  CHECK(test::same_bits(there[0].average.to(kHost), average.to(kHost)));
  std::vector<Tensor> grads{there[0].grad, Tensor(), random(shapes[2], 12).to(kDevice)};
  const GradNorm norm = grad_norm(grads);
  for (Tensor& g : grads)
    if (g.defined()) g = g.to(kHost);
  CHECK(norm.norm == doctest::Approx(grad_norm(grads).norm).epsilon(1e-12));
  CHECK(norm.first_non_finite == -1);
}

TEST_CASE("device_ops/mixed_devices_and_types_are_refused") {
  const Tensor x = Tensor::zeros({2, 3}), y = Tensor::zeros({2, 3}, DType::f32, kDevice);
  CHECK_THROWS_AS(add_fwd(x, y), DeviceError);
  CHECK_THROWS_AS(clip_mix(y, {}, x, {}), DeviceError);
  CHECK_THROWS_AS(weighted_mse_fwd(y, y, Tensor::zeros({2})), DeviceError);
  CHECK_THROWS_AS(cross_entropy_fwd(y, Tensor::zeros({2}, DType::i64)), DeviceError);
  CHECK_THROWS_AS(silu_fwd(Tensor::zeros({2}, DType::f64, kDevice)), DTypeError);
  CHECK_THROWS_AS(
      embedding_fwd(Tensor::zeros({2, 3}, DType::bf16, kDevice), {}, Tensor::zeros({1}, DType::i64, kDevice)),
      DTypeError);
}

#endif
