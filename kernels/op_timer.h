// kernels/op_timer.h -- which op and module run (for messages and profilers), and what each op costs when a bench asks
//
// Costs of an op, while collecting: its time without that of ops inside it; FLOPs, as said by the op (note_flops), or
// per element for ops without products (kPointwise in op_timer.cpp); bytes, every tensor that it touched, once, whether
// read, written or both (note_operand; Tensor calls it). Work space counts nothing, work done again for a backward pass
// neither: what is measured is held against what the op has to do.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace avid::kernels {

/// Sums over the calls of an op.
struct OpTime {
  std::int64_t calls = 0;
  double seconds = 0;  ///< without ops inside it
  double flops = 0, bytes = 0;
  std::int64_t launches = 0;  ///< of kernels, without those of ops inside it
};

/// One call of an op, or the time during which a module ran. Seconds count from the start of collecting.
struct OpEvent {
  std::string name;    ///< "conv3d", "conv3d_bwd"; of a module its full name, "adapter.downs.0.1"
  std::string module;  ///< of an op: the module that it ran in, or whose forward pass it belongs to; may be empty
  bool is_module = false;
  int thread = 0;  ///< 0 for the first thread that ran an op
  double start = 0, seconds = 0;
  double self_seconds = 0, flops = 0, bytes = 0;  ///< of an op
  std::int64_t launches = 0;                      ///< of an op
};

enum class Collect { nothing, sums, events };

namespace detail {
extern std::atomic<bool> op_timing_on;
struct OpFrame {
  const char* op = "";
  const char* suffix = "";
  OpFrame* outer = nullptr;
  double start = 0, inner_seconds = 0, flops = 0, bytes = 0, largest = 0;
  bool timed = false;
  std::int64_t launches = 0;
  std::vector<const void*> seen = {};
};
void begin_op(OpFrame& frame);
void end_op(OpFrame& frame);
void note_operand(const void* data, std::size_t bytes, std::int64_t elements);
}  // namespace detail

/// Starts or stops collecting; starting clears what was collected. `wait` makes what was begun on a device finish:
/// called before every look at the clock, so that an op is charged with its own kernels. Empty for the CPU.
void set_op_timing(Collect what, std::function<void()> wait = {});
/// Sums by op name ("conv3d", "conv3d_bwd").
std::map<std::string, OpTime> op_times();
/// Everything that happened, in the order of its ends; filled by Collect::events.
std::vector<OpEvent> op_events();
/// Seconds since collecting began: the clock of OpEvent.
double op_clock();

/// The op whose OpTimer was begun last on this thread and is not over, for messages; null outside of all.
const char* current_op();
/// Full name of the innermost module on this thread ("" outside of all). Lives as long as the process.
const std::string& current_module();

/// Says that the op that runs has this many multiplications and additions to do, beside what was said before.
void note_flops(double flops);
/// Says that the op that runs touches `bytes` at `data`; a second call for the same place counts nothing.
inline void note_operand(const void* data, std::size_t bytes, std::int64_t elements) {
  if (detail::op_timing_on.load(std::memory_order_relaxed)) detail::note_operand(data, bytes, elements);
}

/// The time between construction and destruction belongs to an op. `suffix` is "" or "_bwd".
class OpTimer {
 public:
  explicit OpTimer(const char* op, const char* suffix = "") : frame_{.op = op, .suffix = suffix} {
    detail::begin_op(frame_);
  }
  ~OpTimer() { detail::end_op(frame_); }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  detail::OpFrame frame_;
};

/// While alive, this thread computes inside a module: a range for profilers (NVTX) and traces. Names nest with dots.
class ModuleRange {
 public:
  explicit ModuleRange(std::string_view name);
  /// `module` is a full name that current_module() returned: for backward passes.
  struct Again {
    const std::string& module;
  };
  explicit ModuleRange(Again again);
  ~ModuleRange();
  ModuleRange(const ModuleRange&) = delete;
  ModuleRange& operator=(const ModuleRange&) = delete;

 private:
  const std::string* outer_;
  double start_ = 0;
  bool timed_ = false;
};

}  // namespace avid::kernels
