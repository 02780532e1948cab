// tests/metric_weights.h -- weights for the metric networks from an integer hash, as the reference cases used them
//
// Value j of tensor NAME: u = hash(FNV-1a(prefix + NAME), j) / 2^32 - 0.5, then by kind: convolution weights
// u * sqrt(24 / fan_in), lin* u + 0.5, bn.weight 1 + 0.2 u, running_var 1 + u, biases and means 0.2 u.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "models/feature_layers.h"
#include "tensor/io/tensor_file.h"

namespace avid::test {

inline Tensor hash_tensor(const std::string& prefix, const std::string& name, const Shape& shape) {
  std::uint32_t seed = 0x811C9DC5u;
  for (const char c : prefix + name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x01000193u;
  const bool is_lin = name.starts_with("lin");
  const double fan_in = static_cast<double>(shape.numel()) / static_cast<double>(shape[0]);
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t j = 0; j < values.size(); ++j) {
    std::uint32_t h = seed + static_cast<std::uint32_t>(j) * 0x9E3779B9u;
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    h ^= h >> 16;
    const double u = h / 4294967296.0 - 0.5;
    const double value = is_lin                          ? u + 0.5
                         : shape.rank() > 1              ? u * std::sqrt(24 / fan_in)
                         : name.ends_with("bn.weight")   ? 1 + 0.2 * u
                         : name.ends_with("running_var") ? 1 + u
                                                         : 0.2 * u;
    values[j] = static_cast<float>(value);
  }
  return Tensor::from_values(values, shape);
}

/// A reader whose weights come from the hash; `asked` collects what was taken.
inline features::WeightReader hash_reader(const std::string& prefix, NamedTensors* asked = nullptr) {
  return {
      [prefix, asked](const std::string& name, const Shape& shape) {
        Tensor t = hash_tensor(prefix, name, shape);
        if (asked) asked->emplace_back(name, t);
        return t;
      },
      "hash", "test"};
}

/// [N,3,H,W] or [N,T,3,H,W] u8 -> colours last.
inline Tensor colours_last(const Tensor& in) {
  const int r = in.rank();
  const std::int64_t plane = in.dim(r - 1) * in.dim(r - 2), images = in.numel() / (3 * plane);
  std::vector<std::int64_t> extents = in.shape().to_vector();
  extents.erase(extents.end() - 3);
  extents.push_back(3);
  Tensor out = Tensor::empty(Shape(extents), DType::u8);
  for (std::int64_t n = 0; n < images; ++n)
    for (std::int64_t c = 0; c < 3; ++c)
      for (std::int64_t i = 0; i < plane; ++i)
        out.data<std::uint8_t>()[(n * plane + i) * 3 + c] = in.data<std::uint8_t>()[(n * 3 + c) * plane + i];
  return out;
}

/// Largest |got - want| over the root mean square of `want`, in units of that; infinite for NaN or other shapes.
inline double deviation(const Tensor& got, const Tensor& want) {
  if (!(got.shape() == want.shape())) return INFINITY;
  const std::vector<double> a = got.to_doubles(), b = want.to_doubles();
  double square = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    square += b[i] * b[i];
    const double d = std::abs(a[i] - b[i]);
    if (!(d <= largest)) largest = std::isnan(d) ? INFINITY : d;
  }
  return largest / std::sqrt(square / static_cast<double>(b.size()));
}

}  // namespace avid::test
