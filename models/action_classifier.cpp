// models/action_classifier.cpp -- the action classifier and its guidance gradient
#include "models/action_classifier.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/cast.h"
#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/layer_norm.h"
#include "models/infer.h"
#include "models/unet3d.h"

namespace avid {
namespace {

UnetSizes sizes_of(const ActionClassifierConfig& c) {
  const Unet3dConfig like_unet{
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .cond_frames = c.cond_frames,
      .num_actions = c.num_actions,
      .in_channels = 3 * c.cond_frames + 3,
      .out_channels = 3};
  like_unet.validate("action classifier");
  const std::int64_t multiple = std::int64_t{1} << c.dim_mults.size();
  check<ConfigError>(
      c.image_size > 0 && c.image_size % multiple == 0,
      "action classifier: image_size: expected a multiple of {}, got {}", multiple, c.image_size);
  check<ConfigError>(c.mlp_dim >= 1, "action classifier: mlp_dim: expected >= 1, got {}", c.mlp_dim);
  return {
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .in_channels = 3,
      .num_actions = 0};
}

std::int64_t num_features(const ActionClassifierConfig& c) {
  const std::int64_t side = c.image_size >> c.dim_mults.size();
  return side * side * c.dim * c.dim_mults.back();
}

}  // namespace

ActionClassifierConfig infer_action_classifier_config(
    const nn::TensorMap& tensors, std::string_view source, std::int64_t cond_frames) {
  const UnetSizes sizes = infer_unet_sizes(tensors, source);
  const Shape hidden = find_shape(tensors, "out_mlp.1.weight", 2, source);
  const std::int64_t width = sizes.level_width(sizes.num_levels() - 1);
  const auto side =
      static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(hidden[1]) / static_cast<double>(width))));
  check<ShapeError>(
      side * side * width == hidden[1], "{}: out_mlp.1.weight: expected columns for a square of {} channels, got {}",
      source, width, hidden);
  return {
      .dim = sizes.dim,
      .dim_mults = sizes.dim_mults,
      .heads = sizes.heads,
      .head_dim = sizes.head_dim,
      .cond_frames = cond_frames,
      .num_actions = find_shape(tensors, "out_mlp.3.weight", 2, source)[0],
      .mlp_dim = hidden[0],
      .image_size = side << sizes.num_levels()};
}

ActionClassifier::ActionClassifier(const ActionClassifierConfig& config)
    : config_(config),
      encoder_(sizes_of(config)),
      middle_(encoder_.sizes(), encoder_.rotary()),
      final_down_(config.dim * config.dim_mults.back()),
      features_(num_features(config)),
      hidden_(features_, config.mlp_dim),
      out_(config.mlp_dim, config.num_actions) {
  add_child("", encoder_);
  add_child("", middle_);
  add_child("final_down", final_down_);
  norm_gamma_ = add_parameter(
      {.name = "out_mlp.0.weight", .shape = {features_}, .plain_shape = {features_}, .init = nn::Init::ones});
  norm_beta_ = add_parameter(
      {.name = "out_mlp.0.bias", .shape = {features_}, .plain_shape = {features_}, .init = nn::Init::zeros});
  add_child("out_mlp.1", hidden_);
  add_child("out_mlp.3", out_);
}

Var ActionClassifier::forward(const Var& frames, const Tensor& t, const Probe& probe) const {
  check_rank(frames.value(), 5, "action classifier", "frames");
  const std::int64_t B = frames.dim(0), all = frames.dim(1), K = config_.cond_frames, S = config_.image_size;
  check<ShapeError>(
      all > K, "action classifier: frames: expected more than {} conditioning frames, got {}", K, frames.shape());
  check_shape(frames.value(), {B, all, S, S, 3}, "action classifier", "frames");
  const EncoderOutput encoded = encoder_.forward(frames, t, {}, probe);
  Var y = middle_.forward(encoded.x, encoded.film, encoder_.bias_table(), {}, probe).out;
  y = slice_frames(final_down_.forward(y), K, all);  // [B,T,S/2^levels,S/2^levels,C]
  y = reshape(y, {B, all - K, features_});           // (h,w,c) order
  y = cast(y, norm_gamma_->var().dtype());           // the head is f32 whatever the activations are
  y = layer_norm(y, norm_gamma_->var(), norm_beta_->var());
  return out_.forward(gelu(hidden_.forward(y)));  // [B,T,A]
}

double action_accuracy(const Tensor& logits, const Tensor& actions) {
  check_rank(logits, 3, "action_accuracy", "logits");
  check_shape(actions, {logits.dim(0), logits.dim(1)}, "action_accuracy", "actions");
  const std::vector<double> values = logits.to_doubles();
  const std::vector<std::int64_t> truth = actions.to_values<std::int64_t>();
  const auto classes = static_cast<std::size_t>(logits.dim(2));
  std::size_t right = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(i * classes);
    right += std::max_element(begin, begin + static_cast<std::ptrdiff_t>(classes)) - begin == truth[i];
  }
  return truth.empty() ? 0 : static_cast<double>(right) / static_cast<double>(truth.size());
}

Tensor join_frames(const Tensor& cond, const Tensor& x) {
  check_rank(cond, 5, "join_frames", "cond");
  check_rank(x, 5, "join_frames", "x");
  const std::int64_t B = x.dim(0), K = cond.dim(1), T = x.dim(1);
  check_shape(cond, {B, K, x.dim(2), x.dim(3), x.dim(4)}, "join_frames", "cond");
  Tensor joined = Tensor::empty({B, K + T, x.dim(2), x.dim(3), x.dim(4)}, x.dtype(), x.device());
  for (std::int64_t b = 0; b < B; ++b) {
    Tensor clip = joined.select(b);
    Tensor first = clip.slice(0, K), rest = clip.slice(K, K + T);
    first.copy_from(cond.select(b));
    rest.copy_from(x.select(b));
  }
  return joined;
}

ClassifierGuidance classifier_guidance(
    const ActionClassifier& classifier, const Tensor& x_t, const Tensor& t, const Tensor& cond, const Tensor& actions) {
  for (const nn::NamedParameter& p : classifier.parameters())
    check<GraphError>(
        !p.var().requires_grad(), "classifier guidance: {} is trainable | call set_trainable(false) first", p.name);
  const Var frames(join_frames(cond, x_t), true, "frames");
  const Var loss =
      cross_entropy(classifier.forward(frames, t), actions.to(x_t.device()));  // mean over clips and frames
  const auto count = static_cast<double>(actions.numel());
  const Var log_prob = scale(loss, -count);
  ClassifierGuidance guidance{
      .log_prob = log_prob.value().item(), .gradient = Tensor::empty(x_t.shape(), x_t.dtype(), x_t.device())};
  log_prob.backward();
  const std::int64_t K = cond.dim(1), T = x_t.dim(1);
  for (std::int64_t b = 0; b < x_t.dim(0); ++b) {
    Tensor clip = guidance.gradient.select(b);
    clip.copy_from(frames.grad().select(b).slice(K, K + T));
  }
  return guidance;
}

}  // namespace avid
