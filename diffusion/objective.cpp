// diffusion/objective.cpp -- names of objectives and loss weights
#include "diffusion/objective.h"

#include "tensor/error.h"

namespace avid::diffusion {

const char* name_of(Objective objective) {
  switch (objective) {
    case Objective::pred_noise: return "pred_noise";
    case Objective::pred_x0: return "pred_x0";
    case Objective::pred_v: return "pred_v";
  }
  return "?";
}

const char* name_of(LossWeight weight) {
  switch (weight) {
    case LossWeight::snr: return "snr";
    case LossWeight::min_snr: return "min_snr";
    case LossWeight::none: return "none";
  }
  return "?";
}

Objective parse_objective(std::string_view text) {
  for (const Objective o : {Objective::pred_noise, Objective::pred_x0, Objective::pred_v})
    if (text == name_of(o)) return o;
  fail<ConfigError>("objective: expected pred_noise, pred_x0 or pred_v, got '{}'", text);
}

LossWeight parse_loss_weight(std::string_view text) {
  for (const LossWeight w : {LossWeight::snr, LossWeight::min_snr, LossWeight::none})
    if (text == name_of(w)) return w;
  fail<ConfigError>("loss weight: expected snr, min_snr or none, got '{}'", text);
}

}  // namespace avid::diffusion
