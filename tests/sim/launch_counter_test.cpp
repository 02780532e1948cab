// tests/sim/launch_counter_test.cpp -- what launches ask of a device, against counts by hand and against all blocks
#include "kernels/sim/launch_counter.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/conv_products.h"
#include "kernels/device/runtime.h"
#include "kernels/sim/engine.h"
#include "tests/sim/arch.h"
#include "tests/sim/launch_counter.h"
#include "tests/sim/orders.h"

using namespace avid;
using kernels::CopyKind;
using kernels::Sim;
using kernels::Stream;
using kernels::simulator::LaunchCounter;
using kernels::simulator::LaunchNotes;
using kernels::simulator::LaunchWork;
using kernels::simulator::NotedLaunch;

namespace {

/// Only kernels with race hooks tell of their accesses.
bool has_hooks() { return std::string(test::sim_suite()) == "sim_race"; }

/// Launches go to `notes` while the object lives.
class Noting {
 public:
  explicit Noting(LaunchNotes& notes) {
    kernels::simulator::options().detect_races = false;
    kernels::simulator::pretend_and_note(&notes);
  }
  ~Noting() {
    kernels::simulator::pretend_and_note(nullptr);
    kernels::simulator::options().detect_races = races_;
  }
  Noting(const Noting&) = delete;
  Noting& operator=(const Noting&) = delete;

 private:
  bool races_ = kernels::simulator::options().detect_races;
};

/// Device memory that looks like it: give it back before Noting ends.
template <class T>
class Memory {
 public:
  explicit Memory(std::size_t n)
      : bytes_(n * sizeof(T)), data_(static_cast<T*>(kernels::device_allocate<Sim>({}, bytes_))) {
    REQUIRE(data_ != nullptr);
  }
  ~Memory() { kernels::device_free<Sim>({}, data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  T* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  T* data_;
};

/// Runs every block of every launch and adds up what they do.
class AllBlocks final : public LaunchNotes {
 public:
  void launched(const kernels::simulator::Launch& launch) override {
    auto& engine = kernels::simulator::own_engine();
    engine.begin_launch(launch);
    const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    for (std::uint64_t b = 0; b < blocks; ++b) {
      kernels::simulator::BlockWork work;
      engine.run_block(b, &work);
      mma += static_cast<double>(work.mma);
      passes += static_cast<double>(work.passes);
      for (const auto& [begin, sectors] : work.memory) {
        read += 32.0 * static_cast<double>(sectors.read);
        written += 32.0 * static_cast<double>(sectors.written);
      }
    }
    num_blocks += blocks;
  }
  void copied(std::size_t) override {}
  void filled(std::size_t) override {}

  double mma = 0, passes = 0, read = 0, written = 0;
  std::uint64_t num_blocks = 0;
};

/// 3x3 over [B,1,H,W,C], padded by one, to O channels.
kernels::Conv3dSize conv_size(std::int64_t B, std::int64_t H, std::int64_t W, std::int64_t C, std::int64_t O) {
  kernels::Conv3dSize s{.B = B, .in = {1, H, W}, .out = {1, H, W}, .I = C, .O = O, .kernel = {1, 3, 3}};
  s.padding = {0, 1, 1};
  return s;
}

std::int64_t pitch(std::int64_t channels) { return (channels + 7) / 8 * 8; }
std::int64_t up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

void run_conv(const kernels::Conv3dSize& s) {
  const auto rows = [](const Memory<bf16>& m, std::int64_t channels) {
    return kernels::Rows<bf16>{m.data(), pitch(channels)};
  };
  const auto positions = static_cast<std::size_t>(s.out_positions());
  const Memory<bf16> x(positions * static_cast<std::size_t>(pitch(s.I))),
      w(static_cast<std::size_t>(s.O * 9 * pitch(s.I))), out(positions * static_cast<std::size_t>(pitch(s.O)));
  const auto workspace_bytes = static_cast<std::size_t>(kernels::conv3d_fwd_workspace_bytes<bf16>(s));
  const Memory<float> workspace(workspace_bytes / 4 + 1);
  const kernels::Rows<bf16> x_rows = rows(x, s.I), w_rows = rows(w, s.I), out_rows = rows(out, s.O);
  kernels::conv3d_fwd<Sim, bf16>(
      Stream{}, s, {x_rows.data, x_rows.pitch}, {}, {w_rows.data, w_rows.pitch}, nullptr, out_rows, workspace.data());
}

}  // namespace

TEST_CASE("launch_counter/copies/memory is moved once, tables are read by every block") {
  if (!has_hooks()) return;
  constexpr std::int64_t kBlocks = 3000, kFloats = kBlocks * 128;
  LaunchCounter counter;
  counter.begin();
  {
    const Noting noting(counter);
    const Memory<float> in(kFloats), table(64), out(kFloats);
    test::run_add_table(in.data(), table.data(), out.data(), kFloats);
  }
  REQUIRE(counter.launches().size() == 1);
  const NotedLaunch& launch = counter.launches()[0];
  CHECK(launch.kernel == "add_table_kernel");
  CHECK(launch.grid.x == kBlocks);
  CHECK(launch.work.sampled_blocks == 32);
  CHECK(launch.work.memory_read == 4.0 * kFloats + 64 * 4);
  CHECK(launch.work.memory_written == 4.0 * kFloats);
  // Four warps, of which two find the table in the first level.
  CHECK(launch.work.cache_read == 4.0 * kFloats + kBlocks * 64 * 4);
  CHECK(launch.work.loads == kBlocks * 4 * 2);
  CHECK(launch.work.mma == 0);
  CHECK(launch.work.passes == 0);
}

TEST_CASE("launch_counter/copies/pieces of a workspace are tensors of their own") {
  if (!has_hooks()) return;
  constexpr std::int64_t kBlocks = 3000, kFloats = kBlocks * 128;
  LaunchCounter counter;
  counter.begin();
  {
    const Noting noting(counter);
    const Memory<float> all(2 * kFloats + 64);
    test::run_add_table(all.data() + 64, all.data(), all.data() + 64 + kFloats, kFloats);
  }
  REQUIRE(counter.launches().size() == 1);
  CHECK(counter.launches()[0].work.memory_read == 4.0 * kFloats + 64 * 4);
  CHECK(counter.launches()[0].work.memory_written == 4.0 * kFloats);
}

TEST_CASE("launch_counter/products/as many as were issued, of a warp and of a warpgroup") {
  if (!has_hooks()) return;
  LaunchCounter counter;
  counter.begin();
  {
    const Noting noting(counter);
    const Memory<float> out(1000 * 128);
    test::run_products(out.data(), 1000, 5);
    const test::OnArch hopper(90);
    test::run_warpgroup_products(out.data(), 100, 3);
  }
  REQUIRE(counter.launches().size() == 2);
  CHECK(counter.launches()[0].work.mma == 1000.0 * 2 * (5 * 16 * 8 * 16 + 16 * 8 * 8));
  CHECK(counter.launches()[0].work.mma_instructions == 1000.0 * 2 * 6);
  CHECK(counter.launches()[0].work.wgmma == 0);
  CHECK(counter.launches()[1].work.wgmma == 100.0 * 3 * 64 * 24 * 16);
  CHECK(counter.launches()[1].work.mma == 0);
}

TEST_CASE("launch_counter/tensors/every block has its own") {
  if (!has_hooks()) return;
  constexpr int kTensors = 500;
  LaunchCounter counter;
  {
    const Noting noting(counter);
    std::vector<std::unique_ptr<Memory<float>>> tensors;
    std::vector<float*> addresses;
    for (int i = 0; i < kTensors; ++i) {
      tensors.push_back(std::make_unique<Memory<float>>(32));
      addresses.push_back(tensors.back()->data());
    }
    const Memory<float*> table(kTensors);
    kernels::device_copy<Sim>({}, CopyKind::to_device, table.data(), 0, addresses.data(), 0, table.bytes(), 1);
    test::run_each_its_own(table.data(), kTensors);  // before begin(): dropped
    counter.begin();
    test::run_each_its_own(table.data(), kTensors);
    counter.end();
    test::run_each_its_own(table.data(), kTensors);
  }
  REQUIRE(counter.launches().size() == 1);
  const auto& work = counter.launches()[0].work;
  CHECK(work.memory_written == kTensors * 128.0);
  // A sector of the table for each block, but the whole table only once.
  CHECK(work.memory_read == kTensors * 128.0 + kTensors * 8.0);
}

TEST_CASE("launch_counter/conv/products are those of its padded tiles") {
  if (!has_hooks()) return;
  // Of 90 channels, 810 products for each result: gathered in whole steps of 32; where rows are read once, 49.5 pairs
  // of whole chunks and the words of the two channels left, which make 51 times 16.
  const auto check = [](std::int64_t H, std::int64_t W, const char* kernel, std::int64_t depth) {
    const kernels::Conv3dSize s = conv_size(1, H, W, 90, 90);
    LaunchCounter counter;
    counter.begin();
    {
      const Noting noting(counter);
      run_conv(s);
    }
    bool found = false;
    for (const NotedLaunch& launch : counter.launches()) {
      int rows = 0, columns = 0;
      const auto tile = launch.kernel.find("GemmTile<");
      if (tile == std::string::npos) continue;
      CAPTURE(launch.kernel);
      CHECK(launch.kernel.rfind(kernel, 0) == 0);
      REQUIRE(std::sscanf(launch.kernel.c_str() + tile, "GemmTile<%d, %d", &rows, &columns) == 2);
      CHECK(launch.work.mma == static_cast<double>(up(s.out_positions(), rows) * up(s.O, columns) * depth));
      // Results once; the last tile has fewer rows than the samples say.
      CHECK(
          launch.work.memory_written ==
          doctest::Approx(static_cast<double>(s.out_positions() * pitch(s.O) * 2)).epsilon(0.01));
      found = true;
    }
    CHECK(found);
  };
  check(37, 17, "gather_gemm_halo_kernel<", 816);
  check(5, 6, "gather_gemm_kernel<", 864);
}

TEST_CASE("launch_counter/conv/samples stand for all blocks") {
  if (!has_hooks()) return;
  const kernels::Conv3dSize s = conv_size(8, 64, 64, 16, 16);
  LaunchCounter counter;
  counter.begin();
  AllBlocks all;
  {
    const Noting noting(counter);
    run_conv(s);
  }
  {
    const Noting noting(all);
    run_conv(s);
  }
  double mma = 0, passes = 0, read = 0, written = 0;
  std::uint64_t sampled = 0;
  for (const NotedLaunch& launch : counter.launches()) {
    mma += launch.work.mma;
    passes += launch.work.passes;
    read += launch.work.cache_read;
    written += launch.work.cache_written;
    sampled += launch.work.sampled_blocks;
  }
  CHECK(sampled < all.num_blocks / 2);
  CHECK(mma == all.mma);
  CHECK(mma > 0);
  CHECK(passes == doctest::Approx(all.passes).epsilon(0.01));
  CHECK(read == doctest::Approx(all.read).epsilon(0.03));  // windows at the edges of images read less
  CHECK(written == doctest::Approx(all.written).epsilon(0.001));
}

TEST_CASE("launch_counter/repeated/the same work is counted once, other sizes again") {
  if (!has_hooks()) return;
  int sampled = 0;
  LaunchCounter counter([&](const std::string&) { ++sampled; });
  counter.begin();
  {
    const Noting noting(counter);
    const Memory<float> a(1280), b(1280), table(64), c(1280), longer(2560);
    test::run_add_table(a.data(), table.data(), b.data(), 1280);
    test::run_add_table(c.data(), table.data(), a.data(), 1280);  // other memory, equal sizes
    CHECK(sampled == 1);
    test::run_add_table(a.data(), table.data(), a.data(), 1280);  // in place
    CHECK(sampled == 2);
    test::run_add_table(longer.data(), table.data(), a.data(), 1280);
    CHECK(sampled == 3);
  }
  REQUIRE(counter.launches().size() == 4);
  CHECK(counter.launches()[0].work.memory_read == counter.launches()[1].work.memory_read);
}

TEST_CASE("launch_counter/addresses/the counts are the same wherever memory lies") {
  if (!has_hooks()) return;
  // 32.5 KiB a warp, read twice: half a KiB more than the first level holds. Which of its sets are too full for the
  // second time depends on what a sector is called there.
  constexpr int kBlocks = 40, kFloats = 4 * 65 * 128;
  constexpr double kOnce = 4.0 * kBlocks * kFloats;
  std::vector<LaunchWork> first;
  for (std::size_t i = 0; i < 12; ++i) {
    CAPTURE(i);
    LaunchCounter counter;
    counter.begin();
    const Noting noting(counter);
    std::vector<std::unique_ptr<Memory<float>>> between;  // other memory each time
    const auto move = [&] { between.push_back(std::make_unique<Memory<float>>(1000 + 5003 * i * (i + 1))); };
    move();
    const Memory<float> in(std::size_t{kBlocks} * kFloats);
    move();
    const Memory<float> out(kBlocks);
    test::run_sum_rounds({.in = in.data(), .out = out.data(), .rounds = 2, .floats = kFloats}, kBlocks);
    run_conv(conv_size(2, 16, 16, 20, 24));
    std::vector<LaunchWork> works;
    for (const NotedLaunch& launch : counter.launches()) works.push_back(launch.work);
    REQUIRE(works.size() >= 2);
    CHECK(works[0].memory_read == kOnce);
    CHECK(works[0].cache_read > kOnce);
    CHECK(works[0].cache_read < 2 * kOnce);
    if (i == 0) first = works;
    CHECK(works == first);
  }
}

TEST_CASE("launch_counter/arguments/what older calls left between them is no address") {
  if (!has_hooks()) return;
  constexpr int kBlocks = 1000, kFloats = 128;
  int sampled = 0;
  LaunchCounter counter([&](const std::string&) { ++sampled; });
  counter.begin();
  {
    const Noting noting(counter);
    const Memory<float> in(std::size_t{kBlocks} * kFloats), out(kBlocks);
    for (const std::size_t eighth : {1u, 3u, 4u, 5u, 7u}) {  // a piece that begins there would part the tensor
      const float* stale = in.data() + eighth * kBlocks * kFloats / 8;
      test::SumRounds args;
      auto* words = reinterpret_cast<std::byte*>(&args);
      for (std::size_t at = 0; at < sizeof args; at += sizeof stale) std::memcpy(words + at, &stale, sizeof stale);
      args.in = in.data();
      args.out = out.data();
      args.rounds = 1;
      args.floats = kFloats;
      test::run_sum_rounds(args, kBlocks);
    }
  }
  CHECK(sampled == 1);
  for (const NotedLaunch& launch : counter.launches()) CHECK(launch.work.memory_read == 4.0 * kBlocks * kFloats);
}

TEST_CASE("launch_counter/memory/zeros that take no memory, small copies are made, large ones noted") {
  LaunchCounter counter;
  const Noting noting(counter);
  const Memory<float> huge(std::size_t{1} << 36);  // 256 GiB
  CHECK(huge.data()[std::size_t{1} << 35] == 0);
  const Memory<float> small(4), other(4);
  const float values[4] = {1, 2, 3, 4};
  float back[4] = {9, 9, 9, 9};
  kernels::device_copy<Sim>({}, CopyKind::to_device, small.data(), 0, values, 0, 16, 1);
  counter.begin();
  kernels::device_copy<Sim>({}, CopyKind::on_device, other.data(), 0, small.data(), 0, 16, 1);
  CHECK(other.data()[3] == 4);
  kernels::device_zero<Sim>({}, huge.data(), 1024, 100, 1000);
  kernels::device_copy<Sim>({}, CopyKind::to_host, back, 0, small.data(), 0, 16, 1);
  CHECK(back[0] == 0);  // nothing is computed, so nothing is read
  REQUIRE(counter.launches().size() == 2);
  CHECK(counter.launches()[0].kernel == "copy");
  CHECK(counter.launches()[0].work.memory_read == 16);
  CHECK(counter.launches()[1].kernel == "fill");
  CHECK(counter.launches()[1].work.memory_written == 100000);
  const auto block = kernels::simulator::block_at(huge.data() + 5);
  REQUIRE(block);
  CHECK(block->bytes == huge.bytes());
  CHECK_FALSE(kernels::simulator::block_at(values));
}
