// kernels/accumulate_cpu.cpp -- into += from
#include "kernels/accumulate.h"

namespace avid::kernels {
namespace {

template <class Elem>
void accumulate_loop(Elem* __restrict__ into, const Elem* __restrict__ from, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n > 32768)
  for (std::int64_t i = 0; i < n; ++i) into[i] += from[i];
}

}  // namespace

void accumulate(float* into, const float* from, std::int64_t n) { accumulate_loop(into, from, n); }
void accumulate(double* into, const double* from, std::int64_t n) { accumulate_loop(into, from, n); }

}  // namespace avid::kernels
