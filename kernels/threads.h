// kernels/threads.h -- the number of CPU threads, and a loop over independent items
#pragma once

#include <omp.h>

#include <cstdint>

namespace avid::kernels {

/// Threads that a parallel loop started here would use (OMP_NUM_THREADS, or all cores).
inline int num_threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

/// Threads for parallel loops started by this thread from now on.
inline void set_num_threads(int count) { omp_set_num_threads(count < 1 ? 1 : count); }

/// Calls f(item, thread) for item = 0 .. num_items - 1, each once, on up to num_threads() threads; 0 <= thread <
/// num_threads(). Items must be independent, and cut the same way for any number of threads where results shall not
/// depend on it. f must not throw.
template <class F>
void parallel_for(std::int64_t num_items, F&& f) {
  const int threads = num_threads();
  if (threads == 1 || num_items <= 1) {
    for (std::int64_t item = 0; item < num_items; ++item) f(item, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t item = 0; item < num_items; ++item) f(item, omp_get_thread_num());
}

}  // namespace avid::kernels
