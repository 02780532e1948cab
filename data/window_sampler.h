// data/window_sampler.h -- which windows of frames exist, and which one is drawn when
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/episode_store.h"

namespace avid::data {

/// May a window straddle the end of an episode, where the next frame is a restart no action explains?
enum class ResetPolicy {
  exclude,  ///< no (default): first[t] = 0 for every frame of the window but its first
  allow,    ///< yes, as in the original's data; windows only stay inside one run
};
/// Which starts count.
enum class WindowSet {
  full,       ///< every start of every run (default)
  reference,  ///< the original's: runs cut into files of 50 steps, and a file of n steps has n - 12 starts, 0..n-13
};
ResetPolicy parse_reset_policy(std::string_view word);  ///< throws ConfigError
WindowSet parse_window_set(std::string_view word);      ///< throws ConfigError
const char* name_of(ResetPolicy policy);
const char* name_of(WindowSet set);

struct WindowOptions {
  std::int64_t num_frames = 10;  ///< frames in one window, context included
  ResetPolicy resets = ResetPolicy::exclude;
  WindowSet windows = WindowSet::full;
};

inline constexpr std::int64_t kReferenceFileSteps = 50, kReferenceWidth = 12;

/// All valid windows of a dataset in a fixed order, as ranges of starts with prefix sums.
///
/// Errors   ConfigError when no window fits (the longest stretch is named), when `reference` is asked for windows
///          longer than 12, when resets are to be excluded but are not known; ShapeError for a window length below 1.
class WindowSampler {
 public:
  WindowSampler(const EpisodeStore& store, const WindowOptions& options);
  /// From the tables alone.
  WindowSampler(
      std::span<const Run> runs, std::span<const Segment> segments, bool resets_known, const WindowOptions& options);

  std::int64_t num_windows() const { return num_windows_; }
  /// Global number of the first frame of window `index`.
  std::int64_t start(std::int64_t index) const;
  /// Windows that `resets = exclude` leaves out, as a share of those that `allow` has.
  double excluded_fraction() const { return excluded_fraction_; }
  const WindowOptions& options() const { return options_; }

  /// Start of a window drawn uniformly, with replacement, for sample `sample` of batch `step`: number `sample` of the
  /// stream (seed, data_window, step). Needs no state and does not depend on who asks.
  std::int64_t draw(std::uint64_t seed, std::uint64_t step, std::uint64_t sample) const;
  /// Starts for evaluation: the run uniform among those with a valid window, then the start uniform in that run:
  /// numbers 2i and 2i + 1 of the stream (seed, data_window, step 2^63).
  std::vector<std::int64_t> draw_evaluation(std::uint64_t seed, std::int64_t count) const;

 private:
  struct Range {
    std::int64_t first_start, first_index,
        run;  ///< starts first_start, first_start + 1, ... have indices from first_index on
  };
  void add(std::int64_t first_start, std::int64_t count, std::int64_t run);

  WindowOptions options_;
  std::vector<Range> ranges_;
  std::int64_t num_windows_ = 0;
  double excluded_fraction_ = 0;
};

}  // namespace avid::data
