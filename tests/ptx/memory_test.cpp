// tests/ptx/memory_test.cpp -- blocks of the machine's memory: where they lie, what is known of them
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/ptx/runtime/device_memory.h"
#include "kernels/ptx/runtime/settings.h"
#include "tests/doctest.h"
#include "tests/in_child.h"

namespace {

using namespace avid::kernels::ptx;

std::byte* take(MemoryKind kind, std::size_t bytes) {
  auto* block = static_cast<std::byte*>(take_memory(kind, bytes));
  REQUIRE(block != nullptr);
  return block;
}

}  // namespace

TEST_CASE("memory/blocks/exact to the byte, aligned to 256 and to no more") {
  int more_aligned = 0;
  for (const std::size_t bytes : {1u, 255u, 256u, 257u, 4096u, 10'000u}) {
    CAPTURE(bytes);
    std::byte* block = take(MemoryKind::device, bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(block) % 256 == 0);
    more_aligned += reinterpret_cast<std::uintptr_t>(block) % 4096 == 0;
    CHECK(in_device_memory(block, bytes));
    CHECK(in_device_memory(block + bytes - 1, 1));
    CHECK(!in_device_memory(block, bytes + 1));
    CHECK(!in_device_memory(block + bytes, 1));
    CHECK(!in_device_memory(block - 1, 1));
    CHECK(!in_device_memory(block - 1, 2));
    CHECK(!in_device_memory(block + 1, ~std::size_t{0}));
    CHECK(give_memory_back(MemoryKind::device, block));
    CHECK(!in_device_memory(block, 1));
    CHECK(was_memory(block));
  }
  CHECK(more_aligned == 1);  // the one of 4096
}

TEST_CASE("memory/blocks/no address comes twice") {
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 20; ++i) {
    blocks.push_back(take(MemoryKind::device, 5000));
    if (i % 2 == 0) give_memory_back(MemoryKind::device, blocks.back());
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    CHECK(in_device_memory(blocks[i], 5000) == (i % 2 == 1));
    for (std::size_t j = 0; j < i; ++j) CHECK(blocks[i] >= blocks[j] + 5000);
  }
  for (std::size_t i = 1; i < blocks.size(); i += 2) CHECK(give_memory_back(MemoryKind::device, blocks[i]));
}

TEST_CASE("memory/blocks/are given back as what they are, and once") {
  std::byte *device = take(MemoryKind::pool, 64), *host = take(MemoryKind::pinned, 64);
  CHECK(!give_memory_back(MemoryKind::device, device));
  CHECK(!give_memory_back(MemoryKind::pool, host));
  CHECK(!give_memory_back(MemoryKind::pool, device + 1));
  CHECK(give_memory_back(MemoryKind::pool, device));
  CHECK(!give_memory_back(MemoryKind::pool, device));
  CHECK(give_memory_back(MemoryKind::pinned, host));
}

TEST_CASE("memory/host/registered memory is visible as far as it was registered") {
  static std::byte host[300];
  CHECK(!in_device_memory(host, 1));
  CHECK(register_memory(host + 100, 100));
  CHECK(in_device_memory(host + 100, 100));
  CHECK(!in_device_memory(host + 99, 2));
  CHECK(!in_device_memory(host + 199, 2));
  CHECK(!register_memory(host, 101));
  CHECK(!register_memory(host + 199, 10));
  CHECK(!register_memory(host, 300));
  CHECK(register_memory(host, 100));
  CHECK(!was_memory(host));
  CHECK(give_memory_back(MemoryKind::registered, host));
  CHECK(give_memory_back(MemoryKind::registered, host + 100));
}

TEST_CASE("memory/threads/one that found a block knows when it went") {
  std::byte* block = take(MemoryKind::device, 64);
  CHECK(in_device_memory(block, 64));  // remembered by this thread
  std::thread([&] { give_memory_back(MemoryKind::device, block); }).join();
  CHECK(!in_device_memory(block, 64));
}

TEST_CASE("memory/access/device memory is open to the host only when it was opened, pinned memory always") {
  std::byte *device = take(MemoryKind::device, 64), *host = take(MemoryKind::pinned, 64);
  const auto touch = [](std::byte* p) {
    return avid::test::in_child([&] { return static_cast<int>(*static_cast<volatile std::byte*>(p)); });
  };
  CHECK(touch(device).signal == SIGSEGV);
  open_device_memory();
  CHECK(device[0] == std::byte{0xff});
  std::byte* later = take(MemoryKind::device, 64);  // taken while open
  later[63] = std::byte{1};
  device[63] = std::byte{2};
  close_device_memory();
  host[0] = std::byte{3};
  CHECK(touch(device).signal == SIGSEGV);
  CHECK(touch(later).signal == SIGSEGV);
  CHECK(touch(host).result == 3);
  open_device_memory();
  CHECK(device[63] == std::byte{2});
  CHECK(later[63] == std::byte{1});
  close_device_memory();
}

TEST_CASE("memory/size/what the settings say, less what is in use") {
  const std::size_t host = device_bytes(), used = device_bytes_in_use();
  CHECK(host > std::size_t{1} << 28);
  settings().memory_bytes = used + 1000;
  CHECK(device_bytes() == used + 1000);
  void* most = take_memory(MemoryKind::device, 1000);
  CHECK(most != nullptr);
  CHECK(device_bytes_in_use() == used + 1000);
  CHECK(take_memory(MemoryKind::device, 1) == nullptr);
  CHECK(give_memory_back(MemoryKind::device, most));
  CHECK(take_memory(MemoryKind::device, 1001) == nullptr);
  settings().memory_bytes = host;
}

TEST_CASE("memory/settings/are read from the environment, and what is none of their values is refused") {
  struct Case {
    const char *name, *value;
    bool valid;
    const char* expected;
  };
  for (const Case& c :
       {Case{"AVID_PTX_ARCH", "90", true, ""}, Case{"AVID_PTX_ARCH", "", true, ""},
        Case{"AVID_PTX_ARCH", "86", false, "expected 80 or 90, got '86'"}, Case{"AVID_PTX_ORDER", "late", true, ""},
        Case{"AVID_PTX_ORDER", "reverse", false, "expected early or late"},
        Case{"AVID_PTX_MEMORY_MIB", "512", true, ""}, Case{"AVID_PTX_MEMORY_MIB", "0", false, "whole number of MiB"},
        Case{"AVID_PTX_MEMORY_MIB", "1e3", false, "got '1e3'"},
        Case{"AVID_PTX_MEMORY_MIB", "-1", false, "whole number"}}) {
    CAPTURE(c.name);
    CAPTURE(c.value);
    const avid::test::Outcome outcome = avid::test::in_child([&] {
      setenv(c.name, c.value, 1);
      const Settings s = settings_from_environment();
      return s.arch + (s.late ? 1000 : 0) + (s.memory_bytes == std::size_t{512} << 20 ? 2000 : 0) +
             (s.valid ? 10000 : 0);
    });
    const std::string value = c.value;
    const int wanted =
        (value == "90" ? 90 : 80) + (value == "late" ? 1000 : 0) + (value == "512" ? 2000 : 0) + (c.valid ? 10000 : 0);
    CHECK(outcome.result == wanted);
    CHECK((c.valid ? outcome.text == "" : outcome.text.find(c.expected) != std::string::npos));
  }
}
