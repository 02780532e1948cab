// diffusion/parameterisation.cpp -- adding noise, and going between noise, clean video and velocity
#include "diffusion/parameterisation.h"

#include "tensor/error.h"
#include "tensor/ops/clip_mix.h"

namespace avid::diffusion {
namespace {

void check_pair(
    const Schedule& schedule, const Tensor& x, const Tensor& y, const Tensor& t, const char* where, const char* name) {
  check<ShapeError>(x.defined() && x.rank() >= 2, "{}: expected a video [B,T,H,W,C]", where);
  check_shape(y, x.shape(), where, name);
  check_dtype(y, x.dtype(), where, name);
  check_times(schedule, t, x.dim(0), where);
}

/// a[t_b] * x + sign * b[t_b] * y
Tensor weighted_sum(
    const TimeTable& a, const Tensor& x, const TimeTable& b, const Tensor& y, const Tensor& t, double sign = 1) {
  return clip_mix(x, {.table = a.on(x.device())}, y, {.table = b.on(x.device()), .value = sign}, t);
}

}  // namespace

void check_times(const Schedule& schedule, const Tensor& t, std::int64_t num_clips, const char* where) {
  check_shape(t, {num_clips}, where, "t");
  check_dtype(t, DType::i64, where, "t");
  if (t.device().is_gpu()) return;  // not read back: a time outside gives NaN there (tensor/ops/clip_mix.h)
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
  return weighted_sum(schedule.tables().sqrt_abar, x0, schedule.tables().sqrt_one_minus_abar, noise, t);
}

Tensor regression_target(
    const Schedule& schedule, Objective objective, const Tensor& x0, const Tensor& noise, const Tensor& t) {
  check_pair(schedule, x0, noise, t, "regression_target", "noise");
  switch (objective) {
    case Objective::pred_noise: return noise;
    case Objective::pred_x0: return x0;
    case Objective::pred_v:
      return weighted_sum(schedule.tables().sqrt_abar, noise, schedule.tables().sqrt_one_minus_abar, x0, t, -1);
  }
  fail<ConfigError>("regression_target: unknown objective {}", static_cast<int>(objective));
}

Tensor x0_from_output(
    const Schedule& schedule, Objective objective, const Tensor& output, const Tensor& x_t, const Tensor& t) {
  check_pair(schedule, output, x_t, t, "x0_from_output", "x_t");
  switch (objective) {
    case Objective::pred_noise:
      return weighted_sum(schedule.tables().sqrt_recip_abar, x_t, schedule.tables().sqrt_recipm1_abar, output, t, -1);
    case Objective::pred_x0: return output;
    case Objective::pred_v:
      return weighted_sum(schedule.tables().sqrt_abar, x_t, schedule.tables().sqrt_one_minus_abar, output, t, -1);
  }
  fail<ConfigError>("x0_from_output: unknown objective {}", static_cast<int>(objective));
}

Tensor noise_from_x0(const Schedule& schedule, const Tensor& x0, const Tensor& x_t, const Tensor& t) {
  check_pair(schedule, x0, x_t, t, "noise_from_x0", "x_t");
  const TimeTables& table = schedule.tables();
  return clip_mix(
      x_t, {.table = table.sqrt_recip_abar.on(x_t.device())}, x0, {.value = -1}, t,
      {.table = table.sqrt_recipm1_abar.on(x_t.device())});
}

Tensor posterior_mean(const Schedule& schedule, const Tensor& x0, const Tensor& x_t, const Tensor& t) {
  check_pair(schedule, x0, x_t, t, "posterior_mean", "x_t");
  return weighted_sum(schedule.tables().posterior_c1, x0, schedule.tables().posterior_c2, x_t, t);
}

}  // namespace avid::diffusion
