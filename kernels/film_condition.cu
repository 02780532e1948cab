// kernels/film_condition.cu -- time code repeated over the frames, then the action code; on a device
//
// Parallel   a thread owns one element: of the output forward, of the two gradients backward
// Numerics   forward copies; the sum over the frames of a clip runs in f32, in order, inside one thread
// Limits     a few hundred rows, of no importance to the time of an update
// Measured   never run on a GPU yet
// Predicted  a launch each: 3 us
// Oracle     kernels/film_condition_cpu.cpp, compared in tests/sim/film_condition_test.cpp
#include "kernels/film_condition.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) film_condition_fwd_kernel(
    FilmConditionSizes size, Rows<const Elem> time_code, Rows<const Elem> action_code, Rows<Elem> out) {
  const std::int64_t width = size.time_width + size.action_width, item = grid_index();
  if (item >= size.B * size.T * width) return;
  const std::int64_t frame = item / width, column = item % width;
  out.row(frame)[column] = column < size.time_width ? time_code.row(frame / size.T)[column]
                                                    : action_code.row(frame)[column - size.time_width];
}

/// Elements of d_time_code first, then those of d_action_code.
template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) film_condition_bwd_kernel(
    FilmConditionSizes size, Rows<const Elem> d_out, Rows<Elem> d_time_code, Rows<Elem> d_action_code) {
  const std::int64_t num_time = size.B * size.time_width;
  std::int64_t item = grid_index();
  if (item < num_time) {
    if (!d_time_code) return;
    const std::int64_t b = item / size.time_width, column = item % size.time_width;
    float sum = 0;
    for (std::int64_t t = 0; t < size.T; ++t) sum += to_float(d_out.row(b * size.T + t)[column]);
    d_time_code.row(b)[column] = to_elem<Elem>(sum);
    return;
  }
  item -= num_time;
  if (!d_action_code || item >= size.B * size.T * size.action_width) return;
  const std::int64_t frame = item / size.action_width, column = item % size.action_width;
  d_action_code.row(frame)[column] = d_out.row(frame)[size.time_width + column];
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void film_condition_fwd(
    const Stream& stream, const FilmConditionSizes& size, Rows<const Elem> time_code, Rows<const Elem> action_code,
    Rows<Elem> out) {
  AVID_GPU::launch_items(
      AVID_GPU::film_condition_fwd_kernel<Elem>, size.B * size.T * (size.time_width + size.action_width), stream, size,
      time_code, action_code, out);
}

template <class Backend, class Elem>
void film_condition_bwd(
    const Stream& stream, const FilmConditionSizes& size, Rows<const Elem> d_out, Rows<Elem> d_time_code,
    Rows<Elem> d_action_code) {
  AVID_GPU::launch_items(
      AVID_GPU::film_condition_bwd_kernel<Elem>, size.B * (size.time_width + size.T * size.action_width), stream, size,
      d_out, d_time_code, d_action_code);
}

#define AVID_INSTANTIATE(Elem)                                                                   \
  template void film_condition_fwd<Gpu, Elem>(                                                   \
      const Stream&, const FilmConditionSizes&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>); \
  template void film_condition_bwd<Gpu, Elem>(                                                   \
      const Stream&, const FilmConditionSizes&, Rows<const Elem>, Rows<Elem>, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
