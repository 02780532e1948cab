// kernels/fill.cu -- one value into all elements of rows, on a device
//
// Math       to[r,c] = value
// Layout     rows [P,C]; the gaps keep their zeros
// Parallel   a thread owns an element: used for single numbers and small tensors; zeroing goes through the copy engine
// Limits     P * C < 2^39 (grid.x)
// Measured   never run on a GPU yet
// Oracle     the value itself, in tests/sim/fill_test.cpp
#include "kernels/fill.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) fill_kernel(FillArgs<Elem> p) {
  const std::int64_t i = grid_index();
  if (i < p.P * p.C) p.to.row(i / p.C)[i % p.C] = to_elem<Elem>(p.value);
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void fill(const Stream& stream, const FillArgs<Elem>& p) {
  AVID_GPU::launch_items(AVID_GPU::fill_kernel<Elem>, p.P * p.C, stream, p);
}

template void fill<Gpu, float>(const Stream&, const FillArgs<float>&);
template void fill<Gpu, BFloat16>(const Stream&, const FillArgs<BFloat16>&);

}  // namespace avid::kernels
