// train/cli/classifier_file.cpp -- loads classifiers and refuses one that was trained for the other task
#include "train/cli/classifier_file.h"

#include "models/checkpoint.h"
#include "tensor/error.h"

namespace avid::cli {
namespace {

std::unique_ptr<ActionClassifier> load_frozen(const std::filesystem::path& file, std::int64_t cond_frames) {
  auto classifier = load_action_classifier(file, DType::f32, cond_frames);
  classifier->set_trainable(false);
  return classifier;
}

}  // namespace

std::unique_ptr<ActionClassifier> load_judge(const std::filesystem::path& file, std::int64_t cond_frames) {
  check<ConfigError>(
      classifier_frames(file) != ClassifierFrames::noisy,
      "{}: --classifier: expected a judge trained on clean frames (model.kind classifier), got one of noisy frames "
      "(noisy_classifier), which guides samplers | train configs/paper/classifier_eval.toml",
      file.string());
  return load_frozen(file, cond_frames);
}

std::unique_ptr<ActionClassifier> load_guide(const std::filesystem::path& file, std::int64_t cond_frames) {
  check<ConfigError>(
      classifier_frames(file) != ClassifierFrames::clean,
      "{}: --guidance-classifier: expected one trained on noisy frames (model.kind noisy_classifier), got a judge of "
      "clean ones (classifier), which knows nothing of noise | train configs/paper/classifier_noisy.toml",
      file.string());
  return load_frozen(file, cond_frames);
}

}  // namespace avid::cli
