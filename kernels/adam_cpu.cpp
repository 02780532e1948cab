// kernels/adam_cpu.cpp -- the optimiser's passes over buffers
//
// Math       g = grad_scale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//            param = param (1 - lr weight_decay) - lr / correction1 * m / (sqrt(v / correction2) + eps)
// Traffic    Adam reads 4 and writes 3 numbers per element, the average reads 2 and writes 1, the sum reads 1: memory
//            bound
// Numerics   element-wise in Elem, the step's constants rounded once; the sum of squares: f64 from the first product
//            on. The average moves in f64 with one rounding per step: over a run it takes thousands of small ones
#include "kernels/adam.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kChunk = 16384;  // elements per work item

template <class F>
void for_chunks(std::int64_t n, F&& f) {
  parallel_for((n + kChunk - 1) / kChunk, [&](std::int64_t chunk, int) {
    f(chunk, chunk * kChunk, std::min((chunk + 1) * kChunk, n));
  });
}

}  // namespace

template <class Elem>
void adam_step(const AdamStep& step, Elem* param, const Elem* grad, Elem* m, Elem* v, std::int64_t n) {
  const Elem beta1 = static_cast<Elem>(step.beta1), rest1 = static_cast<Elem>(1 - step.beta1);
  const Elem beta2 = static_cast<Elem>(step.beta2), rest2 = static_cast<Elem>(1 - step.beta2);
  const Elem size = static_cast<Elem>(step.lr / step.correction1),
             root = static_cast<Elem>(1 / std::sqrt(step.correction2));
  const Elem eps = static_cast<Elem>(step.eps), keep = static_cast<Elem>(1 - step.lr * step.weight_decay);
  const Elem factor = static_cast<Elem>(step.grad_scale);
  for_chunks(n, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto update = [&](std::int64_t i, Elem g) {
      m[i] = beta1 * m[i] + rest1 * g;
      v[i] = beta2 * v[i] + rest2 * g * g;
      param[i] = keep * param[i] - size * m[i] / (std::sqrt(v[i]) * root + eps);
    };
    if (grad == nullptr) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) update(i, Elem{0});
    } else {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) update(i, factor * grad[i]);
    }
  });
}

template <class Elem>
void lerp_towards(Elem* shadow, const Elem* online, double share, std::int64_t n) {
  for_chunks(n, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i)
      shadow[i] = static_cast<Elem>(shadow[i] + share * (static_cast<double>(online[i]) - shadow[i]));
  });
}

template <class Elem>
double sum_of_squares(const Elem* x, std::int64_t n) {
  std::vector<double> partial(static_cast<std::size_t>((n + kChunk - 1) / kChunk));
  for_chunks(n, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    partial[static_cast<std::size_t>(chunk)] = sum;
  });
  double total = 0;
  for (double sum : partial) total += sum;
  return total;
}

#define AVID_INSTANTIATE(Elem)                                                                    \
  template void adam_step<Elem>(const AdamStep&, Elem*, const Elem*, Elem*, Elem*, std::int64_t); \
  template void lerp_towards<Elem>(Elem*, const Elem*, double, std::int64_t);                     \
  template double sum_of_squares<Elem>(const Elem*, std::int64_t);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
