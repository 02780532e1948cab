// kernels/device/graph_memory.cpp -- see graph_memory.h
#include "kernels/device/graph_memory.h"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <set>

namespace avid::kernels {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kSmallestSlab = std::size_t{1} << 16;

std::size_t aligned(std::size_t bytes) {
  return (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
}

std::mutex mutex;  // of all memories: they are few, and rarely asked

std::set<GraphMemory*>& all_memories() {
  static auto* memories = new std::set<GraphMemory*>;  // never destroyed: tensors in static objects may come last
  return *memories;
}

}  // namespace

MemoryPlan plan_memory(const std::vector<MemoryUse>& uses) {
  MemoryPlan plan;
  for (const MemoryUse& use : uses) plan.blocks.push_back({aligned(use.bytes), 0});
  std::vector<std::size_t> order(uses.size()), placed;  // placed: by offset
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return plan.blocks[a].bytes > plan.blocks[b].bytes;
  });
  for (const std::size_t i : order) {
    MemoryPlan::Block& block = plan.blocks[i];
    for (const std::size_t j : placed) {
      if (uses[j].until < uses[i].from || uses[j].from > uses[i].until) continue;
      if (plan.blocks[j].offset >= block.offset + block.bytes) break;  // it fits in front
      block.offset = std::max(block.offset, plan.blocks[j].offset + plan.blocks[j].bytes);
    }
    placed.insert(
        std::upper_bound(
            placed.begin(), placed.end(), block.offset,
            [&](std::size_t offset, std::size_t j) { return offset < plan.blocks[j].offset; }),
        i);
    plan.slab_bytes = std::max(plan.slab_bytes, block.offset + block.bytes);
  }
  return plan;
}

void GraphMemory::Retire::operator()(GraphMemory* memory) const noexcept {
  const std::lock_guard lock(mutex);
  memory->retired_ = true;
  if (memory->blocks_in_use_ > 0) return;
  all_memories().erase(memory);
  delete memory;
}

GraphMemory::Owner GraphMemory::make(Source source, const MemoryPlan& plan) {
  Owner memory(new GraphMemory(source));
  const std::lock_guard lock(mutex);
  all_memories().insert(memory.get());
  if (plan.slab_bytes > 0 && memory->add_slab(plan.slab_bytes)) memory->plan_ = plan.blocks;
  return memory;
}

GraphMemory::~GraphMemory() {
  for (const Slab& slab : slabs_) source_.release(slab.base, slab.bytes);
}

bool GraphMemory::add_slab(std::size_t bytes) {
  // A few more bytes than asked for are likely to follow; beside a plan, very few.
  bytes = aligned(std::max({bytes, plan_.empty() ? reserved_bytes() / 32 : 0, kSmallestSlab}));
  void* base = source_.reserve(bytes);
  if (base == nullptr) return false;
  slabs_.push_back({static_cast<std::byte*>(base), bytes, {{0, {bytes, true}}}});
  return true;
}

void* GraphMemory::cut(Slab& slab, std::map<std::size_t, Piece>::iterator piece, std::size_t bytes) {
  const std::size_t offset = piece->first, rest = piece->second.bytes - bytes;
  piece->second = {bytes, false};
  if (rest > 0) slab.pieces[offset + bytes] = {rest, true};
  ++blocks_in_use_;
  return slab.base + offset;
}

// The watched work may have taken blocks that the recorded work does not, at a first use, and the other way round. So
// blocks of the plan may be skipped, but not more memory than is at stake: they might come after all.
void* GraphMemory::take_planned(std::size_t bytes) {
  std::size_t skipped = 0;
  for (std::size_t i = next_planned_; i < plan_.size() && skipped <= std::max(bytes, kSmallestSlab); ++i) {
    skipped += plan_[i].bytes;
    if (plan_[i].bytes != bytes) continue;
    const std::size_t offset = plan_[i].offset;
    Slab& slab = slabs_.front();
    auto piece = std::prev(slab.pieces.upper_bound(offset));
    if (!piece->second.free || piece->first + piece->second.bytes < offset + bytes) continue;
    if (const std::size_t front = offset - piece->first; front > 0) {
      const std::size_t rest = piece->second.bytes - front;
      piece->second.bytes = front;
      piece = slab.pieces.emplace(offset, Piece{rest, true}).first;
    }
    next_planned_ = i + 1;
    return cut(slab, piece, bytes);
  }
  return nullptr;
}

void* GraphMemory::take(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  bytes = aligned(bytes);
  if (void* block = take_planned(bytes)) return block;
  // What is not in the plan stays out of its slab as long as there is other memory, unless it is much: then the plan is
  // of other work.
  if (!plan_.empty() && reserved_bytes() > slabs_.front().bytes / 8 * 9) plan_.clear();
  std::size_t first_slab = plan_.empty() ? 0 : 1;
  for (;;) {
    Slab* best_slab = nullptr;
    std::map<std::size_t, Piece>::iterator best;
    for (std::size_t i = first_slab; i < slabs_.size(); ++i) {
      Slab& slab = slabs_[i];
      for (auto piece = slab.pieces.begin(); piece != slab.pieces.end(); ++piece) {
        if (!piece->second.free || piece->second.bytes < bytes) continue;
        if (best_slab != nullptr && piece->second.bytes >= best->second.bytes) continue;
        best_slab = &slab;
        best = piece;
      }
    }
    if (best_slab != nullptr) return cut(*best_slab, best, bytes);
    if (add_slab(bytes)) continue;
    if (first_slab == 0) return nullptr;
    first_slab = 0;
  }
}

std::size_t GraphMemory::reserved_bytes() const {
  std::size_t sum = 0;
  for (const Slab& slab : slabs_) sum += slab.bytes;
  return sum;
}

bool GraphMemory::holds(const void* block) const {
  const auto address = reinterpret_cast<std::uintptr_t>(block);
  return std::any_of(slabs_.begin(), slabs_.end(), [&](const Slab& slab) {
    const auto base = reinterpret_cast<std::uintptr_t>(slab.base);
    return address >= base && address < base + slab.bytes;
  });
}

void GraphMemory::give_back_here(std::byte* block) {
  for (Slab& slab : slabs_) {
    if (block < slab.base || block >= slab.base + slab.bytes) continue;
    auto piece = slab.pieces.find(static_cast<std::size_t>(block - slab.base));
    if (piece == slab.pieces.end() || piece->second.free) return;
    piece->second.free = true;
    --blocks_in_use_;
    if (const auto next = std::next(piece); next != slab.pieces.end() && next->second.free) {
      piece->second.bytes += next->second.bytes;
      slab.pieces.erase(next);
    }
    if (piece != slab.pieces.begin()) {
      const auto before = std::prev(piece);
      if (before->second.free) {
        before->second.bytes += piece->second.bytes;
        slab.pieces.erase(piece);
      }
    }
    return;
  }
}

std::size_t GraphMemory::idle_bytes() {
  const std::lock_guard lock(mutex);
  std::size_t sum = 0;
  for (const GraphMemory* memory : all_memories())
    for (const Slab& slab : memory->slabs_)
      for (const auto& [offset, piece] : slab.pieces)
        if (piece.free) sum += piece.bytes;
  return sum;
}

bool GraphMemory::give_back(void* block) noexcept {
  const std::lock_guard lock(mutex);
  for (GraphMemory* memory : all_memories()) {
    if (!memory->holds(block)) continue;
    memory->give_back_here(static_cast<std::byte*>(block));
    if (memory->retired_ && memory->blocks_in_use_ == 0) {
      all_memories().erase(memory);
      delete memory;
    }
    return true;
  }
  return false;
}

}  // namespace avid::kernels
