// kernels/rms_norm_film_silu_cpu.cpp -- RMSNorm, FiLM, SiLU and residual: the reference
//
// Math       n = max(||x||, 1e-12);  u = x sqrt(C) / n;  z = u gamma (1 + scale) + shift;
//            out = z s + residual, s = sigmoid(z)
//            d_z = d_out s (1 + z (1 - s));  q = d_z gamma (1 + scale)
//            d_shift = sum_S d_z;  d_scale = gamma sum_S d_z u;  d_gamma = sum_{F,S} (1 + scale) d_z u
//            d_x = sqrt(C) / n (q - x sum_c(q x) / n^2), without the second term where the floor holds (n does not move
//            there)
// Layout     rows with a pitch each
// Numerics   everything in Elem; sums over rows in f64
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/rms_norm_film_silu.h"

namespace avid::kernels {
namespace {

template <class Elem>
Elem norm_of(const Elem* x, std::int64_t C) {
  Elem sum = 0;
  for (std::int64_t c = 0; c < C; ++c) sum += x[c] * x[c];
  return std::sqrt(sum);
}

}  // namespace

template <class Elem>
void rms_norm_film_silu_fwd_reference(const RmsNormFilmSiluArgs<Elem>& p) {
  const Elem root_c = std::sqrt(static_cast<Elem>(p.C)), floor = static_cast<Elem>(kRmsNormFloor);
  for (std::int64_t row = 0; row < p.F * p.S; ++row) {
    const Elem* x = p.x.row(row);
    const Elem* film = p.film ? p.film.row(row / p.S) : nullptr;
    const Elem norm = norm_of(x, p.C);
    const Elem r = root_c / (norm < floor ? floor : norm);
    for (std::int64_t c = 0; c < p.C; ++c) {
      const Elem y = x[c] * r * p.gamma[c];
      const Elem z = film != nullptr ? y * (film[c] + 1) + film[p.C + c] : y;
      p.out.row(row)[c] = z / (1 + std::exp(-z)) + (p.residual ? p.residual.row(row)[c] : Elem{0});
    }
  }
}

template <class Elem>
void rms_norm_film_silu_bwd_reference(const RmsNormFilmSiluArgs<Elem>& p, const RmsNormFilmSiluGrads<Elem>& g) {
  const Elem root_c = std::sqrt(static_cast<Elem>(p.C)), floor = static_cast<Elem>(kRmsNormFloor);
  const auto C = static_cast<std::size_t>(p.C);
  std::vector<double> d_gamma(C), sum_dz(C), sum_dz_u(C);
  std::vector<Elem> q(C);
  for (std::int64_t frame = 0; frame < p.F; ++frame) {
    const Elem* film = p.film ? p.film.row(frame) : nullptr;
    std::fill(sum_dz.begin(), sum_dz.end(), 0.0);
    std::fill(sum_dz_u.begin(), sum_dz_u.end(), 0.0);
    for (std::int64_t row = frame * p.S; row < (frame + 1) * p.S; ++row) {
      const Elem *x = p.x.row(row), *d_out = g.d_out.row(row);
      const Elem norm = norm_of(x, p.C);
      const bool floored = norm < floor;
      const Elem n = floored ? floor : norm, r = root_c / n;
      Elem dot = 0;
      for (std::size_t c = 0; c < C; ++c) {
        const Elem a = p.gamma[c] * (film != nullptr ? film[c] + 1 : Elem{1});
        const Elem u = x[c] * r, z = u * a + (film != nullptr ? film[C + c] : Elem{0});
        const Elem s = 1 / (1 + std::exp(-z));
        const Elem dz = d_out[c] * s * (1 + z * (1 - s));
        sum_dz[c] += static_cast<double>(dz);
        sum_dz_u[c] += static_cast<double>(dz * u);
        q[c] = dz * a;
        dot += q[c] * x[c];
      }
      if (!g.d_x) continue;
      const Elem along = floored ? Elem{0} : dot / n / n;
      for (std::size_t c = 0; c < C; ++c) g.d_x.row(row)[c] = r * (q[c] - x[c] * along);
    }
    for (std::size_t c = 0; c < C; ++c) {
      d_gamma[c] += sum_dz_u[c] * (film != nullptr ? 1 + static_cast<double>(film[c]) : 1.0);
      if (!g.d_film) continue;
      g.d_film.row(frame)[c] = static_cast<Elem>(sum_dz_u[c] * static_cast<double>(p.gamma[c]));
      g.d_film.row(frame)[C + c] = static_cast<Elem>(sum_dz[c]);
    }
  }
  if (g.d_gamma != nullptr)
    for (std::size_t c = 0; c < C; ++c) g.d_gamma[c] = static_cast<Elem>(d_gamma[c]);
}

void rms_norm_film_silu_fwd(const RmsNormFilmSiluArgs<double>& p) { rms_norm_film_silu_fwd_reference(p); }
void rms_norm_film_silu_bwd(const RmsNormFilmSiluArgs<double>& p, const RmsNormFilmSiluGrads<double>& g) {
  rms_norm_film_silu_bwd_reference(p, g);
}

#define AVID_INSTANTIATE(Elem)                                                            \
  template void rms_norm_film_silu_fwd_reference<Elem>(const RmsNormFilmSiluArgs<Elem>&); \
  template void rms_norm_film_silu_bwd_reference<Elem>(                                   \
      const RmsNormFilmSiluArgs<Elem>&, const RmsNormFilmSiluGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
