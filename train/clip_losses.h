// train/clip_losses.h -- what a model makes of held-out clips: losses, right answers and masks, clip by clip
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/avid.h"
#include "tensor/ops/moments.h"

namespace avid::train {

/// Losses and masks of clips, one by one and in their order: what is said of all of them has the same bits however they
/// came in batches. (Clips that are compared with one another have one loss, of their batch.)
class ClipLosses {
 public:
  /// `accuracy`: NaN where there is none.
  void add(std::int64_t num_clips, double loss, double accuracy);
  void add_mask(const Moments& mask, std::int64_t numel);
  void add(const ClipLosses& later);

  std::int64_t num_clips() const;
  double loss() const;                     // mean over the clips, as of training
  std::optional<double> accuracy() const;  // of a classifier or an encoder, mean over the clips
  std::optional<MaskStats> mask() const;   // over all elements of all masks

 private:
  struct Part {
    std::int64_t num_clips;
    double loss, accuracy;
  };
  struct Mask {
    Moments moments;
    std::int64_t numel;
  };
  std::vector<Part> parts_;
  std::vector<Mask> masks_;
};

}  // namespace avid::train
