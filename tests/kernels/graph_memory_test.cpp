// tests/kernels/graph_memory_test.cpp -- plans of recorded work's memory, and memory that follows one
#include "kernels/device/graph_memory.h"

#include <cstdlib>
#include <limits>
#include <map>
#include <random>

#include "tests/doctest.h"

using namespace avid::kernels;

namespace {

void* reserve(std::size_t bytes) { return std::aligned_alloc(256, bytes); }
void release(void* slab, std::size_t) noexcept { std::free(slab); }
constexpr GraphMemory::Source kSource{reserve, release};

// Blocks of very different sizes that come and go like those of a network: some short, some until the way back.
std::vector<MemoryUse> random_uses(unsigned seed, int count) {
  std::mt19937 random(seed);
  std::vector<MemoryUse> uses;
  std::multimap<std::int64_t, std::size_t> ends;
  std::int64_t clock = 0;
  for (int i = 0; i < count; ++i) {
    const auto bytes = std::size_t{1} << std::uniform_int_distribution<int>(4, 20)(random);
    uses.push_back({bytes + random() % bytes, clock++, std::numeric_limits<std::int64_t>::max()});
    const int lasts = random() % 4 == 0 ? 2 * (count - i) : 1 + static_cast<int>(random() % 6);
    ends.emplace(i + lasts, uses.size() - 1);
    while (!ends.empty() && ends.begin()->first <= i) {
      uses[ends.begin()->second].until = clock++;
      ends.erase(ends.begin());
    }
  }
  return uses;
}

bool together(const MemoryUse& a, const MemoryUse& b) { return a.from <= b.until && b.from <= a.until; }

std::size_t most_at_once(const std::vector<MemoryUse>& uses) {
  std::size_t most = 0;
  for (const MemoryUse& at : uses) {
    std::size_t sum = 0;
    for (const MemoryUse& use : uses)
      if (use.from <= at.from && at.from <= use.until) sum += (use.bytes + 255) / 256 * 256;
    most = std::max(most, sum);
  }
  return most;
}

// Takes and gives back in the order of the uses.
std::vector<void*> follow(GraphMemory& memory, const std::vector<MemoryUse>& uses) {
  std::map<std::int64_t, std::pair<bool, std::size_t>> events;
  for (std::size_t i = 0; i < uses.size(); ++i) {
    events[uses[i].from] = {true, i};
    if (uses[i].until < std::numeric_limits<std::int64_t>::max()) events[uses[i].until] = {false, i};
  }
  std::vector<void*> blocks(uses.size());
  for (const auto& [time, event] : events) {
    if (event.first) {
      blocks[event.second] = memory.take(uses[event.second].bytes);
      REQUIRE(blocks[event.second] != nullptr);
    } else {
      REQUIRE(GraphMemory::give_back(blocks[event.second]));
    }
  }
  return blocks;
}

void give_back_the_rest(const std::vector<MemoryUse>& uses, const std::vector<void*>& blocks) {
  for (std::size_t i = 0; i < uses.size(); ++i)
    if (uses[i].until == std::numeric_limits<std::int64_t>::max()) GraphMemory::give_back(blocks[i]);
}

}  // namespace

TEST_CASE("graph_memory/plan/blocks in use together do not overlap, and little is lost") {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const std::vector<MemoryUse> uses = random_uses(seed, 300);
    const MemoryPlan plan = plan_memory(uses);
    REQUIRE(plan.blocks.size() == uses.size());
    std::size_t end = 0;
    for (std::size_t i = 0; i < uses.size(); ++i) {
      const MemoryPlan::Block& a = plan.blocks[i];
      CHECK(a.offset % 256 == 0);
      CHECK(a.bytes >= uses[i].bytes);
      end = std::max(end, a.offset + a.bytes);
      for (std::size_t j = 0; j < i; ++j) {
        const MemoryPlan::Block& b = plan.blocks[j];
        if (together(uses[i], uses[j])) REQUIRE((a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset));
      }
    }
    CHECK(plan.slab_bytes == end);
    CHECK(end >= most_at_once(uses));
    CHECK(static_cast<double>(end) < 1.1 * static_cast<double>(most_at_once(uses)));
  }
  CHECK(plan_memory({}).slab_bytes == 0);
}

TEST_CASE("graph_memory/take/follows its plan, and bears what differs from it") {
  const std::vector<MemoryUse> uses = random_uses(5, 300);
  const MemoryPlan plan = plan_memory(uses);
  {
    const GraphMemory::Owner memory = GraphMemory::make(kSource, plan);
    const auto blocks = follow(*memory, uses);
    CHECK(memory->reserved_bytes() == std::max<std::size_t>(plan.slab_bytes, 1 << 16));
    for (std::size_t i = 0; i < uses.size(); ++i)
      CHECK(
          static_cast<std::byte*>(blocks[i]) - static_cast<std::byte*>(blocks[0]) ==
          static_cast<std::ptrdiff_t>(plan.blocks[i].offset) - static_cast<std::ptrdiff_t>(plan.blocks[0].offset));
    give_back_the_rest(uses, blocks);
  }
  // A block in front that the plan does not have, and one that the plan has and nobody takes.
  for (const bool more : {true, false}) {
    std::vector<MemoryUse> others = uses;
    if (more) {
      others.push_back({12345, -1, std::numeric_limits<std::int64_t>::max()});
    } else {
      others.erase(others.begin() + 7);
    }
    const GraphMemory::Owner memory = GraphMemory::make(kSource, plan);
    const auto blocks = follow(*memory, others);
    CHECK(static_cast<double>(memory->reserved_bytes()) < 1.1 * static_cast<double>(plan.slab_bytes));
    give_back_the_rest(others, blocks);
  }
  // Other work altogether.
  const std::vector<MemoryUse> others = random_uses(6, 300);
  const GraphMemory::Owner memory = GraphMemory::make(kSource, plan);
  const auto blocks = follow(*memory, others);
  for (std::size_t i = 0; i < others.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      const auto* a = static_cast<std::byte*>(blocks[i]);
      const auto* b = static_cast<std::byte*>(blocks[j]);
      if (together(others[i], others[j])) REQUIRE((a + others[i].bytes <= b || b + others[j].bytes <= a));
    }
  give_back_the_rest(others, blocks);
}
