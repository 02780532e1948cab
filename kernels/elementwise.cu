// kernels/elementwise.cu -- activations, sum, multiple, clamp, the search for values that are not finite; on a device
//
// Math       silu(x) = x s,  s = 1 / (1 + exp(-x));   silu'(x) = s (1 + x (1 - s))
//            gelu(x) = x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2;   gelu'(x) = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
// Layout     flat buffers, gaps included: every function maps zeros to zero
// Parallel   a thread owns one pack of 16 bytes; the last pack of a buffer that is no whole number of packs
//            element-wise
// Traffic    reads one or two, writes one buffer
// Numerics   f32 arithmetic, one rounding at the store; erfc, not 1 + erf: the latter cancels for negative x
// Limits     n < 2^41
// Measured   never run on a GPU yet
// Predicted  add of [64,8,64,64,90] bf16, 1.2 GB: 0.88 ms at an A100's 1.38 TB/s
// Oracle     kernels/elementwise_cpu.cpp, compared in tests/sim/elementwise_test.cpp
#include "kernels/elementwise.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

struct Silu {
  AVID_DEVICE float operator()(float x) const { return x * sigmoid(x); }
};
struct SiluGrad {
  AVID_DEVICE float operator()(float x, float d_out) const {
    const float s = sigmoid(x);
    return d_out * s * (1.0f + x * (1.0f - s));
  }
};
AVID_DEVICE float gaussian_cdf(float x) { return 0.5f * erfcf(-0.707106781186547524f * x); }
struct Gelu {
  AVID_DEVICE float operator()(float x) const { return x * gaussian_cdf(x); }
};
struct GeluGrad {
  AVID_DEVICE float operator()(float x, float d_out) const {
    return d_out * (gaussian_cdf(x) + x * 0.398942280401432678f * expf(-0.5f * x * x));
  }
};
struct Add {
  AVID_DEVICE float operator()(float a, float b) const { return a + b; }
};
struct Scale {
  float factor;
  AVID_DEVICE float operator()(float x) const { return factor * x + 0.0f; }  // no -0 in the gaps
};
struct ClampUnit {
  AVID_DEVICE float operator()(float x) const { return x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x; }
};

/// out = f(x)
template <class Elem, class F>
__global__ void __launch_bounds__(kPointwiseBlock) map_kernel(F f, const Elem* x, Elem* out, std::int64_t n) {
  const std::int64_t first = grid_index() * kPack<Elem>;
  if (first + kPack<Elem> <= n) {
    float v[kPack<Elem>];
    load_pack(x + first, v);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) v[k] = f(v[k]);
    store_pack(out + first, v);
  } else {
    for (std::int64_t i = first; i < n; ++i) out[i] = to_elem<Elem>(f(to_float(x[i])));
  }
}

/// out = f(x, y)
template <class Elem, class F>
__global__ void __launch_bounds__(kPointwiseBlock)
    map2_kernel(F f, const Elem* x, const Elem* y, Elem* out, std::int64_t n) {
  const std::int64_t first = grid_index() * kPack<Elem>;
  if (first + kPack<Elem> <= n) {
    float v[kPack<Elem>], w[kPack<Elem>];
    load_pack(x + first, v);
    load_pack(y + first, w);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) v[k] = f(v[k], w[k]);
    store_pack(out + first, v);
  } else {
    for (std::int64_t i = first; i < n; ++i) out[i] = to_elem<Elem>(f(to_float(x[i]), to_float(y[i])));
  }
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    find_non_finite_kernel(const Elem* x, std::int64_t n, std::int32_t* found) {
  const std::int64_t first = grid_index() * kPack<Elem>;
  float sum = 0;  // x - x is 0 for finite x and NaN otherwise; the sum keeps a NaN
  if (first + kPack<Elem> <= n) {
    float v[kPack<Elem>];
    load_pack(x + first, v);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) sum += v[k] - v[k];
  } else {
    for (std::int64_t i = first; i < n; ++i) sum += to_float(x[i]) - to_float(x[i]);
  }
  if (!(sum == 0.0f)) atomicExch(found, 1);  // several blocks may come here
}

template <class Elem>
std::int64_t packs(std::int64_t n) {
  return (n + kPack<Elem> - 1) / kPack<Elem>;
}
template <class Elem, class F>
void map(const Stream& stream, F f, const Elem* x, Elem* out, std::int64_t n) {
  launch_items(map_kernel<Elem, F>, packs<Elem>(n), stream, f, x, out, n);
}
template <class Elem, class F>
void map2(const Stream& stream, F f, const Elem* x, const Elem* y, Elem* out, std::int64_t n) {
  launch_items(map2_kernel<Elem, F>, packs<Elem>(n), stream, f, x, y, out, n);
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void silu_fwd(const Stream& stream, const Elem* x, Elem* out, std::int64_t n) {
  AVID_GPU::map(stream, AVID_GPU::Silu{}, x, out, n);
}
template <class Backend, class Elem>
void silu_bwd(const Stream& stream, const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n) {
  AVID_GPU::map2(stream, AVID_GPU::SiluGrad{}, x, d_out, d_x, n);
}
template <class Backend, class Elem>
void gelu_fwd(const Stream& stream, const Elem* x, Elem* out, std::int64_t n) {
  AVID_GPU::map(stream, AVID_GPU::Gelu{}, x, out, n);
}
template <class Backend, class Elem>
void gelu_bwd(const Stream& stream, const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n) {
  AVID_GPU::map2(stream, AVID_GPU::GeluGrad{}, x, d_out, d_x, n);
}
template <class Backend, class Elem>
void add_fwd(const Stream& stream, const Elem* a, const Elem* b, Elem* out, std::int64_t n) {
  AVID_GPU::map2(stream, AVID_GPU::Add{}, a, b, out, n);
}
template <class Backend, class Elem>
void scale_fwd(const Stream& stream, const Elem* x, float factor, Elem* out, std::int64_t n) {
  AVID_GPU::map(stream, AVID_GPU::Scale{factor}, x, out, n);
}
template <class Backend, class Elem>
void clamp_unit(const Stream& stream, Elem* x, std::int64_t n) {
  AVID_GPU::map(stream, AVID_GPU::ClampUnit{}, static_cast<const Elem*>(x), x, n);
}
template <class Backend, class Elem>
void find_non_finite(const Stream& stream, const Elem* x, std::int64_t n, std::int32_t* found) {
  AVID_GPU::launch_items(AVID_GPU::find_non_finite_kernel<Elem>, AVID_GPU::packs<Elem>(n), stream, x, n, found);
}

#define AVID_INSTANTIATE(Elem)                                                                     \
  template void silu_fwd<Gpu, Elem>(const Stream&, const Elem*, Elem*, std::int64_t);              \
  template void silu_bwd<Gpu, Elem>(const Stream&, const Elem*, const Elem*, Elem*, std::int64_t); \
  template void gelu_fwd<Gpu, Elem>(const Stream&, const Elem*, Elem*, std::int64_t);              \
  template void gelu_bwd<Gpu, Elem>(const Stream&, const Elem*, const Elem*, Elem*, std::int64_t); \
  template void add_fwd<Gpu, Elem>(const Stream&, const Elem*, const Elem*, Elem*, std::int64_t);  \
  template void scale_fwd<Gpu, Elem>(const Stream&, const Elem*, float, Elem*, std::int64_t);      \
  template void clamp_unit<Gpu, Elem>(const Stream&, Elem*, std::int64_t);                         \
  template void find_non_finite<Gpu, Elem>(const Stream&, const Elem*, std::int64_t, std::int32_t*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
