// models/unet3d.cpp -- the 3D U-Net, and its configuration read off a checkpoint
#include "models/unet3d.h"

#include "autograd/ops/elementwise.h"

namespace avid {
namespace {

UnetSizes sizes_of(const Unet3dConfig& c) {
  return {
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .in_channels = c.in_channels,
      .num_actions = c.num_actions};
}

const Unet3dConfig& validated(const Unet3dConfig& config) {
  config.validate("unet3d");
  return config;
}

}  // namespace

void Unet3dConfig::validate(std::string_view where) const {
  check<ConfigError>(dim >= 4 && dim % 2 == 0, "{}: dim: expected an even number >= 4, got {}", where, dim);
  check<ConfigError>(
      !dim_mults.empty() && dim_mults.size() <= 10, "{}: dim_mults: expected 1 to 10 levels, got {}", where,
      dim_mults.size());
  for (const std::int64_t mult : dim_mults)
    check<ConfigError>(mult >= 1, "{}: dim_mults: expected numbers >= 1, got {}", where, mult);
  check<ConfigError>(heads >= 1, "{}: heads: expected >= 1, got {}", where, heads);
  check<ConfigError>(
      head_dim >= 2 && head_dim % 2 == 0, "{}: head_dim: expected an even number >= 2, got {}", where, head_dim);
  check<ConfigError>(cond_frames >= 1, "{}: cond_frames: expected >= 1, got {}", where, cond_frames);
  check<ConfigError>(num_actions >= 1, "{}: num_actions: expected >= 1, got {}", where, num_actions);
  check<ConfigError>(
      in_channels == 3 * cond_frames + 3 || in_channels == 3 * cond_frames + 6,
      "{}: in_channels: expected {} (frames and noisy video) or {} (and base output) for {} conditioning frames, got "
      "{}",
      where, 3 * cond_frames + 3, 3 * cond_frames + 6, cond_frames, in_channels);
  check<ConfigError>(
      out_channels == 3 || out_channels == 4, "{}: out_channels: expected 3, or 4 with a mask, got {}", where,
      out_channels);
}

Unet3d::Unet3d(const Unet3dConfig& config)
    : config_(validated(config)),
      encoder_(sizes_of(config)),
      decoder_(sizes_of(config), encoder_.rotary()),
      middle_(sizes_of(config), encoder_.rotary()),
      head_(sizes_of(config), config.out_channels) {
  // The order of the original's state_dict: all of downs and ups before the middle.
  add_child("", encoder_);
  add_child("", decoder_);
  add_child("", middle_);
  add_child("", head_);
}

Var Unet3d::forward(
    const Var& x, const Tensor& t, const Tensor& actions, const Tensor& drop, const Probe& probe) const {
  return run(x, t, actions, drop, nullptr, probe);
}

Var Unet3d::forward_controlled(
    const Var& x, const Tensor& t, const Tensor& actions, const std::vector<Var>& controls, const Probe& probe) const {
  check<ShapeError>(
      controls.size() == config_.dim_mults.size() + 2,
      "unet3d: controls: expected {} (one per level and two for the middle), got {}", config_.dim_mults.size() + 2,
      controls.size());
  return run(x, t, actions, {}, &controls, probe);
}

Var Unet3d::run(
    const Var& x, const Tensor& t, const Tensor& actions, const Tensor& drop, const std::vector<Var>* controls,
    const Probe& probe) const {
  check_rank(x.value(), 5, "unet3d", "x");
  const Var action_code = encoder_.action_code(actions, drop, x.dim(0), x.dim(1));
  EncoderOutput encoded = encoder_.forward(x, t, action_code, probe);
  const Var& bias = encoder_.bias_table();
  const std::size_t levels = encoded.skips.size();
  const Var before_block2 = controls != nullptr ? (*controls)[levels] : Var();
  Var y = middle_.forward(encoded.x, encoded.film, bias, before_block2, probe).out;
  if (controls != nullptr) {
    y = add(y, (*controls)[levels + 1]);
    for (std::size_t i = 0; i < levels; ++i) encoded.skips[i] = add(encoded.skips[i], (*controls)[i]);
  }
  encoded.x = {};
  y = decoder_.forward(y, encoded.skips, encoded.film, bias, probe);
  return head_.forward(y, encoded.first, probe);
}

}  // namespace avid
