// nn/init.cpp -- initial values of parameters
#include "nn/init.h"

#include <cmath>

#include "tensor/rng.h"

namespace avid::nn {

std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

Tensor initial_values(const ParameterSpec& spec, std::string_view full_name, std::uint64_t seed, DType dtype) {
  const RngKey key{.seed = seed, .purpose = RngPurpose::init_weights, .step = name_hash(full_name)};
  Tensor values = Tensor::zeros(spec.plain_shape, dtype);
  switch (spec.init) {
    case Init::zeros: break;
    case Init::ones: values.fill(1); break;
    case Init::normal: fill_normal(values, key); break;
    case Init::uniform: {
      const double bound = 1 / std::sqrt(static_cast<double>(spec.fan));
      fill_uniform(values, key, -bound, bound);
      break;
    }
  }
  return values;
}

}  // namespace avid::nn
