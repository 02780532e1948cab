// eval/metrics/pixel_metrics.cpp -- MSE, PSNR and SSIM of generated frames, per clip and frame
#include "eval/metrics/pixel_metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "tensor/error.h"

namespace avid::eval {
namespace {

constexpr std::int64_t kTaps = 11, kRadius = kTaps / 2;
constexpr double kSigma = 1.5;
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;  // (k * data range)^2 with range 1
constexpr double kMinMse = 1e-10;

std::array<double, kTaps> gaussian_window() {
  std::array<double, kTaps> w{};
  for (std::int64_t i = 0; i < kTaps; ++i) {
    const double d = static_cast<double>(i - kRadius) / kSigma;
    w[static_cast<std::size_t>(i)] = std::exp(-0.5 * d * d);
  }
  const double sum = std::accumulate(w.begin(), w.end(), 0.0);
  for (double& v : w) v /= sum;
  return w;
}

/// Index of the pixel that stands for position i: reflection that does not repeat the edge.
std::int64_t reflected(std::int64_t i, std::int64_t size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

/// The five local moments of SSIM of one colour plane; buffers are reused from frame to frame.
class Ssim {
 public:
  Ssim(std::int64_t height, std::int64_t width, SsimBorder border)
      : height_(height),
        width_(width),
        border_(border),
        a_(plane()),
        b_(plane()),
        product_(plane()),
        rows_(plane()),
        padded_(static_cast<std::size_t>(width + 2 * kRadius)) {
    for (auto& m : moments_) m = plane();
  }

  /// Sum of the SSIM map over the averaged part of one colour plane. `stride` u8 elements lie between pixels.
  double map_sum(const std::uint8_t* a, const std::uint8_t* b, std::int64_t stride) {
    for (std::size_t i = 0; i < a_.size(); ++i) {
      a_[i] = a[static_cast<std::int64_t>(i) * stride] / 255.0;
      b_[i] = b[static_cast<std::int64_t>(i) * stride] / 255.0;
    }
    blur(a_, moments_[0]);
    blur(b_, moments_[1]);
    blur_product(a_, a_, moments_[2]);
    blur_product(b_, b_, moments_[3]);
    blur_product(a_, b_, moments_[4]);
    const std::int64_t edge = border_ == SsimBorder::valid ? kRadius : 0;
    double sum = 0;
    for (std::int64_t y = edge; y < height_ - edge; ++y)
      for (std::int64_t x = edge; x < width_ - edge; ++x) sum += at(static_cast<std::size_t>(y * width_ + x));
    return sum;
  }
  std::int64_t map_size() const {
    const std::int64_t edge = border_ == SsimBorder::valid ? 2 * kRadius : 0;
    return (height_ - edge) * (width_ - edge);
  }

 private:
  std::vector<double> plane() const { return std::vector<double>(static_cast<std::size_t>(height_ * width_)); }

  double at(std::size_t i) const {
    const double ma = moments_[0][i], mb = moments_[1][i];
    const double va = std::max(moments_[2][i] - ma * ma, 0.0), vb = std::max(moments_[3][i] - mb * mb, 0.0);
    const double cov = moments_[4][i] - ma * mb;
    return ((2 * ma * mb + kC1) * (2 * cov + kC2)) / ((ma * ma + mb * mb + kC1) * (va + vb + kC2));
  }

  void blur_product(const std::vector<double>& a, const std::vector<double>& b, std::vector<double>& out) {
    for (std::size_t i = 0; i < a.size(); ++i) product_[i] = a[i] * b[i];
    blur(product_, out);
  }

  void blur(const std::vector<double>& in, std::vector<double>& out) {
    static const std::array<double, kTaps> window = gaussian_window();
    std::fill(rows_.begin(), rows_.end(), 0.0);
    for (std::int64_t y = 0; y < height_; ++y) {
      // A copy with its reflected ends, so that the taps are plain loops over x.
      const double* source = in.data() + y * width_;
      for (std::int64_t x = 0; x < kRadius; ++x) {
        padded_[static_cast<std::size_t>(x)] = source[reflected(x - kRadius, width_)];
        padded_[static_cast<std::size_t>(kRadius + width_ + x)] = source[reflected(width_ + x, width_)];
      }
      std::copy_n(source, width_, padded_.begin() + kRadius);
      double* target = rows_.data() + y * width_;
      for (std::int64_t k = 0; k < kTaps; ++k) {
        const double w = window[static_cast<std::size_t>(k)];
        const double* shifted = padded_.data() + k;
        for (std::int64_t x = 0; x < width_; ++x) target[x] += w * shifted[x];
      }
    }
    std::fill(out.begin(), out.end(), 0.0);
    for (std::int64_t y = 0; y < height_; ++y)
      for (std::int64_t k = 0; k < kTaps; ++k) {
        const double w = window[static_cast<std::size_t>(k)];
        const double* source = rows_.data() + reflected(y + k - kRadius, height_) * width_;
        double* target = out.data() + y * width_;
        for (std::int64_t x = 0; x < width_; ++x) target[x] += w * source[x];
      }
  }

  std::int64_t height_, width_;
  SsimBorder border_;
  std::vector<double> a_, b_, product_, rows_, padded_;
  std::array<std::vector<double>, 5> moments_;  // a, b, aa, bb, ab
};

/// Mean of (a - b)^2 in levels of 1/255; exact in integers.
double mean_square_01(const std::uint8_t* a, const std::uint8_t* b, std::int64_t count) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const int d = int{a[i]} - int{b[i]};
    sum += d * d;
  }
  return static_cast<double>(sum) / (255.0 * 255.0 * static_cast<double>(count));
}

double psnr_of(double mse_01) { return 10 * std::log10(1 / std::max(mse_01, kMinMse)); }

}  // namespace

void PixelScores::append(const PixelScores& other) {
  check<ShapeError>(
      num_clips == 0 || num_frames == other.num_frames, "pixel scores: frames: expected {}, got {}", num_frames,
      other.num_frames);
  num_frames = other.num_frames;
  num_clips += other.num_clips;
  mse.insert(mse.end(), other.mse.begin(), other.mse.end());
  psnr.insert(psnr.end(), other.psnr.begin(), other.psnr.end());
  ssim.insert(ssim.end(), other.ssim.begin(), other.ssim.end());
}

std::string why_no_ssim(std::int64_t height, std::int64_t width, SsimBorder border) {
  const std::int64_t smallest = border == SsimBorder::none    ? 0
                                : border == SsimBorder::valid ? 2 * kRadius + 1
                                                              : kRadius + 1;
  if (height >= smallest && width >= smallest) return {};
  return fmt::format("ssim: expected frames of at least {0}x{0} pixels, got {1}x{2}", smallest, height, width);
}

PixelScores score_frames(const Tensor& generated, const Tensor& real, SsimBorder border) {
  check_rank(real, 5, "score_frames", "real");
  check_shape(generated, real.shape(), "score_frames", "generated");
  check_dtype(real, DType::u8, "score_frames", "real");
  check_dtype(generated, DType::u8, "score_frames", "generated");
  const std::int64_t height = real.dim(2), width = real.dim(3), colours = real.dim(4);
  const bool with_ssim = border != SsimBorder::none;
  if (const std::string small = why_no_ssim(height, width, border); !small.empty()) fail<ShapeError>("{}", small);
  PixelScores scores{.num_clips = real.dim(0), .num_frames = real.dim(1), .mse = {}, .psnr = {}, .ssim = {}};
  const std::int64_t num_images = scores.num_clips * scores.num_frames, image = height * width * colours;
  for (auto* values : {&scores.mse, &scores.psnr}) values->resize(static_cast<std::size_t>(num_images));
  if (with_ssim) scores.ssim.resize(static_cast<std::size_t>(num_images));
  const std::uint8_t* a = generated.data<std::uint8_t>();
  const std::uint8_t* b = real.data<std::uint8_t>();
#pragma omp parallel
  {
    Ssim ssim(height, width, border);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < num_images; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double mse_01 = mean_square_01(a + i * image, b + i * image, image);
      scores.mse[at] = 4 * mse_01;
      scores.psnr[at] = psnr_of(mse_01);
      if (!with_ssim) continue;
      double sum = 0;
      for (std::int64_t c = 0; c < colours; ++c) sum += ssim.map_sum(a + i * image + c, b + i * image + c, colours);
      scores.ssim[at] = sum / static_cast<double>(ssim.map_size() * colours);
    }
  }
  return scores;
}

std::vector<double> psnr_per_video(const PixelScores& scores) {
  std::vector<double> out = clip_means(scores, scores.mse);
  for (double& v : out) v = psnr_of(v / 4);
  return out;
}

std::vector<double> curve(const PixelScores& scores, const std::vector<double>& values) {
  std::vector<double> out(static_cast<std::size_t>(scores.num_frames), 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) out[i % out.size()] += values[i];
  for (double& v : out) v /= static_cast<double>(scores.num_clips);
  return out;
}

std::vector<double> clip_means(const PixelScores& scores, const std::vector<double>& values) {
  std::vector<double> out(static_cast<std::size_t>(scores.num_clips), 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) out[i / static_cast<std::size_t>(scores.num_frames)] += values[i];
  for (double& v : out) v /= static_cast<double>(scores.num_frames);
  return out;
}

double overall(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace avid::eval
