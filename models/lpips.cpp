// models/lpips.cpp -- the VGG16 trunk, its five taps and their weighted differences
#include "models/lpips.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/threads.h"
#include "tensor/error.h"

namespace avid {
namespace {

using features::Branch;
using features::ConvUnit;
using features::Window;

struct Slice {
  std::vector<int> convs;  // indices in torchvision's `features`
  std::int64_t channels;
};
const std::array<Slice, 5> kSlices{
    {{{0, 2}, 64}, {{5, 7}, 128}, {{10, 12, 14}, 256}, {{17, 19, 21}, 512}, {{24, 26, 28}, 512}}};

// ImageNet's mean and deviation for images in [-1,1].
constexpr std::array<float, 3> kShift{-0.030f, -0.088f, -0.188f}, kScale{0.458f, 0.448f, 0.450f};

const Window kConv{.kernel = {1, 3, 3}, .stride = {1, 1, 1}, .padding = {0, 1, 1}};
const Window kPool{.kernel = {1, 2, 2}, .stride = {1, 2, 2}, .padding = {}};

/// Pairs per pass. Weights are packed once per call of a convolution, so small images need company: the last slices of
/// a few 64x64 images cost less than their packing.
std::int64_t pairs_per_pass(std::int64_t height, std::int64_t width) {
  return std::clamp<std::int64_t>(16 * 64 * 64 / (height * width), 1, 64);
}

// Eight running sums, so that the compiler may add them side by side.
constexpr std::int64_t kLanes = 8;
float sum_of(const std::array<float, kLanes>& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

float sum_of_squares(const float* f, std::int64_t count) {
  std::array<float, kLanes> lanes{};
  for (std::int64_t c = 0; c < count; c += kLanes)
    for (std::int64_t l = 0; l < kLanes; ++l) lanes[static_cast<std::size_t>(l)] += f[c + l] * f[c + l];
  return sum_of(lanes);
}

float weighted_difference(
    const float* a, float a_scale, const float* b, float b_scale, const float* w, std::int64_t count) {
  std::array<float, kLanes> lanes{};
  for (std::int64_t c = 0; c < count; c += kLanes)
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const float d = a[c + l] * a_scale - b[c + l] * b_scale;
      lanes[static_cast<std::size_t>(l)] += w[c + l] * (d * d);
    }
  return sum_of(lanes);
}

}  // namespace

Lpips::Lpips(const features::WeightReader& reader, LpipsNorm norm) : norm_(norm) {
  std::int64_t channels = 3;
  for (std::size_t s = 0; s < kSlices.size(); ++s) {
    Branch branch;
    if (s > 0) branch.pool = features::Pool{kernels::PoolKind::max, kPool};
    for (const int index : kSlices[s].convs) {
      branch.chain.push_back(
          ConvUnit::with_bias(reader, fmt::format("features.{}", index), channels, kSlices[s].channels, kConv, true));
      channels = kSlices[s].channels;
    }
    slices_.push_back({{std::move(branch)}});
    heads_.push_back(reader.take(fmt::format("lin{}.model.1.weight", s), {1, channels, 1, 1}));
  }
}

Tensor Lpips::input(const Tensor& images) const {
  return features::frames_to_input(images, {images.dim(0), 1, images.dim(1), images.dim(2), 3}, kShift, kScale);
}

void Lpips::add_tap(const Tensor& a, const Tensor& b, const std::vector<float>& weights, double* out) const {
  const std::int64_t positions = a.dim(2) * a.dim(3), channels = a.cols();
  const auto length_inverse = [&](const float* f) {
    const float square = sum_of_squares(f, channels);
    return norm_ == LpipsNorm::torchmetrics ? 1.0f / std::sqrt(1e-8f + square) : 1.0f / (std::sqrt(square) + 1e-10f);
  };
  kernels::parallel_for(a.dim(0), [&](std::int64_t n, int) {
    double sum = 0;
    for (std::int64_t p = n * positions; p < (n + 1) * positions; ++p) {
      const float *fa = a.data<float>() + p * a.pitch(), *fb = b.data<float>() + p * b.pitch();
      sum += weighted_difference(fa, length_inverse(fa), fb, length_inverse(fb), weights.data(), channels);
    }
    out[n] += sum / static_cast<double>(positions);
  });
}

std::vector<double> Lpips::distances(const Tensor& a, const Tensor& b) const {
  check_rank(a, 4, "lpips", "a");
  check_shape(b, a.shape(), "lpips", "b");
  check_dtype(b, DType::u8, "lpips", "b");
  check<ShapeError>(
      a.dim(1) >= 16 && a.dim(2) >= 16, "lpips: expected frames of at least 16x16 pixels, got {}x{}", a.dim(1),
      a.dim(2));
  std::vector<double> out(static_cast<std::size_t>(a.dim(0)), 0.0);
  const std::int64_t pass = pairs_per_pass(a.dim(1), a.dim(2));
  for (std::int64_t begin = 0; begin < a.dim(0); begin += pass) {
    const std::int64_t end = std::min(begin + pass, a.dim(0));
    const std::int64_t pairs = end - begin;
    Tensor both = Tensor::empty({2 * pairs, 1, a.dim(1), a.dim(2), 3});
    both.slice(0, pairs).copy_from(input(a.slice(begin, end)));
    both.slice(pairs, 2 * pairs).copy_from(input(b.slice(begin, end)));
    for (std::size_t s = 0; s < slices_.size(); ++s) {
      both = slices_[s].run(both);
      add_tap(both.slice(0, pairs), both.slice(pairs, 2 * pairs), heads_[s], out.data() + begin);
    }
  }
  return out;
}

}  // namespace avid
