// autograd/ops/film_condition.h -- differentiable film_condition
#pragma once

#include <cstdint>

#include "autograd/var.h"

namespace avid {

/// [time_code[b], action_code[b,t]] for every frame: time_code [B,E], action_code [B,T,A] or undefined; returns
/// [B,T,E+A] (or [B,T,E]). Contract and errors: tensor/ops/film_condition.h.
///
/// Grad     d_time_code[b] = sum_t d_out[b,t,:E]; d_action_code = d_out[..,E:]. Saves nothing.
Var film_condition(const Var& time_code, const Var& action_code, std::int64_t num_frames);

}  // namespace avid
