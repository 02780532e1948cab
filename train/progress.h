// train/progress.h -- the line a person watches while training
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace avid::train {

struct ProgressNumbers {
  std::int64_t update = 0, num_updates = 0;
  double loss = 0;
  std::optional<double> mask_mean;
  double clips_per_s = 0, memory_mib = 0, seconds_left = 0;
};

/// "update 120/600  20%  loss 0.412  mask 0.47  11.3 clips/s  312 MiB  2:41 left"
std::string progress_text(const ProgressNumbers& numbers);
/// "2:41", "1:02:03", "3 d 4 h"
std::string duration_text(double seconds);

/// Writes to stderr: on a terminal one line that is redrawn, otherwise a plain line now and then.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  void show(const ProgressNumbers& numbers, bool force = false);
  /// A line of its own; the progress line goes on below it.
  void say(const std::string& text);

 private:
  void clear();

  bool terminal_, shown_ = false, ever_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace avid::train
