// tests/kernels/dispatch_stats_test.cpp -- slow paths are counted by name, from many threads
#include "kernels/dispatch_stats.h"

#include <thread>
#include <vector>

#include "tests/doctest.h"

using namespace avid::kernels;

TEST_CASE("dispatch_stats/counts/by_op_and_reason") {
  reset_slow_path_counts();
  CHECK(slow_path_counts().empty());
  note_slow_path("conv3d", "time taps");
  note_slow_path("conv3d", "time taps");
  note_slow_path("linear", "odd pitch");
  CHECK(slow_path_count("conv3d", "time taps") == 2);
  CHECK(slow_path_count("linear", "odd pitch") == 1);
  CHECK(slow_path_count("linear", "never seen") == 0);
  CHECK(slow_path_counts().size() == 2);
  reset_slow_path_counts();
  CHECK(slow_path_count("conv3d", "time taps") == 0);
}

TEST_CASE("dispatch_stats/counts/from_many_threads") {
  reset_slow_path_counts();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int k = 0; k < 1000; ++k) note_slow_path("op", "why");
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(slow_path_count("op", "why") == 4000);
  reset_slow_path_counts();
}
