// models/i3d_features.cpp -- layers of I3D as in the PyTorch conversions of DeepMind's weights
#include "models/i3d_features.h"

#include <algorithm>
#include <array>
#include <string>

#include "tensor/error.h"

namespace avid {
namespace {

using features::Block;
using features::Branch;
using features::ConvUnit;
using features::Pool;
using features::Window;

Window same_window(std::array<std::int64_t, 3> kernel, std::array<std::int64_t, 3> stride = {1, 1, 1}) {
  return {.kernel = kernel, .stride = stride, .padding = {}, .same = true};
}

const Window kPoint = same_window({1, 1, 1}), kCube = same_window({3, 3, 3});

Block pool(std::array<std::int64_t, 3> kernel, std::array<std::int64_t, 3> stride) {
  return {{{.pool = Pool{kernels::PoolKind::max, same_window(kernel, stride)}, .chain = {}, .ends = {}}}};
}

class Builder {
 public:
  Builder(const features::WeightReader& reader, double eps) : reader_(reader), eps_(eps) {}

  ConvUnit unit(const std::string& name, std::int64_t in, std::int64_t out, const Window& window) const {
    return ConvUnit::with_norm(
        reader_, name + ".conv3d", name + ".bn", in, out, window, eps_, ConvUnit::Norm::stored, 5);
  }
  Block single(const std::string& name, std::int64_t in, std::int64_t out, const Window& window) const {
    return {{{.pool = {}, .chain = {unit(name, in, out, window)}, .ends = {}}}};
  }
  /// Channels of b0, b1a, b1b, b2a, b2b, b3b.
  Block mixed(const std::string& name, std::int64_t in, std::array<std::int64_t, 6> c) const {
    return {
        {{.pool = {}, .chain = {unit(name + ".b0", in, c[0], kPoint)}, .ends = {}},
         {.pool = {},
          .chain = {unit(name + ".b1a", in, c[1], kPoint), unit(name + ".b1b", c[1], c[2], kCube)},
          .ends = {}},
         {.pool = {},
          .chain = {unit(name + ".b2a", in, c[3], kPoint), unit(name + ".b2b", c[3], c[4], kCube)},
          .ends = {}},
         {.pool = Pool{kernels::PoolKind::max, kCube}, .chain = {unit(name + ".b3b", in, c[5], kPoint)}, .ends = {}}}};
  }

 private:
  const features::WeightReader& reader_;
  double eps_;
};

}  // namespace

I3dFeatures::I3dFeatures(const features::WeightReader& reader, double eps) {
  const Builder b(reader, eps);
  blocks_.push_back(b.single("Conv3d_1a_7x7", 3, 64, same_window({7, 7, 7}, {2, 2, 2})));
  blocks_.push_back(pool({1, 3, 3}, {1, 2, 2}));
  blocks_.push_back(b.single("Conv3d_2b_1x1", 64, 64, kPoint));
  blocks_.push_back(b.single("Conv3d_2c_3x3", 64, 192, kCube));
  blocks_.push_back(pool({1, 3, 3}, {1, 2, 2}));
  blocks_.push_back(b.mixed("Mixed_3b", 192, {64, 96, 128, 16, 32, 32}));
  blocks_.push_back(b.mixed("Mixed_3c", 256, {128, 128, 192, 32, 96, 64}));
  blocks_.push_back(pool({3, 3, 3}, {2, 2, 2}));
  blocks_.push_back(b.mixed("Mixed_4b", 480, {192, 96, 208, 16, 48, 64}));
  blocks_.push_back(b.mixed("Mixed_4c", 512, {160, 112, 224, 24, 64, 64}));
  blocks_.push_back(b.mixed("Mixed_4d", 512, {128, 128, 256, 24, 64, 64}));
  blocks_.push_back(b.mixed("Mixed_4e", 512, {112, 144, 288, 32, 64, 64}));
  blocks_.push_back(b.mixed("Mixed_4f", 528, {256, 160, 320, 32, 128, 128}));
  blocks_.push_back(pool({2, 2, 2}, {2, 2, 2}));
  blocks_.push_back(b.mixed("Mixed_5b", 832, {256, 160, 320, 32, 128, 128}));
  blocks_.push_back(b.mixed("Mixed_5c", 832, {384, 192, 384, 48, 128, 128}));
  const Window head{.kernel = {2, 7, 7}, .stride = {1, 1, 1}, .padding = {}};
  blocks_.push_back(
      {{{.pool = Pool{kernels::PoolKind::average, head},
         .chain = {ConvUnit::with_bias(reader, "logits.conv3d", 1024, kFeatures, kPoint, false, 5)},
         .ends = {}}}});
}

void I3dFeatures::check_frames(std::int64_t frames) {
  check<ShapeError>(
      frames >= kMinFrames,
      "fvd_i3d: expected clips of at least {} frames (I3D divides time by 8 and averages over 2), got {} | count the "
      "conditioning frames in (--cond or --cond-frames), or generate longer clips",
      kMinFrames, frames);
}

Tensor I3dFeatures::run(const Tensor& clips) const {
  Tensor x = features::frames_to_input(clips, clips.shape());
  for (const Block& block : blocks_) x = block.run(x);
  return features::global_average(x);  // over the remaining time
}

Tensor I3dFeatures::features(const Tensor& clips) const {
  check_rank(clips, 5, "i3d", "clips");
  check_dtype(clips, DType::u8, "i3d", "clips");
  check_frames(clips.dim(1));
  check_shape(clips, {clips.dim(0), clips.dim(1), kSize, kSize, 3}, "i3d", "clips");
  Tensor out = Tensor::empty({clips.dim(0), kFeatures});
  constexpr std::int64_t kPass = 4;  // weights are packed once per pass; a clip's activations are tens of MiB
  for (std::int64_t begin = 0; begin < clips.dim(0); begin += kPass) {
    const std::int64_t end = std::min(begin + kPass, clips.dim(0));
    out.slice(begin, end).copy_from(run(clips.slice(begin, end)));
  }
  return out;
}

}  // namespace avid
