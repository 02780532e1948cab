// kernels/op_watch.h -- single calls of ops by another clock than the host's: for benches of ops that memory bounds
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace avid::kernels {

/// Times what is begun between begin() and end().
class OpClock {
 public:
  virtual ~OpClock() = default;
  virtual void begin() = 0;
  /// Seconds since begin() was called last. Waits for what was begun.
  virtual double end() = 0;
};

/// A call of an op that had no op inside it.
struct WatchedCall {
  std::string op;             ///< "layer_norm_bwd"
  std::string module;         ///< "base.downs.0.1"; may be empty
  double seconds = 0;         ///< by the clock
  double bytes = 0;           ///< as OpTime counts them
  std::int64_t elements = 0;  ///< of the largest operand
};

/// While costs are collected (set_op_timing), every op of this thread is timed by `clock`, and `seen` is told of those
/// that hold neither products (note_flops) nor other ops. Null ends it. Not while ops run.
void set_op_watch(OpClock* clock, std::function<void(const WatchedCall&)> seen = {});

/// Says that the op that runs moves this many bytes beside its operands, which count once: what it updates in place is
/// read and written.
void note_more_bytes(double bytes);

}  // namespace avid::kernels
