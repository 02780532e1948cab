// kernels/mask_mix_cpu.cpp -- blend of a frozen prediction with its adapter's
//
// Math       m = sigmoid(w * logit + b);  out = m * base + (1 - m) * colour
//            d_m = sum_c d_out * (base - colour);  d_s = d_m * m * (1 - m)
//            d_logit = w * d_s;  d_w = sum d_s * logit;  d_b = sum d_s;  d_colour = (1 - m) * d_out;
//            d_base = m * d_out
// Layout     rows of pixels with a pitch each
// Traffic    forward 3C + 2 elements per pixel, backward 5C + 3; one pass each
// Numerics   d_w and d_b are summed in f64 per chunk of 4096 pixels, chunks in order: same bits for any thread count
#include "kernels/mask_mix.h"

#include <algorithm>
#include <vector>

#include "kernels/threads.h"
#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kChunk = 4096;  // pixels per work item
constexpr std::int64_t kLanes = 64;    // sigmoids at a time, so that they run as SIMD

}  // namespace

template <class Elem>
void mask_mix_fwd(const MaskMixArgs<Elem>& p) {
  parallel_for((p.P + kChunk - 1) / kChunk, [&](std::int64_t chunk, int) {
    const std::int64_t end = std::min((chunk + 1) * kChunk, p.P);
    for (std::int64_t first = chunk * kChunk; first < end; first += kLanes) {
      const std::int64_t count = std::min(kLanes, end - first);
      Elem m[kLanes];
      for (std::int64_t i = 0; i < count; ++i) m[i] = p.w * p.adapter.row(first + i)[p.C] + p.b;
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) m[i] = sigmoid_of(m[i]);
      for (std::int64_t i = 0; i < count; ++i) {
        const Elem *base = p.base.row(first + i), *colour = p.adapter.row(first + i);
        Elem* out = p.out.row(first + i);
        p.mask.row(first + i)[0] = m[i];
        // Two products: exact at m = 0 and m = 1.
        for (std::int64_t c = 0; c < p.C; ++c) out[c] = m[i] * base[c] + (1 - m[i]) * colour[c];
      }
    }
  });
}

template <class Elem>
void mask_mix_bwd(const MaskMixArgs<Elem>& p, const MaskMixGrads<Elem>& g) {
  const std::int64_t num_chunks = (p.P + kChunk - 1) / kChunk;
  std::vector<double> partial_w(static_cast<std::size_t>(num_chunks)), partial_b(static_cast<std::size_t>(num_chunks));
  parallel_for(num_chunks, [&](std::int64_t chunk, int) {
    double sum_w = 0, sum_b = 0;
    const std::int64_t end = std::min((chunk + 1) * kChunk, p.P);
    for (std::int64_t i = chunk * kChunk; i < end; ++i) {
      const Elem *base = p.base.row(i), *adapter = p.adapter.row(i), *d_out = g.d_out.row(i);
      const Elem m = p.mask.row(i)[0];
      Elem d_m = 0;
      for (std::int64_t c = 0; c < p.C; ++c) d_m += d_out[c] * (base[c] - adapter[c]);
      const Elem d_s = d_m * m * (1 - m);
      sum_w += static_cast<double>(d_s) * static_cast<double>(adapter[p.C]);
      sum_b += static_cast<double>(d_s);
      if (g.d_adapter) {
        Elem* d_adapter = g.d_adapter.row(i);
        for (std::int64_t c = 0; c < p.C; ++c) d_adapter[c] = (1 - m) * d_out[c];
        d_adapter[p.C] = p.w * d_s;
      }
      if (g.d_base)
        for (std::int64_t c = 0; c < p.C; ++c) g.d_base.row(i)[c] = m * d_out[c];
    }
    partial_w[static_cast<std::size_t>(chunk)] = sum_w;
    partial_b[static_cast<std::size_t>(chunk)] = sum_b;
  });
  if (g.d_w_b == nullptr) return;
  double d_w = 0, d_b = 0;
  for (std::size_t chunk = 0; chunk < partial_w.size(); ++chunk) {
    d_w += partial_w[chunk];
    d_b += partial_b[chunk];
  }
  g.d_w_b[0] = static_cast<Elem>(d_w);
  g.d_w_b[1] = static_cast<Elem>(d_b);
}

#define AVID_INSTANTIATE(Elem)                                \
  template void mask_mix_fwd<Elem>(const MaskMixArgs<Elem>&); \
  template void mask_mix_bwd<Elem>(const MaskMixArgs<Elem>&, const MaskMixGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
