// tests/tensor/storage_test.cpp -- the caching pool: reuse, peak, borrowed memory, running out
#include "tensor/storage.h"

#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/tensor.h"
#include "tests/doctest.h"

using namespace avid;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPoolCaches = false;  // a use after free must stay visible there
#else
constexpr bool kPoolCaches = true;
#endif

TEST_CASE("storage/pool/blocks_are_aligned_reused_and_counted") {
  trim_host_pool();
  const PoolStats start = host_pool_stats();
  CHECK(start.cached_bytes == 0);
  const void* first = nullptr;
  {
    const auto block = Storage::allocate(100000, {});
    first = block->data();
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
    CHECK(block->num_bytes() == 100000);
    const std::size_t used = host_pool_stats().in_use_bytes - start.in_use_bytes;
    CHECK(used >= 100000);
    CHECK(used <= 112500);  // size classes waste at most an eighth
  }
  CHECK(host_pool_stats().in_use_bytes == start.in_use_bytes);
  if (kPoolCaches) {
    CHECK(host_pool_stats().cached_bytes >= 100000);
    const auto again = Storage::allocate(100000, {});
    CHECK(again->data() == first);
    CHECK(host_pool_stats().cached_bytes == 0);
    const auto other = Storage::allocate(100000, {});
    CHECK(other->data() != first);
  }
  trim_host_pool();
  CHECK(host_pool_stats().cached_bytes == 0);
}

TEST_CASE("storage/pool/every_size_fits_its_class") {
  for (std::size_t n = 0; n < 3000; n += 7) {
    const auto block = Storage::allocate(n, {});
    for (std::size_t i = 0; i < n; ++i)
      block->data()[i] = std::byte{0xab};  // under ASan: past the block would be caught
    CHECK(block->num_bytes() == n);
  }
  trim_host_pool();
}

TEST_CASE("storage/pool/peak_is_the_largest_sum_since_the_reset") {
  const std::size_t base = host_pool_stats().in_use_bytes;
  reset_host_pool_peak();
  CHECK(host_pool_stats().peak_in_use_bytes == base);
  { const auto a = Storage::allocate(1 << 20, {}), b = Storage::allocate(1 << 20, {}); }
  const auto c = Storage::allocate(1 << 20, {});
  CHECK(host_pool_stats().peak_in_use_bytes == base + (2u << 20));
  reset_host_pool_peak();
  CHECK(host_pool_stats().peak_in_use_bytes == base + (1u << 20));
}

TEST_CASE("storage/borrow/is_read_only_and_keeps_its_owner") {
  auto owner = std::make_shared<std::vector<float>>(4, 2.5f);
  const std::weak_ptr<std::vector<float>> watch = owner;
  const std::size_t in_use = host_pool_stats().in_use_bytes;
  {
    const float* data = owner->data();
    Tensor t = Tensor::from_storage(Storage::borrow(data, 16, std::move(owner)), 0, {4}, DType::f32, 4);
    CHECK(!watch.expired());
    CHECK(host_pool_stats().in_use_bytes == in_use);
    CHECK(t.to_doubles() == std::vector<double>(4, 2.5));
    CHECK_THROWS_AS(t.data<float>(), Error);
    CHECK_THROWS_AS(t.fill(1), Error);
    CHECK(std::as_const(t).data<float>() == data);
    Tensor copy = t.clone();
    copy.fill(1);
    CHECK(t.to_doubles() == std::vector<double>(4, 2.5));
  }
  CHECK(watch.expired());
}

TEST_CASE("storage/error/out_of_memory_says_how_much") {
  if (!kPoolCaches) return;  // the sanitizer itself stops at absurd sizes
  const std::size_t before = host_pool_stats().in_use_bytes;
  CHECK_THROWS_WITH_AS(
      Storage::allocate(std::size_t{1} << 50, {}), doctest::Contains("1073741824.0 MiB"), OutOfMemoryError);
  CHECK(host_pool_stats().in_use_bytes == before);
}

TEST_CASE("storage/error/other_devices_are_not_in_this_build") {
  CHECK_THROWS_AS(Storage::allocate(16, {DeviceKind::cuda, 99}), DeviceError);
  CHECK(Device::parse("cpu") == Device{});
  CHECK_THROWS_AS(Device::parse("cuda:99"), DeviceError);
  CHECK_THROWS_AS(Device::parse("tpu"), DeviceError);
  CHECK((Device{DeviceKind::cuda, 1}).to_string() == "cuda:1");
}
