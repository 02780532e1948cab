// models/clip_encoder.h -- features of Procgen frames and clips, from a small network that this project trains itself
//
// Behind fid_procgen and fvd_procgen (eval/metrics/procgen_distance.h). Not Inception, not I3D: its distances compare
// with nothing but themselves. Letters: B clips, T frames, F features, S = T - 2 windows of three frames.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string_view>

#include "nn/layers.h"

namespace avid {

struct ClipEncoderConfig {
  std::int64_t width = 16;     ///< d: the convolutions have d, 2d, 3d, 4d channels
  std::int64_t features = 64;  ///< F, for frames and for clips

  friend bool operator==(const ClipEncoderConfig&, const ClipEncoderConfig&) = default;
};

/// Reads the configuration off a file's names and shapes. Throws ShapeError.
ClipEncoderConfig infer_clip_encoder_config(const nn::TensorMap& tensors, std::string_view source);

/// A trunk that sees single frames, and on it one head for frames and one for windows of three frames.
///
///   trunk   4x4/2 -> 3x3 -> 4x4/2                      32x32x3 -> 8x8x2d, each but the first with RMSNorm and SiLU
///   frames  3x3 -> 4x4/2 -> 4x4 without padding        8x8x2d -> F
///   clips   3x3 of [frame | next] -> 4x4/2 of [pair | next pair] -> 4x4 without padding,   8x8x2d -> F per window
///
/// A feature is used after layer_norm without parameters: its length is sqrt(F), so distances lie between 0 and 4 F.
/// No statistic of a batch is used: a clip's features do not depend on what is computed with it.
class ClipEncoder final : public nn::Module {
 public:
  static constexpr const char* kNetwork = "procgen-encoder";
  static constexpr std::int64_t kSize = 32;      ///< square frames
  static constexpr std::int64_t kWindow = 3;     ///< frames that a window feature sees
  static constexpr std::int64_t kMinFrames = 4;  ///< of a clip: two windows
  static constexpr std::int64_t kSpeeds = 4;     ///< in training: windows of every frame, of every second, ...
  static constexpr std::int64_t kMinTrainingFrames = 2 * kSpeeds + 1;

  explicit ClipEncoder(const ClipEncoderConfig& config);
  const ClipEncoderConfig& config() const { return config_; }

  /// frames [B,T,32,32,3] in [-1,1] -> [B,T,8,8,2d].
  Var trunk(const Var& frames) const;
  /// trunk [B,T,8,8,2d] -> [B,T,F], not normalised.
  Var frame_head(const Var& trunk) const;
  /// trunk [B,T,8,8,2d] -> [B,T-2,F], not normalised; window s sees the frames s, s+1, s+2.
  Var window_head(const Var& trunk) const;
  /// The same of one window of any three frames, trunk [B,1,8,8,2d] each -> [B,1,F].
  Var window(const Var& first, const Var& second, const Var& third) const;
  /// windows [B,S,F] -> logits [B,S,kSpeeds]: how many frames lie between one frame of the window and the next?
  Var speed_head(const Var& windows) const;
  /// x [B,F] or [B,S,F] -> the same with mean 0 and mean square 1 over the features.
  Var normalised(const Var& x) const;

  /// Features of frames: normalised(frame_head). u8 [N,32,32,3] -> f32 [N,F]. Throws ShapeError, DTypeError.
  Tensor frame_features(const Tensor& frames) const;
  /// Features of clips: normalised(mean over windows of window_head). u8 [N,T,32,32,3] -> f32 [N,F].
  /// Errors   ShapeError for fewer than kMinFrames frames; DTypeError.
  Tensor clip_features(const Tensor& clips) const;
  static void check_frames(std::int64_t frames);

  /// FLOPs of one forward pass in training: every window, those at kSpeeds speeds, the first and the last frame.
  double training_flops(std::int64_t clips, std::int64_t frames) const;

 private:
  /// silu(RMSNorm(conv(x)) * gamma). Names: weight, bias, gamma.
  class Unit : public nn::Conv {
   public:
    Unit(std::int64_t in, std::int64_t out, std::array<std::int64_t, 3> kernel, const Conv3dOptions& options);
    Var forward(const Var& x, const Var& x2 = {}) const;

   private:
    nn::Parameter* gamma_;
  };

  ClipEncoderConfig config_;
  nn::Conv stem_;
  Unit fine_, down_, frame_mid_, frame_down_;
  nn::Conv frame_out_;
  Unit pairs_, triples_;
  nn::Conv clip_out_;
  nn::Linear speed_;
};

/// What the encoder is trained on; nobody labels anything.
///
///   match frames   the first and the last frame of a clip belong together: among the frames of the batch, which is it
///   match clips    the two halves of a clip (mean of their windows' features) belong together
///   speed          a window of the frames t, t + k, t + 2k: which k, 1 to kSpeeds?
///
/// Both matches are cross entropies over the batch of cosines / kTemperature (Oord et al. 2018, InfoNCE).
struct ClipEncoderLoss {
  Var total;  ///< sum of the three
  double match_frames = 0, match_clips = 0, speed = 0;
  double accuracy = 0;  ///< share of speeds that were read right
};
inline constexpr double kClipEncoderTemperature = 0.1;

/// trunk [B,T,8,8,2d] of clips of T >= kMinTrainingFrames frames. The windows of the speed task lie in the middle.
/// Errors   ShapeError for shorter clips.
ClipEncoderLoss clip_encoder_loss(const ClipEncoder& encoder, const Var& trunk);

/// An encoder from a file of avid train or data/pretrained; frozen. Throws FileError, ShapeError.
std::unique_ptr<ClipEncoder> load_clip_encoder(const std::filesystem::path& file);

}  // namespace avid
