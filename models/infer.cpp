// models/infer.cpp -- sizes of a network read off the names and shapes of its tensors
#include "models/infer.h"

#include <fmt/format.h>

#include "models/unet3d.h"

namespace avid {

Shape find_shape(const nn::TensorMap& tensors, std::string_view name, int rank, std::string_view source) {
  const auto found = tensors.find(name);
  check<ShapeError>(
      found != tensors.end(),
      "{}: tensor {} is missing, so the network's sizes cannot be read | is this file of another model?", source, name);
  const Shape& shape = found->second.shape();
  check<ShapeError>(shape.rank() == rank, "{}: {}: expected {} dimensions, got {}", source, name, rank, shape);
  for (const std::int64_t extent : shape)
    check<ShapeError>(extent > 0, "{}: {}: expected no empty dimension, got {}", source, name, shape);
  return shape;
}

nn::TensorMap tensors_below(const nn::TensorMap& tensors, std::string_view prefix) {
  nn::TensorMap below;
  for (const auto& [name, tensor] : tensors)
    if (name.starts_with(prefix)) below.emplace(name.substr(prefix.size()), tensor);
  return below;
}

UnetSizes infer_unet_sizes(const nn::TensorMap& tensors, std::string_view source) {
  UnetSizes sizes;
  const Shape init_conv = find_shape(tensors, "init_conv.weight", 5, source);
  sizes.dim = init_conv[0];
  sizes.in_channels = init_conv[1];
  sizes.heads = find_shape(tensors, "time_rel_pos_bias.relative_attention_bias.weight", 2, source)[1];

  const Shape qkv = find_shape(tensors, "init_temporal_attn.fn.fn.fn.to_qkv.weight", 2, source);
  check<ShapeError>(
      qkv[0] % (3 * sizes.heads) == 0 && (qkv[0] / (3 * sizes.heads)) % 2 == 0,
      "{}: init_temporal_attn.fn.fn.fn.to_qkv.weight: expected 3 x {} heads x an even head width rows, got {}", source,
      sizes.heads, qkv);
  sizes.head_dim = qkv[0] / (3 * sizes.heads);
  sizes.num_actions =
      tensors.contains("action_emb.weight") ? find_shape(tensors, "action_emb.weight", 2, source)[0] : 0;

  sizes.dim_mults.clear();
  for (int level = 0; level < 10; ++level) {
    const std::string name = fmt::format("downs.{}.0.block1.proj.weight", level);
    if (!tensors.contains(name)) break;
    const std::int64_t width = find_shape(tensors, name, 5, source)[0];
    check<ShapeError>(
        width % sizes.dim == 0, "{}: {}: expected a width that is a multiple of {} (init_conv), got {}", source, name,
        sizes.dim, width);
    sizes.dim_mults.push_back(width / sizes.dim);
  }
  check<ShapeError>(
      !sizes.dim_mults.empty(),
      "{}: no downs.0.0.block1.proj.weight, so the network's levels cannot be read | is this file of another model?",
      source);
  return sizes;
}

Unet3dConfig infer_unet3d_config(const nn::TensorMap& tensors, std::string_view source, std::int64_t cond_frames) {
  const UnetSizes sizes = infer_unet_sizes(tensors, source);
  check<ShapeError>(
      sizes.num_actions > 0, "{}: tensor action_emb.weight is missing | is this file of another model?", source);
  Unet3dConfig config{
      .dim = sizes.dim,
      .dim_mults = sizes.dim_mults,
      .heads = sizes.heads,
      .head_dim = sizes.head_dim,
      .num_actions = sizes.num_actions,
      .in_channels = sizes.in_channels,
      .out_channels = find_shape(tensors, "final_conv.1.weight", 5, source)[0]};
  config.cond_frames = cond_frames >= 0 ? cond_frames : config.in_channels / 3 - 1;
  config.validate(source);
  return config;
}

}  // namespace avid
