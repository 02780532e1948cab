// nn/blocks.h -- the building blocks of the 3D U-Net (pixel.md 2.3), named as in the original's checkpoints
//
// Letters  B clips, T frames, H x W positions, C channels, N heads, D head width, F width of the FiLM input.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "nn/layers.h"

namespace avid::nn {

/// Two 3x3 convolutions with RMSNorm and SiLU, FiLM in the first only, and a shortcut.
/// Names: mlp.1.* (only with film_width > 0), block1.proj.*, block1.norm.gamma, block2.*, res_conv.* (only if in !=
/// out).
class ResNetBlock : public Module {
 public:
  /// `in` counts both inputs' channels; film_width 0 builds the block without FiLM (output head).
  ResNetBlock(std::int64_t in, std::int64_t out, std::int64_t film_width);
  /// x [B,T,H,W,C1], x2 [B,T,H,W,C2] or none with C1 + C2 = in: never concatenated in memory.
  /// film_input [B,T,F] after SiLU (shared by all blocks of a network), or none. Returns [B,T,H,W,out].
  Var forward(const Var& x, const Var& x2, const Var& film_input) const;

 private:
  class Block : public Module {
   public:
    Block(std::int64_t in, std::int64_t out);
    /// The first one, for the second to read, and the second.
    NormedConv3d forward(const Var& x, const Var& x2, const Var& film) const;
    Var forward(NormedConv3d x, const Var& residual) const;

   private:
    Conv proj_;
    Parameter* gamma_;
  };

  std::int64_t in_, out_;
  std::optional<Linear> mlp_;
  Block block1_, block2_;
  std::optional<Pointwise> res_conv_;
};

/// What all attentions of a network share.
struct AttentionSizes {
  std::int64_t heads = 1;
  std::int64_t head_dim = 32;  // of the temporal attentions; linear and spatial ones have kSpatialHeadDim
};
inline constexpr std::int64_t kSpatialHeadDim = 32;

/// Rotary frequencies of a head width (pixel.md 2.4 and 12): f_i = 10000^(-2i/R), R = min(32, D), i < R/2. f32 [R/2].
Tensor rotary_frequencies(std::int64_t head_dim);

/// x + attention over frames of the normalised x, per position, with rotary code and relative bias.
/// Names: fn.fn.fn.rotary_emb.freqs, fn.fn.fn.to_qkv.weight, fn.fn.fn.to_out.weight, fn.norm.gamma.
class TemporalAttention : public Module {
 public:
  TemporalAttention(std::int64_t channels, const AttentionSizes& sizes, const Tensor& rotary);
  /// x [B,T,H,W,C], bias_table [32,N] (shared by the network).
  Var forward(const Var& x, const Var& bias_table) const;

 private:
  AttentionSizes sizes_;
  Constant rotary_;
  Parameter *to_qkv_, *to_out_, *gamma_;
};

/// x + linear attention over the positions of each frame.
/// Names: fn.fn.to_qkv.weight, fn.fn.to_out.weight, fn.fn.to_out.bias, fn.norm.gamma.
class LinearAttention : public Module {
 public:
  LinearAttention(std::int64_t channels, std::int64_t heads);
  Var forward(const Var& x) const;

 private:
  std::int64_t heads_;
  Parameter *to_qkv_, *to_out_, *out_bias_, *gamma_;
};

/// x + softmax attention over the positions of each frame.
/// Names: fn.fn.fn.to_qkv.weight, fn.fn.fn.to_out.weight, fn.norm.gamma.
class SpatialAttention : public Module {
 public:
  SpatialAttention(std::int64_t channels, std::int64_t heads);
  Var forward(const Var& x) const;

 private:
  std::int64_t heads_;
  Parameter *to_qkv_, *to_out_, *gamma_;
};

/// Diffusion step -> code: sinusoids of width d, Linear(d,4d), GELU, Linear(4d,4d). Names: 1.*, 3.*.
class TimeMlp : public Module {
 public:
  explicit TimeMlp(std::int64_t dim);
  /// t [B] i64 on the host. Returns [B,4d], where and in the type that the parameters have.
  Var forward(const Tensor& t) const;

 private:
  std::int64_t dim_;
  Linear first_, second_;
};

/// Action codes: Linear(d,4d), GELU, Linear(4d,4d). Names: 0.*, 2.*.
class ActionMlp : public Module {
 public:
  explicit ActionMlp(std::int64_t dim);
  Var forward(const Var& x) const;  // [B,T,d] -> [B,T,4d]

 private:
  Linear first_, second_;
};

}  // namespace avid::nn
