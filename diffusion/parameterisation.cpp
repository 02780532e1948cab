// diffusion/parameterisation.cpp -- adding noise, and going between noise, clean video and velocity
#include "diffusion/parameterisation.h"

#include "diffusion/per_clip.h"
#include "tensor/error.h"

namespace avid::diffusion {
namespace {

void check_pair(
    const Schedule& schedule, const Tensor& x, const Tensor& y, const Tensor& t, const char* where, const char* name) {
  check<ShapeError>(x.defined() && x.rank() >= 2, "{}: expected a video [B,T,H,W,C]", where);
  check_shape(y, x.shape(), where, name);
  check_dtype(y, x.dtype(), where, name);
  check_times(schedule, t, x.dim(0), where);
}

/// a[t_b] * x + b[t_b] * y
Tensor weighted_sum(
    const std::vector<float>& a, const Tensor& x, const std::vector<float>& b, const Tensor& y, const Tensor& t) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  const std::int64_t* time = t.data<std::int64_t>();
  dispatch_f32_f64(x.dtype(), "diffusion", [&]<class Elem>() {
    map_per_clip<Elem>(x, y, out, [&](std::int64_t clip, Elem u, Elem v) {
      const auto at = static_cast<std::size_t>(time[clip]);
      return static_cast<Elem>(a[at]) * u + static_cast<Elem>(b[at]) * v;
    });
  });
  return out;
}

/// a[t_b] * x - b[t_b] * y
Tensor weighted_difference(
    const std::vector<float>& a, const Tensor& x, const std::vector<float>& b, const Tensor& y, const Tensor& t) {
  std::vector<float> minus_b(b.size());
  std::transform(b.begin(), b.end(), minus_b.begin(), [](float v) { return -v; });
  return weighted_sum(a, x, minus_b, y, t);
}

}  // namespace

void check_times(const Schedule& schedule, const Tensor& t, std::int64_t num_clips, const char* where) {
  check_shape(t, {num_clips}, where, "t");
  check_dtype(t, DType::i64, where, "t");
  for (std::int64_t b = 0; b < num_clips; ++b) {
    const std::int64_t time = t.data<std::int64_t>()[b];
    check<ConfigError>(
        time >= 0 && time < schedule.num_steps(),
        "{}: t: expected 0 to {} (the schedule has {} steps), got {} for clip {}", where, schedule.num_steps() - 1,
        schedule.num_steps(), time, b);
  }
}

Tensor q_sample(const Schedule& schedule, const Tensor& x0, const Tensor& noise, const Tensor& t) {
  check_pair(schedule, x0, noise, t, "q_sample", "noise");
  return weighted_sum(schedule.f32().sqrt_abar, x0, schedule.f32().sqrt_one_minus_abar, noise, t);
}

Tensor regression_target(
    const Schedule& schedule, Objective objective, const Tensor& x0, const Tensor& noise, const Tensor& t) {
  check_pair(schedule, x0, noise, t, "regression_target", "noise");
  switch (objective) {
    case Objective::pred_noise:
      return noise;
    case Objective::pred_x0:
      return x0;
    case Objective::pred_v:
      return weighted_difference(schedule.f32().sqrt_abar, noise, schedule.f32().sqrt_one_minus_abar, x0, t);
  }
  fail<ConfigError>("regression_target: unknown objective {}", static_cast<int>(objective));
}

Tensor x0_from_output(
    const Schedule& schedule, Objective objective, const Tensor& output, const Tensor& x_t, const Tensor& t) {
  check_pair(schedule, output, x_t, t, "x0_from_output", "x_t");
  switch (objective) {
    case Objective::pred_noise:
      return weighted_difference(schedule.f32().sqrt_recip_abar, x_t, schedule.f32().sqrt_recipm1_abar, output, t);
    case Objective::pred_x0:
      return output;
    case Objective::pred_v:
      return weighted_difference(schedule.f32().sqrt_abar, x_t, schedule.f32().sqrt_one_minus_abar, output, t);
  }
  fail<ConfigError>("x0_from_output: unknown objective {}", static_cast<int>(objective));
}

Tensor noise_from_output(
    const Schedule& schedule, Objective objective, const Tensor& output, const Tensor& x_t, const Tensor& t) {
  if (objective == Objective::pred_noise) {
    check_pair(schedule, output, x_t, t, "noise_from_output", "x_t");
    return output;
  }
  return noise_from_x0(schedule, x0_from_output(schedule, objective, output, x_t, t), x_t, t);
}

Tensor noise_from_x0(const Schedule& schedule, const Tensor& x0, const Tensor& x_t, const Tensor& t) {
  check_pair(schedule, x0, x_t, t, "noise_from_x0", "x_t");
  Tensor out = Tensor::empty(x0.shape(), x0.dtype());
  const ScheduleTables<float>& table = schedule.f32();
  const std::int64_t* time = t.data<std::int64_t>();
  dispatch_f32_f64(x0.dtype(), "noise_from_x0", [&]<class Elem>() {
    map_per_clip<Elem>(x_t, x0, out, [&](std::int64_t clip, Elem noisy, Elem clean) {
      const auto at = static_cast<std::size_t>(time[clip]);
      return (static_cast<Elem>(table.sqrt_recip_abar[at]) * noisy - clean) /
             static_cast<Elem>(table.sqrt_recipm1_abar[at]);
    });
  });
  return out;
}

Tensor posterior_mean(const Schedule& schedule, const Tensor& x0, const Tensor& x_t, const Tensor& t) {
  check_pair(schedule, x0, x_t, t, "posterior_mean", "x_t");
  return weighted_sum(schedule.f32().posterior_c1, x0, schedule.f32().posterior_c2, x_t, t);
}

void clamp_to_unit(Tensor& x) {
  dispatch_f32_f64(x.dtype(), "clamp_to_unit", [&]<class Elem>() {
    Elem* p = x.data<Elem>();
    const std::int64_t count = x.rows() * x.pitch();
    for (std::int64_t i = 0; i < count; ++i) p[i] = p[i] < Elem{-1} ? Elem{-1} : p[i] > Elem{1} ? Elem{1} : p[i];
  });
  x.bump_version();
}

}  // namespace avid::diffusion
