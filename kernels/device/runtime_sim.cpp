// kernels/device/runtime_sim.cpp -- the simulator's "device" memory and copies
//
// Blocks come fresh from the system and start as NaN in every float format (all bits set), so that a kernel that reads
// what nobody wrote shows itself in the result, and under AddressSanitizer a stray access is seen at once.
// AVID_SIM_MEMORY_MIB=n gives the device n MiB, to see what a small GPU would say.
//
// Recorded work is a list. Its launches carry their arguments by value, exactly as a CUDA graph does, and all of its
// memory is NaN again whenever it is repeated: work that reads an old number, or memory of an earlier repetition,
// computes something else than the same work without recording. A kernel that never ran is not recorded.
#include "kernels/device/runtime.h"

#if AVID_HAVE_SIM

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kernels/device/graph_memory.h"
#include "kernels/device/sim_recorder.h"
#include "kernels/device/sim_settings.h"

namespace avid::kernels {

namespace simulator {

SimRecorder* recorder = nullptr;

namespace {
std::mutex kernels_mutex;
std::unordered_set<const void*> kernels_run;
}  // namespace

void note_run(const void* kernel) {
  const std::lock_guard lock(kernels_mutex);
  kernels_run.insert(kernel);
}

bool has_run(const void* kernel) {
  const std::lock_guard lock(kernels_mutex);
  return kernels_run.contains(kernel);
}

}  // namespace simulator

namespace {

// How much the simulated device has.
std::size_t memory_limit() {
  static const std::size_t limit = simulator::memory_from_environment();
  return limit;
}

std::atomic<std::size_t> in_use{0};
bool pretending = false;
simulator::SimRecorder ignored_launches{.steps = {}, .pretends = true};
std::map<const std::byte*, std::size_t> pretended_blocks;

// Copies of more are not made while launches are only noted: what decides how a kernel goes is smaller.
constexpr std::size_t kSmallCopy = std::size_t{4} << 20;

// Addresses that nobody can look behind, or only kernels whose launches are noted.
void* take_addresses(std::size_t bytes) {
  const int access = ignored_launches.notes != nullptr ? PROT_READ | PROT_WRITE : PROT_NONE;
  void* block = mmap(nullptr, bytes + 1, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) return nullptr;
  pretended_blocks.emplace(static_cast<std::byte*>(block), bytes);
  return block;
}

void give_addresses(void* block, std::size_t bytes) noexcept {
  pretended_blocks.erase(static_cast<std::byte*>(block));
  munmap(block, bytes + 1);
}

void* take_from_host(std::size_t bytes) {
  if (in_use.fetch_add(bytes) + bytes > memory_limit()) {
    in_use -= bytes;
    return nullptr;
  }
  const std::size_t rounded = (bytes + 255) / 256 * 256;
  void* block = std::aligned_alloc(256, rounded == 0 ? 256 : rounded);
  if (block != nullptr)
    std::memset(block, 0xff, bytes);
  else
    in_use -= bytes;
  return block;
}

void give_to_host(void* block, std::size_t bytes) noexcept {
  in_use -= bytes;
  std::free(block);
}

struct SimWork final : RecordedWork {
  simulator::SimRecorder launches;
  std::int64_t num_poisoned = 0;  // of its steps: those that make a block NaN, which a CUDA graph has none of
  GraphMemory::Owner memory;
  std::vector<std::pair<void*, std::size_t>> held;  // freed while recording: the steps may use them

  ~SimWork() override {
    for (const auto& [block, bytes] : held) device_free<Sim>(Stream{}, block, bytes);
  }
  std::int64_t num_steps() const override { return static_cast<std::int64_t>(launches.steps.size()) - num_poisoned; }
  std::size_t memory_bytes() const override { return memory->reserved_bytes(); }
};

std::unique_ptr<SimWork> recorded;  // being recorded

void copy_rows(
    void* to, std::size_t to_step, const void* from, std::size_t from_step, std::size_t row_bytes,
    std::int64_t num_rows) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  for (std::int64_t r = 0; r < num_rows; ++r, target += to_step, source += from_step)
    std::memmove(target, source, row_bytes);
}

void zero_rows(void* to, std::size_t step, std::size_t row_bytes, std::int64_t num_rows) {
  auto* target = static_cast<std::byte*>(to);
  for (std::int64_t r = 0; r < num_rows; ++r, target += step) std::memset(target, 0, row_bytes);
}

class SimUpload final : public Upload {
 public:
  explicit SimUpload(std::size_t bytes) : values_(bytes) {}

  std::byte* buffer() override {
    copy();  // the device would have had the time
    return values_.data();
  }
  void start(void* to, std::size_t bytes) override {
    if (under_way_ || in_use_) throw GpuError("sim: upload: start() before the values sent last were used");
    if (bytes > values_.size()) throw GpuError("sim: upload: more bytes than the buffer has");
    if (recorded) throw GpuError("sim: recorded work cannot start an upload");
    to_ = to;
    bytes_ = bytes;
    under_way_ = in_use_ = true;
    if (!pretending) std::memset(to, 0xff, bytes);
  }
  void arrive() override {
    if (!in_use_) throw GpuError("sim: upload: arrive() without start()");
    copy();
  }
  void last_use() override {
    if (under_way_) throw GpuError("sim: upload: last_use() before arrive()");
    in_use_ = false;
  }

 private:
  void copy() {
    if (!under_way_) return;
    under_way_ = false;
    if (pretending) return;
    std::memcpy(to_, values_.data(), bytes_);
    std::memset(values_.data(), 0xff, values_.size());
  }

  std::vector<std::byte> values_;
  void* to_ = nullptr;
  std::size_t bytes_ = 0;
  bool under_way_ = false, in_use_ = false;
};

}  // namespace

void sim_pretend(bool on) {
  if (recorded) throw GpuError("sim: cannot pretend while recording");
  pretending = on;
  ignored_launches.notes = nullptr;
  simulator::recorder = on ? &ignored_launches : nullptr;
}

void simulator::pretend_and_note(LaunchNotes* notes) {
  sim_pretend(notes != nullptr);
  ignored_launches.notes = notes;
}

std::optional<simulator::NotedBlock> simulator::block_at(const void* address) {
  const auto* p = static_cast<const std::byte*>(address);
  auto block = pretended_blocks.upper_bound(p);
  if (block == pretended_blocks.begin()) return {};
  --block;
  if (static_cast<std::size_t>(p - block->first) >= block->second) return {};
  return NotedBlock{block->first, block->second};
}

template <>
std::unique_ptr<Upload> make_upload<Sim>(const Stream&, std::size_t bytes) {
  return std::make_unique<SimUpload>(bytes);
}

template <>
std::string device_problem<Sim>(int) {
  try {
    simulator::options_from_environment();
    simulator::memory_from_environment();
  } catch (const GpuError& error) {
    return error.what();
  }
  return {};
}

template <>
int device_count<Sim>() {
  return 1;
}

template <>
std::string device_name<Sim>(int) {
  return "kernel simulator on the host";
}

template <>
Stream device_stream<Sim>(int) {
  return {};
}

template <>
void* device_allocate<Sim>(const Stream&, std::size_t bytes) {
  if (!recorded) return pretending ? take_addresses(bytes) : take_from_host(bytes);
  void* block = recorded->memory->take(bytes);
  if (block == nullptr) return nullptr;
  recorded->launches.steps.push_back([block, bytes] { std::memset(block, 0xff, bytes); });
  ++recorded->num_poisoned;
  return block;
}

template <>
void device_free<Sim>(const Stream&, void* block, std::size_t bytes) noexcept {
  if (recorded && !recorded->memory->holds(block)) {
    recorded->held.emplace_back(block, bytes);
    return;
  }
  if (GraphMemory::give_back(block)) return;
  pretended_blocks.contains(static_cast<std::byte*>(block)) ? give_addresses(block, bytes) : give_to_host(block, bytes);
}

template <>
void device_copy<Sim>(
    const Stream&, CopyKind kind, void* to, std::size_t to_step, const void* from, std::size_t from_step,
    std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0 || num_rows == 0) return;
  if (recorded && kind == CopyKind::to_host) throw GpuError("sim: recorded work cannot copy to the host");
  if (pretending) {
    const std::size_t bytes = row_bytes * static_cast<std::size_t>(num_rows);
    if (kind == CopyKind::to_host) zero_rows(to, to_step, row_bytes, num_rows);
    if (ignored_launches.notes == nullptr) return;
    if (kind == CopyKind::on_device) ignored_launches.notes->copied(bytes);
    if (kind != CopyKind::to_host && bytes <= kSmallCopy) copy_rows(to, to_step, from, from_step, row_bytes, num_rows);
    return;
  }
  if (!recorded) return copy_rows(to, to_step, from, from_step, row_bytes, num_rows);
  if (kind == CopyKind::on_device) {
    recorded->launches.steps.push_back([=] { copy_rows(to, to_step, from, from_step, row_bytes, num_rows); });
    return;
  }
  std::vector<std::byte> values(row_bytes * static_cast<std::size_t>(num_rows));
  copy_rows(values.data(), row_bytes, from, from_step, row_bytes, num_rows);
  recorded->launches.steps.push_back(
      [=, values = std::move(values)] { copy_rows(to, to_step, values.data(), row_bytes, row_bytes, num_rows); });
}

template <>
void device_zero<Sim>(const Stream&, void* to, std::size_t step, std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0 || num_rows == 0) return;
  if (pretending) {
    if (ignored_launches.notes != nullptr)
      ignored_launches.notes->filled(row_bytes * static_cast<std::size_t>(num_rows));
    return;
  }
  const auto zero = [=] { zero_rows(to, step, row_bytes, num_rows); };
  recorded ? recorded->launches.steps.push_back(zero) : zero();
}

template <>
void device_synchronise<Sim>(const Stream&) {
  if (recorded) throw GpuError("sim: recorded work cannot wait for the device");
}

template <>
void record_begin<Sim>(const Stream&, const MemoryPlan& plan) {
  if (recorded) throw GpuError("sim: a recording is under way already");
  recorded = std::make_unique<SimWork>();
  recorded->memory = pretending ? GraphMemory::make({take_addresses, give_addresses}, plan)
                                : GraphMemory::make({take_from_host, give_to_host}, plan);
  simulator::recorder = &recorded->launches;
}

template <>
std::unique_ptr<RecordedWork> record_end<Sim>(const Stream&) {
  simulator::recorder = pretending ? &ignored_launches : nullptr;
  return std::move(recorded);
}

template <>
void record_cancel<Sim>(const Stream&) noexcept {
  simulator::recorder = pretending ? &ignored_launches : nullptr;
  const std::unique_ptr<SimWork> dropped = std::move(recorded);  // frees what it held, which is no recording's any more
}

template <>
void replay<Sim>(const Stream&, RecordedWork& work) {
  if (recorded) throw GpuError("sim: recorded work cannot be repeated while recording");
  if (pretending) return;
  auto& list = static_cast<SimWork&>(work);
  list.memory->for_each_slab([](std::byte* slab, std::size_t bytes) { std::memset(slab, 0xff, bytes); });
  for (const auto& step : list.launches.steps) step();
}

template <>
DeviceMemory device_memory<Sim>(int) {
  return {memory_limit(), memory_limit() - in_use};
}

}  // namespace avid::kernels

#endif  // AVID_HAVE_SIM
