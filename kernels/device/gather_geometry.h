// kernels/device/gather_geometry.h -- which source row a result row meets at a tap, without divisions in the main loop
//
// An axis of a convolution forward: result j and tap k meet at source j*stride - padding + k. Of its adjoint: result q
// and tap k meet where q = p*stride - padding + k. With q = stride*j + r only the taps k = k0 + stride*k' with
// k0 = (r + padding) mod stride take part, and p = j + (r + padding)/stride - k': for each of the `stride` phases r
// this is again a dense convolution, with steps of one, backwards. AxisView is that common form.
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels::AVID_GPU {

/// Source = j*step + origin + direction*k' for j < rows, k' < taps; the weight tap is first_tap + tap_step*k' and the
/// result out_first + out_step*j.
struct AxisView {
  int rows, step, origin, direction, taps, first_tap, tap_step, out_step, out_first;
};

AVID_DEVICE AxisView axis_view(const GatherAxis& a, bool adjoint, int phase) {
  if (!adjoint) return {a.result, a.stride, -a.padding, 1, a.taps, 0, 1, 1, 0};
  const int shifted = phase + a.padding, first_tap = shifted % a.stride;
  // Neither phase nor first tap reaches the stride, so that none of the sums is negative.
  const int rows = (a.result - phase + a.stride - 1) / a.stride;
  const int taps = (a.taps - first_tap + a.stride - 1) / a.stride;
  return {rows, 1, shifted / a.stride, -1, taps, first_tap, a.stride, a.stride, phase};
}

/// The three axes of one phase.
struct GatherView {
  AxisView t, y, x;
  int t_in, y_in, x_in;     // extents of the source
  int t_out, y_out, x_out;  // extents of the result

  /// Forward there is one phase, 0.
  template <class Problem>
  AVID_DEVICE GatherView(const Problem& p, bool adjoint, int phase)
      : t_in(p.t.source), y_in(p.y.source), x_in(p.x.source), t_out(p.t.result), y_out(p.y.result), x_out(p.x.result) {
    x = axis_view(p.x, adjoint, phase % p.x.stride);
    const int outer = phase / p.x.stride;
    y = axis_view(p.y, adjoint, outer % p.y.stride);
    t = axis_view(p.t, adjoint, outer / p.y.stride);
  }
  AVID_DEVICE int rows_per_clip() const { return t.rows * y.rows * x.rows; }
};

// A row's valid taps per axis as bits, and the bits that a tap asks for: t from 0, y from 9, x from 20. No row has bit
// 31.
inline constexpr int kBitsY = 9, kBitsX = 20;
inline constexpr std::uint32_t kNoTap = 1u << 31;

/// The taps k with 0 <= first + direction*k < extent: a run of bits.
AVID_DEVICE std::uint32_t axis_bits(const AxisView& a, int extent, int first, int shift) {
  const int begin = max(a.direction > 0 ? -first : first - extent + 1, 0);
  const int end = min(a.direction > 0 ? extent - first : first + 1, a.taps);
  return begin < end ? ((1u << end) - (1u << begin)) << shift : 0;
}

AVID_DEVICE std::uint32_t tap_bits(int t, int y, int x) { return 1u << t | 1u << (kBitsY + y) | 1u << (kBitsX + x); }

/// One result row's window: the source row of tap (0,0,0), possibly outside (modulo 2^32 then), and the taps inside.
struct Window {
  std::uint32_t origin = 0, inside = 0;
};

AVID_DEVICE Window window_at(const GatherView& g, int b, int t, int y, int x) {
  const int t0 = t * g.t.step + g.t.origin, y0 = y * g.y.step + g.y.origin, x0 = x * g.x.step + g.x.origin;
  Window w;
  w.origin = static_cast<std::uint32_t>(((b * g.t_in + t0) * g.y_in + y0) * g.x_in + x0);
  w.inside = axis_bits(g.t, g.t_in, t0, 0) | axis_bits(g.y, g.y_in, y0, kBitsY) | axis_bits(g.x, g.x_in, x0, kBitsX);
  return w;
}

/// Coordinates of row m in the order b, t, y, x.
struct RowPosition {
  int b, t, y, x;
  AVID_DEVICE RowPosition(const GatherView& g, int m) {
    x = m % g.x.rows, m /= g.x.rows;
    y = m % g.y.rows, m /= g.y.rows;
    t = m % g.t.rows, b = m / g.t.rows;
  }
};

/// A position that walks through the rows of the result, `distance` at a time: a sum with carries, never a division.
struct WindowWalker {
  RowPosition at, step;
  AVID_DEVICE WindowWalker(const GatherView& g, int first, int distance) : at(g, first), step(g, distance) {}
  AVID_DEVICE Window window(const GatherView& g, bool inside) const {
    return inside ? window_at(g, at.b, at.t, at.y, at.x) : Window{};
  }
  AVID_DEVICE void advance(const GatherView& g) {
    at.x += step.x, at.y += step.y, at.t += step.t, at.b += step.b;
    if (at.x >= g.x.rows) at.x -= g.x.rows, ++at.y;
    if (at.y >= g.y.rows) at.y -= g.y.rows, ++at.t;
    if (at.t >= g.t.rows) at.t -= g.t.rows, ++at.b;
  }
};

}  // namespace avid::kernels::AVID_GPU
