// models/inception_features.cpp -- stem and blocks A to E of the FID network
#include "models/inception_features.h"

#include <algorithm>
#include <string>

#include "tensor/error.h"
#include "tensor/kernel_args.h"

namespace avid {
namespace {

using features::Block;
using features::Branch;
using features::ConvUnit;
using features::Pool;
using features::Window;
using kernels::PoolKind;

constexpr double kEps = 1e-3;

/// A square or oblong kernel with the padding that keeps the size at stride 1, or none.
struct Kernel {
  std::int64_t height, width, stride = 1;
  bool padded = true;
};
constexpr Kernel k1x1{1, 1}, k3x3{3, 3}, k5x5{5, 5}, k1x7{1, 7}, k7x1{7, 1}, k1x3{1, 3}, k3x1{3, 1},
    k3x3_stride2{3, 3, 2, false}, k3x3_valid{3, 3, 1, false};

Window window_of(const Kernel& k) {
  return {
      .kernel = {1, k.height, k.width},
      .stride = {1, k.stride, k.stride},
      .padding = {0, k.padded ? k.height / 2 : 0, k.padded ? k.width / 2 : 0}};
}

const Pool kAverage{PoolKind::average, window_of(k3x3)}, kMax{PoolKind::max, window_of(k3x3)},
    kMaxStride2{PoolKind::max, window_of(k3x3_stride2)};

/// Makes the units of one stage; keeps count of channels along a chain.
class Builder {
 public:
  Builder(const features::WeightReader& reader, InceptionFeatures::Norm norm, std::string stage, std::int64_t in)
      : reader_(reader), norm_(norm), stage_(std::move(stage)), in_(in) {}

  ConvUnit unit(const std::string& name, std::int64_t in, std::int64_t out, const Kernel& kernel) const {
    const std::string full = name.empty() ? stage_ : stage_ + "." + name;
    return ConvUnit::with_norm(reader_, full + ".conv", full + ".bn", in, out, window_of(kernel), kEps, norm_);
  }

  struct Step {
    const char* suffix;  // behind the branch's name
    std::int64_t out;
    Kernel kernel;
  };
  /// Units one after another; `ends` all read the last one's result.
  Branch chain(const std::string& name, const std::vector<Step>& steps, const std::vector<Step>& ends = {}) const {
    Branch branch;
    std::int64_t in = in_;
    for (const Step& s : steps) {
      branch.chain.push_back(unit(name + s.suffix, in, s.out, s.kernel));
      in = s.out;
    }
    for (const Step& s : ends) branch.ends.push_back(unit(name + s.suffix, in, s.out, s.kernel));
    return branch;
  }
  Branch pooled(const Pool& pool, std::int64_t out) const {
    Branch branch = chain("branch_pool", {{"", out, k1x1}});
    branch.pool = pool;
    return branch;
  }

 private:
  const features::WeightReader& reader_;
  InceptionFeatures::Norm norm_;
  std::string stage_;
  std::int64_t in_;
};

Branch only(const Pool& pool) { return {.pool = pool, .chain = {}, .ends = {}}; }

Block block_a(const Builder& b, std::int64_t pool_channels) {
  return {
      {b.chain("branch1x1", {{"", 64, k1x1}}), b.chain("branch5x5", {{"_1", 48, k1x1}, {"_2", 64, k5x5}}),
       b.chain("branch3x3dbl", {{"_1", 64, k1x1}, {"_2", 96, k3x3}, {"_3", 96, k3x3}}),
       b.pooled(kAverage, pool_channels)}};
}

Block block_b(const Builder& b) {
  return {
      {b.chain("branch3x3", {{"", 384, k3x3_stride2}}),
       b.chain("branch3x3dbl", {{"_1", 64, k1x1}, {"_2", 96, k3x3}, {"_3", 96, k3x3_stride2}}), only(kMaxStride2)}};
}

Block block_c(const Builder& b, std::int64_t c7) {
  return {
      {b.chain("branch1x1", {{"", 192, k1x1}}),
       b.chain("branch7x7", {{"_1", c7, k1x1}, {"_2", c7, k1x7}, {"_3", 192, k7x1}}),
       b.chain(
           "branch7x7dbl", {{"_1", c7, k1x1}, {"_2", c7, k7x1}, {"_3", c7, k1x7}, {"_4", c7, k7x1}, {"_5", 192, k1x7}}),
       b.pooled(kAverage, 192)}};
}

Block block_d(const Builder& b) {
  return {
      {b.chain("branch3x3", {{"_1", 192, k1x1}, {"_2", 320, k3x3_stride2}}),
       b.chain("branch7x7x3", {{"_1", 192, k1x1}, {"_2", 192, k1x7}, {"_3", 192, k7x1}, {"_4", 192, k3x3_stride2}}),
       only(kMaxStride2)}};
}

Block block_e(const Builder& b, const Pool& pool) {
  return {
      {b.chain("branch1x1", {{"", 320, k1x1}}),
       b.chain("branch3x3", {{"_1", 384, k1x1}}, {{"_2a", 384, k1x3}, {"_2b", 384, k3x1}}),
       b.chain("branch3x3dbl", {{"_1", 448, k1x1}, {"_2", 384, k3x3}}, {{"_3a", 384, k1x3}, {"_3b", 384, k3x1}}),
       b.pooled(pool, 192)}};
}

}  // namespace

InceptionFeatures::InceptionFeatures(const features::WeightReader& reader, Norm norm) : norm_(norm) {
  const auto stage = [&](const char* name, std::int64_t in) { return Builder(reader, norm, name, in); };
  const auto single = [&](const char* name, std::int64_t in, std::int64_t out, const Kernel& kernel) {
    blocks_.push_back({{stage(name, in).chain("", {{"", out, kernel}})}});
  };
  single("Conv2d_1a_3x3", 3, 32, k3x3_stride2);
  single("Conv2d_2a_3x3", 32, 32, k3x3_valid);
  single("Conv2d_2b_3x3", 32, 64, k3x3);
  blocks_.push_back({{only(kMaxStride2)}});
  single("Conv2d_3b_1x1", 64, 80, k1x1);
  single("Conv2d_4a_3x3", 80, 192, k3x3_valid);
  blocks_.push_back({{only(kMaxStride2)}});
  blocks_.push_back(block_a(stage("Mixed_5b", 192), 32));
  blocks_.push_back(block_a(stage("Mixed_5c", 256), 64));
  blocks_.push_back(block_a(stage("Mixed_5d", 288), 64));
  blocks_.push_back(block_b(stage("Mixed_6a", 288)));
  blocks_.push_back(block_c(stage("Mixed_6b", 768), 128));
  blocks_.push_back(block_c(stage("Mixed_6c", 768), 160));
  blocks_.push_back(block_c(stage("Mixed_6d", 768), 160));
  blocks_.push_back(block_c(stage("Mixed_6e", 768), 192));
  blocks_.push_back(block_d(stage("Mixed_7a", 768)));
  blocks_.push_back(block_e(stage("Mixed_7b", 1280), kAverage));
  blocks_.push_back(block_e(stage("Mixed_7c", 2048), kMax));
}

Tensor InceptionFeatures::run(const Tensor& images) const {
  Tensor x = features::frames_to_input(images, {images.dim(0), 1, kSize, kSize, 3});
  for (const Block& block : blocks_) x = block.run(x);
  return features::global_average(x);
}

Tensor InceptionFeatures::features(const Tensor& images) const {
  check_rank(images, 4, "inception", "images");
  check_dtype(images, DType::u8, "inception", "images");
  check_shape(images, {images.dim(0), kSize, kSize, 3}, "inception", "images");
  if (norm_ == Norm::batch) return run(images);
  constexpr std::int64_t kPass = 16;  // weights are packed once per pass; activations are 90 MiB at most
  Tensor out = Tensor::empty({images.dim(0), kFeatures});
  for (std::int64_t begin = 0; begin < images.dim(0); begin += kPass) {
    const std::int64_t end = std::min(begin + kPass, images.dim(0));
    out.slice(begin, end).copy_from(run(images.slice(begin, end)));
  }
  return out;
}

}  // namespace avid
