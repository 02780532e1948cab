// tensor/ops/embedding.h -- rows of a table chosen by ids, with a learnt row for "none"
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// Looks up one row per id.
///
///   out[b,t,:] = table[ids[b,t],:]   or   null_row   where ids[b,t] == -1
///
/// Shapes   table [R,E]; null_row [E] or undefined; ids [...]; returns [...,E].
/// Dtypes   table, null_row f32 or f64 (f32 on a device); ids i64.
/// Errors   ShapeError, DTypeError; ShapeError as well for an id outside -1 .. R-1, or -1 without a null_row.
///          On a device the ids are not read back: there such an id gives a row of NaN.
/// Source   pixel.md 2.2 (action codes). Deviations: none.
Tensor embedding_fwd(const Tensor& table, const Tensor& null_row, const Tensor& ids);

/// Which rows a set of ids uses; the others have no gradient. On a device: both, without looking (their gradient is
/// zero).
struct EmbeddingUse {
  bool table = false, null_row = false;
};
EmbeddingUse embedding_use(const Tensor& ids);

struct EmbeddingGrads {
  Tensor d_table /*[R,E]*/, d_null_row /*[E]*/;  ///< undefined where not asked for
};
/// d_table[r] = sum of d_out where ids == r; d_null_row = sum of d_out where ids == -1.
EmbeddingGrads embedding_bwd(const Tensor& d_out, const Tensor& ids, std::int64_t num_rows, const EmbeddingUse& needs);

}  // namespace avid
