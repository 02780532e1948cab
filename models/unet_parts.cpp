// models/unet_parts.cpp -- encoder, middle, decoder and head of the 3D U-Net
#include "models/unet_parts.h"

#include <fmt/format.h>

#include <algorithm>

#include "autograd/ops/cast.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/film_condition.h"
#include "kernels/op_timer.h"

namespace avid {
namespace {

nn::AttentionSizes attention(const UnetSizes& sizes) { return {.heads = sizes.heads, .head_dim = sizes.head_dim}; }

/// run()'s result, computed under the module's name and shown to the probe.
template <class Run>
Var part(const std::string& name, const Probe& probe, Run&& run) {
  const kernels::ModuleRange range(name);
  Var out = run();
  if (probe) probe(name, out.value());
  return out;
}

/// Whether a gradient has to go through or into a part. A region of recompute() always takes part in the backward pass.
bool has_gradient(const nn::Module& module, std::initializer_list<const Var*> inputs) {
  return needs_record(inputs) || (grad_enabled() && module.parameters().front().var().requires_grad());
}

/// A ResNet block, whose insides are computed again on the way back where that is asked for.
Var run_block(const nn::ResNetBlock& block, const Var& x, const Var& x2, const Var& film, bool again) {
  if (!again || !has_gradient(block, {&x, &x2, &film})) return block.forward(x, x2, film);
  return recompute(
      "resnet block", [&block](const std::vector<Var>& in) { return block.forward(in[0], in[1], in[2]); },
      {x, x2, film});
}

/// Not under a probe: it would see the insides twice.
bool forgets_blocks(const nn::Module& module, const Probe& probe) {
  return module.recomputes() != nn::Recompute::none && !probe;
}

// The two ResNet blocks and two attentions that every level of encoder and decoder has. The attentions keep nothing but
// their inputs as it is.
template <class Level>
Var run_parts(
    const Level& level, const std::string& name, const Var& x, const Var& x2, const Var& film, const Var& bias,
    const Probe& probe, bool blocks_again) {
  Var y = part(name + ".0", probe, [&] { return run_block(level.block1, x, x2, film, blocks_again); });
  y = part(name + ".1", probe, [&] { return run_block(level.block2, y, {}, film, blocks_again); });
  y = part(name + ".2", probe, [&] { return level.linear_attention.forward(y); });
  return part(name + ".3", probe, [&] { return level.temporal_attention.forward(y, bias); });
}

template <class Level>
Var run_level(
    const Level& level, const std::string& name, const Var& x, const Var& x2, const Var& film, const Var& bias,
    const Probe& probe) {
  const bool again = forgets_blocks(level, probe);
  if (!again || level.recomputes() == nn::Recompute::blocks || !has_gradient(level, {&x, &x2, &film}))
    return run_parts(level, name, x, x2, film, bias, probe, again);
  return recompute(
      "level",
      [&level, name, bias](const std::vector<Var>& in) {
        return run_parts(level, name, in[0], in[1], in[2], bias, {}, false);
      },
      {x, x2, film});
}

}  // namespace

Tensor action_rows(const Tensor& actions, const Tensor& drop, std::int64_t num_actions) {
  check_dtype(actions, DType::i64, "unet3d", "actions");
  check_rank(actions, 2, "unet3d", "actions");
  const std::int64_t frames = actions.dim(1);
  std::vector<std::int64_t> ids = actions.to_values<std::int64_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    check(
        ids[i] >= 0 && ids[i] < num_actions, "unet3d: actions: expected 0..{}, got {} (clip {}, frame {})",
        num_actions - 1, ids[i], static_cast<std::int64_t>(i) / frames, static_cast<std::int64_t>(i) % frames);
  }
  if (drop.defined()) {
    check_dtype(drop, DType::i64, "unet3d", "drop");
    check_shape(drop, {actions.dim(0)}, "unet3d", "drop");
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (drop.data<std::int64_t>()[static_cast<std::int64_t>(i) / frames] != 0) ids[i] = -1;
  }
  return Tensor::from_values(ids, actions.shape());
}

UnetEncoder::Level::Level(const UnetSizes& sizes, std::int64_t in, std::int64_t out, bool down, const Tensor& rotary)
    : block1(in, out, sizes.film_width()),
      block2(out, out, sizes.film_width()),
      linear_attention(out, sizes.heads),
      temporal_attention(out, attention(sizes), rotary) {
  add_child("0", block1);
  add_child("1", block2);
  add_child("2", linear_attention);
  add_child("3", temporal_attention);
  if (down) add_child("4", downsample.emplace(out));
}

UnetEncoder::UnetEncoder(const UnetSizes& sizes)
    : sizes_(sizes),
      rotary_(nn::rotary_frequencies(sizes.head_dim)),
      init_conv_(sizes.in_channels, sizes.dim, {1, 7, 7}, {.padding = {0, 3, 3}}),
      init_temporal_attn_(sizes.dim, attention(sizes), rotary_),
      time_mlp_(sizes.dim) {
  const std::int64_t d = sizes.dim, num_actions = sizes.num_actions;
  if (num_actions > 0)
    null_action_ =
        add_parameter({.name = "null_action_emb", .shape = {d}, .plain_shape = {d}, .init = nn::Init::normal});
  bias_table_ = add_parameter(
      {.name = "time_rel_pos_bias.relative_attention_bias.weight",
       .shape = {32, sizes.heads},
       .plain_shape = {32, sizes.heads},
       .init = nn::Init::normal});
  add_child("init_conv", init_conv_);
  add_child("init_temporal_attn", init_temporal_attn_);
  add_child("time_mlp", time_mlp_);
  if (num_actions > 0) {
    action_table_ = add_parameter(
        {.name = "action_emb.weight",
         .shape = {num_actions, d},
         .plain_shape = {num_actions, d},
         .init = nn::Init::normal});
    add_child("action_mlp", action_mlp_.emplace(d));
  }
  for (std::int64_t i = 0; i < sizes.num_levels(); ++i) {
    const bool down = i + 1 < sizes.num_levels();
    levels_.push_back(std::make_unique<Level>(sizes, sizes.level_width(i - 1), sizes.level_width(i), down, rotary_));
    add_child(fmt::format("downs.{}", i), *levels_.back());
  }
}

Var UnetEncoder::action_code(const Tensor& actions, const Tensor& drop, std::int64_t batch, std::int64_t frames) const {
  if (!actions.defined()) {
    // A table of the null vector alone, so that the action table stays out of the graph: it gets no gradient, not a
    // zero one.
    const Var table = reshape(null_action_->var(), {1, sizes_.dim});
    return action_mlp_->forward(
        embedding(table, {}, Tensor::zeros({batch, frames}, DType::i64, table.value().device())));
  }
  check_dtype(actions, DType::i64, "unet3d", "actions");
  check_shape(actions, {batch, frames}, "unet3d", "actions");
  const Var& table = action_table_->var();
  if (actions.device().is_gpu()) {
    check<DeviceError>(!drop.defined(), "unet3d: drop: expected none beside actions on a device | use action_rows()");
    return action_mlp_->forward(embedding(table, null_action_->var(), actions));
  }
  const Tensor rows = action_rows(actions, drop, sizes_.num_actions);
  const bool any_dropped = drop.defined() && std::ranges::count(rows.to_values<std::int64_t>(), -1) > 0;
  const Var null_row = any_dropped ? null_action_->var() : Var();
  return action_mlp_->forward(embedding(table, null_row, rows.to(table.value().device())));
}

EncoderOutput UnetEncoder::forward(const Var& x, const Tensor& t, const Var& action_code, const Probe& probe) const {
  check_rank(x.value(), 5, "unet3d", "x");
  const std::int64_t B = x.dim(0), T = x.dim(1), H = x.dim(2), W = x.dim(3),
                     multiple = std::int64_t{1} << (sizes_.num_levels() - 1);
  check<ShapeError>(
      x.dim(4) == sizes_.in_channels && H % multiple == 0 && W % multiple == 0 && T > 0,
      "unet3d: x: expected [B,T,H,W,{}] with H, W multiples of {}, got {}", sizes_.in_channels, multiple, x.shape());
  check_dtype(t, DType::i64, "unet3d", "t");
  check_shape(t, {B}, "unet3d", "t");

  EncoderOutput out;
  Var y = part("init_conv", probe, [&] { return init_conv_.forward(cast(x, activation_dtype())); });  // [B,T,H,W,d]
  y = part("init_temporal_attn", probe, [&] { return init_temporal_attn_.forward(y, bias_table()); });
  out.first = y;

  const Var time_code = part("time_mlp", probe, [&] { return time_mlp_.forward(t); });  // [B,4d]
  if (action_code.defined() && probe) probe("action_mlp", action_code.value());
  out.film = silu(film_condition(time_code, action_code, T));  // [B,T,F]

  for (std::size_t i = 0; i < levels_.size(); ++i) {
    const std::string name = fmt::format("downs.{}", i);
    y = run_level(*levels_[i], name, y, {}, out.film, bias_table(), probe);
    out.skips.push_back(y);
    if (levels_[i]->downsample) {
      y = part(name + ".4", probe, [&] { return levels_[i]->downsample->forward(y); });
    }
  }
  out.x = y;
  return out;
}

UnetMiddle::UnetMiddle(const UnetSizes& sizes, const Tensor& rotary)
    : block1_(sizes.level_width(sizes.num_levels() - 1), sizes.level_width(sizes.num_levels() - 1), sizes.film_width()),
      spatial_attn_(sizes.level_width(sizes.num_levels() - 1), sizes.heads),
      temporal_attn_(sizes.level_width(sizes.num_levels() - 1), attention(sizes), rotary),
      block2_(
          sizes.level_width(sizes.num_levels() - 1), sizes.level_width(sizes.num_levels() - 1), sizes.film_width()) {
  add_child("mid_block1", block1_);
  add_child("mid_spatial_attn", spatial_attn_);
  add_child("mid_temporal_attn", temporal_attn_);
  add_child("mid_block2", block2_);
}

UnetMiddle::Output UnetMiddle::forward(
    const Var& x, const Var& film, const Var& bias_table, const Var& added, const Probe& probe) const {
  const bool again = forgets_blocks(*this, probe);
  Output out;
  Var y = part("mid_block1", probe, [&] { return run_block(block1_, x, {}, film, again); });
  y = part("mid_spatial_attn", probe, [&] { return spatial_attn_.forward(y); });
  y = part("mid_temporal_attn", probe, [&] { return temporal_attn_.forward(y, bias_table); });
  out.before_block2 = y;
  if (added.defined()) y = add(y, added);
  out.out = part("mid_block2", probe, [&] { return run_block(block2_, y, {}, film, again); });
  return out;
}

UnetDecoder::Level::Level(const UnetSizes& sizes, std::int64_t in, std::int64_t out, bool up, const Tensor& rotary)
    : block1(in, out, sizes.film_width()),
      block2(out, out, sizes.film_width()),
      linear_attention(out, sizes.heads),
      temporal_attention(out, attention(sizes), rotary) {
  add_child("0", block1);
  add_child("1", block2);
  add_child("2", linear_attention);
  add_child("3", temporal_attention);
  if (up) add_child("4", upsample.emplace(out));
}

UnetDecoder::UnetDecoder(const UnetSizes& sizes, const Tensor& rotary) {
  const std::int64_t levels = sizes.num_levels();
  for (std::int64_t i = 0; i < levels; ++i) {
    const std::int64_t mirror = levels - 1 - i;  // the encoder level whose skip enters here
    levels_.push_back(std::make_unique<Level>(
        sizes, 2 * sizes.level_width(mirror), sizes.level_width(mirror - 1), i + 1 < levels, rotary));
    add_child(fmt::format("ups.{}", i), *levels_.back());
  }
}

Var UnetDecoder::forward(
    const Var& x, const std::vector<Var>& skips, const Var& film, const Var& bias_table, const Probe& probe) const {
  Var y = x;
  for (std::size_t i = 0; i < levels_.size(); ++i) {
    const std::string name = fmt::format("ups.{}", i);
    y = run_level(*levels_[i], name, y, skips[skips.size() - 1 - i], film, bias_table, probe);
    if (levels_[i]->upsample) {
      y = part(name + ".4", probe, [&] { return levels_[i]->upsample->forward(y); });
    }
  }
  return y;
}

UnetHead::UnetHead(const UnetSizes& sizes, std::int64_t out_channels)
    : block_(2 * sizes.dim, sizes.dim, 0), out_(sizes.dim, out_channels) {
  add_child("final_conv.0", block_);
  add_child("final_conv.1", out_);
}

Var UnetHead::forward(const Var& x, const Var& first, const Probe& probe) const {
  const bool again = forgets_blocks(*this, probe);
  const Var y = part("final_conv.0", probe, [&] { return run_block(block_, x, first, {}, again); });
  // Mask, mixing and loss are f32 whatever the activations are.
  return part("final_conv.1", probe, [&] { return cast(out_.forward(y), out_.dtype()); });
}

}  // namespace avid
