// nn/layers.h -- layers with parameters: thin wrappers over the differentiable ops
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "autograd/ops/conv3d.h"
#include "autograd/ops/conv3d_norm_film_silu.h"
#include "nn/module.h"

namespace avid::nn {

/// y = x W^T + b on the last dimension. Names: weight [O,I], bias [O].
class Linear : public Module {
 public:
  struct Options {
    bool bias = true;
    bool zero = false;  // all parameters start at zero
  };
  Linear(std::int64_t in, std::int64_t out, Options options);
  Linear(std::int64_t in, std::int64_t out) : Linear(in, out, Options{}) {}
  /// x [...,I1], x2 [...,I2] or none with I1 + I2 = I, residual [...,O] or none. Returns [...,O].
  Var forward(const Var& x, const Var& x2 = {}, const Var& residual = {}) const;

  const Var& weight() const { return weight_->var(); }  // [O,I]
  const Var& bias() const { return bias_->var(); }      // [O]; only with Options::bias

 protected:
  Linear(std::int64_t in, std::int64_t out, Options options, int plain_rank);

 private:
  Parameter* weight_;
  Parameter* bias_ = nullptr;
};

/// A 1x1x1 convolution: a Linear whose weight is stored as [O,I,1,1,1].
class Pointwise : public Linear {
 public:
  Pointwise(std::int64_t in, std::int64_t out, Options options) : Linear(in, out, options, 5) {}
  Pointwise(std::int64_t in, std::int64_t out) : Linear(in, out, Options{}, 5) {}
};

/// A convolution with bias. Names: weight [O,I,kt,kh,kw], bias [O].
class Conv : public Module {
 public:
  Conv(std::int64_t in, std::int64_t out, std::array<std::int64_t, 3> kernel, const Conv3dOptions& options);
  /// x [B,T,H,W,I1], x2 [B,T,H,W,I2] or none with I1 + I2 = I.
  Var forward(const Var& x, const Var& x2 = {}) const;
  /// rms_norm_film_silu of that, with gamma [O], film [B,T,2O] or none, residual [B,T',H',W',O] or none.
  Var forward_norm_film_silu(const Var& x, const Var& x2, const Var& gamma, const Var& film, const Var& residual) const;
  /// The same without residual, for one other Conv alone to read; and the same by that Conv.
  NormedConv3d forward_norm_film_silu_for_conv3d(const Var& x, const Var& x2, const Var& gamma, const Var& film) const;
  Var forward_norm_film_silu(NormedConv3d x, const Var& gamma, const Var& film, const Var& residual) const;

 private:
  Parameter* weight_;
  Parameter* bias_;
  Conv3dOptions options_;
};

/// A transposed convolution with bias. Names: weight [I,O,kt,kh,kw], bias [O].
class ConvTranspose : public Module {
 public:
  ConvTranspose(std::int64_t in, std::int64_t out, std::array<std::int64_t, 3> kernel, const Conv3dOptions& options);
  Var forward(const Var& x) const;

 private:
  Parameter* weight_;
  Parameter* bias_;
  Conv3dOptions options_;
};

/// Halves H and W: kernel (1,4,4), stride (1,2,2), padding (0,1,1).
class Downsample : public Conv {
 public:
  explicit Downsample(std::int64_t channels)
      : Conv(channels, channels, {1, 4, 4}, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}) {}
};

/// Doubles H and W: the transposed convolution of the same kernel, stride and padding.
class Upsample : public ConvTranspose {
 public:
  explicit Upsample(std::int64_t channels)
      : ConvTranspose(channels, channels, {1, 4, 4}, {.stride = {1, 2, 2}, .padding = {0, 1, 1}}) {}
};

}  // namespace avid::nn
