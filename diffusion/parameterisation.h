// diffusion/parameterisation.h -- adding noise, and going between noise, clean video and velocity (pixel.md 1.3)
//
// Videos are [B,T,H,W,C], f32 or f64 (f32 or bf16 on a device), channels-last; t is [B] i64, one time per clip, on the
// device of the videos. Coefficients: the schedule's f32 tables whatever the dtype of the videos, so that f64 results
// are those of the original run in f64. On a device a time outside the schedule gives NaN instead of an error.
// All functions throw ShapeError / DTypeError on mismatch and ConfigError if some t is outside the schedule.
#pragma once

#include "diffusion/objective.h"
#include "diffusion/schedule.h"
#include "tensor/ops/elementwise.h"
#include "tensor/tensor.h"

namespace avid::diffusion {

/// x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) n
Tensor q_sample(const Schedule& schedule, const Tensor& x0, const Tensor& noise, const Tensor& t);

/// What a network of this objective should output: n, x_0, or v = sqrt(abar_t) n - sqrt(1 - abar_t) x_0.
/// Shares storage with `noise` or `x0` where it is one of them.
Tensor regression_target(
    const Schedule& schedule, Objective objective, const Tensor& x0, const Tensor& noise, const Tensor& t);

/// The estimate of x_0 from a network's output, not clamped.
Tensor x0_from_output(
    const Schedule& schedule, Objective objective, const Tensor& output, const Tensor& x_t, const Tensor& t);

/// n = (sqrt(1/abar_t) x_t - x_0) / sqrt(1/abar_t - 1)
Tensor noise_from_x0(const Schedule& schedule, const Tensor& x0, const Tensor& x_t, const Tensor& t);

/// The mean of q(x_{t-1} | x_t, x_0): c1_t x_0 + c2_t x_t
Tensor posterior_mean(const Schedule& schedule, const Tensor& x0, const Tensor& x_t, const Tensor& t);

using avid::clamp_to_unit;

/// Throws unless t is [B] i64 with every value in 0..N-1. On a device the values are not looked at.
void check_times(const Schedule& schedule, const Tensor& t, std::int64_t num_clips, const char* where);

}  // namespace avid::diffusion
