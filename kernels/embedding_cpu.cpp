// kernels/embedding_cpu.cpp -- rows of a table chosen by ids
//
// Numerics   sums run over the ids in order, so the result is the same every time
// Limits     one thread: a batch holds a few hundred ids
#include "kernels/embedding.h"

#include <algorithm>

namespace avid::kernels {

template <class Elem>
void embedding_fwd(
    Rows<const Elem> table, const Elem* null_row, const std::int64_t* ids, std::int64_t num_ids, std::int64_t width,
    Rows<Elem> out) {
  for (std::int64_t i = 0; i < num_ids; ++i) std::copy_n(ids[i] < 0 ? null_row : table.row(ids[i]), width, out.row(i));
}

template <class Elem>
void embedding_bwd(
    Rows<const Elem> d_out, const std::int64_t* ids, std::int64_t num_ids, std::int64_t num_rows, std::int64_t width,
    Rows<Elem> d_table, Elem* d_null_row) {
  if (d_table)
    for (std::int64_t r = 0; r < num_rows; ++r) std::fill_n(d_table.row(r), width, Elem{0});
  if (d_null_row != nullptr) std::fill_n(d_null_row, width, Elem{0});
  for (std::int64_t i = 0; i < num_ids; ++i) {
    Elem* sum = ids[i] < 0 ? d_null_row : d_table ? d_table.row(ids[i]) : nullptr;
    if (sum == nullptr) continue;
    for (std::int64_t e = 0; e < width; ++e) sum[e] += d_out.row(i)[e];
  }
}

#define AVID_INSTANTIATE(Elem)                                                                     \
  template void embedding_fwd<Elem>(                                                               \
      Rows<const Elem>, const Elem*, const std::int64_t*, std::int64_t, std::int64_t, Rows<Elem>); \
  template void embedding_bwd<Elem>(                                                               \
      Rows<const Elem>, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, Rows<Elem>, Elem*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
