// kernels/conv_transpose3d_cpu.cpp -- reference of conv_transpose3d (contract: tensor/ops/conv_transpose3d.h)
//
// Math    for every input position p, tap k with q = p*stride - padding + k inside the output:
//           out[q,o]   += w[i,k,o] * x[p,i]           (out starts as bias)
//           d_x[p,i]   += w[i,k,o] * d_out[q,o]
//           d_w[i,k,o] += x[p,i] * d_out[q,o]         d_bias[o] = sum_q d_out[q,o]
// Numerics  sums in f64, in a fixed order on one thread: it is an oracle, not a fast path.
#include "kernels/conv_transpose3d.h"

#include <vector>

namespace avid::kernels {
namespace {

using Index = std::int64_t;

/// Calls f(p, k, q) for all input rows p, taps k and the output row q they meet at.
template <class F>
void for_each_pair(const ConvTranspose3dSize& s, F&& f) {
  for (Index b = 0; b < s.B; ++b)
    for (Index t = 0; t < s.in[0]; ++t)
      for (Index y = 0; y < s.in[1]; ++y)
        for (Index x = 0; x < s.in[2]; ++x)
          for (Index kt = 0; kt < s.kernel[0]; ++kt)
            for (Index ky = 0; ky < s.kernel[1]; ++ky)
              for (Index kx = 0; kx < s.kernel[2]; ++kx) {
                const Index qt = t * s.stride[0] - s.padding[0] + kt, qy = y * s.stride[1] - s.padding[1] + ky,
                            qx = x * s.stride[2] - s.padding[2] + kx;
                if (qt < 0 || qt >= s.out[0] || qy < 0 || qy >= s.out[1] || qx < 0 || qx >= s.out[2]) continue;
                f(((b * s.in[0] + t) * s.in[1] + y) * s.in[2] + x, (kt * s.kernel[1] + ky) * s.kernel[2] + kx,
                  ((b * s.out[0] + qt) * s.out[1] + qy) * s.out[2] + qx);
              }
}

template <class Elem>
void store(const std::vector<double>& sums, Index num_rows, Index num_cols, Rows<Elem> rows) {
  for (Index r = 0; r < num_rows; ++r)
    for (Index c = 0; c < num_cols; ++c)
      rows.row(r)[c] = static_cast<Elem>(sums[static_cast<std::size_t>(r * num_cols + c)]);
}

}  // namespace

Conv3dSize ConvTranspose3dSize::adjoint() const {
  return {
      .B = B, .in = out, .out = in, .I = O, .I2 = 0, .O = I, .kernel = kernel, .stride = stride, .padding = padding};
}

template <class Elem>
void conv_transpose3d_ref_fwd(
    const ConvTranspose3dSize& s, Rows<const Elem> x, Rows<const Elem> w, const Elem* bias, Rows<Elem> out) {
  std::vector<double> sums(static_cast<std::size_t>(s.out_positions() * s.O), 0.0);
  if (bias) {
    for (Index q = 0; q < s.out_positions(); ++q)
      for (Index o = 0; o < s.O; ++o) sums[static_cast<std::size_t>(q * s.O + o)] = static_cast<double>(bias[o]);
  }
  for_each_pair(s, [&](Index p, Index k, Index q) {
    for (Index i = 0; i < s.I; ++i)
      for (Index o = 0; o < s.O; ++o)
        sums[static_cast<std::size_t>(q * s.O + o)] +=
            static_cast<double>(w.row(i * s.taps() + k)[o]) * static_cast<double>(x.row(p)[i]);
  });
  store(sums, s.out_positions(), s.O, out);
}

template <class Elem>
void conv_transpose3d_ref_bwd_data(
    const ConvTranspose3dSize& s, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x) {
  std::vector<double> sums(static_cast<std::size_t>(s.in_positions() * s.I), 0.0);
  for_each_pair(s, [&](Index p, Index k, Index q) {
    for (Index i = 0; i < s.I; ++i)
      for (Index o = 0; o < s.O; ++o)
        sums[static_cast<std::size_t>(p * s.I + i)] +=
            static_cast<double>(w.row(i * s.taps() + k)[o]) * static_cast<double>(d_out.row(q)[o]);
  });
  store(sums, s.in_positions(), s.I, d_x);
}

template <class Elem>
void conv_transpose3d_ref_bwd_weight(
    const ConvTranspose3dSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<Elem> d_w, Elem* d_bias) {
  if (d_w) {
    std::vector<double> sums(static_cast<std::size_t>(s.I * s.taps() * s.O), 0.0);
    for_each_pair(s, [&](Index p, Index k, Index q) {
      for (Index i = 0; i < s.I; ++i)
        for (Index o = 0; o < s.O; ++o)
          sums[static_cast<std::size_t>((i * s.taps() + k) * s.O + o)] +=
              static_cast<double>(x.row(p)[i]) * static_cast<double>(d_out.row(q)[o]);
    });
    store(sums, s.I * s.taps(), s.O, d_w);
  }
  if (d_bias) {
    for (Index o = 0; o < s.O; ++o) {
      double sum = 0;
      for (Index q = 0; q < s.out_positions(); ++q) sum += static_cast<double>(d_out.row(q)[o]);
      d_bias[o] = static_cast<Elem>(sum);
    }
  }
}

#define AVID_CONV_TRANSPOSE3D_REF(Elem)                                                         \
  template void conv_transpose3d_ref_fwd(                                                       \
      const ConvTranspose3dSize&, Rows<const Elem>, Rows<const Elem>, const Elem*, Rows<Elem>); \
  template void conv_transpose3d_ref_bwd_data(                                                  \
      const ConvTranspose3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>);              \
  template void conv_transpose3d_ref_bwd_weight(                                                \
      const ConvTranspose3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Elem*);
AVID_CONV_TRANSPOSE3D_REF(float)
AVID_CONV_TRANSPOSE3D_REF(double)
#undef AVID_CONV_TRANSPOSE3D_REF

void conv_transpose3d_fwd(
    const ConvTranspose3dSize& s, Rows<const double> x, Rows<const double> w, const double* bias, Rows<double> out) {
  conv_transpose3d_ref_fwd(s, x, w, bias, out);
}
void conv_transpose3d_bwd_data(
    const ConvTranspose3dSize& s, Rows<const double> d_out, Rows<const double> w, Rows<double> d_x) {
  conv_transpose3d_ref_bwd_data(s, d_out, w, d_x);
}
void conv_transpose3d_bwd_weight(
    const ConvTranspose3dSize& s, Rows<const double> d_out, Rows<const double> x, Rows<double> d_w, double* d_bias) {
  conv_transpose3d_ref_bwd_weight(s, d_out, x, d_w, d_bias);
}

}  // namespace avid::kernels
