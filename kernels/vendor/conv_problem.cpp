// kernels/vendor/conv_problem.cpp -- extents, strides and buffers of a convolution for cuDNN
#include "kernels/vendor/conv_problem.h"

namespace avid::kernels::vendor {
namespace {

std::int64_t bytes_of(ElementType type) { return type == ElementType::f32 ? 4 : 2; }
std::int64_t rounded(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }

/// Rows of positions b,t,y,x, `pitch` apart.
Layout rows(std::int64_t B, std::int64_t C, const std::array<std::int64_t, 3>& extent, std::int64_t pitch) {
  const auto [T, H, W] = extent;
  return {{B, C, T, H, W}, {T * H * W * pitch, 1, H * W * pitch, W * pitch, pitch}};
}

}  // namespace

bool needs_joined_rows(const Conv3dSize& size, const ConvPitches& pitches) {
  return size.I2 > 0 || pitches.x != pitches.w;
}

ConvProblem conv_problem(ConvPass pass, ElementType type, const Conv3dSize& size, const ConvPitches& pitches) {
  const std::int64_t channels = pitches.w;  // gaps counted in: they are zero in x and in w
  return {
      .pass = pass,
      .type = type,
      .x = rows(size.B, channels, size.in, pitches.w),
      .w = rows(size.O, channels, size.kernel, pitches.w),
      .y = rows(size.B, size.O, size.out, pitches.out),
      .stride = size.stride,
      .padding = size.padding};
}

ConvBuffers conv_buffers(ConvPass pass, ElementType type, const Conv3dSize& size, const ConvPitches& pitches) {
  ConvBuffers buffers;
  if (needs_joined_rows(size, pitches))
    buffers.joined_bytes = rounded(size.in_positions() * pitches.w * bytes_of(type));
  if (pass == ConvPass::bwd_weight && type == ElementType::bf16)
    buffers.d_w_bytes = rounded(size.O * size.taps() * pitches.w * bytes_of(type));
  return buffers;
}

bool engine_allowed(const EngineNotes& notes, ElementType type) {
  if (notes.nondeterministic || notes.reduced_reduction || notes.fft || notes.winograd) return false;
  return type == ElementType::bf16 || (!notes.tensor_core && !notes.down_convert);
}

std::string describe(ConvPass pass, ElementType type, const Conv3dSize& size) {
  const auto extents = [](const auto& e) {
    return std::to_string(e[0]) + "," + std::to_string(e[1]) + "," + std::to_string(e[2]);
  };
  std::string out = pass == ConvPass::fwd        ? "conv3d_fwd"
                    : pass == ConvPass::bwd_data ? "conv3d_bwd_data"
                                                 : "conv3d_bwd_weight";
  out += type == ElementType::f32 ? " f32 [" : " bf16 [";
  out += std::to_string(size.B) + "," + extents(size.in) + "] " + std::to_string(size.I);
  if (size.I2 > 0) out.append("+").append(std::to_string(size.I2));
  out += " -> " + std::to_string(size.O) + ", kernel " + extents(size.kernel);
  if (size.stride != std::array<std::int64_t, 3>{1, 1, 1}) out += ", stride " + extents(size.stride);
  return out;
}

}  // namespace avid::kernels::vendor
