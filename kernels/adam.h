// kernels/adam.h -- the optimiser's passes over buffers: Adam, running average, sum of squares (contract:
// tensor/ops/adam.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"

namespace avid::kernels {

/// The numbers of one Adam step, the same for all parameters.
struct AdamStep {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;                  ///< decoupled: param *= 1 - lr * weight_decay first
  double correction1 = 1, correction2 = 1;  ///< 1 - beta1^n and 1 - beta2^n, n counting this step
  double grad_scale = 1;                    ///< multiplies every gradient (clipping, loss scale)
};

// Elem is float or double; n counts whole buffers, gaps included (zero in all of them, and staying zero).

/// One step in place. A null grad counts as zeros.
template <class Elem>
void adam_step(const AdamStep& step, Elem* param, const Elem* grad, Elem* m, Elem* v, std::int64_t n);
/// shadow += share * (online - shadow)
template <class Elem>
void lerp_towards(Elem* shadow, const Elem* online, double share, std::int64_t n);
/// sum of x^2 in f64, chunks in order: same bits for any thread count. Infinite or NaN if some x is.
template <class Elem>
double sum_of_squares(const Elem* x, std::int64_t n);

// ---- on a device: all parameters at once, f32; n counts whole buffers, gaps included ----

/// One parameter, 16-byte aligned. Segments are cut into chunks of kAdamChunk elements, none shared by two. With a
/// shadow the rows of both start at multiples of four elements, unless there is but one; gaps of param behind its rows
/// are written to those of the shadow (zeros), whose pitch is not less.
struct AdamSegment {
  float* param = nullptr;
  const float* grad = nullptr;  ///< null counts as zeros
  float *m = nullptr, *v = nullptr;
  float* average = nullptr;    ///< running average of param, or null
  BFloat16* shadow = nullptr;  ///< param in two bytes, or null
  std::int64_t n = 0;
  std::int64_t first_chunk = 0;  ///< chunks of the segments before
  std::int64_t pitch = 0;        ///< elements from row to row; 0 with shadow_pitch: one row, or no shadow
  std::int64_t shadow_pitch = 0;
};
inline constexpr std::int64_t kAdamChunk = 65536;
constexpr std::int64_t adam_chunks(std::int64_t n) { return (n + kAdamChunk - 1) / kAdamChunk; }

/// A device array of segments in order, and their chunks in total.
struct AdamSegments {
  const AdamSegment* segments = nullptr;
  std::int64_t count = 0, num_chunks = 0;
};

/// What changes from update to update, in device memory: work that is recorded once finds the new numbers there.
struct AdamNumbers {
  const double* lr = nullptr;
  const double* shares = nullptr;  ///< how far the averages move, one after the other; 0 leaves them alone, 1 copies
  std::int64_t num_shares = 0;
  const float* losses = nullptr;  ///< must be finite too
  std::int64_t num_losses = 0;
};

/// What the device knows after an update. Before the first: AdamRecord{} with the steps taken so far.
struct AdamRecord {
  double norm = 0;                     ///< of all gradients, before clipping
  std::int64_t first_non_finite = -1;  ///< segment with the first infinity or NaN, `count` for a loss: no step then
  std::int64_t num_steps = 0;          ///< applied steps
  double clip_scale = 1;
  double size = 0, root = 1;  ///< lr / correction1 and 1 / sqrt(correction2) of this step
  double keep = 1;            ///< 1 - lr * weight_decay
};

/// Norm, first bad segment, clip factor min(1, max_norm / (norm + 1e-6)), and, when all gradients and losses are
/// finite, the next step's number, size and bias corrections, into *record (device). step.beta1, beta2 and weight_decay
/// are read. workspace: num_chunks f64. Sums in f64 in a fixed order: the same bits in every run.
template <class Backend>
void adam_measure(
    const Stream& stream, const AdamSegments& parameters, const AdamStep& step, const AdamNumbers& numbers,
    double max_norm, AdamRecord* record, double* workspace);

/// For every parameter with an average, and every share in turn: average += share * (param - average). Then one Adam
/// step by the record that adam_measure left, or none when something was not finite, and shadow = param where there is
/// one. step.beta1, beta2 and eps are read; the rest comes from the record.
template <class Backend>
void adam_apply(
    const Stream& stream, const AdamSegments& parameters, const AdamStep& step, const AdamNumbers& numbers,
    const AdamRecord* record);

/// One parameter's step with all numbers in `step`; a null grad counts as zeros.
template <class Backend>
void adam_step(
    const Stream& stream, const AdamStep& step, float* param, const float* grad, float* m, float* v, std::int64_t n);
/// shadow += share * (online - shadow), the difference in f64
template <class Backend>
void lerp_towards(const Stream& stream, float* shadow, const float* online, double share, std::int64_t n);

}  // namespace avid::kernels
