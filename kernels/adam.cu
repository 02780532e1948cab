// kernels/adam.cu -- the optimiser's passes on a device: norm and guard, Adam, average, two-byte copies
//
// Math       g = clip_scale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//            param = param (1 - lr weight_decay) - lr / correction1 * m / (sqrt(v / correction2) + eps)
//            before it average += share (param - average) for each share, after it shadow = bf16(param)
// Layout     any number of flat f32 buffers ("segments"), cut into chunks of 65536 elements; a device table holds their
//            pointers, because a launch cannot carry hundreds as arguments
//            The two-byte copy has rows of its own pitch (16 bytes are 4 elements here and 8 there)
// Parallel   a block owns a chunk and finds its segment by bisection. adam_measure: one partial sum of squares per
//            chunk, then one block adds them, finds the first bad segment and writes the record. adam_apply: one pass,
//            four elements of a thread at a time; where they go in the copy is counted along, not divided out
// Traffic    per parameter: measure reads 4 bytes; apply reads 16 and writes 12, + 8 with the average, + 2 with the
//            copy
// Numerics   element-wise in f32 with the step's numbers rounded once; squares and their sum in f64, where finite f32
//            gradients cannot overflow: the sum is not finite exactly if some gradient is not. The average moves in f64
//            with one rounding: over a run it takes thousands of small steps. Same bits in every run
// Guard      the host decides nothing and waits for nothing: when a gradient or a loss is not finite, the record says
//            where, and apply takes no step. The host may read the record whenever it likes
// Recorded   everything that changes between updates (rate, shares, losses, step count) is read from device memory
// Limits     2^31 chunks
// Measured   never run on a GPU yet
// Predicted  72.2M parameters with average and copy: 0.29 + 2.7 GB; 2.2 ms at an A100's 1.38 TB/s
// Oracle     kernels/adam_cpu.cpp and a loop in f64, compared in tests/sim/adam_test.cpp
#include "kernels/adam.h"

#include <cmath>

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

/// The numbers of a step as the threads use them.
struct AdamFactors {
  float beta1, rest1, beta2, rest2, eps;
};
AdamFactors factors_of(const AdamStep& step) {
  return {
      .beta1 = static_cast<float>(step.beta1),
      .rest1 = static_cast<float>(1 - step.beta1),
      .beta2 = static_cast<float>(step.beta2),
      .rest2 = static_cast<float>(1 - step.beta2),
      .eps = static_cast<float>(step.eps)};
}

AVID_DEVICE float adam_element(
    const AdamFactors& f, float keep, float size, float root, float param, float g, float& m, float& v) {
  m = f.beta1 * m + f.rest1 * g;
  v = f.beta2 * v + f.rest2 * g * g;
  return keep * param - size * m / (__fsqrt_rn(v) * root + f.eps);
}

/// One step of `share` towards online; all the way is a copy.
AVID_DEVICE float moved(float shadow, float online, double share) {
  if (share >= 1) return online;
  return static_cast<float>(shadow + share * (static_cast<double>(online) - shadow));
}

/// base^n by squaring; the library's pow is a function with a stack of its own.
AVID_DEVICE double integer_power(double base, std::int64_t n) {
  double power = 1;
  for (; n > 0; n >>= 1, base *= base)
    if (n & 1) power *= base;
  return power;
}

/// The segment that chunk blockIdx.x lies in: the last one that begins at or before it and is not empty.
AVID_DEVICE std::int64_t segment_of_chunk(const AdamSegments& parameters, std::int64_t chunk) {
  std::int64_t low = 0, high = parameters.count;  // first_chunk of low <= chunk < first_chunk of high
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (parameters.segments[middle].first_chunk <= chunk) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// kCount elements, 4 aligned ones or 1.
template <int kCount>
AVID_DEVICE void load_some(const float* p, float (&v)[kCount]) {
  if constexpr (kCount == 4) {
    load_pack(p, v);
  } else {
    v[0] = *p;
  }
}
template <int kCount>
AVID_DEVICE void store_some(float* p, const float (&v)[kCount]) {
  if constexpr (kCount == 4) {
    store_pack(p, v);
  } else {
    *p = v[0];
  }
}
template <int kCount>
AVID_DEVICE void store_some(BFloat16* p, const float (&v)[kCount]) {
  if constexpr (kCount == 4) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]));
  } else {
    *p = to_bf16(v[0]);
  }
}

/// Where element i of a segment lies in its shadow, for i that grows by kStep.
template <int kStep>
class ShadowPlace {
 public:
  AVID_DEVICE ShadowPlace(const AdamSegment& s, std::int64_t i)
      : pitch_(s.pitch > 0 ? s.pitch : s.n + kStep), gap_(s.shadow_pitch - s.pitch) {
    const std::int64_t row = i / pitch_;
    col_ = i - row * pitch_;
    at_ = i + row * gap_;
    const std::int64_t step_rows = kStep / pitch_;
    step_cols_ = kStep - step_rows * pitch_;
    step_at_ = kStep + step_rows * gap_;
  }
  AVID_DEVICE std::int64_t at() const { return at_; }
  AVID_DEVICE void advance() {
    at_ += step_at_;
    col_ += step_cols_;
    if (col_ >= pitch_) {
      col_ -= pitch_;
      at_ += gap_;
    }
  }

 private:
  std::int64_t pitch_, gap_, col_, at_, step_cols_, step_at_;
};

__global__ void __launch_bounds__(kPointwiseBlock) sum_squares_kernel(AdamSegments parameters, double* partial) {
  AVID_SHARED(double, scratch, [kPointwiseBlock / 32]);
  const AdamSegment s = parameters.segments[segment_of_chunk(parameters, blockIdx.x)];
  double sum = 0;
  if (s.grad != nullptr) {
    const std::int64_t begin = (blockIdx.x - s.first_chunk) * kAdamChunk, end = min(begin + kAdamChunk, s.n);
    for (std::int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kPointwiseBlock) {
      if (i + 4 <= end) {
        float g[4];
        load_pack(s.grad + i, g);
#pragma unroll
        for (int k = 0; k < 4; ++k) sum += static_cast<double>(g[k]) * static_cast<double>(g[k]);
      } else {
        for (std::int64_t j = i; j < end; ++j) sum += static_cast<double>(s.grad[j]) * static_cast<double>(s.grad[j]);
      }
    }
  }
  sum = block_sum_to_first(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// One block: from the chunks' sums to the record.
__global__ void __launch_bounds__(kPointwiseBlock) adam_record_kernel(
    AdamSegments parameters, const double* partial, AdamNumbers numbers, double beta1, double beta2,
    double weight_decay, double max_norm, AdamRecord* record) {
  AVID_SHARED(double, scratch, [kPointwiseBlock / 32]);
  AVID_SHARED(int, bad_chunk_of_warp, [kPointwiseBlock / 32]);
  const int num_chunks = static_cast<int>(parameters.num_chunks);
  double sum = 0;
  int bad_chunk = num_chunks;  // the first whose sum is not finite
  for (int i = threadIdx.x; i < num_chunks; i += kPointwiseBlock) {
    sum += partial[i];
    if (!(partial[i] - partial[i] == 0.0)) bad_chunk = min(bad_chunk, i);
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) bad_chunk = min(bad_chunk, __shfl_xor_sync(0xffffffffu, bad_chunk, o));
  if (threadIdx.x % 32 == 0) bad_chunk_of_warp[threadIdx.x / 32] = bad_chunk;
  sum = block_sum_to_first(sum, scratch);  // its barrier covers bad_chunk_of_warp too
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kPointwiseBlock / 32; ++w) bad_chunk = min(bad_chunk, bad_chunk_of_warp[w]);
  record->norm = sqrt(sum);
  bool bad_loss = false;
  for (std::int64_t i = 0; i < numbers.num_losses; ++i) bad_loss |= !(numbers.losses[i] - numbers.losses[i] == 0.0f);
  record->first_non_finite = bad_chunk < num_chunks ? segment_of_chunk(parameters, bad_chunk)
                             : bad_loss             ? parameters.count
                                                    : -1;
  if (record->first_non_finite >= 0) return;
  const std::int64_t n = ++record->num_steps;
  record->clip_scale = fmin(1.0, max_norm / (record->norm + 1e-6));
  record->size = *numbers.lr / (1 - integer_power(beta1, n));
  record->root = 1 / sqrt(1 - integer_power(beta2, n));
  record->keep = 1 - *numbers.lr * weight_decay;
}

/// What the record says, in the types that elements are computed in.
struct AdamScales {
  float clip, size, root, keep;
};

/// kCount elements of a segment from i on, and of its shadow from `at` on.
template <int kCount>
AVID_DEVICE void apply_at(
    const AdamSegment& s, std::int64_t i, std::int64_t at, bool steps, bool moves, const AdamFactors& f,
    const AdamScales& scales, const AdamNumbers& numbers) {
  float param[kCount];
  load_some<kCount>(s.param + i, param);
  if (moves) {
    float average[kCount];
    load_some<kCount>(s.average + i, average);
    for (std::int64_t k = 0; k < numbers.num_shares; ++k) {
      const double share = numbers.shares[k];
      if (share == 0) continue;
#pragma unroll
      for (int e = 0; e < kCount; ++e) average[e] = moved(average[e], param[e], share);
    }
    store_some<kCount>(s.average + i, average);
  }
  if (!steps) return;
  float g[kCount] = {}, m[kCount], v[kCount];
  if (s.grad != nullptr) load_some<kCount>(s.grad + i, g);
  load_some<kCount>(s.m + i, m);
  load_some<kCount>(s.v + i, v);
#pragma unroll
  for (int e = 0; e < kCount; ++e)
    param[e] = adam_element(f, scales.keep, scales.size, scales.root, param[e], scales.clip * g[e], m[e], v[e]);
  store_some<kCount>(s.m + i, m);
  store_some<kCount>(s.v + i, v);
  store_some<kCount>(s.param + i, param);
  if (s.shadow != nullptr) store_some<kCount>(s.shadow + at, param);
}

// Three blocks per SM, each thread with up to five packs on their way: without the number the compiler spills.
__global__ void __launch_bounds__(kPointwiseBlock, 3)
    adam_apply_kernel(AdamSegments parameters, AdamFactors f, AdamNumbers numbers, const AdamRecord* record) {
  const bool steps = record->first_non_finite < 0;
  const AdamSegment s = parameters.segments[segment_of_chunk(parameters, blockIdx.x)];
  bool moves = false;
  for (std::int64_t k = 0; k < numbers.num_shares; ++k) moves |= numbers.shares[k] != 0;
  moves &= s.average != nullptr;
  if (!steps && !moves) return;
  const AdamScales scales{
      static_cast<float>(record->clip_scale), static_cast<float>(record->size), static_cast<float>(record->root),
      static_cast<float>(record->keep)};
  const std::int64_t begin = (blockIdx.x - s.first_chunk) * kAdamChunk, end = min(begin + kAdamChunk, s.n);
  const std::int64_t first = begin + 4 * threadIdx.x;
  ShadowPlace<4 * kPointwiseBlock> place(s, first);
  for (std::int64_t i = first; i < end; i += 4 * kPointwiseBlock, place.advance()) {
    if (i + 4 <= end) {
      apply_at<4>(s, i, place.at(), steps, moves, f, scales, numbers);
    } else {  // of a single row's end, or of a scalar
      for (std::int64_t k = 0; k < end - i; ++k)
        apply_at<1>(s, i + k, place.at() + k, steps, moves, f, scales, numbers);
    }
  }
}

__global__ void __launch_bounds__(kPointwiseBlock) adam_step_kernel(
    AdamFactors f, float keep, float scale, float size, float root, float* param, const float* grad, float* m, float* v,
    std::int64_t n) {
  const std::int64_t i = grid_index();
  if (i >= n) return;
  const float g = grad == nullptr ? 0.0f : scale * grad[i];
  param[i] = adam_element(f, keep, size, root, param[i], g, m[i], v[i]);
}

__global__ void __launch_bounds__(kPointwiseBlock)
    lerp_kernel(float* shadow, const float* online, double share, std::int64_t n) {
  const std::int64_t i = grid_index();
  if (i < n) shadow[i] = moved(shadow[i], online[i], share);
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend>
void adam_measure(
    const Stream& stream, const AdamSegments& parameters, const AdamStep& step, const AdamNumbers& numbers,
    double max_norm, AdamRecord* record, double* workspace) {
  const dim3 block(AVID_GPU::kPointwiseBlock);
  if (parameters.num_chunks > 0)
    AVID_GPU::launch(
        AVID_GPU::sum_squares_kernel, dim3(static_cast<unsigned>(parameters.num_chunks)), block, 0, stream, parameters,
        workspace);
  AVID_GPU::launch(
      AVID_GPU::adam_record_kernel, dim3(1), block, 0, stream, parameters, workspace, numbers, step.beta1, step.beta2,
      step.weight_decay, max_norm, record);
}

template <class Backend>
void adam_apply(
    const Stream& stream, const AdamSegments& parameters, const AdamStep& step, const AdamNumbers& numbers,
    const AdamRecord* record) {
  if (parameters.num_chunks == 0) return;
  AVID_GPU::launch(
      AVID_GPU::adam_apply_kernel, dim3(static_cast<unsigned>(parameters.num_chunks)), dim3(AVID_GPU::kPointwiseBlock),
      0, stream, parameters, AVID_GPU::factors_of(step), numbers, record);
}

template <class Backend>
void adam_step(
    const Stream& stream, const AdamStep& step, float* param, const float* grad, float* m, float* v, std::int64_t n) {
  AVID_GPU::launch_items(
      AVID_GPU::adam_step_kernel, n, stream, AVID_GPU::factors_of(step),
      static_cast<float>(1 - step.lr * step.weight_decay), static_cast<float>(step.grad_scale),
      static_cast<float>(step.lr / step.correction1), static_cast<float>(1 / std::sqrt(step.correction2)), param, grad,
      m, v, n);
}

template <class Backend>
void lerp_towards(const Stream& stream, float* shadow, const float* online, double share, std::int64_t n) {
  AVID_GPU::launch_items(AVID_GPU::lerp_kernel, n, stream, shadow, online, share, n);
}

template void adam_measure<Gpu>(
    const Stream&, const AdamSegments&, const AdamStep&, const AdamNumbers&, double, AdamRecord*, double*);
template void adam_apply<Gpu>(
    const Stream&, const AdamSegments&, const AdamStep&, const AdamNumbers&, const AdamRecord*);
template void adam_step<Gpu>(const Stream&, const AdamStep&, float*, const float*, float*, float*, std::int64_t);
template void lerp_towards<Gpu>(const Stream&, float*, const float*, double, std::int64_t);

}  // namespace avid::kernels
