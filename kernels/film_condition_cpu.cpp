// kernels/film_condition_cpu.cpp -- time code repeated over the frames, then the action code
//
// Limits     one thread: a few hundred rows
#include "kernels/film_condition.h"

#include <algorithm>

namespace avid::kernels {

template <class Elem>
void film_condition_fwd(
    const FilmConditionSizes& size, Rows<const Elem> time_code, Rows<const Elem> action_code, Rows<Elem> out) {
  for (std::int64_t b = 0; b < size.B; ++b) {
    for (std::int64_t t = 0; t < size.T; ++t) {
      const std::int64_t frame = b * size.T + t;
      std::copy_n(time_code.row(b), size.time_width, out.row(frame));
      if (action_code) std::copy_n(action_code.row(frame), size.action_width, out.row(frame) + size.time_width);
    }
  }
}

template <class Elem>
void film_condition_bwd(
    const FilmConditionSizes& size, Rows<const Elem> d_out, Rows<Elem> d_time_code, Rows<Elem> d_action_code) {
  for (std::int64_t b = 0; b < size.B; ++b) {
    if (d_time_code) std::fill_n(d_time_code.row(b), size.time_width, Elem{0});
    for (std::int64_t t = 0; t < size.T; ++t) {
      const std::int64_t frame = b * size.T + t;
      if (d_time_code)
        for (std::int64_t e = 0; e < size.time_width; ++e) d_time_code.row(b)[e] += d_out.row(frame)[e];
      if (d_action_code) std::copy_n(d_out.row(frame) + size.time_width, size.action_width, d_action_code.row(frame));
    }
  }
}

#define AVID_INSTANTIATE(Elem)                                                                                       \
  template void film_condition_fwd<Elem>(const FilmConditionSizes&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>); \
  template void film_condition_bwd<Elem>(const FilmConditionSizes&, Rows<const Elem>, Rows<Elem>, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
