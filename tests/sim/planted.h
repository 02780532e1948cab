// tests/sim/planted.h -- kernels with one deliberate bug each
#pragma once

#include <vector>

namespace avid::test {

/// One bug and what must come of it in each build. An expectation is
///   an error's name     the simulator throws a SimError of that kind, in every order
///   "nan or ..."        NaN in the output, or that error, in at least one order
///   "asan TEXT"         the process dies with TEXT in a sanitizer's report
///   "signal"            the process dies
///   "unnoticed"         nothing: the build cannot see it (kept in the table so that it stays honest)
struct Planted {
  const char* name;
  void (*run)(float* in, float* out);  ///< in has 256 ones, out 64 zeros, both on their own, 16-byte aligned
  const char *plain, *asan, *race;
};
extern const std::vector<Planted> planted_bugs, planted_copies, planted_warpgroup_bugs, planted_tensor_copies;
/// Correct kernels that look like the planted ones: no build may complain.
extern const std::vector<Planted> innocent_kernels, innocent_copies, innocent_warpgroup_kernels, innocent_tensor_copies;

}  // namespace avid::test
