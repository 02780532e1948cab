// kernels/bias_rows.h -- a bias added to rows in place, on a device: what a library's convolution leaves to do
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// P rows of C channels.
template <class Elem>
struct BiasRowsArgs {
  std::int64_t P = 0, C = 0;
  const float* bias = nullptr;  ///< [C] or absent
  Rows<Elem> rows;              ///< read and written; whole 16-byte chunks, gaps become zero
};

/// rows[r,c] += bias[c], in f32 with one rounding; the gaps behind the rows become zero. Elem is float or BFloat16.
/// Rows start at 16-byte boundaries. Throws GpuError.
template <class Backend, class Elem>
void add_bias_rows(const Stream& stream, const BiasRowsArgs<Elem>& p);

}  // namespace avid::kernels
