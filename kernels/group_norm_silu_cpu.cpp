// kernels/group_norm_silu_cpu.cpp -- GroupNorm and SiLU
//
// Math       per item and group of n = R C/G values: xh = (x - mean) rstd, rstd = 1 / sqrt(var + eps), var biased,
//            two-pass z = xh gamma + beta;  out = z sigmoid(z), or z without SiLU
//            d_z = d_out s (1 + z (1 - s)), s = sigmoid(z), or d_out;  q = d_z gamma
//            d_x = rstd (q - mean(q) - xh mean(q xh)), means over the group;  d_gamma = sum d_z xh;  d_beta = sum d_z
// Parallel   over (item, group), one each
// Numerics   statistics and sums in f64; items added in order: same bits for any thread count
// Limits     a reference: only the latent model normalises groups
#include "kernels/group_norm_silu.h"

#include <cmath>
#include <vector>

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

struct Moments {
  double mean, rstd;
};

/// Calls f(row, channel) for every element of a group.
template <class F>
void for_group(const GroupNormSize& s, std::int64_t item, std::int64_t group, F&& f) {
  const std::int64_t per_group = s.C / s.G;
  for (std::int64_t r = item * s.R; r < (item + 1) * s.R; ++r)
    for (std::int64_t c = group * per_group; c < (group + 1) * per_group; ++c) f(r, c);
}

template <class Elem>
Moments moments(const GroupNormSiluArgs<Elem>& p, std::int64_t item, std::int64_t group) {
  const double count = static_cast<double>(p.size.R * (p.size.C / p.size.G));
  double sum = 0, squares = 0;
  for_group(p.size, item, group, [&](std::int64_t r, std::int64_t c) { sum += static_cast<double>(p.x.row(r)[c]); });
  const double mean = sum / count;
  for_group(p.size, item, group, [&](std::int64_t r, std::int64_t c) {
    const double centred = static_cast<double>(p.x.row(r)[c]) - mean;
    squares += centred * centred;
  });
  return {mean, 1 / std::sqrt(squares / count + p.size.eps)};
}

}  // namespace

template <class Elem>
void group_norm_silu_fwd(const GroupNormSiluArgs<Elem>& p) {
  parallel_for(p.size.I * p.size.G, [&](std::int64_t i, int) {
    const Moments m = moments(p, i / p.size.G, i % p.size.G);
    for_group(p.size, i / p.size.G, i % p.size.G, [&](std::int64_t r, std::int64_t c) {
      const double xh = (static_cast<double>(p.x.row(r)[c]) - m.mean) * m.rstd;
      const double z = xh * static_cast<double>(p.gamma[c]) + static_cast<double>(p.beta[c]);
      p.out.row(r)[c] = static_cast<Elem>(p.size.silu ? z / (1 + std::exp(-z)) : z);
    });
  });
}

template <class Elem>
void group_norm_silu_bwd(const GroupNormSiluArgs<Elem>& p, const GroupNormSiluGrads<Elem>& g) {
  const GroupNormSize& s = p.size;
  const auto C = static_cast<std::size_t>(s.C);
  std::vector<double> sums(static_cast<std::size_t>(s.I) * 2 * C);  // [item][d_z xh | d_z][C]
  parallel_for(s.I * s.G, [&](std::int64_t i, int) {
    const std::int64_t item = i / s.G, group = i % s.G;
    const Moments m = moments(p, item, group);
    double* sum_zx = sums.data() + static_cast<std::size_t>(item) * 2 * C;
    double* sum_z = sum_zx + C;
    double sum_q = 0, sum_q_xh = 0;
    const auto gradient = [&](std::int64_t r, std::int64_t c, double& xh) {  // d_z
      xh = (static_cast<double>(p.x.row(r)[c]) - m.mean) * m.rstd;
      const double d = static_cast<double>(g.d_out.row(r)[c]);
      if (!s.silu) return d;
      const double z = xh * static_cast<double>(p.gamma[c]) + static_cast<double>(p.beta[c]);
      const double sigmoid = 1 / (1 + std::exp(-z));
      return d * sigmoid * (1 + z * (1 - sigmoid));
    };
    for_group(s, item, group, [&](std::int64_t r, std::int64_t c) {
      double xh;
      const double d_z = gradient(r, c, xh), q = d_z * static_cast<double>(p.gamma[c]);
      sum_zx[c] += d_z * xh;
      sum_z[c] += d_z;
      sum_q += q;
      sum_q_xh += q * xh;
    });
    if (!g.d_x) return;
    const double count = static_cast<double>(s.R * (s.C / s.G));
    for_group(s, item, group, [&](std::int64_t r, std::int64_t c) {
      double xh;
      const double q = gradient(r, c, xh) * static_cast<double>(p.gamma[c]);
      g.d_x.row(r)[c] = static_cast<Elem>(m.rstd * (q - sum_q / count - xh * sum_q_xh / count));
    });
  });
  for (std::size_t c = 0; c < C; ++c) {
    double d_gamma = 0, d_beta = 0;
    for (std::size_t item = 0; item < static_cast<std::size_t>(s.I); ++item) {
      d_gamma += sums[item * 2 * C + c];
      d_beta += sums[item * 2 * C + C + c];
    }
    if (g.d_gamma != nullptr) g.d_gamma[c] = static_cast<Elem>(d_gamma);
    if (g.d_beta != nullptr) g.d_beta[c] = static_cast<Elem>(d_beta);
  }
}

#define AVID_INSTANTIATE(Elem)                                             \
  template void group_norm_silu_fwd<Elem>(const GroupNormSiluArgs<Elem>&); \
  template void group_norm_silu_bwd<Elem>(const GroupNormSiluArgs<Elem>&, const GroupNormSiluGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
