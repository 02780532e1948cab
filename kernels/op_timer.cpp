// kernels/op_timer.cpp -- the table behind OpTimer
#include "kernels/op_timer.h"

#if AVID_HAVE_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

#include <exception>
#include <mutex>
#include <utility>

namespace avid::kernels {
namespace detail {

std::atomic<bool> op_timing_on{false};

namespace {
std::mutex table_mutex;
std::map<std::string, OpTime> table;
std::function<void()> wait_for_device;
}  // namespace

thread_local const char* running_op = nullptr;

void wait_if_timing() {
  if (op_timing_on.load(std::memory_order_relaxed) && wait_for_device) wait_for_device();
}

const char* begin_op(const char* op, [[maybe_unused]] const char* suffix) {
#if AVID_HAVE_CUDA
  if (suffix[0] != '\0') nvtxRangePushA("backward");
  nvtxRangePushA(op);
#endif
  wait_if_timing();
  return std::exchange(running_op, op);
}

void end_op(const char* outer, [[maybe_unused]] const char* suffix) {
  running_op = outer;
  try {
    wait_if_timing();
  } catch (
      const std::exception&) {  // called by a destructor; the op's own error is on its way, or comes with the next call
  }
#if AVID_HAVE_CUDA
  nvtxRangePop();
  if (suffix[0] != '\0') nvtxRangePop();
#endif
}

void add_op_time(const char* op, const char* suffix, double seconds) {
  const std::lock_guard lock(table_mutex);
  OpTime& entry = table[std::string(op) + suffix];
  ++entry.calls;
  entry.seconds += seconds;
}

}  // namespace detail

const char* current_op() { return detail::running_op; }

void set_op_timing(bool on, std::function<void()> wait) {
  const std::lock_guard lock(detail::table_mutex);
  if (on) detail::table.clear();
  detail::wait_for_device = std::move(wait);
  detail::op_timing_on = on;
}

std::map<std::string, OpTime> op_times() {
  const std::lock_guard lock(detail::table_mutex);
  return detail::table;
}

}  // namespace avid::kernels
