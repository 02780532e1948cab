// tests/models/hash_weights.h -- the hashed weights and inputs of pixel.md section 11, and comparisons with its tables
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "models/video_layout.h"
#include "nn/blocks.h"
#include "nn/module.h"
#include "tests/doctest.h"

namespace avid::test {

/// u of element j of the tensor `name`: uniform in [-0.5, 0.5).
inline std::vector<double> hash_values(const std::string& name, std::int64_t count) {
  std::uint32_t seed = 0x811C9DC5u;
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x01000193u;
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t j = 0; j < values.size(); ++j) {
    std::uint32_t h = seed + static_cast<std::uint32_t>(j) * 0x9E3779B9u;
    h ^= h >> 16, h *= 0x85EBCA6Bu, h ^= h >> 13, h *= 0xC2B2AE35u, h ^= h >> 16;
    values[j] = h / 4294967296.0 - 0.5;
  }
  return values;
}

/// scale * u in the given shape, f64.
inline Tensor hash_tensor(const std::string& name, const Shape& shape, double scale) {
  std::vector<double> values = hash_values(name, shape.numel());
  for (double& v : values) v *= scale;
  return Tensor::from_values(values, shape);
}

/// A video of the fixture: hashed as [B,C,T,H,W], returned channels-last.
inline Tensor hash_video(const std::string& name, const Shape& shape, double scale, DType dtype) {
  return to_channels_last(hash_tensor(name, shape, scale)).to(dtype);
}

/// Fills a module with the fixture's weights; `prefix` is part of every hashed name.
inline void set_hash_weights(nn::Module& module, const std::string& prefix, std::int64_t head_dim, DType dtype) {
  nn::TensorMap tensors;
  for (const nn::CheckpointEntry& entry : module.tensor_list()) {
    const std::string& name = entry.name;
    const Shape& shape = entry.plain_shape;
    std::vector<double> values = hash_values(prefix + name, shape.numel());
    double offset = 0, scale = 0;
    if (entry.constant) {
      tensors[name] = nn::rotary_frequencies(head_dim);
      continue;
    }
    if (name == "mixture_conv.weight" || name == "mixture_conv.bias") {
      offset = name == "mixture_conv.weight" ? 0.7 : -0.2;
    } else if (name.ends_with("gamma") || (name.ends_with("weight") && shape.rank() == 1)) {
      offset = 1, scale = 0.2;
    } else if (name.ends_with("bias") && shape.rank() == 1) {
      scale = 0.2;
    } else if (
        name.ends_with("action_emb") || name.ends_with("action_emb.weight") ||
        name.ends_with("attention_bias.weight")) {
      scale = 2;
    } else {
      scale = 2 / std::sqrt(static_cast<double>(shape.numel() / shape[0]));
    }
    for (double& v : values) v = offset + scale * v;
    tensors[name] = Tensor::from_values(values, shape);
  }
  module.import_tensors(tensors, prefix, dtype);
}

/// One row of the tables: statistics over a tensor in the original's order. `first` and `last` may be left out (NaN).
struct Row {
  double mean, mean_abs;
  std::vector<double> first;
  double last;
};

/// "" or what differs, for values already in the original's order. Tolerances relative to max(1, |value|); that of
/// single elements is the common one unless given.
inline std::string compare_row(
    const std::vector<double>& values, const Row& row, double tolerance, double element_tolerance = 0) {
  double mean = 0, mean_abs = 0;
  for (const double v : values) mean += v, mean_abs += std::abs(v);
  mean /= static_cast<double>(values.size()), mean_abs /= static_cast<double>(values.size());
  std::string report;
  element_tolerance = std::max(tolerance, element_tolerance);
  const auto check_one = [&](const char* what, double got, double expected) {
    const double allowed = what[0] == 'm' ? tolerance : element_tolerance;
    if (!(std::abs(got - expected) <= allowed * std::max(1.0, std::abs(expected))))
      report += fmt::format("{}: expected {:.9g}, got {:.9g}; ", what, expected, got);
  };
  check_one("mean", mean, row.mean);
  check_one("mean abs", mean_abs, row.mean_abs);
  for (std::size_t i = 0; i < row.first.size(); ++i) check_one("first", values[i], row.first[i]);
  if (!std::isnan(row.last)) check_one("last", values.back(), row.last);
  return report;
}

/// The same for a video in our layout.
inline std::string compare_video(const Tensor& video, const Row& row, double tolerance, double element_tolerance = 0) {
  return compare_row(
      (video.rank() == 5 ? to_channels_first(video) : video).to_doubles(), row, tolerance, element_tolerance);
}

}  // namespace avid::test
