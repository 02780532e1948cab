// kernels/rows.h -- a pointer to rows of channels: row r starts at data + r * pitch
#pragma once

#include <cstdint>
#include <type_traits>
#include <type_traits>

namespace avid::kernels {

/// Rows of a pitched tensor, in elements. A null pointer stands for an absent argument.
template <class Elem>
struct Rows {
  Elem* data = nullptr;
  std::int64_t pitch = 0;

  constexpr Elem* row(std::int64_t r) const { return data + r * pitch; }
  constexpr explicit operator bool() const { return data != nullptr; }
  constexpr operator Rows<const Elem>() const  // NOLINT: as for plain pointers
    requires(!std::is_const_v<Elem>)
  {
    return {data, pitch};
  }
};

}  // namespace avid::kernels
