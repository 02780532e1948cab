// models/unet_parts.h -- encoder, middle, decoder and head of the 3D U-Net
//
// The U-Net is all four; ControlNet is encoder and middle; the action classifier is encoder and middle without actions.
// Each part registers its tensors under the original's flat names ("downs.0.0.mlp.1.weight", "mid_block1.*").
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "nn/blocks.h"

namespace avid {

/// Sees intermediate outputs by name while a network runs.
using Probe = std::function<void(std::string_view name, const Tensor& value)>;

/// Sizes that the parts need.
struct UnetSizes {
  std::int64_t dim = 16;
  std::vector<std::int64_t> dim_mults{1, 2, 4};
  std::int64_t heads = 2, head_dim = 32;
  std::int64_t in_channels = 9;
  std::int64_t num_actions = 15;  // 0: no action modules, FiLM input is the time code alone

  std::int64_t num_levels() const { return static_cast<std::int64_t>(dim_mults.size()); }
  /// Width of encoder level i; -1 gives the width before the first level, d.
  std::int64_t level_width(std::int64_t i) const { return i < 0 ? dim : dim * dim_mults[static_cast<std::size_t>(i)]; }
  std::int64_t film_width() const { return (num_actions > 0 ? 8 : 4) * dim; }
};

/// Result of the encoder.
struct EncoderOutput {
  Var x;                   // after the last level
  Var first;               // r of pixel.md 2.6, after init_temporal_attn
  std::vector<Var> skips;  // per level, after the temporal attention
  Var film;                // [B,T,F] after SiLU: FiLM input of all ResNet blocks
};

/// actions [B,T] i64 on the host with -1 in the clips whose drop [B] is not 0 (drop may be undefined): the rows of the
/// action table that a network looks up, ready to be sent to a device. Errors: those of actions outside 0..num_actions
/// - 1.
Tensor action_rows(const Tensor& actions, const Tensor& drop, std::int64_t num_actions);

/// null_action_emb, time_rel_pos_bias, init_conv, init_temporal_attn, time_mlp, action_emb, action_mlp, downs.*
class UnetEncoder : public nn::Module {
 public:
  explicit UnetEncoder(const UnetSizes& sizes);

  const UnetSizes& sizes() const { return sizes_; }
  /// The relative bias table [32,N], shared with the other parts.
  const Var& bias_table() const { return bias_table_->var(); }
  /// The rotary frequencies, shared with the other parts.
  const Tensor& rotary() const { return rotary_; }

  /// Action codes [B,T,4d]: null vector where actions is undefined or drop is 1. Actions on a device are taken as
  /// action_rows() made them.
  Var action_code(const Tensor& actions, const Tensor& drop, std::int64_t batch, std::int64_t frames) const;
  /// x [B,T,H,W,in_channels]; t [B]; action_code [B,T,4d], undefined without action modules.
  EncoderOutput forward(const Var& x, const Tensor& t, const Var& action_code, const Probe& probe) const;

 private:
  struct Level : nn::Module {
    Level(const UnetSizes& sizes, std::int64_t in, std::int64_t out, bool down, const Tensor& rotary);
    nn::ResNetBlock block1, block2;
    nn::LinearAttention linear_attention;
    nn::TemporalAttention temporal_attention;
    std::optional<nn::Downsample> downsample;
  };

  UnetSizes sizes_;
  Tensor rotary_;
  nn::Parameter* null_action_ = nullptr;
  nn::Parameter* bias_table_ = nullptr;
  nn::Parameter* action_table_ = nullptr;
  nn::Conv init_conv_;
  nn::TemporalAttention init_temporal_attn_;
  nn::TimeMlp time_mlp_;
  std::optional<nn::ActionMlp> action_mlp_;
  std::vector<std::unique_ptr<Level>> levels_;
};

/// mid_block1, mid_spatial_attn, mid_temporal_attn, mid_block2
class UnetMiddle : public nn::Module {
 public:
  UnetMiddle(const UnetSizes& sizes, const Tensor& rotary);
  struct Output {
    Var before_block2;  // after mid_temporal_attn
    Var out;            // after mid_block2
  };
  /// `added` (or none) is added after mid_temporal_attn, i.e. enters mid_block2.
  Output forward(const Var& x, const Var& film, const Var& bias_table, const Var& added, const Probe& probe) const;

 private:
  nn::ResNetBlock block1_;
  nn::SpatialAttention spatial_attn_;
  nn::TemporalAttention temporal_attn_;
  nn::ResNetBlock block2_;
};

/// ups.*
class UnetDecoder : public nn::Module {
 public:
  UnetDecoder(const UnetSizes& sizes, const Tensor& rotary);
  /// skips as the encoder gave them, first level first.
  Var forward(
      const Var& x, const std::vector<Var>& skips, const Var& film, const Var& bias_table, const Probe& probe) const;

 private:
  struct Level : nn::Module {
    Level(const UnetSizes& sizes, std::int64_t in, std::int64_t out, bool up, const Tensor& rotary);
    nn::ResNetBlock block1, block2;
    nn::LinearAttention linear_attention;
    nn::TemporalAttention temporal_attention;
    std::optional<nn::Upsample> upsample;
  };
  std::vector<std::unique_ptr<Level>> levels_;
};

/// final_conv.0 (ResNet block without FiLM) and final_conv.1 (1x1x1)
class UnetHead : public nn::Module {
 public:
  UnetHead(const UnetSizes& sizes, std::int64_t out_channels);
  Var forward(const Var& x, const Var& first, const Probe& probe) const;

 private:
  nn::ResNetBlock block_;
  nn::Pointwise out_;
};

}  // namespace avid
