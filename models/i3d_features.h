// models/i3d_features.h -- the I3D network whose logits FVD compares
#pragma once

#include <vector>

#include "models/feature_layers.h"

namespace avid {

/// Inception-v1 inflated to video, RGB, Kinetics-400; every window pads as TensorFlow does.
/// Source   Carreira and Zisserman 2017; Unterthiner et al. 2018 for FVD.
class I3dFeatures {
 public:
  static constexpr const char* kNetwork = "i3d-k400";
  static constexpr std::int64_t kSize = 224, kFeatures = 400, kMinFrames = 9;
  /// The weights were trained with 1e-3; the port behind the paper's numbers uses 1e-5.
  static constexpr double kPaperEps = 1e-5, kTrainedEps = 1e-3;

  /// 57 units `<layer>.conv3d.weight` and `.bn.*`, and logits.conv3d.{weight,bias}. Throws FileError.
  explicit I3dFeatures(const features::WeightReader& reader, double eps = kPaperEps);

  /// Logits before the softmax, averaged over time. Each clip stands for itself.
  /// Shapes   clips [N,T,224,224,3] u8, T >= 9 -> [N,400] f32.
  /// Errors   ShapeError (for T < 9 it says why), DTypeError.
  Tensor features(const Tensor& clips) const;

  /// Throws ShapeError when clips of so many frames are too short.
  static void check_frames(std::int64_t frames);

 private:
  Tensor run(const Tensor& clips) const;

  std::vector<features::Block> blocks_;
};

}  // namespace avid
