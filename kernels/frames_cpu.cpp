// kernels/frames_cpu.cpp -- between bytes and [-1,1]
//
// Math       f = u / 255 * 2 - 1, looked up in a table of the 256 values;  u = trunc(clamp((x + 1) / 2 * 255, 0, 255))
// Numerics   true division, no reciprocal: the reciprocal changes which bytes survive the round trip (pixel.md 1.1).
//            The kernels folder is compiled without -ffast-math, so the compiler keeps the division and the order.
#include "kernels/frames.h"

#include <array>

#include "kernels/threads.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kChunkRows = 16384;

template <class F>
void for_chunks(std::int64_t num_rows, F&& f) {
  parallel_for((num_rows + kChunkRows - 1) / kChunkRows, [&](std::int64_t chunk, int) {
    const std::int64_t end = (chunk + 1) * kChunkRows < num_rows ? (chunk + 1) * kChunkRows : num_rows;
    for (std::int64_t r = chunk * kChunkRows; r < end; ++r) f(r);
  });
}

}  // namespace

template <class Elem>
void frames_from_u8(Rows<const std::uint8_t> u, std::int64_t num_rows, std::int64_t C, Rows<Elem> out) {
  std::array<Elem, 256> value{};
  for (std::size_t i = 0; i < 256; ++i) value[i] = static_cast<Elem>(i) / 255 * 2 - 1;
  for_chunks(num_rows, [&](std::int64_t r) {
    for (std::int64_t c = 0; c < C; ++c) out.row(r)[c] = value[u.row(r)[c]];
  });
}

template <class Elem>
void frames_to_u8(Rows<const Elem> x, std::int64_t num_rows, std::int64_t C, Rows<std::uint8_t> out) {
  for_chunks(num_rows, [&](std::int64_t r) {
    for (std::int64_t c = 0; c < C; ++c) {
      const Elem level = (x.row(r)[c] + 1) / 2 * 255;
      const Elem clamped = !(level > 0) ? Elem{0} : level > 255 ? Elem{255} : level;  // NaN fails every comparison
      out.row(r)[c] = static_cast<std::uint8_t>(clamped);
    }
  });
}

#define AVID_INSTANTIATE(Elem)                                                                          \
  template void frames_from_u8<Elem>(Rows<const std::uint8_t>, std::int64_t, std::int64_t, Rows<Elem>); \
  template void frames_to_u8<Elem>(Rows<const Elem>, std::int64_t, std::int64_t, Rows<std::uint8_t>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
