// models/cost.cpp -- how many FLOPs one forward pass takes
#include "models/cost.h"

#include <fmt/format.h>

namespace avid {
namespace {

// Walks through a network as its forward pass does and adds up.
class Counter {
 public:
  Counter(const UnetSizes& sizes, std::int64_t clips, std::int64_t frames, std::int64_t height, std::int64_t width)
      : sizes_(sizes), clips_(clips), frames_(frames), height_(height), width_(width) {}

  ForwardCost cost;

  void mul_add(const std::string& block, const char* kind, std::int64_t count) {
    cost.total += 2 * clips_ * count;
    cost.by_kind[kind] += 2 * clips_ * count;
    cost.by_block[block] += 2 * clips_ * count;
  }

  // Sites (frame, row, column) of encoder level i.
  std::int64_t sites(std::int64_t level) const { return frames_ * positions(level); }
  std::int64_t positions(std::int64_t level) const { return (height_ >> level) * (width_ >> level); }
  std::int64_t frames() const { return frames_; }

  void resnet(const std::string& block, std::int64_t level, std::int64_t in, std::int64_t out, bool film = true) {
    mul_add(block, "ResNet 3x3 conv", sites(level) * 9 * (in * out + out * out));
    if (in != out) mul_add(block, "ResNet 1x1 shortcut", sites(level) * in * out);
    if (film) mul_add(block, "FiLM linear", frames_ * sizes_.film_width() * 2 * out);
  }
  void linear_attention(const std::string& block, std::int64_t level, std::int64_t width) {
    const std::int64_t D = nn::kSpatialHeadDim;
    mul_add(block, "linear-attn 1x1 proj", sites(level) * 4 * sizes_.heads * D * width);
    mul_add(block, "linear-attn einsums", sites(level) * 2 * sizes_.heads * D * D);
  }
  void temporal_attention(const std::string& block, std::int64_t level, std::int64_t width) {
    const std::int64_t inner = sizes_.heads * sizes_.head_dim;
    mul_add(block, "temporal attn proj", sites(level) * 4 * inner * width);
    mul_add(block, "temporal attn matmuls", sites(level) * 2 * frames_ * inner);
  }

  void encoder() {
    const std::int64_t d = sizes_.dim, levels = sizes_.num_levels();
    mul_add("init_conv", "init conv 7x7", sites(0) * 49 * sizes_.in_channels * d);
    temporal_attention("init_temporal_attn", 0, d);
    mul_add("time_mlp", "time/action MLP", 20 * d * d);
    if (sizes_.num_actions > 0) mul_add("action_mlp", "time/action MLP", frames_ * 20 * d * d);
    for (std::int64_t i = 0; i < levels; ++i) {
      const std::string block = fmt::format("downs.{}", i);
      const std::int64_t width = sizes_.level_width(i);
      resnet(block, i, sizes_.level_width(i - 1), width);
      resnet(block, i, width, width);
      linear_attention(block, i, width);
      temporal_attention(block, i, width);
      if (i + 1 < levels) mul_add(block, "downsample conv 4x4", sites(i + 1) * 16 * width * width);
    }
  }
  void middle() {
    const std::int64_t level = sizes_.num_levels() - 1, width = sizes_.level_width(level);
    const std::int64_t inner = sizes_.heads * nn::kSpatialHeadDim;
    resnet("mid_block1", level, width, width);
    mul_add("mid_spatial_attn", "mid spatial attn proj", sites(level) * 4 * inner * width);
    mul_add("mid_spatial_attn", "mid spatial attn matmuls", sites(level) * 2 * positions(level) * inner);
    temporal_attention("mid_temporal_attn", level, width);
    resnet("mid_block2", level, width, width);
  }
  void decoder_and_head(std::int64_t out_channels) {
    const std::int64_t levels = sizes_.num_levels(), d = sizes_.dim;
    for (std::int64_t i = 0; i < levels; ++i) {
      const std::int64_t level = levels - 1 - i, width = sizes_.level_width(level - 1);
      const std::string block = fmt::format("ups.{}", i);
      resnet(block, level, 2 * sizes_.level_width(level), width);
      resnet(block, level, width, width);
      linear_attention(block, level, width);
      temporal_attention(block, level, width);
      if (level > 0) mul_add(block, "upsample convT 4x4", sites(level) * 16 * width * width);
    }
    resnet("final_conv", 0, 2 * d, d, false);
    mul_add("final_conv", "final 1x1 conv", sites(0) * d * out_channels);
  }

 private:
  UnetSizes sizes_;
  std::int64_t clips_, frames_, height_, width_;
};

}  // namespace

ForwardCost forward_cost(const Unet3dConfig& c, const VideoSize& size) {
  const UnetSizes sizes{
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .in_channels = c.in_channels,
      .num_actions = c.num_actions};
  Counter counter(sizes, size.batch, size.frames, size.height, size.width);
  counter.encoder();
  counter.middle();
  counter.decoder_and_head(c.out_channels);
  return counter.cost;
}

ForwardCost forward_cost(const ControlNetConfig& c, const VideoSize& size) {
  const UnetSizes sizes{
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .in_channels = 3 * c.cond_frames + 3,
      .num_actions = c.num_actions};
  Counter counter(sizes, size.batch, size.frames, size.height, size.width);
  counter.encoder();
  counter.middle();
  counter.mul_add("zero_linear_action_mlp", "time/action MLP", size.frames * 16 * c.dim * c.dim);
  for (std::int64_t i = 0; i < sizes.num_levels() + 2; ++i) {
    const std::int64_t level = std::min(i, sizes.num_levels() - 1), width = sizes.level_width(level);
    counter.mul_add("zero_convs", "zero convs", counter.sites(level) * width * width);
    if (c.base_dim > 0) {
      const std::int64_t base_width = c.base_dim * sizes.dim_mults[static_cast<std::size_t>(level)];
      counter.mul_add("projection_layers", "projection linear", counter.sites(level) * width * base_width);
    }
  }
  return counter.cost;
}

ForwardCost forward_cost(const ActionClassifierConfig& c, const VideoSize& size) {
  const UnetSizes sizes{
      .dim = c.dim,
      .dim_mults = c.dim_mults,
      .heads = c.heads,
      .head_dim = c.head_dim,
      .in_channels = 3,
      .num_actions = 0};
  Counter counter(sizes, size.batch, size.frames + c.cond_frames, size.height, size.width);
  counter.encoder();
  counter.middle();
  const std::int64_t levels = sizes.num_levels(), width = sizes.level_width(levels - 1);
  counter.mul_add("final_down", "downsample conv 4x4", counter.sites(levels) * 16 * width * width);
  counter.mul_add(
      "out_mlp", "classifier MLP", size.frames * c.mlp_dim * (counter.positions(levels) * width + c.num_actions));
  return counter.cost;
}

}  // namespace avid
