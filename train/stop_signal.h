// train/stop_signal.h -- Ctrl-C and SIGTERM as a question the training loop asks between two updates
#pragma once

namespace avid::train {

/// While alive, the first SIGINT or SIGTERM is remembered; a second one ends the process at once (which loses no more
/// than a kill would: the newest checkpoint stays whole).
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal's number, or 0.
  int received() const;
};

}  // namespace avid::train
