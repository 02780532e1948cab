// kernels/relative_bias.h -- which row of the relative position table belongs to a (query, key) pair
//
// Source: the two-sided bucket rule of T5 with 32 buckets and maximum distance 32 (spec/pixel.md 2.5).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define AVID_HOST_DEVICE __host__ __device__
#else
#define AVID_HOST_DEVICE
#endif

namespace avid::kernels {

/// Rows of a relative position table.
inline constexpr std::int64_t kRelativeBiasBuckets = 32;

/// Bucket of the signed distance r = key - query.
///
///   m = |r|;  bucket = (r > 0 ? 16 : 0) + (m < 8 ? m : min(15, 8 + floor(8 ln(m/8) / ln 4)))
///
/// The logarithm is replaced by the smallest m of each bucket: floor() of a rounded logarithm could slip at
/// m = 16, where it is exactly 4.
AVID_HOST_DEVICE constexpr std::int64_t relative_bias_bucket(std::int64_t r) {
  const std::int64_t m = r < 0 ? -r : r;
  const std::int64_t offset = r > 0 ? 16 : 0;
  if (m < 8) return offset + m;
  return offset + 8 + (m >= 10) + (m >= 12) + (m >= 14) + (m >= 16) + (m >= 20) + (m >= 23) + (m >= 27);
}

}  // namespace avid::kernels
