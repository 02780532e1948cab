// models/unet3d.h -- the 3D U-Net of pixel.md section 2: base models, AVID adapters, action-conditioned diffusion
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "models/unet_parts.h"
#include "nn/module.h"

namespace avid {

/// Everything that fixes a U-Net's tensors (pixel.md 2.1).
struct Unet3dConfig {
  std::int64_t dim = 16;                         ///< d, base width; even, at least 4
  std::vector<std::int64_t> dim_mults{1, 2, 4};  ///< level widths are dim * mult
  std::int64_t heads = 2;                        ///< H, of all attentions
  std::int64_t head_dim = 32;                    ///< D of the temporal attentions; the others have 32
  std::int64_t cond_frames = 2;                  ///< K
  std::int64_t num_actions = 15;                 ///< A
  std::int64_t in_channels = 9;                  ///< 3K + 3, or 3K + 6 for an adapter that sees the base output
  std::int64_t out_channels = 3;                 ///< 3, or 4 with a mask logit (last)

  bool sees_base_output() const { return in_channels == 3 * cond_frames + 6; }
  /// Throws ConfigError when a number is out of range or in_channels does not fit cond_frames.
  void validate(std::string_view where) const;
  friend bool operator==(const Unet3dConfig&, const Unet3dConfig&) = default;
};

/// Reads the configuration off a checkpoint's names and shapes: widths and levels from the ResNet blocks, heads from
/// the relative bias table, head width from to_qkv, actions from the table. `cond_frames` < 0 takes K from in_channels,
/// supposing that the network sees no base output. Throws ShapeError naming the tensor that is missing or odd.
Unet3dConfig infer_unet3d_config(const nn::TensorMap& tensors, std::string_view source, std::int64_t cond_frames = -1);

class Unet3d final : public nn::Module {
 public:
  explicit Unet3d(const Unet3dConfig& config);

  const Unet3dConfig& config() const { return config_; }

  /// The network of pixel.md 2.6.
  ///
  /// Shapes   x [B,T,H,W,in_channels] (ops: unet_input), t [B] i64, actions [B,T] i64 or undefined = the null vector
  ///          everywhere, drop [B] i64 or undefined: clips with 1 take the null vector; H, W multiples of
  ///          2^(levels - 1). Returns [B,T,H,W,out_channels].
  /// Dtypes   that of the parameters, f32 or f64.
  /// probe    called with the name and value of every intermediate output ("downs.0.3", "mid_block1"; pixel.md section
  ///          11).
  /// Errors   ShapeError for shapes above; Error for an action outside 0..A-1.
  Var forward(
      const Var& x, const Tensor& t, const Tensor& actions, const Tensor& drop = {}, const Probe& probe = {}) const;

  /// The same with the control tensors of a ControlNet: controls[i] is added to skip i, then in the order given by the
  /// caller the last two are added after mid_temporal_attn and after mid_block2 (pixel.md 5.4).
  Var forward_controlled(
      const Var& x, const Tensor& t, const Tensor& actions, const std::vector<Var>& controls,
      const Probe& probe = {}) const;

 private:
  Var run(
      const Var& x, const Tensor& t, const Tensor& actions, const Tensor& drop, const std::vector<Var>* controls,
      const Probe& probe) const;

  Unet3dConfig config_;
  UnetEncoder encoder_;
  UnetDecoder decoder_;
  UnetMiddle middle_;
  UnetHead head_;
};

}  // namespace avid
