// models/controlnet.cpp -- ControlNet and ControlNetSmaller
#include "models/controlnet.h"

#include <fmt/format.h>

#include "autograd/ops/unet_input.h"
#include "models/infer.h"

namespace avid {
namespace {

UnetSizes sizes_of(const ControlNetConfig& c) {
  // The base's own rules for these numbers, checked through its configuration.
  const Unet3dConfig like_base{
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .cond_frames = c.cond_frames,
      .num_actions = c.num_actions,
      .in_channels = 3 * c.cond_frames + 3,
      .out_channels = 3};
  like_base.validate("controlnet");
  return {
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .in_channels = like_base.in_channels,
      .num_actions = c.num_actions};
}

std::int64_t top_width(const UnetSizes& sizes) { return sizes.level_width(sizes.num_levels() - 1); }

}  // namespace

ControlNetConfig infer_controlnet_config(const nn::TensorMap& tensors, std::string_view source) {
  const UnetSizes sizes = infer_unet_sizes(tensors, source);
  check<ShapeError>(
      sizes.num_actions > 0 && tensors.contains("zero_linear_action_mlp.weight"),
      "{}: tensor zero_linear_action_mlp.weight is missing | is this file of another model?", source);
  ControlNetConfig config{
      .dim = sizes.dim,
      .dim_mults = sizes.dim_mults,
      .heads = sizes.heads,
      .head_dim = sizes.head_dim,
      .cond_frames = sizes.in_channels / 3 - 1,
      .num_actions = sizes.num_actions};
  if (tensors.contains("projection_layers.0.weight")) {
    const std::int64_t width = find_shape(tensors, "projection_layers.0.weight", 2, source)[0];
    check<ShapeError>(
        width % sizes.dim_mults[0] == 0, "{}: projection_layers.0.weight: expected a multiple of {} rows, got {}",
        source, sizes.dim_mults[0], width);
    config.base_dim = width / sizes.dim_mults[0];
  }
  return config;
}

void check_controls(const ControlNetConfig& control, const Unet3dConfig& base, std::string_view source) {
  const std::int64_t width = control.base_dim > 0 ? control.base_dim : control.dim;
  check<ConfigError>(
      control.dim_mults == base.dim_mults && width == base.dim && control.cond_frames == base.cond_frames,
      "{}: expected a ControlNet for a base of width {} with {} levels and {} conditioning frames, got {}, {} and {}",
      source, base.dim, base.dim_mults.size(), base.cond_frames, width, control.dim_mults.size(), control.cond_frames);
}

ControlNet::ControlNet(const ControlNetConfig& config)
    : config_(config),
      encoder_(sizes_of(config)),
      action_out_(4 * config.dim, 4 * config.dim, {.zero = true}),
      mid1_out_(top_width(encoder_.sizes()), top_width(encoder_.sizes()), {.zero = true}),
      mid2_out_(top_width(encoder_.sizes()), top_width(encoder_.sizes()), {.zero = true}),
      middle_(encoder_.sizes(), encoder_.rotary()) {
  const UnetSizes& sizes = encoder_.sizes();
  add_child("", encoder_);
  add_child("zero_linear_action_mlp", action_out_);
  for (std::int64_t i = 0; i < sizes.num_levels(); ++i) {
    const std::int64_t width = sizes.level_width(i);
    zero_convs_.push_back(std::make_unique<nn::Pointwise>(width, width, nn::Linear::Options{.zero = true}));
    add_child(fmt::format("zero_convs.{}", i), *zero_convs_.back());
  }
  add_child("", middle_);
  add_child("mid_block_1_out", mid1_out_);
  add_child("mid_block_2_out", mid2_out_);
  if (config.base_dim == 0) return;
  for (std::int64_t i = 0; i < sizes.num_levels() + 2; ++i) {
    const std::int64_t mult = sizes.dim_mults[static_cast<std::size_t>(std::min(i, sizes.num_levels() - 1))];
    projections_.push_back(std::make_unique<nn::Linear>(config.dim * mult, config.base_dim * mult));
    add_child(fmt::format("projection_layers.{}", i), *projections_.back());
  }
}

void ControlNet::copy_from_base(const Unet3d& base) {
  const NamedTensors from_base = base.export_tensors(), own = export_tensors();
  nn::TensorMap merged(own.begin(), own.end());
  for (const auto& [name, tensor] : from_base)
    if (const auto found = merged.find(name); found != merged.end()) found->second = tensor;
  import_tensors(merged, "controlnet: copy of the base", dtype());
}

void ControlNet::zero_projection_biases() {
  for (const nn::NamedParameter& p : parameters()) {
    if (!p.name.starts_with("projection_layers.") || !p.name.ends_with(".bias")) continue;
    Var bias = p.var();
    bias.mutable_value().fill(0);
  }
}

std::vector<Var> ControlNet::forward(const Var& x, const Tensor& t, const Tensor& actions, const Probe& probe) const {
  check_rank(x.value(), 5, "controlnet", "x");
  const Var action_code = action_out_.forward(encoder_.action_code(actions, {}, x.dim(0), x.dim(1)));
  const EncoderOutput encoded = encoder_.forward(x, t, action_code, probe);
  const UnetMiddle::Output middle = middle_.forward(encoded.x, encoded.film, encoder_.bias_table(), {}, probe);
  std::vector<Var> controls;
  for (std::size_t i = 0; i < zero_convs_.size(); ++i) controls.push_back(zero_convs_[i]->forward(encoded.skips[i]));
  controls.push_back(mid1_out_.forward(middle.before_block2));
  controls.push_back(mid2_out_.forward(middle.out));
  for (std::size_t i = 0; i < projections_.size(); ++i) controls[i] = projections_[i]->forward(controls[i]);
  return controls;
}

ControlledOutput run_controlled(
    const Unet3d& base, const ControlNet& control, const Tensor& x_t, const Tensor& t, const Tensor& cond,
    const Tensor& actions, ControlOrder order, const Probe& probe) {
  check<ConfigError>(actions.defined(), "controlnet: actions: expected one per frame, got none");
  const Var x = unet_input(cond, Var(x_t), {});
  ControlledOutput out;
  out.controls = control.forward(x, t, actions, probe);
  std::vector<Var> entering = out.controls;
  if (order == ControlOrder::reversed) std::swap(entering[entering.size() - 1], entering[entering.size() - 2]);
  out.prediction = base.forward_controlled(x, t, {}, entering);
  return out;
}

ControlOrder parse_control_order(std::string_view text) {
  if (text == "reversed") return ControlOrder::reversed;
  if (text == "natural") return ControlOrder::natural;
  fail<ConfigError>("control order: expected reversed or natural, got '{}'", text);
}

Tensor ControlledDenoiser::predict(const diffusion::DenoiserInput& input) {
  const NoGrad no_grad;
  return run_controlled(base_, control_, input.x_t, input.t, input.cond, input.actions, order_).prediction.value();
}

}  // namespace avid
