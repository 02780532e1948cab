// kernels/conv3d_cpu.cpp -- reference of conv3d and its gradients (contract: tensor/ops/conv3d.h)
//
// Math    out[p,o]     = bias[o] + sum_{k,i} w[o,k,i] * x[q(p,k),i]
//         p output position, k tap, q = p*stride - padding + k
//         d_x[q,i]     = sum_{k,o} w[o,k,i] * d_out[p,o]                over all (p,k) with q(p,k) = q
//         d_w[o,k,i]   = sum_p d_out[p,o] * x[q(p,k),i]                 d_bias[o] = sum_p d_out[p,o]
//         x stands for [x | x2] along channels; positions outside the input count as zero.
// Numerics  every sum in f64, in a fixed order, one rounding at the store: the same bits for any thread count.
#include "kernels/conv3d.h"

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

using Index = std::int64_t;

/// The input row under tap k of output position p, or -1 in the padding. p and k are [b,t,y,x] and [t,y,x].
Index input_row(const Conv3dSize& s, Index b, const std::array<Index, 3>& p, const std::array<Index, 3>& k) {
  Index row = b;
  for (std::size_t d = 0; d < 3; ++d) {
    const Index q = p[d] * s.stride[d] - s.padding[d] + k[d];
    if (q < 0 || q >= s.in[d]) return -1;
    row = row * s.in[d] + q;
  }
  return row;
}

/// The output row whose tap k reads input position q, or -1 if there is none.
Index output_row(const Conv3dSize& s, Index b, const std::array<Index, 3>& q, const std::array<Index, 3>& k) {
  Index row = b;
  for (std::size_t d = 0; d < 3; ++d) {
    const Index scaled = q[d] + s.padding[d] - k[d];
    if (scaled < 0 || scaled % s.stride[d] != 0 || scaled / s.stride[d] >= s.out[d]) return -1;
    row = row * s.out[d] + scaled / s.stride[d];
  }
  return row;
}

/// [t,y,x] of a flat position in the given extents.
std::array<Index, 3> unflatten(Index flat, const std::array<Index, 3>& extents) {
  return {flat / (extents[1] * extents[2]), flat / extents[2] % extents[1], flat % extents[2]};
}

}  // namespace

template <class Elem>
void conv3d_ref_fwd(
    const Conv3dSize& s, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w, const Elem* bias,
    Rows<Elem> out) {
  const Index per_clip = s.out[0] * s.out[1] * s.out[2];
  parallel_for(s.out_positions(), [&](Index row, int) {
    const std::array<Index, 3> p = unflatten(row % per_clip, s.out);
    for (Index o = 0; o < s.O; ++o) {
      double sum = bias ? static_cast<double>(bias[o]) : 0.0;
      for (Index k = 0; k < s.taps(); ++k) {
        const Index q = input_row(s, row / per_clip, p, unflatten(k, s.kernel));
        if (q < 0) continue;
        const Elem* w_row = w.row(o * s.taps() + k);
        for (Index i = 0; i < s.I; ++i) sum += static_cast<double>(w_row[i]) * static_cast<double>(x.row(q)[i]);
        for (Index i = 0; i < s.I2; ++i) sum += static_cast<double>(w_row[s.I + i]) * static_cast<double>(x2.row(q)[i]);
      }
      out.row(row)[o] = static_cast<Elem>(sum);
    }
  });
}

template <class Elem>
void conv3d_ref_bwd_data(
    const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x, Rows<Elem> d_x2) {
  const Index per_clip = s.in[0] * s.in[1] * s.in[2];
  parallel_for(s.in_positions(), [&](Index row, int) {
    const std::array<Index, 3> q = unflatten(row % per_clip, s.in);
    for (Index i = 0; i < s.I + s.I2; ++i) {
      const Rows<Elem>& target = i < s.I ? d_x : d_x2;
      if (!target) continue;
      double sum = 0;
      for (Index k = 0; k < s.taps(); ++k) {
        const Index p = output_row(s, row / per_clip, q, unflatten(k, s.kernel));
        if (p < 0) continue;
        for (Index o = 0; o < s.O; ++o) {
          sum += static_cast<double>(w.row(o * s.taps() + k)[i]) * static_cast<double>(d_out.row(p)[o]);
        }
      }
      target.row(row)[i < s.I ? i : i - s.I] = static_cast<Elem>(sum);
    }
  });
}

template <class Elem>
void conv3d_ref_bwd_weight(
    const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2, Rows<Elem> d_w,
    Elem* d_bias) {
  const Index per_clip = s.out[0] * s.out[1] * s.out[2];
  if (d_w) {
    parallel_for(s.O * s.taps(), [&](Index w_row, int) {
      const Index o = w_row / s.taps();
      const std::array<Index, 3> k = unflatten(w_row % s.taps(), s.kernel);
      for (Index i = 0; i < s.I + s.I2; ++i) {
        double sum = 0;
        for (Index row = 0; row < s.out_positions(); ++row) {
          const Index q = input_row(s, row / per_clip, unflatten(row % per_clip, s.out), k);
          if (q < 0) continue;
          const Elem value = i < s.I ? x.row(q)[i] : x2.row(q)[i - s.I];
          sum += static_cast<double>(d_out.row(row)[o]) * static_cast<double>(value);
        }
        d_w.row(w_row)[i] = static_cast<Elem>(sum);
      }
    });
  }
  if (d_bias) {
    for (Index o = 0; o < s.O; ++o) {
      double sum = 0;
      for (Index row = 0; row < s.out_positions(); ++row) sum += static_cast<double>(d_out.row(row)[o]);
      d_bias[o] = static_cast<Elem>(sum);
    }
  }
}

#define AVID_CONV3D_REF(Elem)                                                                                       \
  template void conv3d_ref_fwd(                                                                                     \
      const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, const Elem*, Rows<Elem>);            \
  template void conv3d_ref_bwd_data(const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Rows<Elem>); \
  template void conv3d_ref_bwd_weight(                                                                              \
      const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Elem*);
AVID_CONV3D_REF(float)
AVID_CONV3D_REF(double)
#undef AVID_CONV3D_REF

void conv3d_fwd(
    const Conv3dSize& s, Rows<const double> x, Rows<const double> x2, Rows<const double> w, const double* bias,
    Rows<double> out) {
  conv3d_ref_fwd(s, x, x2, w, bias, out);
}
void conv3d_bwd_data(
    const Conv3dSize& s, Rows<const double> d_out, Rows<const double> w, Rows<double> d_x, Rows<double> d_x2) {
  conv3d_ref_bwd_data(s, d_out, w, d_x, d_x2);
}
void conv3d_bwd_weight(
    const Conv3dSize& s, Rows<const double> d_out, Rows<const double> x, Rows<const double> x2, Rows<double> d_w,
    double* d_bias) {
  conv3d_ref_bwd_weight(s, d_out, x, x2, d_w, d_bias);
}

}  // namespace avid::kernels
