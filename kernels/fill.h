// kernels/fill.h -- one value into all elements of rows, on a device (contract: Tensor::fill)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// P rows of C elements; gaps are left as they are.
template <class Elem>
struct FillArgs {
  std::int64_t P = 0, C = 0;
  Rows<Elem> to;
  float value = 0;
};

/// to = value, rounded to Elem (float or BFloat16).
template <class Backend, class Elem>
void fill(const Stream& stream, const FillArgs<Elem>& p);

}  // namespace avid::kernels
