// nn/init.h -- initial values of parameters (pixel.md 2.7)
#pragma once

#include <cstdint>
#include <string_view>

#include "nn/module.h"

namespace avid::nn {

/// 64-bit FNV-1a of a name; the step of its random stream.
std::uint64_t name_hash(std::string_view name);

/// Values of one parameter in its plain shape, dtype f32 or f64. Number e of the tensor is element e of the Philox
/// stream (seed, init_weights, name_hash(full_name)): equal names and seeds give equal values, whatever else the
/// network has.
Tensor initial_values(const ParameterSpec& spec, std::string_view full_name, std::uint64_t seed, DType dtype);

}  // namespace avid::nn
