// kernels/clip_mix_cpu.cpp -- weighted sum of two videos with factors per clip
//
// Math       out[b,..] = (of_x[b] x[b,..] + of_y[b] y[b,..]) / divisor[b]
// Layout     rows of C elements; where all three pitches agree, runs over whole pitched rows: zeros mix to zeros
// Traffic    reads two, writes one number per element
// Numerics   compiled with -ffp-contract=off (CMakeLists.txt): both products are rounded before the sum, so that the
//            numbers do not depend on the machine having fused multiply-adds, and equal the original's
#include "kernels/clip_mix.h"

#include <algorithm>

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kChunk = 16384;  // elements per work item

}  // namespace

template <class Elem>
void clip_mix_fwd(const ClipMixArgs<Elem>& p) {
  const bool flat = p.x.pitch == p.out.pitch && p.y.pitch == p.out.pitch;
  const std::int64_t row_chunk = std::max<std::int64_t>(kChunk / std::max<std::int64_t>(p.out.pitch, 1), 1);
  const std::int64_t chunks_per_clip = (p.size.rows_per_clip + row_chunk - 1) / row_chunk;
  parallel_for(p.size.B * chunks_per_clip, [&](std::int64_t chunk, int) {
    const std::int64_t b = chunk / chunks_per_clip, begin = chunk % chunks_per_clip * row_chunk;
    const std::int64_t num_rows = std::min(row_chunk, p.size.rows_per_clip - begin);
    const std::int64_t num_runs = flat ? 1 : num_rows, run = flat ? num_rows * p.out.pitch : p.size.C;
    const auto a = static_cast<Elem>(p.of_x[b]), c = static_cast<Elem>(p.of_y[b]);
    for (std::int64_t r = 0; r < num_runs; ++r) {
      const std::int64_t row = b * p.size.rows_per_clip + begin + r;
      const Elem *x = p.x.row(row), *y = p.y.row(row);
      Elem* out = p.out.row(row);
      if (p.divisor == nullptr) {
        for (std::int64_t i = 0; i < run; ++i) out[i] = a * x[i] + c * y[i];
      } else {
        const auto divisor = static_cast<Elem>(p.divisor[b]);
        for (std::int64_t i = 0; i < run; ++i) out[i] = (a * x[i] + c * y[i]) / divisor;
      }
    }
  });
}

template void clip_mix_fwd<float>(const ClipMixArgs<float>&);
template void clip_mix_fwd<double>(const ClipMixArgs<double>&);

}  // namespace avid::kernels
