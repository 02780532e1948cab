// tests/gpu/shared_memory.cpp -- operator new over pinned memory
//
// Blocks of a size class (a power of two) are cut from chunks that stay to the end of the program, and go back into a
// list. Each begins with 256 bytes that say where it came from. What static objects take before main() comes from a
// chunk that is pinned later. The runtime may itself use operator new while it is being asked for a chunk: that comes
// from the ordinary heap.
#include "tests/gpu/shared_memory.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "kernels/device/backend.h"

namespace {

constexpr std::size_t kHead = 256, kChunk = std::size_t{64} << 20, kStack = std::size_t{64} << 20;
constexpr std::size_t kFromHeap = ~std::size_t{0};
constexpr int kClasses = 48;

struct Head {
  std::size_t size_class;
  void* next;
};

std::atomic<bool> begun{false};
thread_local bool in_runtime = false;
std::mutex mutex;
std::array<Head*, kClasses> free_blocks{};
std::byte *chunk = nullptr, *first_chunk = nullptr;
std::size_t chunk_left = 0;

void* pinned(std::size_t bytes) {
  in_runtime = true;
  void* memory = nullptr;
  const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
  in_runtime = false;
  return status == cudaSuccess ? memory : nullptr;
}

void* payload(Head* head, std::size_t size_class) {
  head->size_class = size_class;
  return reinterpret_cast<std::byte*>(head) + kHead;
}

void* take(std::size_t bytes) {
  const std::size_t whole = std::bit_ceil(bytes + kHead);
  const auto size_class = static_cast<std::size_t>(std::countr_zero(whole));
  if (size_class >= kClasses) return nullptr;
  if (in_runtime || (!begun && chunk_left < whole && first_chunk != nullptr)) {
    void* memory = std::aligned_alloc(kHead, (bytes + 2 * kHead - 1) / kHead * kHead);
    return memory == nullptr ? nullptr : payload(static_cast<Head*>(memory), kFromHeap);
  }
  const std::lock_guard lock(mutex);
  if (first_chunk == nullptr) {
    void* memory = mmap(nullptr, kChunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    chunk = first_chunk = static_cast<std::byte*>(memory);
    chunk_left = kChunk;
  }
  if (Head* head = free_blocks[size_class]; head != nullptr) {
    free_blocks[size_class] = static_cast<Head*>(head->next);
    return payload(head, size_class);
  }
  if (begun && whole > kChunk) {
    void* memory = pinned(whole);
    return memory == nullptr ? nullptr : payload(static_cast<Head*>(memory), size_class);
  }
  if (chunk_left < whole) {  // begun: otherwise there is room
    chunk = static_cast<std::byte*>(pinned(kChunk));
    chunk_left = chunk == nullptr ? 0 : kChunk;
    if (chunk == nullptr) return nullptr;
  }
  auto* head = reinterpret_cast<Head*>(chunk);
  chunk += whole, chunk_left -= whole;
  return payload(head, size_class);
}

void give_back(void* block) noexcept {
  if (block == nullptr) return;
  auto* head = reinterpret_cast<Head*>(static_cast<std::byte*>(block) - kHead);
  if (head->size_class == kFromHeap) return std::free(head);
  const std::lock_guard lock(mutex);
  head->next = free_blocks[head->size_class];
  free_blocks[head->size_class] = head;
}

void* take_or_throw(std::size_t bytes) {
  if (void* block = take(bytes)) return block;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t n) { return take_or_throw(n); }
void* operator new[](std::size_t n) { return take_or_throw(n); }
void* operator new(std::size_t n, std::align_val_t) { return take_or_throw(n); }
void* operator new[](std::size_t n, std::align_val_t) { return take_or_throw(n); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return take(n); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return take(n); }
void operator delete(void* p) noexcept { give_back(p); }
void operator delete[](void* p) noexcept { give_back(p); }
void operator delete(void* p, std::size_t) noexcept { give_back(p); }
void operator delete[](void* p, std::size_t) noexcept { give_back(p); }
void operator delete(void* p, std::align_val_t) noexcept { give_back(p); }
void operator delete[](void* p, std::align_val_t) noexcept { give_back(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { give_back(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { give_back(p); }

namespace avid::test {

void begin_shared_memory() {
  in_runtime = true;
  const cudaError_t status = cudaHostRegister(first_chunk, kChunk, cudaHostRegisterMapped | cudaHostRegisterPortable);
  in_runtime = false;
  if (status != cudaSuccess)
    throw kernels::GpuError(std::string("tests: pinned memory: ") + cudaGetErrorString(status));
  begun = true;
}

int run_on_shared_stack(const std::function<int()>& f) {
  struct Call {
    const std::function<int()>& f;
    int result = 1;
  } call{f};
  void* stack = pinned(kStack);
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  if (stack == nullptr || pthread_attr_setstack(&attributes, stack, kStack) != 0 ||
      pthread_create(
          &thread, &attributes,
          [](void* p) -> void* {
            auto* c = static_cast<Call*>(p);
            c->result = c->f();
            return nullptr;
          },
          &call) != 0)
    throw kernels::GpuError("tests: no thread with a pinned stack");
  pthread_join(thread, nullptr);
  return call.result;
}

}  // namespace avid::test
