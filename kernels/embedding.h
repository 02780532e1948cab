// kernels/embedding.h -- rows of a table chosen by ids (contract: tensor/ops/embedding.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

// Elem is float or double; ids[i] in [-1, R); -1 means null_row, which must then be present.

/// out[i] = table[ids[i]] or null_row, for i < num_ids; rows of `width` elements.
template <class Elem>
void embedding_fwd(
    Rows<const Elem> table, const Elem* null_row, const std::int64_t* ids, std::int64_t num_ids, std::int64_t width,
    Rows<Elem> out);

/// d_table[r] = sum of d_out[i] over ids[i] == r; d_null_row = sum over ids[i] == -1. Either may be absent. In order of
/// i.
template <class Elem>
void embedding_bwd(
    Rows<const Elem> d_out, const std::int64_t* ids, std::int64_t num_ids, std::int64_t num_rows, std::int64_t width,
    Rows<Elem> d_table, Elem* d_null_row);

// ---- on a device: Elem is float ----

/// As above; ids on the device too, not read by the host: an id outside [-1, R), or -1 without a null row, gives a row
/// of NaN.
struct EmbeddingDeviceSizes {
  std::int64_t num_ids = 0, num_rows = 0, width = 0;
};
template <class Backend, class Elem>
void embedding_fwd(
    const Stream& stream, const EmbeddingDeviceSizes& size, Rows<const Elem> table, const Elem* null_row,
    const std::int64_t* ids, Rows<Elem> out);
/// Either gradient may be absent. Sums in order of the ids.
template <class Backend, class Elem>
void embedding_bwd(
    const Stream& stream, const EmbeddingDeviceSizes& size, Rows<const Elem> d_out, const std::int64_t* ids,
    Rows<Elem> d_table, Elem* d_null_row);

}  // namespace avid::kernels
