// kernels/attention_block.h -- what the three attention blocks have in common: operands, pitches, gradients
//
// Every block computes  y = x + proj(attention(prenorm(x)))  on rows of C channels:
//
//   xhat = (x - mean_c x) / sqrt(var_c x + 1e-5);  h = xhat * gamma           (biased variance, no bias)
//   [q | k | v] = h w_qkv^T          each [.., N*D], head-major
//   a = attention core of the block  [.., N*D]
//   y = x + a w_out^T (+ b_out)
//
// The blocks differ in which rows attend to each other and in the core.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Added to the variance under the root of the pre-norm.
inline constexpr double kPrenormEps = 1e-5;

/// Operands of a forward or backward pass. Pointers are to elements of `dtype` (f32 or f64); pitches count elements.
struct AttentionBlockArgs {
  DType dtype = DType::f32;
  std::int64_t B = 0;  ///< clips
  std::int64_t T = 0;  ///< frames
  std::int64_t S = 0;  ///< positions of a frame, H * W
  std::int64_t C = 0;  ///< channels
  std::int64_t N = 0;  ///< heads
  std::int64_t D = 0;  ///< width of a head

  const void* x = nullptr;      ///< [B,T,S,C]
  const void* gamma = nullptr;  ///< [C]
  const void* w_qkv = nullptr;  ///< [3*N*D,C]
  const void* w_out = nullptr;  ///< [C,N*D]
  const void* b_out = nullptr;  ///< [C], or null for none
  std::int64_t x_pitch = 0, w_qkv_pitch = 0, w_out_pitch = 0;

  void* y = nullptr;  ///< [B,T,S,C], forward only; gaps are written as zero
  std::int64_t y_pitch = 0;
};

/// Gradients of a backward pass. A null output pointer means nobody wants that gradient; its work is skipped.
/// Outputs are overwritten, never added to. Gaps of d_x are written as zero, gaps of the others are not touched.
struct AttentionBlockGrads {
  const void* d_y = nullptr;  ///< [B,T,S,C]
  std::int64_t d_y_pitch = 0;
  void* d_x = nullptr;  ///< [B,T,S,C]
  std::int64_t d_x_pitch = 0;
  void* d_gamma = nullptr;  ///< [C]
  void* d_w_qkv = nullptr;  ///< [3*N*D,C]
  std::int64_t d_w_qkv_pitch = 0;
  void* d_w_out = nullptr;  ///< [C,N*D]
  std::int64_t d_w_out_pitch = 0;
  void* d_b_out = nullptr;  ///< [C]
};

// ---- on a device ----

/// Widest head of linear and spatial attention on a device.
inline constexpr std::int64_t kMaxCoreHead = 64;

/// Operands on a device. Elem is float or BFloat16: activations and the two matrices. gamma and b_out are f32.
template <class Elem>
struct AttentionBlockDeviceArgs {
  std::int64_t B = 0, T = 0, S = 0, C = 0, N = 0, D = 0;  ///< as above
  Rows<const Elem> x;                                     ///< [B*T*S,C]
  const float* gamma = nullptr;                           ///< [C]
  Rows<const Elem> w_qkv;                                 ///< [3*N*D,C]
  Rows<const Elem> w_out;                                 ///< [C,N*D]
  const float* b_out = nullptr;                           ///< [C], or null for none
  Rows<Elem> y;                                           ///< [B*T*S,C], forward only; gaps are written as zero
  /// As many bytes as the block's <op>_workspace_bytes() says, 256-byte aligned, uninitialised.
  void* workspace = nullptr;
  /// linear_attention: sums over the keys of a frame, linear_attention_key_sums() elements, that the forward pass
  /// leaves for the backward pass; null: it sums again.
  float* key_sums = nullptr;
};

/// Gradients on a device; each output may be absent. Those of parameters are f32 whatever Elem is.
template <class Elem>
struct AttentionBlockDeviceGrads {
  Rows<const Elem> d_y;      ///< [B*T*S,C]
  Rows<Elem> d_x;            ///< [B*T*S,C]; gaps are written as zero
  float* d_gamma = nullptr;  ///< [C]
  Rows<float> d_w_qkv;       ///< [3*N*D,C]
  Rows<float> d_w_out;       ///< [C,N*D]
  float* d_b_out = nullptr;  ///< [C]
};

}  // namespace avid::kernels
