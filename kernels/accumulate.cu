// kernels/accumulate.cu -- into += from, on a device
//
// Math       into[i] += from[i]
// Layout     whole buffers of pitched rows; zero gaps stay zero
// Parallel   a thread owns 16 bytes; the last one what is left of them
// Traffic    12 bytes per f32 element, 6 per bf16 element
// Numerics   f32 addition, one rounding at the store
// Limits     n < 2^41 (f32), 2^42 (bf16); grid.x
// Measured   never run on a GPU yet
// Oracle     host sums, in tests/sim/accumulate_test.cpp
#include "kernels/accumulate.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {

/// `whole`: both buffers start at a multiple of 16 bytes.
template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    accumulate_kernel(Elem* into, const Elem* from, std::int64_t n, bool whole) {
  const std::int64_t first = grid_index() * kPack<Elem>;
  if (whole && first + kPack<Elem> <= n) {
    float a[kPack<Elem>], b[kPack<Elem>];
    load_pack(into + first, a);
    load_pack(from + first, b);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) a[k] += b[k];
    store_pack(into + first, a);
  } else {
    for (std::int64_t i = first; i < first + kPack<Elem> && i < n; ++i)
      into[i] = to_elem<Elem>(to_float(into[i]) + to_float(from[i]));
  }
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void accumulate(const Stream& stream, Elem* into, const Elem* from, std::int64_t n) {
  constexpr std::int64_t pack = AVID_GPU::kPack<Elem>;
  const bool whole = (reinterpret_cast<std::uintptr_t>(into) | reinterpret_cast<std::uintptr_t>(from)) % 16 == 0;
  AVID_GPU::launch_items(AVID_GPU::accumulate_kernel<Elem>, (n + pack - 1) / pack, stream, into, from, n, whole);
}

template void accumulate<Gpu, float>(const Stream&, float*, const float*, std::int64_t);
template void accumulate<Gpu, BFloat16>(const Stream&, BFloat16*, const BFloat16*, std::int64_t);

}  // namespace avid::kernels
