// kernels/unet_input_cpu.cpp -- conditioning frames as channels, then the noisy video, then the base's output
//
// Traffic    every input pixel read once per frame it appears in, the output written once
#include "kernels/unet_input.h"

#include <algorithm>

#include "kernels/threads.h"

namespace avid::kernels {

template <class Elem>
void unet_input_fwd(
    const UnetInputSizes& size, Rows<const Elem> cond, Rows<const Elem> x_t, Rows<const Elem> base, Rows<Elem> out) {
  const std::int64_t C = size.C, K = size.K;
  parallel_for(size.B * size.T, [&](std::int64_t frame, int) {
    const std::int64_t first_cond = frame / size.T * K * size.S;  // row of the clip's first conditioning pixel
    for (std::int64_t p = 0; p < size.S; ++p) {
      const std::int64_t row = frame * size.S + p;
      Elem* to = out.row(row);
      for (std::int64_t k = 0; k < K; ++k) {
        const Elem* from = cond.row(first_cond + k * size.S + p);
        for (std::int64_t c = 0; c < C; ++c) to[c * K + k] = from[c];
      }
      std::copy_n(x_t.row(row), C, to + C * K);
      if (base) std::copy_n(base.row(row), C, to + C * K + C);
    }
  });
}

template <class Elem>
void unet_input_bwd(const UnetInputSizes& size, Rows<const Elem> d_out, Rows<Elem> d_x_t, Rows<Elem> d_base) {
  const std::int64_t C = size.C, first = size.C * size.K;
  parallel_for(size.B * size.T, [&](std::int64_t frame, int) {
    for (std::int64_t row = frame * size.S; row < (frame + 1) * size.S; ++row) {
      if (d_x_t) std::copy_n(d_out.row(row) + first, C, d_x_t.row(row));
      if (d_base) std::copy_n(d_out.row(row) + first + C, C, d_base.row(row));
    }
  });
}

#define AVID_INSTANTIATE(Elem)                                                                  \
  template void unet_input_fwd<Elem>(                                                           \
      const UnetInputSizes&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<Elem>); \
  template void unet_input_bwd<Elem>(const UnetInputSizes&, Rows<const Elem>, Rows<Elem>, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
