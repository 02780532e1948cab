// kernels/dtype.h -- element types and the 16-bit float formats, without any header of the CUDA toolkit
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace avid {

/// Element types. The numbers are internal; files use their own names.
enum class DType : std::uint8_t { f64, f32, bf16, f16, i64, i32, u8 };

constexpr std::size_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::u8: return 1;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i64: return "i64";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
  }
  return "?";
}

constexpr bool is_float(DType t) { return t <= DType::f16; }

/// bfloat16: the upper half of an f32. Stored bits only; arithmetic happens in f32.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  /// Round to nearest even; NaN stays NaN.
  explicit bf16(float v) {
    const auto u = std::bit_cast<std::uint32_t>(v);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<std::uint16_t>((u >> 16) | 0x40u)
                                           : static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

/// The same type by the name that device code uses, where `bf16` is the device's own.
using BFloat16 = bf16;

/// IEEE binary16. Stored bits only; arithmetic happens in f32.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  explicit f16(float v) { bits = from_f32(v); }
  explicit operator float() const { return to_f32(bits); }

  /// Round to nearest even, with subnormals, overflow to infinity, NaN kept.
  static std::uint16_t from_f32(float v) {
    const auto u = std::bit_cast<std::uint32_t>(v);
    const std::uint32_t sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (mag >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 65536 (and inf)
    if (mag < 0x38800000u) {  // subnormal in f16: let f32 addition do the rounding at 2^-24
      const float shifted = std::bit_cast<float>(mag) + 0.5f;  // ulp(0.5) = 2^-24
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = mag + 0xfffu + ((mag >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
  static float to_f32(std::uint16_t h) {
    const std::uint32_t sign = std::uint32_t{h & 0x8000u} << 16, mag = h & 0x7fffu;
    if (mag >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (mag & 0x3ffu) << 13);
    const float magnitude =
        mag < 0x400u ? static_cast<float>(mag) * 0x1p-24f : std::bit_cast<float>((mag << 13) + 0x38000000u);
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
};

/// The element type's enum value: dtype_of<float> == DType::f32.
template <class Elem>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(Elem) == 0, "not an element type");
  return DType::u8;
}();
// clang-format off
template <> inline constexpr DType dtype_of<double> = DType::f64;
template <> inline constexpr DType dtype_of<float> = DType::f32;
template <> inline constexpr DType dtype_of<bf16> = DType::bf16;
template <> inline constexpr DType dtype_of<f16> = DType::f16;
template <> inline constexpr DType dtype_of<std::int64_t> = DType::i64;
template <> inline constexpr DType dtype_of<std::int32_t> = DType::i32;
template <> inline constexpr DType dtype_of<std::uint8_t> = DType::u8;
// clang-format on

/// Calls f.template operator()<Elem>() with the C++ type of `t`; every type is covered.
template <class F>
decltype(auto) dispatch_any(DType t, F&& f) {
  switch (t) {
    case DType::f64: return f.template operator()<double>();
    case DType::f32: return f.template operator()<float>();
    case DType::bf16: return f.template operator()<bf16>();
    case DType::f16: return f.template operator()<f16>();
    case DType::i64: return f.template operator()<std::int64_t>();
    case DType::i32: return f.template operator()<std::int32_t>();
    case DType::u8: return f.template operator()<std::uint8_t>();
  }
  throw std::logic_error("dispatch_any: unknown dtype");
}

/// Like dispatch_any for the two types that CPU kernels compute in; throws std::invalid_argument naming `op` otherwise.
template <class F>
decltype(auto) dispatch_f32_f64(DType t, const char* op, F&& f) {
  if (t == DType::f32) return f.template operator()<float>();
  if (t == DType::f64) return f.template operator()<double>();
  throw std::invalid_argument(std::string(op) + ": dtype: expected f32 or f64, got " + name_of(t));
}

}  // namespace avid
