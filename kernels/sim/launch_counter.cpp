// kernels/sim/launch_counter.cpp -- see launch_counter.h
#include "kernels/sim/launch_counter.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/op_timer.h"
#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

// Blocks that take the simulator long are sampled twice, others until they have made so many accesses.
constexpr std::uint64_t kFewestBlocks = 2, kMostBlocks = 32, kEnoughAccesses = 1500000;
constexpr std::uint64_t kSectorBytes = 32;
constexpr std::uint64_t kAloneBelow = 4;  // touched by a quarter of the samples, or fewer

// Calls f(word, block) for every word of the arguments; the block of device memory that it points into, if any.
template <class F>
void for_each_word(const Launch& l, F&& f) {
  for (std::size_t at = 0; at + 8 <= l.context_bytes; at += 8) {
    std::uint64_t word;
    std::memcpy(&word, static_cast<const std::byte*>(l.context) + at, 8);
    f(word, block_at(reinterpret_cast<const void*>(word)));
  }
}

// The arguments, with addresses as the block of memory that they lie in: which one of those that were met, how large,
// where in it. Launches with equal keys do the same to memory of the same sizes.
std::vector<std::uint64_t> key_of(const Launch& l) {
  std::vector<std::uint64_t> key = {
      reinterpret_cast<std::uint64_t>(l.kernel),
      l.grid.x,
      l.grid.y,
      l.grid.z,
      l.block.x,
      l.block.y,
      l.block.z,
      l.shared_bytes};
  std::vector<const std::byte*> met;
  for_each_word(l, [&](std::uint64_t word, const std::optional<NotedBlock>& block) {
    if (!block) return key.push_back(word);
    const auto found = std::find(met.begin(), met.end(), block->begin);
    key.push_back(static_cast<std::uint64_t>(found - met.begin()) << 48 | block->bytes);
    key.push_back(word - reinterpret_cast<std::uint64_t>(block->begin));
    if (found == met.end()) met.push_back(block->begin);
  });
  return key;
}

// Where the arguments' pointers into device memory point to. Each begins a piece of the block that it lies in.
std::vector<std::uintptr_t> pieces_of(const Launch& l) {
  std::vector<std::uintptr_t> begins;
  for_each_word(l, [&](std::uint64_t word, const std::optional<NotedBlock>& block) {
    if (block) begins.push_back(word);
  });
  std::sort(begins.begin(), begins.end());
  return begins;
}

// Blocks in an order that is spread over the grid from the start and without a period; all of them once.
class SampleOrder {
 public:
  explicit SampleOrder(std::uint64_t blocks) : blocks_(blocks), at_(blocks / 3) {
    stride_ = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(0.6180339887498949 * static_cast<double>(blocks)));
    while (std::gcd(stride_, blocks_) != 1) ++stride_;
  }
  std::uint64_t next() { return std::exchange(at_, (at_ + stride_) % blocks_); }

 private:
  std::uint64_t blocks_, at_, stride_ = 1;
};

void add(BlockWork& sum, const BlockWork& block) {
  for (std::uint64_t BlockWork::*part :
       {&BlockWork::mma, &BlockWork::tf32, &BlockWork::wgmma, &BlockWork::mma_instructions, &BlockWork::passes,
        &BlockWork::loads, &BlockWork::copies, &BlockWork::accesses})
    sum.*part += block.*part;
  sum.static_shared_bytes = std::max(sum.static_shared_bytes, block.static_shared_bytes);
  for (const auto& [begin, sectors] : block.memory) {
    BlockWork::Sectors& all = sum.memory[begin];
    all.bytes_of_block = sectors.bytes_of_block;
    all.read += sectors.read;
    all.written += sectors.written;
    all.num_blocks += sectors.num_blocks;
  }
}

}  // namespace

LaunchWork count_blocks(const Launch& launch, std::size_t* static_shared_bytes) {
  LaunchWork out;
  out.blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  Engine& engine = own_engine();
  engine.begin_launch(launch);
  BlockWork work;
  const std::vector<std::uintptr_t> pieces = pieces_of(launch);
  SampleOrder order(out.blocks);
  const std::uint64_t most = std::min(out.blocks, kMostBlocks);
  std::uint64_t& n = out.sampled_blocks;
  for (; n < most && (n < kFewestBlocks || work.accesses < kEnoughAccesses); ++n) {
    BlockWork one;
    one.pieces = &pieces;
    engine.run_block(order.next(), &one);
    add(work, one);
  }
  const auto total = [&](std::uint64_t count) {
    return static_cast<double>(count) * static_cast<double>(out.blocks) / static_cast<double>(n);
  };
  out.mma = total(work.mma);
  out.tf32 = total(work.tf32);
  out.wgmma = total(work.wgmma);
  out.mma_instructions = total(work.mma_instructions);
  out.passes = total(work.passes);
  out.loads = total(work.loads);
  // Whole numbers, in n-ths of a byte, so that sums do not depend on the order.
  std::uint64_t cache_read = 0, cache_written = 0, memory_read = 0, memory_written = 0;
  for (const auto& [begin, sectors] : work.memory) {
    const std::uint64_t read = kSectorBytes * sectors.read * out.blocks;
    const std::uint64_t written = kSectorBytes * sectors.written * out.blocks;
    const std::uint64_t bytes = sectors.bytes_of_block * n;
    cache_read += read;
    cache_written += written;
    // Memory that few of the samples touched stands for more of its kind (the tensors of an optimiser), each of which
    // its blocks have for themselves: how large it is says nothing then.
    const bool alone = sectors.num_blocks * kAloneBelow <= n;
    memory_read += alone ? read : std::min(read, bytes);
    memory_written += alone ? written : std::min(written, bytes);
  }
  const auto bytes_of = [&](std::uint64_t sum) { return static_cast<double>(sum) / static_cast<double>(n); };
  out.cache_read = bytes_of(cache_read);
  out.cache_written = bytes_of(cache_written);
  out.memory_read = bytes_of(memory_read);
  out.memory_written = bytes_of(memory_written);
  if (static_shared_bytes != nullptr) *static_shared_bytes = work.static_shared_bytes;
  return out;
}

NotedLaunch& LaunchCounter::note(const std::string& kernel) {
  NotedLaunch& noted = launches_.emplace_back();
  noted.kernel = kernel;
  noted.op = current_op_name();
  noted.module = current_module();
  noted.variant = current_variant();
  return noted;
}

const std::string& LaunchCounter::name_of(const void* kernel) {
  std::string& name = names_[kernel];
  if (name.empty()) name = function_name(kernel);
  return name;
}

void LaunchCounter::launched(const Launch& launch) {
  if (!begun_) return;
  const std::string& name = name_of(launch.kernel);
  const auto [found, is_new] = counted_.try_emplace(key_of(launch));
  if (is_new) {
    if (said_) said_(name);
    std::size_t static_bytes = 0;
    found->second.work = count_blocks(launch, &static_bytes);
    found->second.shared_bytes = launch.shared_bytes + static_bytes;
  }
  NotedLaunch& noted = note(name);
  noted.grid = launch.grid;
  noted.block = launch.block;
  noted.shared_bytes = found->second.shared_bytes;
  noted.work = found->second.work;
}

void LaunchCounter::copied(std::size_t bytes) {
  if (!begun_) return;
  LaunchWork& work = note("copy").work;
  work.memory_read = work.memory_written = work.cache_read = work.cache_written = static_cast<double>(bytes);
}

void LaunchCounter::filled(std::size_t bytes) {
  if (!begun_) return;
  LaunchWork& work = note("fill").work;
  work.memory_written = work.cache_written = static_cast<double>(bytes);
}

}  // namespace avid::kernels::simulator
