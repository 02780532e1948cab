// models/inception_features.h -- the Inception network whose features FID compares
#pragma once

#include <vector>

#include "models/feature_layers.h"

namespace avid {

/// The TensorFlow graph of 2015-12-05 in the tensor names of its PyTorch port. It differs from torchvision's
/// Inception v3 in its weights, in average pools that count valid samples only, and in the max pool of Mixed_7c.
/// Source   Szegedy et al. 2015; Heusel et al. 2017 for the choice of layer.
class InceptionFeatures {
 public:
  static constexpr const char* kNetwork = "fid-inception";
  static constexpr std::int64_t kSize = 299, kFeatures = 2048;
  using Norm = features::ConvUnit::Norm;

  /// 94 units `<stage>[.<branch>].conv.weight` and `.bn.*`; fc.* and counters are ignored. Throws FileError.
  explicit InceptionFeatures(const features::WeightReader& reader, Norm norm = Norm::stored);

  /// Pooled features. With Norm::batch the images of one call are one batch and influence each other; otherwise each
  /// image stands for itself.
  /// Shapes   images [N,299,299,3] u8 -> [N,2048] f32.
  /// Errors   ShapeError, DTypeError.
  Tensor features(const Tensor& images) const;

 private:
  Tensor run(const Tensor& images) const;

  std::vector<features::Block> blocks_;
  Norm norm_;
};

}  // namespace avid
