// kernels/film_condition.h -- time code repeated over the frames, then the action code (contract:
// tensor/ops/film_condition.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// B clips of T frames; time_width = E, action_width = A (0 without actions). Rows are clips for the time code, frames
/// else.
struct FilmConditionSizes {
  std::int64_t B = 0, T = 0, time_width = 0, action_width = 0;
};

// Elem is float or double.
template <class Elem>
void film_condition_fwd(
    const FilmConditionSizes& size, Rows<const Elem> time_code, Rows<const Elem> action_code, Rows<Elem> out);
/// Either gradient may be absent.
template <class Elem>
void film_condition_bwd(
    const FilmConditionSizes& size, Rows<const Elem> d_out, Rows<Elem> d_time_code, Rows<Elem> d_action_code);

// ---- on a device: Elem is float or BFloat16; gaps stay as they are ----

template <class Backend, class Elem>
void film_condition_fwd(
    const Stream& stream, const FilmConditionSizes& size, Rows<const Elem> time_code, Rows<const Elem> action_code,
    Rows<Elem> out);
/// Either gradient may be absent; the sum over the frames in f32, in order.
template <class Backend, class Elem>
void film_condition_bwd(
    const Stream& stream, const FilmConditionSizes& size, Rows<const Elem> d_out, Rows<Elem> d_time_code,
    Rows<Elem> d_action_code);

}  // namespace avid::kernels
