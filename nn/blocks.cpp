// nn/blocks.cpp -- the building blocks of the 3D U-Net
#include "nn/blocks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/linear_attention.h"
#include "autograd/ops/spatial_attention.h"
#include "autograd/ops/temporal_attention.h"
#include "tensor/ops/timestep_code.h"

namespace avid::nn {
namespace {

ParameterSpec gamma(std::string name, std::int64_t channels, bool pre_norm) {
  const Shape plain = pre_norm ? Shape{1, channels, 1, 1, 1} : Shape{channels, 1, 1, 1};
  return {.name = std::move(name), .shape = {channels}, .plain_shape = plain, .init = Init::ones};
}

ParameterSpec matrix(std::string name, std::int64_t out, std::int64_t in, int plain_rank = 2) {
  const Shape plain = plain_rank == 4 ? Shape{out, in, 1, 1} : Shape{out, in};
  return {.name = std::move(name), .shape = {out, in}, .plain_shape = plain, .fan = in};
}

}  // namespace

ResNetBlock::Block::Block(std::int64_t in, std::int64_t out) : proj_(in, out, {1, 3, 3}, {.padding = {0, 1, 1}}) {
  add_child("proj", proj_);
  gamma_ = add_parameter(gamma("norm.gamma", out, false));
}

NormedConv3d ResNetBlock::Block::forward(const Var& x, const Var& x2, const Var& film) const {
  return proj_.forward_norm_film_silu_for_conv3d(x, x2, gamma_->var(), film);
}

Var ResNetBlock::Block::forward(NormedConv3d x, const Var& residual) const {
  return proj_.forward_norm_film_silu(std::move(x), gamma_->var(), {}, residual);
}

ResNetBlock::ResNetBlock(std::int64_t in, std::int64_t out, std::int64_t film_width)
    : in_(in), out_(out), block1_(in, out), block2_(out, out) {
  if (film_width > 0) add_child("mlp.1", mlp_.emplace(film_width, 2 * out));
  add_child("block1", block1_);
  add_child("block2", block2_);
  if (in != out) add_child("res_conv", res_conv_.emplace(in, out));
}

Var ResNetBlock::forward(const Var& x, const Var& x2, const Var& film_input) const {
  const Var film = mlp_ ? mlp_->forward(film_input) : Var();  // [B,T,2*out]
  NormedConv3d hidden = block1_.forward(x, x2, film);
  Var shortcut = x;
  if (res_conv_) {
    shortcut = res_conv_->forward(x, x2);
  } else if (x2.defined()) {
    // Two inputs that together are as wide as the output: the shortcut is their concatenation, as a product with 1.
    Tensor identity = Tensor::zeros({out_, in_}, DType::f32);
    for (std::int64_t i = 0; i < in_; ++i) identity.data<float>()[i * identity.pitch() + i] = 1;
    shortcut = linear(x, Var(identity.to(x.dtype()).to(x.value().device())), {}, x2);
  }
  return block2_.forward(std::move(hidden), shortcut);
}

Tensor rotary_frequencies(std::int64_t head_dim) {
  const std::int64_t rotated = std::min<std::int64_t>(32, head_dim);
  check<ConfigError>(
      rotated >= 2 && rotated % 2 == 0, "temporal attention: head width: expected an even number >= 2, got {}",
      head_dim);
  std::vector<float> values;
  // In f32 as in the original, whose stored values these are.
  for (std::int64_t i = 0; i < rotated / 2; ++i)
    values.push_back(1.0f / std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(rotated)));
  return Tensor::from_values(values, {rotated / 2});
}

TemporalAttention::TemporalAttention(std::int64_t channels, const AttentionSizes& sizes, const Tensor& rotary)
    : sizes_(sizes), rotary_(rotary) {
  const std::int64_t inner = sizes.heads * sizes.head_dim;
  add_constant("fn.fn.fn.rotary_emb.freqs", rotary);
  to_qkv_ = add_parameter(matrix("fn.fn.fn.to_qkv.weight", 3 * inner, channels));
  to_out_ = add_parameter(matrix("fn.fn.fn.to_out.weight", channels, inner));
  gamma_ = add_parameter(gamma("fn.norm.gamma", channels, true));
}

Var TemporalAttention::forward(const Var& x, const Var& bias_table) const {
  return temporal_attention(
      x, gamma_->var(), to_qkv_->var(), to_out_->var(), bias_table, rotary_.on(x.value().device()),
      {.heads = sizes_.heads, .head_dim = sizes_.head_dim});
}

LinearAttention::LinearAttention(std::int64_t channels, std::int64_t heads) : heads_(heads) {
  const std::int64_t inner = heads * kSpatialHeadDim;
  to_qkv_ = add_parameter(matrix("fn.fn.to_qkv.weight", 3 * inner, channels, 4));
  to_out_ = add_parameter(matrix("fn.fn.to_out.weight", channels, inner, 4));
  out_bias_ =
      add_parameter({.name = "fn.fn.to_out.bias", .shape = {channels}, .plain_shape = {channels}, .fan = inner});
  gamma_ = add_parameter(gamma("fn.norm.gamma", channels, true));
}

Var LinearAttention::forward(const Var& x) const {
  return linear_attention(
      x, gamma_->var(), to_qkv_->var(), to_out_->var(), out_bias_->var(),
      {.heads = heads_, .head_dim = kSpatialHeadDim});
}

SpatialAttention::SpatialAttention(std::int64_t channels, std::int64_t heads) : heads_(heads) {
  const std::int64_t inner = heads * kSpatialHeadDim;
  to_qkv_ = add_parameter(matrix("fn.fn.fn.to_qkv.weight", 3 * inner, channels));
  to_out_ = add_parameter(matrix("fn.fn.fn.to_out.weight", channels, inner));
  gamma_ = add_parameter(gamma("fn.norm.gamma", channels, true));
}

Var SpatialAttention::forward(const Var& x) const {
  return spatial_attention(
      x, gamma_->var(), to_qkv_->var(), to_out_->var(), {.heads = heads_, .head_dim = kSpatialHeadDim});
}

TimeMlp::TimeMlp(std::int64_t dim) : dim_(dim), first_(dim, 4 * dim), second_(4 * dim, 4 * dim) {
  add_child("1", first_);
  add_child("3", second_);
}

Var TimeMlp::forward(const Tensor& t) const {
  const Tensor& weight = first_.weight().value();
  return second_.forward(gelu(first_.forward(Var(timestep_code(t.to(weight.device()), dim_, weight.dtype())))));
}

ActionMlp::ActionMlp(std::int64_t dim) : first_(dim, 4 * dim), second_(4 * dim, 4 * dim) {
  add_child("0", first_);
  add_child("2", second_);
}

Var ActionMlp::forward(const Var& x) const { return second_.forward(gelu(first_.forward(x))); }

}  // namespace avid::nn
