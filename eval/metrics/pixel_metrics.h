// eval/metrics/pixel_metrics.h -- MSE, PSNR and SSIM of generated frames, per clip and frame
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace avid::eval {

/// Which part of the SSIM map is averaged. `full` is torchmetrics' default from 1.4.2 on; `valid` omits the 5 pixels
/// at every border whose windows reach outside, as in older versions and the original paper. `none` leaves SSIM out,
/// which costs more than the rest: its list stays empty.
enum class SsimBorder { full, valid, none };

/// One number per clip n and frame t, at index n * num_frames + t.
struct PixelScores {
  std::int64_t num_clips = 0, num_frames = 0;
  std::vector<double> mse;   ///< of frames in [-1,1]: 4 times that of frames in [0,1]
  std::vector<double> psnr;  ///< dB, frames in [0,1], at most 100
  std::vector<double> ssim;

  /// Appends the clips of another batch (same number of frames).
  void append(const PixelScores& other);
};

/// Scores generated against real frames; all arithmetic in f64.
///
///   mse   mean over H,W,C of (2 a / 255 - 2 b / 255)^2
///   psnr  10 log10(1 / max(m, 1e-10)), m = mean of (a / 255 - b / 255)^2
///   ssim  mean of ((2 ma mb + C1)(2 cov + C2)) / ((ma^2 + mb^2 + C1)(va + vb + C2)) over the map, C1 1e-4, C2 9e-4,
///         moments under an 11-tap Gaussian (sigma 1.5), reflected borders, each colour by itself
///
/// Shapes   generated, real [N,T,H,W,C] u8; H, W >= 6 (the reflection), > 10 with SsimBorder::valid.
/// Errors   ShapeError, DTypeError.
/// Exact    independent of the number of threads.
/// Source   metrics.md 2-4 (SSIM: Wang et al. 2004). Deviations: none.
PixelScores score_frames(const Tensor& generated, const Tensor& real, SsimBorder border = SsimBorder::full);

/// Why frames of this size have no SSIM, in one line; empty if they have one.
std::string why_no_ssim(std::int64_t height, std::int64_t width, SsimBorder border);

/// Per clip, PSNR of the MSE pooled over all its frames.
std::vector<double> psnr_per_video(const PixelScores& scores);

/// Mean over clips for every frame index, [T].
std::vector<double> curve(const PixelScores& scores, const std::vector<double>& values);
/// Mean over frames for every clip, [N]: what a bootstrap over clips resamples.
std::vector<double> clip_means(const PixelScores& scores, const std::vector<double>& values);
/// Mean over everything.
double overall(const std::vector<double>& values);

}  // namespace avid::eval
