// tensor/ops/group_norm_silu.h -- GroupNorm and SiLU, fused
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// Over what a group's mean and variance are taken.
enum class GroupNormScope {
  frame,  ///< the H x W pixels of one frame
  clip,   ///< all T x H x W pixels of one clip
};

struct GroupNormOptions {
  std::int64_t groups = 32;
  double eps = 1e-5;
  GroupNormScope scope = GroupNormScope::frame;
  bool silu = true;  ///< false: the norm alone
};

/// Normalises groups of neighbouring channels over the pixels of a frame or clip, scales, shifts and activates.
///
///   xh = (x - mean) / sqrt(var + eps)      mean and biased variance over the pixels and the C/groups channels of a
///   group z = xh * gamma + beta;  out = z * sigmoid(z)
///
/// Shapes   x [B,T,H,W,C], C a multiple of groups; gamma, beta [C]; returns [B,T,H,W,C].
/// Dtypes   CPU: f32 or f64, one for all. Device: x f32 or bf16, gamma and beta f32; gradients of both f32.
/// Grad     with d_z = d_out silu'(z), q = d_z gamma: d_x = (q - mean(q) - xh mean(q xh)) / sqrt(var + eps), means
///          over the group; d_gamma = sum d_z xh; d_beta = sum d_z. Needs x, gamma, beta; the statistics are computed
///          again.
/// Errors   ShapeError, DTypeError, DeviceError, before any allocation.
/// Exact    one channel per group and one pixel give silu(beta).
/// Source   latent.md 2.1 and 2.2: 32 groups, eps 1e-5 (1e-6 without SiLU in transformers); scope clip in temporal
///          modules. Deviations: none.
Tensor group_norm_silu_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormOptions& options);

struct GroupNormSiluNeeds {
  bool x = true, gamma = true, beta = true;
};
struct GroupNormSiluGradients {
  Tensor d_x, d_gamma, d_beta;  ///< undefined where not asked for
};
GroupNormSiluGradients group_norm_silu_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormOptions& options,
    const GroupNormSiluNeeds& needs);

}  // namespace avid
