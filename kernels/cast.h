// kernels/cast.h -- rows of one float type to rows of another, on a device (contract: Tensor::to, Tensor::copy_from)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// P rows of C elements; the pitches differ, because rows of both types are multiples of 16 bytes.
template <class To, class From>
struct CastArgs {
  std::int64_t P = 0, C = 0;
  Rows<const From> from;
  Rows<To> to;  ///< gaps are left as they are
};

/// to = from, rounded to nearest even. (To, From) is (BFloat16, float) or (float, BFloat16).
template <class Backend, class To, class From>
void cast(const Stream& stream, const CastArgs<To, From>& p);

}  // namespace avid::kernels
