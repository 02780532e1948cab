// autograd/ops/embedding.h -- differentiable embedding
#pragma once

#include "autograd/var.h"

namespace avid {

/// Rows of `table` [R,E] chosen by ids (i64 [B,T] or any shape); id -1 takes `null_row` [E] (undefined: -1 is an
/// error). Returns [B,T,E]. Contract and errors: tensor/ops/embedding.h.
///
/// Grad     d_table[r] = sum of d_out where ids == r; d_null_row = sum of d_out where ids == -1. A null row that no id
///          uses gets no gradient at all (not zeros), and neither does the table when every id is -1. Saves ids.
Var embedding(const Var& table, const Var& null_row, const Tensor& ids);

}  // namespace avid
