// kernels/op_watch.h -- single calls of ops by another clock than the host's: for benches of single ops
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
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

/// A call of an op.
struct WatchedCall {
  std::string op;                                  ///< "layer_norm_bwd"
  std::string module;                              ///< "base.downs.0.1"; may be empty
  double seconds = 0;                              ///< by the clock, without ops inside it
  double bytes = 0;                                ///< as OpTime counts them
  std::int64_t elements = 0;                       ///< of the largest operand
  double flops = 0;                                ///< of its products (note_flops); 0 if it has none
  std::map<std::string, std::int64_t> sizes = {};  ///< what it said of itself (note_sizes)
  bool holds_ops = false;                          ///< another op ran inside it
};

/// While costs are collected (set_op_timing), every op of this thread is timed by `clock`, and `seen` is told of it.
/// The clock begins again behind every op inside it. Null ends it. Not while ops run.
void set_op_watch(OpClock* clock, std::function<void(const WatchedCall&)> seen = {});

struct OpSize {
  const char* name;
  std::int64_t value;
};
/// Says what the op that runs works on, so that another program can be asked for the same: "channels", 100. Adds to
/// what was said before; nothing while nobody watches.
void note_sizes(std::initializer_list<OpSize> sizes);

/// Says that the op that runs moves this many bytes beside its operands, which count once: what it updates in place is
/// read and written.
void note_more_bytes(double bytes);

}  // namespace avid::kernels
