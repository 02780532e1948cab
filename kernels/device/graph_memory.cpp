// kernels/device/graph_memory.cpp -- see graph_memory.h
#include "kernels/device/graph_memory.h"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <set>

namespace avid::kernels {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kSmallestSlab = std::size_t{1} << 16;

std::mutex mutex;  // of all memories: they are few, and rarely asked

std::set<GraphMemory*>& all_memories() {
  static auto* memories = new std::set<GraphMemory*>;  // never destroyed: tensors in static objects may come last
  return *memories;
}

}  // namespace

void GraphMemory::Retire::operator()(GraphMemory* memory) const noexcept {
  const std::lock_guard lock(mutex);
  memory->retired_ = true;
  if (memory->blocks_in_use_ > 0) return;
  all_memories().erase(memory);
  delete memory;
}

GraphMemory::Owner GraphMemory::make(Source source, std::size_t first_bytes) {
  Owner memory(new GraphMemory(source));
  const std::lock_guard lock(mutex);
  all_memories().insert(memory.get());
  if (first_bytes > 0) memory->add_slab(first_bytes);
  return memory;
}

GraphMemory::~GraphMemory() {
  for (const Slab& slab : slabs_) source_.release(slab.base, slab.bytes);
}

bool GraphMemory::add_slab(std::size_t bytes) {
  // A few more bytes than asked for are likely to follow.
  bytes = std::max({bytes, reserved_bytes() / 32, kSmallestSlab});
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
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

void* GraphMemory::take(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  bytes = (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  for (int attempt = 0; attempt < 2; ++attempt) {
    Slab* best_slab = nullptr;
    std::map<std::size_t, Piece>::iterator best;
    for (Slab& slab : slabs_)
      for (auto piece = slab.pieces.begin(); piece != slab.pieces.end(); ++piece) {
        if (!piece->second.free || piece->second.bytes < bytes) continue;
        if (best_slab != nullptr && piece->second.bytes >= best->second.bytes) continue;
        best_slab = &slab;
        best = piece;
      }
    if (best_slab != nullptr) return cut(*best_slab, best, bytes);
    if (attempt == 0 && !add_slab(bytes)) return nullptr;
  }
  return nullptr;
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
