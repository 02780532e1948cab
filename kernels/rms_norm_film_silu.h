// kernels/rms_norm_film_silu.h -- RMSNorm, FiLM, SiLU and residual in one pass (contract:
// tensor/ops/rms_norm_film_silu.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
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

// ---- on a device ----

/// Elem is float or BFloat16; gamma and FiLM are f32. Gaps of out are written as zero.
template <class Elem>
struct RmsNormFilmSiluDeviceArgs {
  std::int64_t F = 0, S = 0, C = 0;
  Rows<const Elem> x;            ///< [F*S,C]
  const float* gamma = nullptr;  ///< [C]
  Rows<const float> film;        ///< [F,2C] or absent
  Rows<const Elem> residual;     ///< [F*S,C] or absent; not read by bwd
  Rows<Elem> out;                ///< [F*S,C], written by fwd
};

/// Gradients; each output may be absent. The gradient of the residual is d_out itself.
template <class Elem>
struct RmsNormFilmSiluDeviceGrads {
  Rows<const Elem> d_out;      ///< [F*S,C]
  Rows<Elem> d_x;              ///< [F*S,C]
  float* d_gamma = nullptr;    ///< [C]
  Rows<float> d_film;          ///< [F,2C]
  float* workspace = nullptr;  ///< rms_norm_film_silu_bwd_workspace() elements, 16-byte aligned
};

/// How a device cuts the rows of a frame; a function of the shape alone, so that sums have one order.
struct RmsNormSlabs {
  int rows;   ///< in one slab
  int count;  ///< of a frame
  RmsNormSlabs(std::int64_t S, std::int64_t C)
      : rows(
            C <= 192   ? 256
            : C <= 384 ? 128
                       : 64),
        count(static_cast<int>((S + rows - 1) / rows)) {}
};

/// f32 elements of workspace that rms_norm_film_silu_bwd needs: two sums per slab, one row per frame, one value per
/// row.
inline std::int64_t rms_norm_film_silu_bwd_workspace(std::int64_t F, std::int64_t S, std::int64_t C) {
  return F * ((2 * RmsNormSlabs(S, C).count + 1) * ((C + 7) / 8 * 8) + S);
}

/// How partial sums of the two columns lie in memory: [count][frames][2][W], W = C in whole chunks of 8. Block b has
/// those of the rows from b * rows on, where a frame takes rows_per_frame of them; its place 0 is the frame that it
/// begins in.
struct NormSumBlocks {
  std::int64_t rows_per_frame = 0, count = 0;
  int rows = 0, frames = 0;
};

/// Norm and sums in f32, the same bits in every run. Rows start at 16-byte boundaries (pitch, data).
template <class Backend, class Elem>
void rms_norm_film_silu_fwd(const Stream& stream, const RmsNormFilmSiluDeviceArgs<Elem>& p);
template <class Backend, class Elem>
void rms_norm_film_silu_bwd(
    const Stream& stream, const RmsNormFilmSiluDeviceArgs<Elem>& p, const RmsNormFilmSiluDeviceGrads<Elem>& g);

/// The end of rms_norm_film_silu_bwd alone: d_gamma and d_film (each may be null) from partial sums over rows of d_z
/// x/n and of d_z, the blocks of a frame in order. `frame_sums` has room for [F,W].
template <class Backend, class Elem>
void rms_norm_film_silu_bwd_sums(
    const Stream& stream, const RmsNormFilmSiluDeviceArgs<Elem>& p, const NormSumBlocks& blocks, const float* partial,
    float* d_gamma, Rows<float> d_film, float* frame_sums);

}  // namespace avid::kernels
