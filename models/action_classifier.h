// models/action_classifier.h -- which action was taken between frames: a U-Net encoder with a small head (pixel.md 6.1)
#pragma once

#include <string_view>
#include <vector>

#include "models/unet_parts.h"

namespace avid {

struct ActionClassifierConfig {
  std::int64_t dim = 64;
  std::vector<std::int64_t> dim_mults{1, 2, 4, 8};
  std::int64_t heads = 6, head_dim = 64;
  std::int64_t cond_frames = 2;
  std::int64_t num_actions = 15;
  std::int64_t mlp_dim = 1024;
  std::int64_t image_size = 64;  ///< square frames, a multiple of 2^levels

  friend bool operator==(const ActionClassifierConfig&, const ActionClassifierConfig&) = default;
};

/// Reads the configuration off a checkpoint's names and shapes; conditioning frames cannot be seen there. Throws
/// ShapeError.
ActionClassifierConfig infer_action_classifier_config(
    const nn::TensorMap& tensors, std::string_view source, std::int64_t cond_frames = 2);

/// Names: those of encoder and middle without actions, final_down.*, out_mlp.{0,1,3}.*.
class ActionClassifier final : public nn::Module {
 public:
  explicit ActionClassifier(const ActionClassifierConfig& config);

  const ActionClassifierConfig& config() const { return config_; }

  /// frames [B,K+T,S,S,3] in [-1,1], conditioning frames first; t [B] i64, 0 for clean frames.
  /// Returns logits [B,T,A]; frame i belongs to the action that leads to it.
  Var forward(const Var& frames, const Tensor& t, const Probe& probe = {}) const;

 private:
  ActionClassifierConfig config_;
  UnetEncoder encoder_;
  UnetMiddle middle_;
  nn::Downsample final_down_;
  std::int64_t features_;
  nn::Parameter *norm_gamma_, *norm_beta_;
  nn::Linear hidden_, out_;
};

/// Share of (clip, frame) pairs whose largest logit is that of the given action; the first of equal ones counts.
/// logits [B,T,A]; actions [B,T] i64.
double action_accuracy(const Tensor& logits, const Tensor& actions);

/// Conditioning frames [B,K,H,W,3] followed in time by x [B,T,H,W,3].
Tensor join_frames(const Tensor& cond, const Tensor& x);

/// The log-probability of the given actions, summed over clips and frames, and its gradient with respect to x_t.
struct ClassifierGuidance {
  double log_prob = 0;
  Tensor gradient;  // [B,T,H,W,3]
};
/// Shapes as in ActionClassifier::forward; actions [B,T] i64. The classifier must be frozen
/// (set_trainable(false)), so that its own gradients stay out of it; GraphError otherwise.
ClassifierGuidance classifier_guidance(
    const ActionClassifier& classifier, const Tensor& x_t, const Tensor& t, const Tensor& cond, const Tensor& actions);

}  // namespace avid
