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

/// One chunk of a row of x on the way back: d, the gradient of silu(z) with z = x/n a + shift, becomes q = d_z a;
/// d_z x/n and d_z are added to the columns' sums, q x/n to `dot`.
template <class Elem>
AVID_DEVICE void add_gradient_of_z(
    const float (&x)[8], float rnorm, const float (&a)[8], const float (&shift)[8], float (&d)[8], float (&sum_zx)[8],
    float (&sum_z)[8], float& dot) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const float n = x[e] * rnorm, z = fmaf(n, a[e], shift[e]), s = sigmoid<Elem>(z);
    const float d_z = d[e] * s * fmaf(z, 1.0f - s, 1.0f);
    sum_zx[e] = fmaf(d_z, n, sum_zx[e]);
    sum_z[e] += d_z;
    d[e] = d_z * a[e];
    dot = fmaf(d[e], n, dot);
  }
}

/// x becomes d_x, from q and its sum over the row along x/n (0 where the floor holds).
AVID_DEVICE void gradient_of_x(float (&x)[8], float rnorm, const float (&q)[8], float along) {
#pragma unroll
  for (int e = 0; e < 8; ++e) x[e] = rnorm * (q[e] - x[e] * rnorm * along);
}

}  // namespace avid::kernels::AVID_GPU
