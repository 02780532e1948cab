// kernels/device/rms_norm_steps.h -- what the norm kernel and the convolutions that end in a norm do alike
#pragma once

#include "kernels/device/row_chunks.h"
#include "kernels/rms_norm_film_silu.h"

namespace avid::kernels::AVID_GPU {

inline constexpr float kRowNormFloor = static_cast<float>(kRmsNormFloor);

template <class Elem>
AVID_DEVICE float sigmoid(float z) {
  if constexpr (sizeof(Elem) == 2) return __fdividef(1.0f, 1.0f + __expf(-z));
  return 1.0f / (1.0f + expf(-z));
}

/// 1 / max(norm, floor) from a sum of squares; NaN stays NaN. `moves` is false where the floor holds.
AVID_DEVICE float reciprocal_norm(float squares, bool& moves) {
  const float norm = sqrtf(squares);
  moves = !(norm < kRowNormFloor);
  return 1.0f / (moves ? norm : kRowNormFloor);
}

/// a and shift of channel c in one frame, zero behind the last channel. Norm has C, gamma and film.
template <class Norm>
AVID_DEVICE float2 film_coefficients(const Norm& p, std::int64_t frame, int c, float root_c) {
  if (c >= p.C) return make_float2(0, 0);
  const float* film = p.film.data != nullptr ? p.film.data + frame * p.film.pitch : nullptr;
  const float a = root_c * p.gamma[c] * (film != nullptr ? 1.0f + film[c] : 1.0f);
  return make_float2(a, film != nullptr ? film[p.C + c] : 0.0f);
}

}  // namespace avid::kernels::AVID_GPU
