// kernels/cross_entropy_cpu.cpp -- mean negative log-probability of the right class
//
// Math       log softmax with the row's maximum taken out
// Numerics   f64 for both element types: a few thousand logits per batch, so speed does not matter
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

namespace avid::kernels {
namespace {

template <class Elem>
double log_sum_exp(const Elem* logits, std::int64_t A) {
  const double largest = *std::max_element(logits, logits + A);
  double sum = 0;
  for (std::int64_t a = 0; a < A; ++a) sum += std::exp(logits[a] - largest);
  return largest + std::log(sum);
}

}  // namespace

template <class Elem>
double cross_entropy_fwd(Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A) {
  double sum = 0;
  for (std::int64_t r = 0; r < num_rows; ++r) sum += log_sum_exp(logits.row(r), A) - logits.row(r)[ids[r]];
  return sum / static_cast<double>(num_rows);
}

template <class Elem>
void cross_entropy_bwd(
    Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A, double d_loss,
    Rows<Elem> d_logits) {
  const double factor = d_loss / static_cast<double>(num_rows);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    const double normaliser = log_sum_exp(logits.row(r), A);
    for (std::int64_t a = 0; a < A; ++a)
      d_logits.row(r)[a] =
          static_cast<Elem>(factor * (std::exp(logits.row(r)[a] - normaliser) - (a == ids[r] ? 1 : 0)));
  }
}

#define AVID_INSTANTIATE(Elem)                                                                                \
  template double cross_entropy_fwd<Elem>(Rows<const Elem>, const std::int64_t*, std::int64_t, std::int64_t); \
  template void cross_entropy_bwd<Elem>(                                                                      \
      Rows<const Elem>, const std::int64_t*, std::int64_t, std::int64_t, double, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
