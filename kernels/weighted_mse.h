// kernels/weighted_mse.h -- squared error with a weight per clip (contract: tensor/ops/weighted_mse.h)
#pragma once

#include <cstdint>

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

}  // namespace avid::kernels
