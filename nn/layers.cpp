// nn/layers.cpp -- layers with parameters
#include "nn/layers.h"

#include <utility>

#include "autograd/ops/conv_transpose3d.h"
#include "autograd/ops/linear.h"

namespace avid::nn {

Linear::Linear(std::int64_t in, std::int64_t out, Options options) : Linear(in, out, options, 2) {}

Linear::Linear(std::int64_t in, std::int64_t out, Options options, int plain_rank) {
  const Init init = options.zero ? Init::zeros : Init::uniform;
  std::vector<std::int64_t> plain(static_cast<std::size_t>(plain_rank), 1);
  plain[0] = out;
  plain[1] = in;
  weight_ = add_parameter({.name = "weight", .shape = {out, in}, .plain_shape = Shape(plain), .init = init, .fan = in});
  if (options.bias)
    bias_ = add_parameter({.name = "bias", .shape = {out}, .plain_shape = {out}, .init = init, .fan = in});
}

Var Linear::forward(const Var& x, const Var& x2, const Var& residual) const {
  return linear(x, weight_->var(), bias_ != nullptr ? bias_->var() : Var(), x2, residual);
}

Conv::Conv(std::int64_t in, std::int64_t out, std::array<std::int64_t, 3> kernel, const Conv3dOptions& options)
    : options_(options) {
  const auto [kt, kh, kw] = kernel;
  const std::int64_t fan = in * kt * kh * kw;
  weight_ = add_parameter(
      {.name = "weight", .shape = {out, kt, kh, kw, in}, .plain_shape = {out, in, kt, kh, kw}, .fan = fan});
  bias_ = add_parameter({.name = "bias", .shape = {out}, .plain_shape = {out}, .fan = fan});
}

Var Conv::forward(const Var& x, const Var& x2) const { return conv3d(x, weight_->var(), bias_->var(), options_, x2); }

Var Conv::forward_norm_film_silu(
    const Var& x, const Var& x2, const Var& gamma, const Var& film, const Var& residual) const {
  return conv3d_norm_film_silu(x, weight_->var(), bias_->var(), options_, x2, gamma, film, residual);
}

NormedConv3d Conv::forward_norm_film_silu_for_conv3d(
    const Var& x, const Var& x2, const Var& gamma, const Var& film) const {
  return conv3d_norm_film_silu_for_conv3d(x, weight_->var(), bias_->var(), options_, x2, gamma, film);
}

Var Conv::forward_norm_film_silu(NormedConv3d x, const Var& gamma, const Var& film, const Var& residual) const {
  return conv3d_norm_film_silu(std::move(x), weight_->var(), bias_->var(), options_, gamma, film, residual);
}

ConvTranspose::ConvTranspose(
    std::int64_t in, std::int64_t out, std::array<std::int64_t, 3> kernel, const Conv3dOptions& options)
    : options_(options) {
  const auto [kt, kh, kw] = kernel;
  const std::int64_t fan = out * kt * kh * kw;  // of the stored [I,O,..], as the original computes it
  weight_ = add_parameter(
      {.name = "weight", .shape = {in, kt, kh, kw, out}, .plain_shape = {in, out, kt, kh, kw}, .fan = fan});
  bias_ = add_parameter({.name = "bias", .shape = {out}, .plain_shape = {out}, .fan = fan});
}

Var ConvTranspose::forward(const Var& x) const { return conv_transpose3d(x, weight_->var(), bias_->var(), options_); }

}  // namespace avid::nn
