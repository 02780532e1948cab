// eval/metrics/normalised_score.h -- the paper's one number: six metrics, each placed between a best and a worst value
#pragma once

#include <array>
#include <string>

namespace avid::eval {

/// In the order of the paper's tables. fvd is fvd_i3d and fid is fid_ref: the ranges were measured with those.
struct SixMetrics {
  double aer, fvd, fid, ssim, lpips, psnr;
};

struct NormalisedScore {
  std::array<double, 6> parts{};  ///< order of SixMetrics; 1 at the best end; not clipped
  double score = 0;               ///< their mean
};

/// n = (v - min) / (max - min) for SSIM and PSNR, 1 - that for the others.
/// `dataset` is coinrun or rt1. Throws UsageError.
NormalisedScore normalised_score(const SixMetrics& values, const std::string& dataset);

}  // namespace avid::eval
