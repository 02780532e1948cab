// models/clip_encoder.cpp -- the encoder behind fid_procgen and fvd_procgen, and what it is trained on
#include "models/clip_encoder.h"

#include <algorithm>
#include <map>
#include <string>

#include "autograd/ops/cast.h"
#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/layer_norm.h"
#include "autograd/ops/linear.h"
#include "models/action_classifier.h"
#include "models/infer.h"
#include "tensor/error.h"
#include "tensor/io/tensor_file.h"
#include "tensor/ops/frames.h"

namespace avid {
namespace {

constexpr Conv3dOptions kSame3x3{.padding = {0, 1, 1}}, kHalve{.stride = {1, 2, 2}, .padding = {0, 1, 1}};
constexpr std::int64_t kPassFrames = 320;  // frames per pass when only features are wanted; bounds memory, not numbers

/// Each frame beside the one after it: what two frames of a convolution in time would see.
Var with_next(const auto& unit, const Var& x) {
  const std::int64_t frames = x.dim(1);
  return unit.forward(slice_frames(x, 0, frames - 1), slice_frames(x, 1, frames));
}

/// [B,S,F] -> [B,F]. A product with a matrix of 1/S, so that it has a gradient.
Var mean_over_frames(const Var& x) {
  const std::int64_t B = x.dim(0), S = x.dim(1), F = x.dim(2);
  std::vector<float> mean(static_cast<std::size_t>(F * S * F), 0.0f);
  for (std::int64_t f = 0; f < F; ++f)
    for (std::int64_t s = 0; s < S; ++s)
      mean[static_cast<std::size_t>((f * S + s) * F + f)] = 1.0f / static_cast<float>(S);
  const Tensor matrix = Tensor::from_values(mean, {F, S * F}).to(x.dtype()).to(x.value().device());
  return linear(reshape(x, {B, S * F}), Var(matrix));
}

/// Cross entropy over the batch: which b[j] belongs to a[i]? a, b [B,F] normalised, so a . b / F is a cosine.
Var match_loss(const Var& a, const Var& b) {
  const std::int64_t B = a.dim(0), F = a.dim(1);
  const Var cosines = scale(linear(a, b), 1.0 / (kClipEncoderTemperature * static_cast<double>(F)));
  Tensor own = Tensor::empty({1, B}, DType::i64);
  for (std::int64_t i = 0; i < B; ++i) own.data<std::int64_t>()[i] = i;
  return cross_entropy(reshape(cosines, {1, B, B}), own.to(a.value().device()));
}

}  // namespace

ClipEncoderConfig infer_clip_encoder_config(const nn::TensorMap& tensors, std::string_view source) {
  return {
      .width = find_shape(tensors, "stem.weight", 5, source)[0],
      .features = find_shape(tensors, "clips.out.weight", 5, source)[0]};
}

ClipEncoder::Unit::Unit(
    std::int64_t in, std::int64_t out, std::array<std::int64_t, 3> kernel, const Conv3dOptions& options)
    : Conv(in, out, kernel, options),
      gamma_(add_parameter({.name = "gamma", .shape = {out}, .plain_shape = {out}, .init = nn::Init::ones})) {}

Var ClipEncoder::Unit::forward(const Var& x, const Var& x2) const {
  return forward_norm_film_silu(x, x2, gamma_->var(), {}, {});
}

ClipEncoder::ClipEncoder(const ClipEncoderConfig& config)
    : config_(config),
      stem_(3, config.width, {1, 4, 4}, kHalve),
      fine_(config.width, 2 * config.width, {1, 3, 3}, kSame3x3),
      down_(2 * config.width, 2 * config.width, {1, 4, 4}, kHalve),
      frame_mid_(2 * config.width, 3 * config.width, {1, 3, 3}, kSame3x3),
      frame_down_(3 * config.width, 4 * config.width, {1, 4, 4}, kHalve),
      frame_out_(4 * config.width, config.features, {1, 4, 4}, {}),
      pairs_(4 * config.width, 3 * config.width, {1, 3, 3}, kSame3x3),
      triples_(6 * config.width, 4 * config.width, {1, 4, 4}, kHalve),
      clip_out_(4 * config.width, config.features, {1, 4, 4}, {}),
      speed_(config.features, kSpeeds) {
  check<ConfigError>(
      config.width >= 1 && config.features >= 1, "clip encoder: expected width and features >= 1, got {}, {}",
      config.width, config.features);
  add_child("stem", stem_);
  add_child("fine", fine_);
  add_child("down", down_);
  add_child("frames.mid", frame_mid_);
  add_child("frames.down", frame_down_);
  add_child("frames.out", frame_out_);
  add_child("clips.pairs", pairs_);
  add_child("clips.triples", triples_);
  add_child("clips.out", clip_out_);
  add_child("speed", speed_);
}

Var ClipEncoder::trunk(const Var& frames) const {
  check_rank(frames.value(), 5, "clip encoder", "frames");
  check_shape(frames.value(), {frames.dim(0), frames.dim(1), kSize, kSize, 3}, "clip encoder", "frames");
  return down_.forward(fine_.forward(silu(stem_.forward(cast(frames, activation_dtype())))));
}

Var ClipEncoder::frame_head(const Var& trunk) const {
  const Var y = cast(frame_out_.forward(frame_down_.forward(frame_mid_.forward(trunk))), dtype());
  return reshape(y, {y.dim(0), y.dim(1), config_.features});
}

Var ClipEncoder::window_head(const Var& trunk) const {
  const Var y = cast(clip_out_.forward(with_next(triples_, with_next(pairs_, trunk))), dtype());
  return reshape(y, {y.dim(0), y.dim(1), config_.features});
}

Var ClipEncoder::window(const Var& first, const Var& second, const Var& third) const {
  const Var y = triples_.forward(pairs_.forward(first, second), pairs_.forward(second, third));
  return reshape(cast(clip_out_.forward(y), dtype()), {y.dim(0), 1, config_.features});
}

Var ClipEncoder::speed_head(const Var& windows) const { return speed_.forward(normalised(windows)); }

Var ClipEncoder::normalised(const Var& x) const {
  return layer_norm(x, Var(Tensor::full({config_.features}, 1, x.dtype(), x.value().device())), {});
}

void ClipEncoder::check_frames(std::int64_t frames) {
  check<ShapeError>(
      frames >= kMinFrames,
      "fvd_procgen: expected clips of at least {} frames (its encoder sees {} at a time), got {} | count the "
      "conditioning frames in (--cond or --cond-frames), or generate longer clips",
      kMinFrames, kWindow, frames);
}

Tensor ClipEncoder::frame_features(const Tensor& frames) const {
  check_rank(frames, 4, "clip encoder", "frames");
  check_dtype(frames, DType::u8, "clip encoder", "frames");
  const std::int64_t N = frames.dim(0);
  check_shape(frames, {N, kSize, kSize, 3}, "clip encoder", "frames");
  const NoGrad no_grad;
  Tensor out = Tensor::empty({N, config_.features}, dtype());
  for (std::int64_t begin = 0; begin < N; begin += kPassFrames) {
    const std::int64_t end = std::min(begin + kPassFrames, N);
    const Tensor x = frames_from_u8(frames.slice(begin, end)).reshape({end - begin, 1, kSize, kSize, 3});
    const Var features = normalised(frame_head(trunk(Var(x))));
    out.slice(begin, end).copy_from(reshape(features, {end - begin, config_.features}).value());
  }
  return out;
}

Tensor ClipEncoder::clip_features(const Tensor& clips) const {
  check_rank(clips, 5, "clip encoder", "clips");
  check_dtype(clips, DType::u8, "clip encoder", "clips");
  const std::int64_t N = clips.dim(0), T = clips.dim(1);
  check_frames(T);
  const std::int64_t pass = std::max<std::int64_t>(kPassFrames / T, 1);
  check_shape(clips, {N, T, kSize, kSize, 3}, "clip encoder", "clips");
  const NoGrad no_grad;
  Tensor out = Tensor::empty({N, config_.features}, dtype());
  for (std::int64_t begin = 0; begin < N; begin += pass) {
    const std::int64_t end = std::min(begin + pass, N);
    const Var windows = window_head(trunk(Var(frames_from_u8(clips.slice(begin, end)))));
    out.slice(begin, end).copy_from(normalised(mean_over_frames(windows)).value());
  }
  return out;
}

double ClipEncoder::training_flops(std::int64_t clips, std::int64_t frames) const {
  const auto d = static_cast<double>(config_.width), F = static_cast<double>(config_.features);
  const auto T = static_cast<double>(frames);
  // Output positions x taps x channels in x channels out, of one frame.
  const double shared = 256 * (16 * 3 * d + 9 * d * 2 * d) + 64 * 16 * 2 * d * 2 * d;
  const double frame_head = 64 * 9 * 2 * d * 3 * d + 16 * 16 * 3 * d * 4 * d + 16 * 4 * d * F;
  const double pairs = 64 * 9 * 4 * d * 3 * d, windows = 16 * 16 * 6 * d * 4 * d + 16 * 4 * d * F;
  const double speeds = kSpeeds * (2 * pairs + windows);
  return 2 * static_cast<double>(clips) * (T * shared + 2 * frame_head + (T - 1) * pairs + (T - 2) * windows + speeds);
}

ClipEncoderLoss clip_encoder_loss(const ClipEncoder& encoder, const Var& trunk) {
  const std::int64_t B = trunk.dim(0), T = trunk.dim(1);
  check<ShapeError>(
      T >= ClipEncoder::kMinTrainingFrames, "clip encoder: expected clips of at least {} frames in training, got {}",
      ClipEncoder::kMinTrainingFrames, T);
  const auto at = [&](std::int64_t t) { return slice_frames(trunk, t, t + 1); };
  const auto frame = [&](std::int64_t t) {
    return encoder.normalised(reshape(encoder.frame_head(at(t)), {B, encoder.config().features}));
  };
  const Var windows = encoder.window_head(trunk);  // [B,T-2,F]
  const std::int64_t S = windows.dim(1);
  const auto half = [&](std::int64_t begin, std::int64_t end) {
    return encoder.normalised(mean_over_frames(slice_frames(windows, begin, end)));
  };
  const Var match_frames = match_loss(frame(0), frame(T - 1));
  const Var match_clips = match_loss(half(0, S / 2), half(S / 2, S));
  Var speed;
  double accuracy = 0;
  for (std::int64_t k = 1; k <= ClipEncoder::kSpeeds; ++k) {
    const std::int64_t t = (T - 1 - 2 * k) / 2;
    const Var logits = encoder.speed_head(encoder.window(at(t), at(t + k), at(t + 2 * k)));  // [B,1,kSpeeds]
    const Tensor truth = Tensor::full({B, 1}, static_cast<double>(k - 1), DType::i64);
    const Var loss = scale(cross_entropy(logits, truth.to(logits.value().device())), 1.0 / ClipEncoder::kSpeeds);
    speed = speed.defined() ? add(speed, loss) : loss;
    accuracy += action_accuracy(logits.value(), truth) / ClipEncoder::kSpeeds;
  }
  return {
      .total = add(add(match_frames, match_clips), speed),
      .match_frames = match_frames.value().item(),
      .match_clips = match_clips.value().item(),
      .speed = speed.value().item(),
      .accuracy = accuracy};
}

std::unique_ptr<ClipEncoder> load_clip_encoder(const std::filesystem::path& file) {
  nn::TensorMap tensors;
  for (auto& [name, tensor] : open_tensor_file(file)->load_all()) tensors.emplace(name, tensor);
  auto encoder = std::make_unique<ClipEncoder>(infer_clip_encoder_config(tensors, file.string()));
  encoder->import_tensors(tensors, file.string());
  encoder->set_trainable(false);
  return encoder;
}

}  // namespace avid
