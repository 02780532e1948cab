// tensor/ops/film_condition.h -- one conditioning vector per frame: the time code repeated, then the action code
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// Joins the code of the diffusion step, shared by all frames, with the code of each frame's action.
///
///   out[b,t,:] = [time_code[b,:], action_code[b,t,:]]
///
/// Shapes   time_code [B,E]; action_code [B,T,A] or undefined; returns [B,T,E+A], or [B,T,E] without actions.
/// Dtypes   f32 or f64.
/// Source   pixel.md 2.2, last item. Deviations: none.
Tensor film_condition_fwd(const Tensor& time_code, const Tensor& action_code, std::int64_t num_frames);

struct FilmConditionGrads {
  Tensor d_time_code /*[B,E]*/, d_action_code /*[B,T,A]*/;  ///< undefined where not asked for
};
/// d_time_code[b] = sum_t d_out[b,t,:E]; d_action_code = d_out[..,E:]. `time_width` is E.
FilmConditionGrads film_condition_bwd(const Tensor& d_out, std::int64_t time_width, bool needs_time, bool needs_action);

}  // namespace avid
