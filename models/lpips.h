// models/lpips.h -- LPIPS: a learned distance between two images on the features of VGG16
#pragma once

#include <memory>
#include <vector>

#include "models/feature_layers.h"

namespace avid {

/// What keeps the length of an all-zero feature vector from being divided by: torchmetrics 1.4.2 takes
/// sqrt(1e-8 + sum f^2), the original package sqrt(sum f^2) + 1e-10.
enum class LpipsNorm { torchmetrics, original };

/// Zhang et al. 2018, version 0.1 with VGG16.
///
///   d(a, b) = sum over five taps of mean over y,x of sum_c w_c (fa_c / |fa| - fb_c / |fb|)^2
///
/// The taps are the activations before each pooling; images are scaled to [-1,1] and normalised per colour first.
class Lpips {
 public:
  static constexpr const char* kNetwork = "lpips-vgg";

  /// Tensors features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.{weight,bias} and lin{0..4}.model.1.weight; others are
  /// ignored. Throws FileError that names the tensor.
  explicit Lpips(const features::WeightReader& reader, LpipsNorm norm = LpipsNorm::torchmetrics);

  /// One distance per pair of images. Independent of how the images are cut into calls.
  /// Shapes   a, b [N,H,W,3] u8 with H, W >= 16 (four poolings).
  /// Errors   ShapeError, DTypeError.
  std::vector<double> distances(const Tensor& a, const Tensor& b) const;

 private:
  Tensor input(const Tensor& images) const;
  /// Adds the distance of one tap, features [N,1,H,W,C] of a and b, to out[n].
  void add_tap(const Tensor& a, const Tensor& b, const std::vector<float>& weights, double* out) const;

  std::vector<features::Block> slices_;    // up to each tap
  std::vector<std::vector<float>> heads_;  // [C] per tap
  LpipsNorm norm_;
};

}  // namespace avid
