// kernels/weighted_mse.h -- squared error with a weight per clip (contract: tensor/ops/weighted_mse.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// B clips of rows_per_clip rows of C elements.
struct WeightedMseSizes {
  std::int64_t B = 0, rows_per_clip = 0, C = 0;
};

// Elem is float or double. weight[b] in f64.

/// mean_b weight[b] * mean((prediction - target)^2), summed in f64 in a fixed order
template <class Elem>
double weighted_mse_fwd(
    const WeightedMseSizes& size, Rows<const Elem> prediction, Rows<const Elem> target, const double* weight);
/// d_prediction = d_loss * weight[b] * 2 (prediction - target) / numel
template <class Elem>
void weighted_mse_bwd(
    const WeightedMseSizes& size, Rows<const Elem> prediction, Rows<const Elem> target, const double* weight,
    double d_loss, Rows<Elem> d_prediction);

// ---- on a device: Elem is float or BFloat16 ----

/// weight [B] f32, device. Rows start at 16-byte boundaries, or C = 1 and pitch = 1 (the elements of a vector are
/// clips).
template <class Elem>
struct WeightedMseDeviceArgs {
  WeightedMseSizes size;
  Rows<const Elem> prediction, target;
  const float* weight = nullptr;
};

/// f64 elements of workspace that weighted_mse_fwd needs.
constexpr std::int64_t weighted_mse_workspace(const WeightedMseSizes& size) {
  constexpr std::int64_t kRowsPerBlock = 2048;
  return size.B * ((size.rows_per_clip + kRowsPerBlock - 1) / kRowsPerBlock);
}

/// *loss in f32, device. A row's squares are added in f32, rows in f64, in a fixed order: the same bits in every run.
template <class Backend, class Elem>
void weighted_mse_fwd(const Stream& stream, const WeightedMseDeviceArgs<Elem>& p, float* loss, double* workspace);
/// d_loss: f32 scalar, device. Gaps of d_prediction become zero.
template <class Backend, class Elem>
void weighted_mse_bwd(
    const Stream& stream, const WeightedMseDeviceArgs<Elem>& p, const float* d_loss, Rows<Elem> d_prediction);

}  // namespace avid::kernels
