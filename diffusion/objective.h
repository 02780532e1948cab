// diffusion/objective.h -- what a network's output means (noise, clean video or velocity) and how losses are weighted
//
// Source: pixel.md 1.3 and 1.4 (AVID, Rigter et al. 2024; min-SNR: Hang et al. 2023). The conversions need the
// schedule's tables and live in diffusion/schedule.h.
#pragma once

#include <string>
#include <string_view>

namespace avid::diffusion {

/// The regression target of a network.
///   pred_noise  n
///   pred_x0     x_0                                            (every CoinRun model)
///   pred_v      sqrt(abar) n - sqrt(1 - abar) x_0
enum class Objective { pred_noise, pred_x0, pred_v };

/// The weight w_t of a clip in the loss.
///   snr      pred_noise 1, pred_x0 SNR, pred_v SNR / (SNR + 1): all three equal the unweighted loss on the noise
///   min_snr  the same with SNR capped at 5 (times 1 / SNR for pred_noise)
///   none     1
enum class LossWeight { snr, min_snr, none };

const char* name_of(Objective objective);
const char* name_of(LossWeight weight);

/// Reads "pred_noise", "pred_x0", "pred_v". Throws ConfigError listing the valid names.
Objective parse_objective(std::string_view text);
/// Reads "snr", "min_snr", "none". Throws ConfigError listing the valid names.
LossWeight parse_loss_weight(std::string_view text);

}  // namespace avid::diffusion
