// kernels/op_timer.cpp -- the tables behind OpTimer and ModuleRange
#include "kernels/op_timer.h"

#if AVID_HAVE_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

#include <algorithm>
#include <exception>
#include <mutex>
#include <set>
#include <utility>

#include "kernels/device/launch_context.h"
#include "kernels/op_name.h"
#include "kernels/op_watch.h"

namespace avid::kernels {
namespace {

using Clock = std::chrono::steady_clock;

std::mutex table_mutex;
std::map<std::string, OpTime> table;
std::vector<OpEvent> events;
std::function<void()> wait_for_device;
bool keep_events = false;
Clock::time_point origin;
std::atomic<int> num_threads_seen{0};

thread_local detail::OpFrame* running = nullptr;
thread_local std::uint64_t num_begun = 0;
thread_local const std::string* module_name = nullptr;
thread_local const detail::OpFrame* variant_of = nullptr;  // the op that said last what it is
thread_local OpVariant variant;
thread_local OpClock* watching_clock = nullptr;
thread_local std::function<void(const WatchedCall&)> watch_seen;
/// What the clock said of the ops that run, outermost first.
struct Watched {
  const detail::OpFrame* frame;
  double seconds = 0;
  std::map<std::string, std::int64_t> sizes = {};
  bool holds_ops = false;
};
thread_local std::vector<Watched> watched;
std::function<void(double)> flops_listener;

int thread_number() {
  thread_local const int number = num_threads_seen++;
  return number;
}

// FLOPs per element of the largest operand, for ops without products; an exponential, a root or a division is one.
// Counted in the loops of kernels/, rounded. What only moves data has none and stands in no roofline.
const std::map<std::string, double, std::less<>> kPointwise = {
    {"rms_norm_film_silu", 12},
    {"rms_norm_film_silu_bwd", 30},
    {"group_norm_silu", 12},
    {"group_norm_silu_bwd", 24},
    {"layer_norm", 8},
    {"layer_norm_bwd", 14},
    {"mask_mix", 3},
    {"mask_mix_bwd", 5},
    {"weighted_mse", 4},
    {"weighted_mse_bwd", 3},
    {"silu", 4},
    {"silu_bwd", 8},
    {"gelu", 12},
    {"gelu_bwd", 16},
    {"add", 1},
    {"scale", 1},
    {"scale_bwd", 1},
    {"film_condition", 1},
    {"film_condition_bwd", 1},
};

// Names live as long as the process: graph nodes and events point to them.
const std::string* interned(std::string name) {
  static auto* names = new std::set<std::string>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  return &*names->insert(std::move(name)).first;
}

void push_range([[maybe_unused]] const char* name) {
#if AVID_HAVE_CUDA
  nvtxRangePushA(name);
#endif
}

void pop_range() {
#if AVID_HAVE_CUDA
  nvtxRangePop();
#endif
}

void wait_if_timing() {
  if (detail::op_timing_on.load(std::memory_order_relaxed) && wait_for_device) wait_for_device();
}

/// The clock leaves the op that runs, for one inside it.
void watch_begin(const detail::OpFrame& frame) {
  if (watching_clock == nullptr || !detail::op_timing_on.load(std::memory_order_relaxed)) return;
  if (!watched.empty()) {
    watched.back().seconds += watching_clock->end();
    watched.back().holds_ops = true;
  }
  watching_clock->begin();
  watched.push_back({.frame = &frame});
}

/// And returns to it.
void watch_end(const detail::OpFrame& frame) {
  if (watched.empty() || watched.back().frame != &frame) return;
  Watched own = std::move(watched.back());
  watched.pop_back();
  if (watching_clock == nullptr) return;
  own.seconds += watching_clock->end();
  watch_seen(
      {.op = std::string(frame.op) + frame.suffix,
       .module = current_module(),
       .seconds = own.seconds,
       .bytes = frame.bytes,
       .elements = static_cast<std::int64_t>(frame.largest),
       .flops = frame.flops,
       .sizes = std::move(own.sizes),
       .holds_ops = own.holds_ops});
  if (!watched.empty()) watching_clock->begin();
}

}  // namespace

namespace detail {

std::atomic<bool> op_timing_on{false};

void begin_op(OpFrame& frame) {
  if (frame.suffix[0] != '\0') push_range("backward");
  push_range(frame.op);
  wait_if_timing();
  watch_begin(frame);
  frame.outer = std::exchange(running, &frame);
  ++num_begun;
  if (!op_timing_on.load(std::memory_order_relaxed)) return;
  frame.timed = true;
  frame.start = op_clock();
}

void end_op(OpFrame& frame) {
  running = frame.outer;
  if (variant_of == &frame) variant_of = nullptr;
  try {
    watch_end(frame);
    wait_if_timing();
  } catch (
      const std::exception&) {  // called by a destructor; the op's own error is on its way, or comes with the next call
  }
  pop_range();
  if (frame.suffix[0] != '\0') pop_range();
  if (!frame.timed) return;
  const double seconds = op_clock() - frame.start, self = std::max(0.0, seconds - frame.inner_seconds);
  if (frame.outer != nullptr) frame.outer->inner_seconds += seconds;
  const std::string name = std::string(frame.op) + frame.suffix;
  if (frame.flops == 0)
    if (const auto found = kPointwise.find(name); found != kPointwise.end())
      frame.flops = found->second * frame.largest;
  const std::lock_guard lock(table_mutex);
  if (!op_timing_on.load(std::memory_order_relaxed)) return;  // collecting stopped meanwhile
  OpTime& entry = table[name];
  ++entry.calls;
  entry.seconds += self;
  entry.flops += frame.flops;
  entry.bytes += frame.bytes;
  entry.launches += frame.launches;
  if (keep_events)
    events.push_back(
        {.name = name,
         .module = current_module(),
         .thread = thread_number(),
         .start = frame.start,
         .seconds = seconds,
         .self_seconds = self,
         .flops = frame.flops,
         .bytes = frame.bytes,
         .launches = frame.launches});
}

void note_operand(const void* data, std::size_t bytes, std::int64_t elements) {
  OpFrame* frame = running;
  if (frame == nullptr || data == nullptr) return;
  if (std::find(frame->seen.begin(), frame->seen.end(), data) != frame->seen.end()) return;
  frame->seen.push_back(data);
  frame->bytes += static_cast<double>(bytes);
  frame->largest = std::max(frame->largest, static_cast<double>(elements));
}

}  // namespace detail

std::uint64_t ops_begun() { return num_begun; }

void note_launch() {
  if (running != nullptr) ++running->launches;
}

const char* current_op() { return running != nullptr ? running->op : nullptr; }

std::string OpVariant::text() const {
  if (pass[0] == '\0') return {};
  std::string size = std::to_string(kernel[1]) + "x" + std::to_string(kernel[2]);
  if (kernel[0] != 1) size = std::to_string(kernel[0]) + "x" + size;
  return size + " " + pass;
}

void note_variant(const OpVariant& said) {
  variant_of = running;
  variant = said;
}

std::string current_op_name() {
  return running != nullptr ? std::string(running->op) + running->suffix : std::string();
}

OpVariant current_variant() { return running != nullptr && running == variant_of ? variant : OpVariant{}; }

const std::string& current_module() {
  static const std::string none;
  return module_name != nullptr ? *module_name : none;
}

void note_flops(double flops) {
  if (running != nullptr) running->flops += flops;
  if (flops_listener) flops_listener(flops);
}

void set_op_watch(OpClock* clock, std::function<void(const WatchedCall&)> seen) {
  watching_clock = clock;
  watch_seen = std::move(seen);
  watched.clear();
}

void note_sizes(std::initializer_list<OpSize> sizes) {
  if (watched.empty() || watched.back().frame != running) return;
  for (const OpSize& size : sizes) watched.back().sizes[size.name] = size.value;
}

void note_more_bytes(double bytes) {
  if (running != nullptr) running->bytes += bytes;
}

void set_flops_listener(std::function<void(double)> listener) { flops_listener = std::move(listener); }

double op_clock() { return std::chrono::duration<double>(Clock::now() - origin).count(); }

void set_op_timing(Collect what, std::function<void()> wait) {
  const std::lock_guard lock(table_mutex);
  if (what != Collect::nothing) {
    table.clear();
    events.clear();
    origin = Clock::now();
  }
  keep_events = what == Collect::events;
  wait_for_device = std::move(wait);
  detail::op_timing_on = what != Collect::nothing;
}

std::map<std::string, OpTime> op_times() {
  const std::lock_guard lock(table_mutex);
  return table;
}

std::vector<OpEvent> op_events() {
  const std::lock_guard lock(table_mutex);
  return events;
}

ModuleRange::ModuleRange(std::string_view name) : outer_(module_name) {
  push_range(std::string(name).c_str());
  module_name = interned(outer_ == nullptr || outer_->empty() ? std::string(name) : *outer_ + "." + std::string(name));
  timed_ = detail::op_timing_on.load(std::memory_order_relaxed);
  if (timed_) start_ = op_clock();
}

ModuleRange::ModuleRange(Again again) : outer_(std::exchange(module_name, &again.module)) {
  push_range(again.module.c_str());
  timed_ = detail::op_timing_on.load(std::memory_order_relaxed);
  if (timed_) start_ = op_clock();
}

ModuleRange::~ModuleRange() {
  pop_range();
  const std::string& name = current_module();
  module_name = outer_;
  if (!timed_ || !detail::op_timing_on.load(std::memory_order_relaxed)) return;
  const double end = op_clock();
  const std::lock_guard lock(table_mutex);
  if (!keep_events) return;
  OpEvent event;
  event.name = name;
  event.is_module = true;
  event.thread = thread_number();
  event.start = start_;
  event.seconds = end - start_;
  events.push_back(std::move(event));
}

}  // namespace avid::kernels
