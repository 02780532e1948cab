// eval/metrics/action_predictor.cpp -- Action Error Ratio of generated clips under a trained classifier
#include "eval/metrics/action_predictor.h"

#include <algorithm>

#include "autograd/var.h"
#include "tensor/error.h"
#include "tensor/ops/frames.h"

namespace avid::eval {

ActionScores predict_actions(
    const ActionClassifier& classifier, const Tensor& cond, const Tensor& clips, const Tensor& actions) {
  const ActionClassifierConfig& config = classifier.config();
  check_rank(clips, 5, "aer", "clips");
  const std::int64_t num_clips = clips.dim(0), frames = clips.dim(1);
  check<ShapeError>(
      clips.dim(2) == config.image_size && clips.dim(3) == config.image_size,
      "aer: expected frames of {0}x{0} as the classifier was trained on, got {1}x{2} | use one of this size",
      config.image_size, clips.dim(2), clips.dim(3));
  check_shape(
      cond, {num_clips, config.cond_frames, config.image_size, config.image_size, 3}, "aer", "conditioning frames");
  check_shape(clips, {num_clips, frames, config.image_size, config.image_size, 3}, "aer", "clips");
  check_shape(actions, {num_clips, frames}, "aer", "actions");
  constexpr std::int64_t kPass = 8;
  const NoGrad no_grad;
  ActionScores scores;
  for (std::int64_t begin = 0; begin < num_clips; begin += kPass) {
    const std::int64_t end = std::min(begin + kPass, num_clips);
    const Tensor joined = join_frames(frames_from_u8(cond.slice(begin, end)), frames_from_u8(clips.slice(begin, end)));
    const Var logits = classifier.forward(Var(joined), Tensor::zeros({end - begin}, DType::i64));
    scores.append(score_actions(logits.value(), actions.slice(begin, end)));
  }
  return scores;
}

}  // namespace avid::eval
