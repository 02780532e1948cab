// kernels/clip_mix.h -- weighted sum of two videos with factors per clip (contract: tensor/ops/clip_mix.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// B clips of rows_per_clip rows of C elements.
struct ClipMixSizes {
  std::int64_t B = 0, rows_per_clip = 0, C = 0;
};

/// out[b,..] = (of_x[b] x[b,..] + of_y[b] y[b,..]) / divisor[b]. Factors: f64 per clip, rounded to Elem first; a null
/// divisor stands for ones. out may be x or y. No product is contracted with the sum.
template <class Elem>
struct ClipMixArgs {
  ClipMixSizes size;
  Rows<const Elem> x, y;
  const double *of_x = nullptr, *of_y = nullptr, *divisor = nullptr;
  Rows<Elem> out;
};

// Elem is float or double.
template <class Elem>
void clip_mix_fwd(const ClipMixArgs<Elem>& p);

// ---- devices: Elem is float or BFloat16; factors and arithmetic are f32 ----

/// value * table[t_b], or value where table is null. A t_b outside 0 .. num_times-1 counts as NaN.
struct ClipFactorDevice {
  const float* table = nullptr;
  float value = 1;
};
template <class Elem>
struct ClipMixDeviceArgs {
  ClipMixSizes size;
  Rows<const Elem> x, y;
  ClipFactorDevice of_x, of_y, divisor;
  const std::int64_t* t = nullptr;  ///< [B], device; may be null when no factor has a table
  std::int64_t num_times = 0;       ///< length of the tables
  Rows<Elem> out;                   ///< may be x or y; the same pitch as those, whole 16-byte packs; gaps become zero
};
template <class Backend, class Elem>
void clip_mix_fwd(const Stream& stream, const ClipMixDeviceArgs<Elem>& p);

/// out[b] = table[t_b], NaN for a t_b outside the table; all f32 on the device, b < B.
template <class Backend>
void clip_lookup(
    const Stream& stream, const float* table, std::int64_t num_times, const std::int64_t* t, std::int64_t B,
    float* out);

}  // namespace avid::kernels
