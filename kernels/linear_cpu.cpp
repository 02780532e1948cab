// kernels/linear_cpu.cpp -- reference of linear and its gradients (contract: tensor/ops/linear.h)
//
// Math    out[r,o] = residual[r,o] + bias[o] + sum_i w[o,i] x[r,i]      x stands for [x | x2] along channels
//         d_x[r,i] = sum_o w[o,i] d_out[r,o]      d_w[o,i] = sum_r d_out[r,o] x[r,i]      d_bias[o] = sum_r d_out[r,o]
// Numerics  every sum in f64, in a fixed order, one rounding at the store: the same bits for any thread count.
#include "kernels/linear.h"

#include "kernels/threads.h"

namespace avid::kernels {
namespace {
using Index = std::int64_t;
}

template <class Elem>
void linear_ref_fwd(
    const LinearSize& s, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w, const Elem* bias,
    Rows<const Elem> residual, Rows<Elem> out) {
  parallel_for(s.P, [&](Index r, int) {
    for (Index o = 0; o < s.O; ++o) {
      double sum = bias ? static_cast<double>(bias[o]) : 0.0;
      if (residual) sum += static_cast<double>(residual.row(r)[o]);
      for (Index i = 0; i < s.I; ++i) sum += static_cast<double>(w.row(o)[i]) * static_cast<double>(x.row(r)[i]);
      for (Index i = 0; i < s.I2; ++i)
        sum += static_cast<double>(w.row(o)[s.I + i]) * static_cast<double>(x2.row(r)[i]);
      out.row(r)[o] = static_cast<Elem>(sum);
    }
  });
}

template <class Elem>
void linear_ref_bwd_data(
    const LinearSize& s, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x, Rows<Elem> d_x2) {
  parallel_for(s.P, [&](Index r, int) {
    for (Index i = 0; i < s.I + s.I2; ++i) {
      const Rows<Elem>& target = i < s.I ? d_x : d_x2;
      if (!target) continue;
      double sum = 0;
      for (Index o = 0; o < s.O; ++o) sum += static_cast<double>(w.row(o)[i]) * static_cast<double>(d_out.row(r)[o]);
      target.row(r)[i < s.I ? i : i - s.I] = static_cast<Elem>(sum);
    }
  });
}

template <class Elem>
void linear_ref_bwd_weight(
    const LinearSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2, Rows<Elem> d_w,
    Elem* d_bias) {
  parallel_for(s.O, [&](Index o, int) {
    for (Index i = 0; d_w && i < s.I + s.I2; ++i) {
      double sum = 0;
      for (Index r = 0; r < s.P; ++r) {
        const Elem value = i < s.I ? x.row(r)[i] : x2.row(r)[i - s.I];
        sum += static_cast<double>(d_out.row(r)[o]) * static_cast<double>(value);
      }
      d_w.row(o)[i] = static_cast<Elem>(sum);
    }
    if (d_bias) {
      double sum = 0;
      for (Index r = 0; r < s.P; ++r) sum += static_cast<double>(d_out.row(r)[o]);
      d_bias[o] = static_cast<Elem>(sum);
    }
  });
}

#define AVID_LINEAR_REF(Elem)                                                                                       \
  template void linear_ref_fwd(                                                                                     \
      const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, const Elem*, Rows<const Elem>,       \
      Rows<Elem>);                                                                                                  \
  template void linear_ref_bwd_data(const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Rows<Elem>); \
  template void linear_ref_bwd_weight(                                                                              \
      const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Elem*);
AVID_LINEAR_REF(float)
AVID_LINEAR_REF(double)
#undef AVID_LINEAR_REF

void linear_fwd(
    const LinearSize& s, Rows<const double> x, Rows<const double> x2, Rows<const double> w, const double* bias,
    Rows<const double> residual, Rows<double> out) {
  linear_ref_fwd(s, x, x2, w, bias, residual, out);
}
void linear_bwd_data(
    const LinearSize& s, Rows<const double> d_out, Rows<const double> w, Rows<double> d_x, Rows<double> d_x2) {
  linear_ref_bwd_data(s, d_out, w, d_x, d_x2);
}
void linear_bwd_weight(
    const LinearSize& s, Rows<const double> d_out, Rows<const double> x, Rows<const double> x2, Rows<double> d_w,
    double* d_bias) {
  linear_ref_bwd_weight(s, d_out, x, x2, d_w, d_bias);
}

}  // namespace avid::kernels
