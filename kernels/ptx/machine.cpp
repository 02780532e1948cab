// kernels/ptx/machine.cpp -- see machine.h: modules, and blocks one after another
#include "kernels/ptx/machine.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "kernels/ptx/code.h"
#include "kernels/ptx/text.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {

struct Module::Contents {
  std::string text;
  ModuleText module;
  std::map<std::string_view, const Entry*> entries;
  std::vector<std::vector<std::uint64_t>> storage;  // of global variables
  GlobalVariables globals;
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<Kernel>, std::less<>> kernels;
};

Module::Module() : contents_(std::make_unique<Contents>()) {}
Module::~Module() = default;

std::unique_ptr<Module> Module::load(std::string_view text) {
  std::unique_ptr<Module> module(new Module);
  Contents& c = *module->contents_;
  c.text = std::string(text);
  c.module = read_module(c.text);
  module->target_ = c.module.target;
  for (const Entry& entry : c.module.entries) c.entries[entry.name] = &entry;
  for (const Variable& variable : c.module.variables)
    if (variable.space == Variable::Space::global) {
      c.storage.emplace_back((variable.bytes + 7) / 8 + 1);
      auto* begin = reinterpret_cast<unsigned char*>(c.storage.back().data());
      std::copy(variable.values.begin(), variable.values.end(), begin);
      c.globals.memory.emplace_back(begin, variable.bytes);
      c.globals.addresses[variable.name] = reinterpret_cast<std::uint64_t>(begin);
    }
  return module;
}

const Kernel* Module::find(std::string_view name) const {
  Contents& c = *contents_;
  const std::lock_guard lock(c.mutex);
  if (const auto known = c.kernels.find(name); known != c.kernels.end()) return known->second.get();
  const auto entry = c.entries.find(name);
  if (entry == c.entries.end()) return nullptr;
  auto kernel = std::make_unique<Kernel>();
  kernel->name = std::string(name);
  translate(*kernel, *entry->second, c.module, c.globals);
  return c.kernels.emplace(kernel->name, std::move(kernel)).first->second.get();
}

namespace {

/// Runs blocks; its memory serves one after another.
class Worker {
 public:
  Worker(
      const Machine& machine, const Kernel& kernel, Extent grid, Extent size, std::size_t dynamic,
      const std::byte* parameters) {
    block_.machine = &machine;
    block_.kernel = &kernel;
    block_.grid = grid;
    block_.size = size;
    block_.num_threads = size.x * size.y * size.z;
    block_.parameters = parameters;
    const bool has_dynamic = dynamic > 0;
    block_.shared.resize(has_dynamic ? kernel.code->dynamic_shared_at + dynamic : kernel.static_shared_bytes);
    block_.local.resize(kernel.code->local_bytes * block_.num_threads);
    warps_.resize((block_.num_threads + kLanes - 1) / kLanes);
  }

  void run(Extent index) {
    block_.index = index;
    std::fill(block_.shared.begin(), block_.shared.end(), static_cast<unsigned char>(0xff));  // NaNs
    std::fill(block_.local.begin(), block_.local.end(), static_cast<unsigned char>(0xff));
    block_.num_at_barrier = 0;
    block_.num_alive = block_.num_threads;
    for (std::uint32_t w = 0; w < warps_.size(); ++w) warps_[w].begin(block_, w);
    while (block_.num_alive > 0) {
      block_.progress = false;
      for (Warp& warp : warps_) warp.run();
      if (block_.num_at_barrier > 0 && block_.num_at_barrier == block_.num_alive) {
        block_.num_at_barrier = 0;
        for (Warp& warp : warps_) warp.release_barrier();
      } else if (!block_.progress && ++idle_ > kMostIdle) {
        deadlock();
      }
      if (block_.progress) idle_ = 0;
    }
  }

 private:
  static constexpr int kMostIdle = 3;  // rounds in which every thread only looked at mbarriers or waited

  [[noreturn]] void deadlock() const {
    std::string where;
    for (const Warp& warp : warps_)
      if (!warp.ended()) where += (where.empty() ? "" : "; ") + warp.whereabouts();
    throw PtxError(
        "ptx: " + block_.kernel->name + ": block (" + std::to_string(block_.index.x) + "," +
        std::to_string(block_.index.y) + "," + std::to_string(block_.index.z) +
        "): threads wait for each other: " + where);
  }

  Block block_;
  std::vector<Warp> warps_;
  int idle_ = 0;
};

}  // namespace

void run(
    const Machine& machine, const Kernel& kernel, Extent grid, Extent block, std::size_t dynamic_shared_bytes,
    const std::byte* parameters) {
  const std::uint64_t num_blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  std::atomic<std::uint64_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&] {
    try {
      Worker worker(machine, kernel, grid, block, dynamic_shared_bytes, parameters);
      for (std::uint64_t b; (b = next++) < num_blocks;)
        worker.run(
            {static_cast<std::uint32_t>(b % grid.x), static_cast<std::uint32_t>(b / grid.x % grid.y),
             static_cast<std::uint32_t>(b / grid.x / grid.y)});
    } catch (...) {
      next = num_blocks;
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int t = 1; t < machine.threads && static_cast<std::uint64_t>(t) < num_blocks; ++t) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace avid::kernels::ptx
