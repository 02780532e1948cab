// data/frame_source.h -- something that plays levels of a game and shows frames
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace avid::data {

/// What came back from n steps. Entry i is what is seen after action i.
struct PlayedSteps {
  std::vector<std::uint8_t> frames;  ///< [n,H,W,3] RGB
  std::vector<float> rewards;        ///< [n] caused by action i (also when it ended the episode)
  std::vector<std::uint8_t> first;   ///< [n] 1 = frame i starts a new episode of the same level
};

/// A recorded run of one level: action t is applied while frame t is visible.
struct LevelRun {
  std::vector<std::uint8_t> frames;   ///< [n,H,W,3]
  std::vector<std::uint8_t> actions;  ///< [n]
  std::vector<float> rewards;         ///< [n] caused by action t
  std::vector<std::uint8_t> first;    ///< [n] first[0] = 1
};

/// The real game, recorded frames, or a test's made-up world.
class FrameSource {
 public:
  virtual ~FrameSource() = default;

  virtual std::int64_t height() const = 0;
  virtual std::int64_t width() const = 0;
  /// Starts a level afresh and returns its first frame [H,W,3].
  virtual std::vector<std::uint8_t> begin(std::int32_t level) = 0;
  /// Applies actions one after the other. begin() must have been called.
  virtual PlayedSteps step(std::span<const std::uint8_t> actions) = 0;

  /// Levels begun from now on are those of the game with these options (ShardMeta::options). Throws ConfigError where a
  /// source knows one game only.
  virtual void use(const std::string& options);

  std::size_t frame_bytes() const { return static_cast<std::size_t>(height() * width() * 3); }
};

/// Makes a source of frames; called once for each that is needed side by side.
using SourceFactory = std::function<std::unique_ptr<FrameSource>()>;

/// Plays one level with the given actions; never stops at the end of an episode. The frame after the last action is
/// dropped, so n actions give n frames.
LevelRun play_level(FrameSource& source, std::int32_t level, std::span<const std::uint8_t> actions);

}  // namespace avid::data
