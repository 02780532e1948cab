// kernels/cross_entropy.h -- mean negative log-probability of the right class (contract: tensor/ops/cross_entropy.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

// Elem is float or double. `logits` has num_rows rows of A classes; 0 <= ids[r] < A.

/// (1/num_rows) sum_r (log sum_a exp(logits[r,a]) - logits[r,ids[r]])
template <class Elem>
double cross_entropy_fwd(Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A);
/// d_logits = d_loss / num_rows * (softmax(logits) - onehot(ids))
template <class Elem>
void cross_entropy_bwd(
    Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A, double d_loss,
    Rows<Elem> d_logits);

// ---- on a device: Elem is float or BFloat16, arithmetic is f32; ids lie on the device, outside [0, A) NaN ----

/// *loss in f32, device; workspace: num_rows f32. Rows are added in f64 in a fixed order.
template <class Backend, class Elem>
void cross_entropy_fwd(
    const Stream& stream, Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A,
    float* loss, float* workspace);
/// d_loss: f32 scalar, device. Gaps of d_logits stay as they are.
template <class Backend, class Elem>
void cross_entropy_bwd(
    const Stream& stream, Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A,
    const float* d_loss, Rows<Elem> d_logits);

}  // namespace avid::kernels
