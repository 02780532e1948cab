// kernels/op_timer.h -- where the time goes, op by op; off (one relaxed load) unless a bench turned it on
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace avid::kernels {

struct OpTime {
  std::int64_t calls = 0;
  double seconds = 0;
};

namespace detail {
extern std::atomic<bool> op_timing_on;
void add_op_time(const char* op, const char* suffix, double seconds);
/// Makes `op` the current one; returns the one before.
const char* enter_op(const char* op);
}  // namespace detail

/// Starts or stops collecting; starting clears what was collected.
void set_op_timing(bool on);
/// Collected times by op name ("conv3d", "conv3d_bwd").
std::map<std::string, OpTime> op_times();

/// The op whose OpTimer was begun last on this thread and is not over, for messages; null outside of all.
const char* current_op();

/// Adds the time between construction and destruction to an op. Nested ops count in both.
class OpTimer {
 public:
  explicit OpTimer(const char* op, const char* suffix = "")
      : op_(op), suffix_(suffix), outer_(detail::enter_op(op)) {
    if (detail::op_timing_on.load(std::memory_order_relaxed)) {
      running_ = true;
      start_ = std::chrono::steady_clock::now();
    }
  }
  ~OpTimer() {
    detail::enter_op(outer_);
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
