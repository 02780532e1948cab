// kernels/rows.h -- a pointer to rows of channels: row r starts at data + r * pitch
#pragma once

#include <cstdint>
#include <type_traits>

namespace avid::kernels {

/// Rows of a pitched tensor, in elements. A null pointer stands for an absent argument.
template <class Elem>
struct Rows {
  Elem* data = nullptr;
  std::int64_t pitch = 0;

  constexpr Elem* row(std::int64_t r) const { return data + r * pitch; }
  constexpr explicit operator bool() const { return data != nullptr; }
  template <class Const>
  requires(std::is_same_v<Const, const Elem> && !std::is_const_v<Elem>) constexpr operator Rows<Const>()
      const {  // NOLINT: as for plain pointers
    return {data, pitch};
  }
};

}  // namespace avid::kernels
