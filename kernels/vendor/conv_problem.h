// kernels/vendor/conv_problem.h -- a pass of conv3d as cuDNN wants it described: extents, strides, types; plain data
//
// cuDNN counts dimensions [B,C,T,H,W] with a stride each, so our channels-last rows need no copy; only the filter must
// be without gaps. Rows of x and of w have the same pitch when x is the only source, and their gaps are zero: then the
// whole pitch counts as channels, and both are without gaps. Two sources are first joined in rows of the filter's
// pitch.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/conv3d.h"

namespace avid::kernels::vendor {

enum class ConvPass { fwd, bwd_data, bwd_weight };
enum class ElementType { f32, bf16 };

/// Element [i0,...,i4] lies at sum_d i_d * strides[d].
struct Layout {
  std::array<std::int64_t, 5> dims{}, strides{};
  bool operator==(const Layout&) const = default;
  auto operator<=>(const Layout&) const = default;
};

/// x (or d_x) [B,C,T,H,W], w (or d_w) [O,C,kt,kh,kw], y (or d_out) [B,O,T',H',W'], all of `type`; sums in f32.
struct ConvProblem {
  ConvPass pass = ConvPass::fwd;
  ElementType type = ElementType::f32;
  Layout x, w, y;
  std::array<std::int64_t, 3> stride{}, padding{};
  bool operator==(const ConvProblem&) const = default;
  auto operator<=>(const ConvProblem&) const = default;
};

/// Pitches of the operands: of x, of w (also of d_w), of out (also of d_out).
struct ConvPitches {
  std::int64_t x = 0, w = 0, out = 0;
};

/// True when the sources must be joined (or d_x taken apart): two of them, or rows of x with another pitch than w's.
bool needs_joined_rows(const Conv3dSize& size, const ConvPitches& pitches);

/// Without d_x its pitch is unknown: then the result goes through joined rows.
template <class Elem>
ConvPitches bwd_data_pitches(Rows<Elem> d_x, std::int64_t w, std::int64_t d_out) {
  return {d_x ? d_x.pitch : -1, w, d_out};
}
/// The filter's gradient has the pitch of rows of Elem, although d_w itself is f32.
template <class Elem>
ConvPitches bwd_weight_pitches(const Conv3dSize& size, std::int64_t x, std::int64_t d_out) {
  constexpr std::int64_t kChunk = 16 / static_cast<std::int64_t>(sizeof(Elem));
  return {x, (size.I + size.I2 + kChunk - 1) / kChunk * kChunk, d_out};
}

ConvProblem conv_problem(ConvPass pass, ElementType type, const Conv3dSize& size, const ConvPitches& pitches);

/// Bytes beside what the library asks for, each part a multiple of 256: joined rows of x, and for bf16 the gradient of
/// w before it becomes f32 (the library offers no bf16 product with f32 weights' gradients).
struct ConvBuffers {
  std::int64_t joined_bytes = 0, d_w_bytes = 0;
  std::int64_t total() const { return joined_bytes + d_w_bytes; }
};
ConvBuffers conv_buffers(ConvPass pass, ElementType type, const Conv3dSize& size, const ConvPitches& pitches);

/// Most bytes that an algorithm may ask for.
inline constexpr std::int64_t kLibraryWorkspaceBytes = std::int64_t{256} << 20;

/// What cuDNN says of an engine (cudnnBackendNumericalNote_t), as far as we ask.
struct EngineNotes {
  bool tensor_core = false, down_convert = false, reduced_reduction = false, fft = false, nondeterministic = false,
       winograd = false;
};
/// Whether an engine may be used: the same bits in every run, sums in f32, no transforms that trade accuracy; for f32
/// no tensor cores either, which would round the factors to TF32.
bool engine_allowed(const EngineNotes& notes, ElementType type);

/// "conv3d_fwd bf16 [8,16,64,64] 48 -> 96, 1x3x3"
std::string describe(ConvPass pass, ElementType type, const Conv3dSize& size);

}  // namespace avid::kernels::vendor
