// data/replay.h -- frames that nobody stored: recorded levels, played again when somebody reads them
//
// A level under given actions always shows the same frames (data/procgen.h), so a shard may hold the actions alone: 6
// bytes a frame in place of 12,288. What that costs instead is time: a window is reached by playing from the start of
// its level, or from where the last reader of the same level stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "data/frame_source.h"

namespace avid::data {

/// One recorded run of a level, as a shard describes it.
struct RecordedRun {
  std::int64_t key = 0;  ///< tells runs apart
  std::string options;   ///< of the game, as ShardMeta has them
  std::int32_t level = 0;
  std::span<const std::uint8_t> actions;  ///< all of the run
};

/// Game processes that play recorded runs. As many as there are readers at the same time; they stay for the next one.
///
/// Threads  read() may be called from any.
class Replayer {
 public:
  /// `size`: of the frames that are handed out; a divisor of the source's (box average).
  Replayer(SourceFactory make, std::int64_t size) : make_(std::move(make)), size_(size) {}

  /// Frames [from, from + count) of the run to out [count,size,size,3], the bytes that were recorded.
  /// Errors   whatever the source throws; ShapeError for frames outside the run, ConfigError for a size that does not
  ///          divide the source's.
  void read(const RecordedRun& run, std::int64_t from, std::int64_t count, std::span<std::uint8_t> out);

 private:
  /// A source and where it stands: frame `at` of the run `key` is visible.
  struct Player {
    std::unique_ptr<FrameSource> source;
    std::int64_t key = -1, at = 0;
    std::vector<std::uint8_t> frame;
    std::string options;
  };
  Player take(std::int64_t key, std::int64_t from);

  SourceFactory make_;
  std::int64_t size_;
  std::mutex mutex_;
  std::vector<Player> idle_;
};

}  // namespace avid::data
