// kernels/ptx/tensor_map_encoding.h -- what the machine's cuTensorMapEncodeTiled writes into a tensor map
//
// Plain C++. A driver's 128 bytes are its own affair; these are ours. The interpreter reads them where a tensor copy
// names the address of a map. Only matrices are modelled: two dimensions, elements of two bytes, no element strides.
#pragma once

#include <cstdint>

namespace avid::kernels::ptx {

/// The first bytes of the 128; the others are zero.
struct EncodedTensorMap {
  static constexpr std::uint64_t kMagic = 0x70616d2078747021;
  std::uint64_t magic = kMagic;
  std::uint64_t address = 0;  ///< of element (0, 0): a multiple of 16
  std::uint64_t columns = 0, rows = 0;
  std::uint64_t row_bytes = 0;  ///< from a row to the next: a multiple of 16
  std::uint32_t element_bytes = 0;
  std::uint32_t tile_columns = 0, tile_rows = 0;
  /// 32, 64 or 128: chunks of 16 bytes change places within so many bytes, by the row. 0: they do not.
  std::uint32_t swizzle_bytes = 0;
};
static_assert(sizeof(EncodedTensorMap) <= 128);

}  // namespace avid::kernels::ptx
