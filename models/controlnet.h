// models/controlnet.h -- ControlNet and ControlNetSmaller: a trained encoder that steers a frozen base from inside
//
// Unlike AVID this needs the base's weights and activations. Source: Zhang et al. 2023, arXiv:2302.05543, as adapted to
// video in pixel.md 5.4 and 5.5.
#pragma once

#include <string_view>
#include <vector>

#include "diffusion/denoiser.h"
#include "models/unet3d.h"

namespace avid {

struct ControlNetConfig {
  std::int64_t dim = 16;                         ///< width of the copy
  std::vector<std::int64_t> dim_mults{1, 2, 4};  ///< those of the base
  std::int64_t heads = 2, head_dim = 32;
  std::int64_t cond_frames = 2, num_actions = 15;
  std::int64_t base_dim = 0;  ///< > 0: outputs are projected to this width (ControlNetSmaller)

  friend bool operator==(const ControlNetConfig&, const ControlNetConfig&) = default;
};

/// Reads the configuration off a checkpoint's names and shapes. Throws ShapeError.
ControlNetConfig infer_controlnet_config(const nn::TensorMap& tensors, std::string_view source);
/// Throws ConfigError naming `source`, where `control` was read, if its outputs cannot enter this base.
void check_controls(const ControlNetConfig& control, const Unet3dConfig& base, std::string_view source);

/// The trained copy of encoder and middle. Names: those of the encoder, zero_linear_action_mlp.*, zero_convs.i.*,
/// mid_block_1_out.*, mid_block_2_out.*, projection_layers.i.* (only with base_dim).
class ControlNet final : public nn::Module {
 public:
  explicit ControlNet(const ControlNetConfig& config);

  const ControlNetConfig& config() const { return config_; }

  /// Gives every tensor that has a namesake in the base the base's value; only the zero layers keep theirs.
  /// Both need values; the base must have the same sizes.
  void copy_from_base(const Unet3d& base);
  /// Zeroes the biases of projection_layers.*, so that the initial output is the base's. Deviation: the original leaves
  /// them at their random values. Nothing happens without projections.
  void zero_projection_biases();

  /// x [B,T,H,W,3K+3]; t [B] i64; actions [B,T] i64. Returns z_0 .. z_{L-1} (one per level, where the base takes its
  /// skips), z_A (from after mid_temporal_attn) and z_B (from after mid_block2).
  std::vector<Var> forward(const Var& x, const Tensor& t, const Tensor& actions, const Probe& probe = {}) const;

 private:
  ControlNetConfig config_;
  UnetEncoder encoder_;
  nn::Linear action_out_;
  std::vector<std::unique_ptr<nn::Pointwise>> zero_convs_;
  nn::Pointwise mid1_out_, mid2_out_;
  UnetMiddle middle_;
  std::vector<std::unique_ptr<nn::Linear>> projections_;
};

/// In which order the two middle outputs enter the base.
///   reversed  z_B before the base's mid_block2 and z_A after it: what the original does, and the default
///   natural   z_A before, z_B after
enum class ControlOrder { reversed, natural };
/// Reads "reversed", "natural". Throws ConfigError.
ControlOrder parse_control_order(std::string_view text);

struct ControlledOutput {
  Var prediction;             // [B,T,H,W,3]
  std::vector<Var> controls;  // as ControlNet::forward returns them
};

/// The base, without actions, with the copy's outputs added to its skips and middle. The base should be frozen
/// (set_trainable(false)); gradients pass through it to the copy.
ControlledOutput run_controlled(
    const Unet3d& base, const ControlNet& control, const Tensor& x_t, const Tensor& t, const Tensor& cond,
    const Tensor& actions, ControlOrder order = ControlOrder::reversed, const Probe& probe = {});

/// A frozen base plus a ControlNet as one Denoiser.
class ControlledDenoiser final : public diffusion::Denoiser {
 public:
  /// Both must outlive this object.
  ControlledDenoiser(
      const Unet3d& base, const ControlNet& control, diffusion::Objective objective,
      ControlOrder order = ControlOrder::reversed)
      : base_(base), control_(control), objective_(objective), order_(order) {}

  Tensor predict(const diffusion::DenoiserInput& input) override;
  diffusion::Objective objective() const override { return objective_; }

 private:
  const Unet3d& base_;
  const ControlNet& control_;
  diffusion::Objective objective_;
  ControlOrder order_;
};

}  // namespace avid
