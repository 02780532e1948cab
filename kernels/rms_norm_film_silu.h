// kernels/rms_norm_film_silu.h -- RMSNorm, FiLM, SiLU and residual in one pass (contract:
// tensor/ops/rms_norm_film_silu.h)
#pragma once

#include <cstdint>

#include "kernels/rows.h"

namespace avid::kernels {

/// F = B*T frames of S = H*W rows of C channels. In rows of film, scale is [0,C) and shift [C,2C).
template <class Elem>
struct RmsNormFilmSiluArgs {
  std::int64_t F = 0, S = 0, C = 0;
  Rows<const Elem> x;           ///< [F*S,C]
  const Elem* gamma = nullptr;  ///< [C]
  Rows<const Elem> film;        ///< [F,2C] or absent
  Rows<const Elem> residual;    ///< [F*S,C] or absent; not read by bwd
  Rows<Elem> out;               ///< [F*S,C], written by fwd
};

/// Gradients; each may be absent. The gradient of the residual is d_out itself.
template <class Elem>
struct RmsNormFilmSiluGrads {
  Rows<const Elem> d_out;   ///< [F*S,C]
  Rows<Elem> d_x;           ///< [F*S,C]
  Elem* d_gamma = nullptr;  ///< [C]
  Rows<Elem> d_film;        ///< [F,2C]
};

/// f32 runs the SIMD path, f64 the reference. In f32 x, residual, out, d_out and d_x share one pitch and have zero
/// gaps.
void rms_norm_film_silu_fwd(const RmsNormFilmSiluArgs<float>& p);
void rms_norm_film_silu_fwd(const RmsNormFilmSiluArgs<double>& p);
void rms_norm_film_silu_bwd(const RmsNormFilmSiluArgs<float>& p, const RmsNormFilmSiluGrads<float>& g);
void rms_norm_film_silu_bwd(const RmsNormFilmSiluArgs<double>& p, const RmsNormFilmSiluGrads<double>& g);

/// The reference loops for float or double.
template <class Elem>
void rms_norm_film_silu_fwd_reference(const RmsNormFilmSiluArgs<Elem>& p);
template <class Elem>
void rms_norm_film_silu_bwd_reference(const RmsNormFilmSiluArgs<Elem>& p, const RmsNormFilmSiluGrads<Elem>& g);

/// Floor of the norm, as in the original's normalisation of vectors.
inline constexpr double kRmsNormFloor = 1e-12;

}  // namespace avid::kernels
