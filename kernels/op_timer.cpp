// kernels/op_timer.cpp -- the table behind OpTimer
#include "kernels/op_timer.h"

#include <mutex>
#include <utility>

namespace avid::kernels {
namespace detail {

std::atomic<bool> op_timing_on{false};

namespace {
std::mutex table_mutex;
std::map<std::string, OpTime> table;
}  // namespace

const char* enter_op(const char* op) {
  thread_local const char* current = nullptr;
  return std::exchange(current, op);
}

void add_op_time(const char* op, const char* suffix, double seconds) {
  const std::lock_guard lock(table_mutex);
  OpTime& entry = table[std::string(op) + suffix];
  ++entry.calls;
  entry.seconds += seconds;
}

}  // namespace detail

const char* current_op() {
  const char* op = detail::enter_op(nullptr);
  detail::enter_op(op);
  return op;
}

void set_op_timing(bool on) {
  const std::lock_guard lock(detail::table_mutex);
  if (on) detail::table.clear();
  detail::op_timing_on = on;
}

std::map<std::string, OpTime> op_times() {
  const std::lock_guard lock(detail::table_mutex);
  return detail::table;
}

}  // namespace avid::kernels
