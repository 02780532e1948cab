// models/infer.h -- sizes of a network read off the names and shapes of its tensors
#pragma once

#include <string_view>

#include "models/unet_parts.h"
#include "nn/module.h"

namespace avid {

/// The plain shape of a tensor; throws ShapeError naming it when it is absent or has another rank.
Shape find_shape(const nn::TensorMap& tensors, std::string_view name, int rank, std::string_view source);

/// The tensors whose names start with `prefix`, without it.
nn::TensorMap tensors_below(const nn::TensorMap& tensors, std::string_view prefix);

/// The sizes of encoder and middle: width from init_conv, level widths from downs.*, heads from the bias table, head
/// width from to_qkv, actions from action_emb (0 without one). Throws ShapeError where names or shapes contradict each
/// other.
UnetSizes infer_unet_sizes(const nn::TensorMap& tensors, std::string_view source);

}  // namespace avid
