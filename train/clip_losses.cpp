// train/clip_losses.cpp -- see clip_losses.h
#include "train/clip_losses.h"

#include <algorithm>
#include <cmath>

namespace avid::train {

void ClipLosses::add(std::int64_t num_clips, double loss, double accuracy) {
  parts_.push_back({num_clips, loss, accuracy});
}

void ClipLosses::add_mask(const Moments& mask, std::int64_t numel) { masks_.push_back({mask, numel}); }

void ClipLosses::add(const ClipLosses& later) {
  parts_.insert(parts_.end(), later.parts_.begin(), later.parts_.end());
  masks_.insert(masks_.end(), later.masks_.begin(), later.masks_.end());
}

std::int64_t ClipLosses::num_clips() const {
  std::int64_t n = 0;
  for (const Part& part : parts_) n += part.num_clips;
  return n;
}

double ClipLosses::loss() const {
  double sum = 0;
  for (const Part& part : parts_) sum += part.loss * static_cast<double>(part.num_clips);
  return sum / static_cast<double>(num_clips());
}

std::optional<double> ClipLosses::accuracy() const {
  double sum = 0;
  for (const Part& part : parts_) sum += part.accuracy * static_cast<double>(part.num_clips);
  if (parts_.empty() || std::isnan(sum)) return {};
  return sum / static_cast<double>(num_clips());
}

// Spreads around the clips' own means, and of these around the common one.
std::optional<MaskStats> ClipLosses::mask() const {
  if (masks_.empty()) return {};
  MaskStats all{.mean = 0, .std = 0, .min = masks_[0].moments.min, .max = masks_[0].moments.max};
  double count = 0, squares = 0;
  for (const auto& [m, numel] : masks_) {
    all.mean += m.mean * static_cast<double>(numel);
    count += static_cast<double>(numel);
    all.min = std::min(all.min, m.min);
    all.max = std::max(all.max, m.max);
  }
  all.mean /= count;
  for (const auto& [m, numel] : masks_) {
    const auto n = static_cast<double>(numel);
    squares += (numel > 1 ? m.std * m.std * (n - 1) : 0) + n * (m.mean - all.mean) * (m.mean - all.mean);
  }
  all.std = std::sqrt(squares / (count - 1));
  return all;
}

}  // namespace avid::train
