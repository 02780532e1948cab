// kernels/cast.cu -- f32 rows to bf16 rows and back, on a device
//
// Math       to[r,c] = from[r,c], to nearest even when narrowing
// Layout     rows [P,C] of both types, pitches of their own
// Parallel   a thread owns four neighbouring elements of one row: 16 bytes of f32, 8 of bf16
// Traffic    6 bytes per element
// Limits     P * ceil(C/4) < 2^39 (grid.x)
// Numerics   widening is exact
// Measured   never run on a GPU yet
// Oracle     the host's BFloat16, in tests/sim/cast_test.cpp
#include "kernels/cast.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {

AVID_DEVICE void load_4(const float* p, float (&v)[4]) { load_pack(p, v); }
AVID_DEVICE void load_4(const BFloat16* p, float (&v)[4]) {
  const uint2 words = *reinterpret_cast<const uint2*>(p);
  const float2 low = unpack_bf16x2(words.x), high = unpack_bf16x2(words.y);
  v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
}
AVID_DEVICE void store_4(float* p, const float (&v)[4]) { store_pack(p, v); }
AVID_DEVICE void store_4(BFloat16* p, const float (&v)[4]) {
  *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]));
}

/// `whole`: every row of both sides starts at a multiple of four elements, so that full groups move as one.
template <class To, class From>
__global__ void __launch_bounds__(kPointwiseBlock) cast_kernel(CastArgs<To, From> p, std::int64_t groups, bool whole) {
  const std::int64_t i = grid_index();
  if (i >= p.P * groups) return;
  const std::int64_t row = i / groups, first = i % groups * 4;
  const From* from = p.from.row(row) + first;
  To* to = p.to.row(row) + first;
  if (whole && first + 4 <= p.C) {
    float v[4];
    load_4(from, v);
    store_4(to, v);
  } else {
    for (std::int64_t k = 0; k < min(p.C - first, std::int64_t{4}); ++k) to[k] = to_elem<To>(to_float(from[k]));
  }
}

}  // namespace AVID_GPU

template <class Backend, class To, class From>
void cast(const Stream& stream, const CastArgs<To, From>& p) {
  const auto whole_rows = [&](const void* data, std::int64_t pitch, std::size_t item) {
    return reinterpret_cast<std::uintptr_t>(data) % (4 * item) == 0 && (pitch % 4 == 0 || p.P <= 1);
  };
  const bool whole =
      whole_rows(p.from.data, p.from.pitch, sizeof(From)) && whole_rows(p.to.data, p.to.pitch, sizeof(To));
  const std::int64_t groups = (p.C + 3) / 4;
  AVID_GPU::launch_items(AVID_GPU::cast_kernel<To, From>, p.P * groups, stream, p, groups, whole);
}

template void cast<Gpu, float, BFloat16>(const Stream&, const CastArgs<float, BFloat16>&);
template void cast<Gpu, BFloat16, float>(const Stream&, const CastArgs<BFloat16, float>&);

}  // namespace avid::kernels
