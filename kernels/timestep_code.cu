// kernels/timestep_code.cu -- sinusoidal code of the diffusion step, on a device
//
// Math       out[b] = [sin(t_b f_j), cos(t_b f_j)], f_j = exp(-j ln(10000) / (h - 1)), h = width / 2
// Parallel   a thread owns one frequency of one clip
// Numerics   exponent, frequency and angle in f32 as on the CPU (and in the original): exp may differ by one place,
//            which an angle of 199 makes 1.2e-5 of the sine. The library's sine, not the fast one: angles go to
//            hundreds
// Measured   never run on a GPU yet
// Predicted  a launch: 3 us
// Oracle     kernels/timestep_code_cpu.cpp, compared in tests/sim/timestep_code_test.cpp
#include "kernels/timestep_code.h"

#include <cmath>

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    timestep_code_kernel(const std::int64_t* t, std::int64_t B, std::int64_t half, float rate, Rows<Elem> out) {
  const std::int64_t item = grid_index();
  if (item >= B * half) return;
  const std::int64_t b = item / half, j = item % half;
  const float angle = static_cast<float>(t[b]) * expf(static_cast<float>(j) * rate);
  out.row(b)[j] = to_elem<Elem>(sinf(angle));
  out.row(b)[half + j] = to_elem<Elem>(cosf(angle));
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void timestep_code(const Stream& stream, const std::int64_t* t, std::int64_t B, std::int64_t width, Rows<Elem> out) {
  const std::int64_t half = width / 2;
  const auto rate = static_cast<float>(-std::log(10000.0) / static_cast<double>(half - 1));
  AVID_GPU::launch_items(AVID_GPU::timestep_code_kernel<Elem>, B * half, stream, t, B, half, rate, out);
}

template void timestep_code<Gpu, float>(const Stream&, const std::int64_t*, std::int64_t, std::int64_t, Rows<float>);
template void timestep_code<Gpu, BFloat16>(
    const Stream&, const std::int64_t*, std::int64_t, std::int64_t, Rows<BFloat16>);

}  // namespace avid::kernels
