// kernels/op_timer.h -- which op runs (for messages and profilers), and where the time goes, op by op, when a bench asks
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace avid::kernels {

struct OpTime {
  std::int64_t calls = 0;
  double seconds = 0;
};

namespace detail {
extern std::atomic<bool> op_timing_on;
/// Makes `op` the current one, begins its range in a profiler that listens (NVTX), and waits for the device if times are
/// being collected. Returns the op that was current before.
const char* begin_op(const char* op, const char* suffix);
/// Ends what begin_op began; `outer` is what it returned.
void end_op(const char* outer, const char* suffix);
void add_op_time(const char* op, const char* suffix, double seconds);
}  // namespace detail

/// Starts or stops collecting; starting clears what was collected. `wait` makes what was begun on a device finish: called
/// before every look at the clock, so that an op is charged with its own kernels. Empty for the CPU.
void set_op_timing(bool on, std::function<void()> wait = {});
/// Collected times by op name ("conv3d", "conv3d_bwd").
std::map<std::string, OpTime> op_times();

/// The op whose OpTimer was begun last on this thread and is not over, for messages; null outside of all.
const char* current_op();

/// Adds the time between construction and destruction to an op. Nested ops count in both.
class OpTimer {
 public:
  explicit OpTimer(const char* op, const char* suffix = "")
      : op_(op), suffix_(suffix), outer_(detail::begin_op(op, suffix)) {
    if (detail::op_timing_on.load(std::memory_order_relaxed)) {
      running_ = true;
      start_ = std::chrono::steady_clock::now();
    }
  }
  ~OpTimer() {
    detail::end_op(outer_, suffix_);
    if (running_) detail::add_op_time(op_, suffix_, std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  const char* op_;
  const char* suffix_;
  const char* outer_;
  bool running_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace avid::kernels
