// kernels/layer_norm_cpu.cpp -- LayerNorm over the last dimension
//
// Math       xh = (x - mean) * rstd, rstd = 1 / sqrt(var + eps), var biased and two-pass;  out = xh * gamma + beta
//            q = d_out * gamma;  d_x = rstd * (q - mean(q) - xh * mean(q * xh));  d_gamma = sum d_out * xh;
//            d_beta = sum d_out
// Traffic    forward 2C, backward 3C elements per row; statistics computed again in the backward pass
// Numerics   column sums in f64 per chunk of 256 rows, chunks in order: same bits for any thread count
// Limits     the U-Net's pre-norms live inside the attention blocks; this one sees small heads, so it is not tuned
#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kChunkRows = 256;

template <class Elem>
struct Moments {
  Elem mean, rstd;
};

template <class Elem>
Moments<Elem> moments(const Elem* x, std::int64_t C, double eps) {
  Elem sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < C; ++c) sum += x[c];
  const Elem mean = sum / static_cast<Elem>(C);
#pragma omp simd reduction(+ : squares)
  for (std::int64_t c = 0; c < C; ++c) squares += (x[c] - mean) * (x[c] - mean);
  return {mean, 1 / std::sqrt(squares / static_cast<Elem>(C) + static_cast<Elem>(eps))};
}

}  // namespace

template <class Elem>
void layer_norm_fwd(const LayerNormArgs<Elem>& p) {
  parallel_for((p.num_rows + kChunkRows - 1) / kChunkRows, [&](std::int64_t chunk, int) {
    const std::int64_t end = std::min((chunk + 1) * kChunkRows, p.num_rows);
    for (std::int64_t r = chunk * kChunkRows; r < end; ++r) {
      const Elem* x = p.x.row(r);
      Elem* out = p.out.row(r);
      const auto [mean, rstd] = moments(x, p.C, p.eps);
      for (std::int64_t c = 0; c < p.C; ++c)
        out[c] = (x[c] - mean) * rstd * p.gamma[c] + (p.beta != nullptr ? p.beta[c] : Elem{0});
    }
  });
}

template <class Elem>
void layer_norm_bwd(const LayerNormArgs<Elem>& p, const LayerNormGrads<Elem>& g) {
  const std::int64_t num_chunks = (p.num_rows + kChunkRows - 1) / kChunkRows;
  const auto C = static_cast<std::size_t>(p.C);
  std::vector<double> partial(static_cast<std::size_t>(num_chunks) * 2 * C);  // [chunk][gamma | beta][C]
  parallel_for(num_chunks, [&](std::int64_t chunk, int) {
    double* sum_gamma = partial.data() + static_cast<std::size_t>(chunk) * 2 * C;
    double* sum_beta = sum_gamma + C;
    const std::int64_t end = std::min((chunk + 1) * kChunkRows, p.num_rows);
    for (std::int64_t r = chunk * kChunkRows; r < end; ++r) {
      const Elem *x = p.x.row(r), *d_out = g.d_out.row(r);
      const Moments<Elem> m = moments(x, p.C, p.eps);
      Elem sum_q = 0, sum_q_xh = 0;
      for (std::int64_t c = 0; c < p.C; ++c) {
        const Elem xh = (x[c] - m.mean) * m.rstd, q = d_out[c] * p.gamma[c];
        sum_q += q;
        sum_q_xh += q * xh;
        sum_gamma[c] += static_cast<double>(d_out[c] * xh);
        sum_beta[c] += static_cast<double>(d_out[c]);
      }
      if (!g.d_x) continue;
      const Elem mean_q = sum_q / static_cast<Elem>(p.C), mean_q_xh = sum_q_xh / static_cast<Elem>(p.C);
      for (std::int64_t c = 0; c < p.C; ++c)
        g.d_x.row(r)[c] = m.rstd * (d_out[c] * p.gamma[c] - mean_q - (x[c] - m.mean) * m.rstd * mean_q_xh);
    }
  });
  for (std::size_t c = 0; c < C; ++c) {
    double sum_gamma = 0, sum_beta = 0;
    for (std::size_t chunk = 0; chunk < static_cast<std::size_t>(num_chunks); ++chunk) {
      sum_gamma += partial[chunk * 2 * C + c];
      sum_beta += partial[chunk * 2 * C + C + c];
    }
    if (g.d_gamma != nullptr) g.d_gamma[c] = static_cast<Elem>(sum_gamma);
    if (g.d_beta != nullptr) g.d_beta[c] = static_cast<Elem>(sum_beta);
  }
}

#define AVID_INSTANTIATE(Elem)                                    \
  template void layer_norm_fwd<Elem>(const LayerNormArgs<Elem>&); \
  template void layer_norm_bwd<Elem>(const LayerNormArgs<Elem>&, const LayerNormGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
