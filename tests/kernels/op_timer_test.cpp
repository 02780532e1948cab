// tests/kernels/op_timer_test.cpp -- sums and events of ops: nesting, FLOPs, bytes, modules
#include "kernels/op_timer.h"

#include <thread>
#include <vector>

#include "kernels/op_watch.h"
#include "tests/doctest.h"

using namespace avid::kernels;

namespace {

void work(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
  }
}

}  // namespace

TEST_CASE("op_timer/sums/time inside another op belongs to the inner one") {
  set_op_timing(Collect::sums);
  {
    const OpTimer outer("outer", "_bwd");
    work(0.002);
    for (int i = 0; i < 3; ++i) {
      const OpTimer inner("inner");
      work(0.004);
    }
  }
  const auto times = op_times();
  set_op_timing(Collect::nothing);
  REQUIRE(times.size() == 2);
  CHECK(times.at("inner").calls == 3);
  CHECK(times.at("outer_bwd").calls == 1);
  CHECK(times.at("inner").seconds >= 0.012);
  CHECK(times.at("outer_bwd").seconds >= 0.002);
  CHECK(op_events().empty());
}

TEST_CASE("op_timer/costs/flops as said, every place once, pointwise ops by their largest operand") {
  set_op_timing(Collect::sums);
  float a[8], b[4];
  {
    const OpTimer op("product");
    note_flops(100);
    note_flops(20);
    note_operand(a, sizeof(a), 8);
    note_operand(b, sizeof(b), 4);
    note_operand(a, sizeof(a), 8);
    note_operand(nullptr, 77, 7);
  }
  for (const char* suffix : {"", "_bwd"}) {
    const OpTimer op("mask_mix", suffix);  // 3 and 5 per element
    note_operand(b, sizeof(b), 4);
    note_operand(a, sizeof(a), 8);
  }
  {
    const OpTimer op("reshape");
    note_operand(a, sizeof(a), 8);
  }
  note_flops(1e9);  // outside of all
  note_operand(b, sizeof(b), 4);
  const auto times = op_times();
  set_op_timing(Collect::nothing);
  CHECK(times.at("product").flops == 120);
  CHECK(times.at("product").bytes == 48);
  CHECK(times.at("mask_mix").flops == 24);
  CHECK(times.at("mask_mix_bwd").flops == 40);
  CHECK(times.at("mask_mix_bwd").bytes == 48);
  CHECK(times.at("reshape").flops == 0);
  CHECK(times.at("reshape").bytes == 32);
}

TEST_CASE("op_timer/events/modules nest by name, ops know theirs") {
  set_op_timing(Collect::events);
  const std::string* inner_name = nullptr;
  {
    const ModuleRange outer("adapter");
    const ModuleRange inner("downs.0");
    inner_name = &current_module();
    const OpTimer op("conv3d");
    CHECK(std::string(current_op()) == "conv3d");
  }
  CHECK(current_module() == "");
  CHECK(current_op() == nullptr);
  {
    const ModuleRange again(ModuleRange::Again{*inner_name});
    const OpTimer op("conv3d", "_bwd");
  }
  CHECK(current_module() == "");
  std::thread([] { const OpTimer op("elsewhere"); }).join();
  const auto events = op_events();
  set_op_timing(Collect::nothing);
  REQUIRE(events.size() == 6);
  const char* names[] = {"conv3d", "adapter.downs.0", "adapter", "conv3d_bwd", "adapter.downs.0", "elsewhere"};
  for (std::size_t i = 0; i < 6; ++i) {
    CAPTURE(i);
    CHECK(events[i].name == names[i]);
    CHECK(events[i].is_module == (i == 1 || i == 2 || i == 4));
    CHECK(events[i].seconds >= 0);
  }
  CHECK(events[0].module == "adapter.downs.0");
  CHECK(events[3].module == "adapter.downs.0");
  CHECK(events[5].module == "");
  CHECK(events[5].thread != events[0].thread);
  // What is inside begins no earlier and ends no later.
  CHECK(events[1].start >= events[2].start);
  CHECK(events[0].start >= events[1].start);
  CHECK(events[0].start + events[0].seconds <= events[2].start + events[2].seconds);
}

TEST_CASE("op_timer/off/nothing is collected") {
  set_op_timing(Collect::events);
  set_op_timing(Collect::nothing);
  {
    const ModuleRange range("m");
    const OpTimer op("conv3d");
    note_flops(1);
  }
  CHECK(op_times().empty());
  CHECK(op_events().empty());
}

TEST_CASE("op_timer/wait/called before every look at the clock") {
  int waits = 0;
  set_op_timing(Collect::sums, [&] { ++waits; });
  { const OpTimer op("conv3d"); }
  CHECK(waits == 2);
  set_op_timing(Collect::nothing);
  { const OpTimer op("conv3d"); }
  CHECK(waits == 2);
}

TEST_CASE("op_timer/watch/every call by the given clock, without what runs inside it") {
  struct Counting : OpClock {
    int begun = 0, ended = 0;
    void begin() override { ++begun; }
    double end() override { return 0.5 * ++ended; }  // the n-th piece takes n/2 seconds
  } clock;
  std::vector<WatchedCall> calls;
  float a[8], b[4];
  const auto run = [&] {
    const ModuleRange module("base");
    const OpTimer outer("outer", "_bwd");  // pieces 1, 3, 5
    {
      const OpTimer sum("add_in_place");  // 2
      note_operand(a, sizeof(a), 8);
      note_operand(b, sizeof(b), 4);
      note_more_bytes(sizeof(a));
    }
    note_sizes({{"outermost", 1}});
    {
      const OpTimer product("product");  // 4
      note_flops(7);
      note_sizes({{"channels", 100}, {"heads", 7}});
      note_sizes({{"heads", 8}});
    }
    const OpTimer norm("layer_norm", "_bwd");  // 6, and the outer one again: 7
    note_operand(b, sizeof(b), 4);
  };
  set_op_watch(&clock, [&](const WatchedCall& call) { calls.push_back(call); });
  run();
  CHECK(clock.begun == 0);  // nothing is collected
  set_op_timing(Collect::sums);
  run();
  const auto times = op_times();
  std::thread([] { const OpTimer elsewhere("elsewhere"); }).join();
  set_op_watch(nullptr);
  run();
  set_op_timing(Collect::nothing);
  CHECK(clock.begun == 7);
  CHECK(clock.ended == 7);
  REQUIRE(calls.size() == 4);
  CHECK(calls[0].op == "add_in_place");
  CHECK(calls[0].module == "base");
  CHECK(calls[0].seconds == 1.0);
  CHECK(calls[0].bytes == 80);
  CHECK(calls[0].elements == 8);
  CHECK(calls[0].flops == 0);
  CHECK(calls[0].sizes.empty());
  CHECK_FALSE(calls[0].holds_ops);
  CHECK(calls[1].op == "product");
  CHECK(calls[1].seconds == 2.0);
  CHECK(calls[1].flops == 7);
  CHECK(calls[1].sizes == std::map<std::string, std::int64_t>{{"channels", 100}, {"heads", 8}});
  CHECK(calls[2].op == "layer_norm_bwd");
  CHECK(calls[2].seconds == 3.0);
  CHECK(calls[2].bytes == 16);
  CHECK(calls[3].op == "outer_bwd");
  CHECK(calls[3].seconds == 0.5 + 1.5 + 2.5 + 3.5);
  CHECK(calls[3].holds_ops);
  CHECK(calls[3].sizes == std::map<std::string, std::int64_t>{{"outermost", 1}});
  CHECK(times.at("add_in_place").bytes == 80);
}
