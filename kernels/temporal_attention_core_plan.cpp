// kernels/temporal_attention_core_plan.cpp -- how the core of temporal_attention is launched, and what fits
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/temporal_attention_core.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kMaxSharedBytes = 160 * 1024;  // what an SM of compute capability 8.0 gives one block

std::int64_t up_to(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

/// Shared memory of a block of the general core; every array starts at 16 bytes.
std::int64_t sequence_bytes(std::int64_t warps, std::int64_t T, std::int64_t D, bool backward) {
  const std::int64_t rows = up_to(warps * T * (D + 1) * 4, 16), logits = up_to(warps * T * T * 4, 16);
  return backward ? 4 * rows + 3 * logits : 3 * rows + logits;
}

}  // namespace

TemporalCorePlan temporal_core_plan(const TemporalCoreSize& size, DType dtype, bool backward) {
  TemporalCorePlan plan;
  const std::int64_t pixels = size.T > 0 ? size.B * size.S : 0;
  if (pixels >= std::int64_t{1} << 31)
    throw std::invalid_argument("temporal_attention: expected fewer than 2^31 pixels, got " + std::to_string(pixels));
  plan.scale = 1.0f / std::sqrt(static_cast<float>(size.D));
  plan.on_tensor_cores = dtype == DType::bf16 && size.T <= 16 && size.D <= 64 && size.num_pairs <= 16;
  plan.num_items = plan.on_tensor_cores && size.T <= 8 ? (pixels + 1) / 2 : pixels;
  plan.warps = kTemporalCoreWarps;
  if (!plan.on_tensor_cores) {
    const std::int64_t bytes = sequence_bytes(1, size.T, size.D, backward);
    if (bytes > kMaxSharedBytes)
      throw std::invalid_argument(
          "temporal_attention: expected a clip whose sequences fit " + std::to_string(kMaxSharedBytes) +
          " bytes of shared memory, got T = " + std::to_string(size.T) + ", D = " + std::to_string(size.D) +
          ", which need " + std::to_string(bytes) + " | use fewer frames");
    if (sequence_bytes(plan.warps, size.T, size.D, backward) > kMaxSharedBytes) plan.warps = 1;
    plan.shared_bytes = sequence_bytes(plan.warps, size.T, size.D, backward);
  }
  // Enough blocks for the largest device, few enough that the partial sums of the bias stay small.
  plan.blocks = std::clamp<std::int64_t>(
      (plan.num_items + plan.warps - 1) / plan.warps, 1, std::max<std::int64_t>(1, 1024 / size.N));
  plan.num_partials = plan.blocks * plan.warps;
  return plan;
}

}  // namespace avid::kernels
