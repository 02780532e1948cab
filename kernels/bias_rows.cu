// kernels/bias_rows.cu -- a bias added to rows in place (contract: bias_rows.h)
//
// Math       rows[r,c] += bias[c] for c < C, rows[r,c] = 0 behind
// Layout     rows [P,C], 16 bytes at a time, gaps included
// Parallel   a thread owns one pack of one row
// Traffic    2 elements per element, and the bias once per row from the caches
// Numerics   f32, one rounding at the store
// Limits     P * packs per row < 2^39 (grid.x)
// Measured   never run on a GPU yet
// Oracle     tests/sim/bias_rows_test.cpp
#include "kernels/bias_rows.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) bias_rows_kernel(BiasRowsArgs<Elem> p, std::int64_t packs) {
  const std::int64_t i = grid_index();
  if (i >= p.P * packs) return;
  const std::int64_t first = i % packs * kPack<Elem>;
  Elem* at = p.rows.row(i / packs) + first;
  float v[kPack<Elem>];
  load_pack(at, v);
#pragma unroll
  for (int k = 0; k < kPack<Elem>; ++k) {
    if (first + k >= p.C)
      v[k] = 0;
    else if (p.bias != nullptr)
      v[k] += p.bias[first + k];
  }
  store_pack(at, v);
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void add_bias_rows(const Stream& stream, const BiasRowsArgs<Elem>& p) {
  const std::int64_t packs = p.rows.pitch / AVID_GPU::kPack<Elem>;
  AVID_GPU::launch_items(AVID_GPU::bias_rows_kernel<Elem>, p.P * packs, stream, p, packs);
}

template void add_bias_rows<Gpu, float>(const Stream&, const BiasRowsArgs<float>&);
template void add_bias_rows<Gpu, BFloat16>(const Stream&, const BiasRowsArgs<BFloat16>&);

}  // namespace avid::kernels
