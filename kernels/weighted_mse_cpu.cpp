// kernels/weighted_mse_cpu.cpp -- squared error with a weight per clip
//
// Math       loss = (1/B) sum_b weight[b] (1/n) sum_i (p - t)^2,  n = elements per clip;
//            d_p = d_loss weight[b] 2 (p - t) / (B n)
// Numerics   each row in Elem, rows in f64 per chunk of 1024 rows, chunks in order: same bits for any thread count
#include "kernels/weighted_mse.h"

#include <algorithm>
#include <vector>

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kChunkRows = 1024;

std::int64_t chunks_per_clip(const WeightedMseSizes& size) {
  return (size.rows_per_clip + kChunkRows - 1) / kChunkRows;
}

}  // namespace

template <class Elem>
double weighted_mse_fwd(
    const WeightedMseSizes& size, Rows<const Elem> prediction, Rows<const Elem> target, const double* weight) {
  const std::int64_t per_clip = chunks_per_clip(size);
  std::vector<double> partial(static_cast<std::size_t>(size.B * per_clip));
  parallel_for(size.B * per_clip, [&](std::int64_t chunk, int) {
    const std::int64_t b = chunk / per_clip, first = chunk % per_clip * kChunkRows;
    const std::int64_t end = std::min(first + kChunkRows, size.rows_per_clip);
    double sum = 0;
    for (std::int64_t r = b * size.rows_per_clip + first; r < b * size.rows_per_clip + end; ++r) {
      const Elem *p = prediction.row(r), *t = target.row(r);
      Elem row_sum = 0;
      for (std::int64_t c = 0; c < size.C; ++c) row_sum += (p[c] - t[c]) * (p[c] - t[c]);
      sum += static_cast<double>(row_sum);
    }
    partial[static_cast<std::size_t>(chunk)] = sum;
  });
  double loss = 0;
  for (std::int64_t b = 0; b < size.B; ++b) {
    double sum = 0;
    for (std::int64_t k = 0; k < per_clip; ++k) sum += partial[static_cast<std::size_t>(b * per_clip + k)];
    loss += weight[b] * (sum / static_cast<double>(size.rows_per_clip * size.C));
  }
  return loss / static_cast<double>(size.B);
}

template <class Elem>
void weighted_mse_bwd(
    const WeightedMseSizes& size, Rows<const Elem> prediction, Rows<const Elem> target, const double* weight,
    double d_loss, Rows<Elem> d_prediction) {
  const std::int64_t per_clip = chunks_per_clip(size);
  const double numel = static_cast<double>(size.B * size.rows_per_clip * size.C);
  parallel_for(size.B * per_clip, [&](std::int64_t chunk, int) {
    const std::int64_t b = chunk / per_clip, first = chunk % per_clip * kChunkRows;
    const std::int64_t end = std::min(first + kChunkRows, size.rows_per_clip);
    const Elem factor = static_cast<Elem>(d_loss * weight[b] * 2 / numel);
    for (std::int64_t r = b * size.rows_per_clip + first; r < b * size.rows_per_clip + end; ++r)
      for (std::int64_t c = 0; c < size.C; ++c)
        d_prediction.row(r)[c] = factor * (prediction.row(r)[c] - target.row(r)[c]);
  });
}

#define AVID_INSTANTIATE(Elem)                                                                                        \
  template double weighted_mse_fwd<Elem>(const WeightedMseSizes&, Rows<const Elem>, Rows<const Elem>, const double*); \
  template void weighted_mse_bwd<Elem>(                                                                               \
      const WeightedMseSizes&, Rows<const Elem>, Rows<const Elem>, const double*, double, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
