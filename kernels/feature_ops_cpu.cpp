// kernels/feature_ops_cpu.cpp -- pooling, time taps, ReLU and batch statistics of the feature networks
#include <algorithm>
#include <vector>

#include "kernels/feature_ops.h"
#include "kernels/threads.h"

namespace avid::kernels {
namespace {

using Index = std::int64_t;

/// The part of a window that lies inside: input positions [begin, end).
struct Span {
  Index begin, end;
};
Span inside(Index out, Index stride, Index padding, Index kernel, Index in) {
  const Index first = out * stride - padding;
  return {std::max<Index>(first, 0), std::min(first + kernel, in)};
}

void keep_larger(const float* __restrict from, Index count, float* __restrict to) {
  for (Index c = 0; c < count; ++c) to[c] = to[c] < from[c] ? from[c] : to[c];
}
void add(const float* __restrict from, Index count, float* __restrict to) {
  for (Index c = 0; c < count; ++c) to[c] += from[c];
}

/// Rows are cut into pieces of this size whatever the number of threads.
constexpr Index kPieceRows = 1024;
Index pieces_of(Index num_rows) { return (num_rows + kPieceRows - 1) / kPieceRows; }

}  // namespace

void pool3d_fwd(const Pool3dSize& s, PoolKind kind, Rows<const float> x, Rows<float> out) {
  parallel_for(s.B * s.out[0] * s.out[1], [&](Index item, int) {
    const Index oy = item % s.out[1], ot = item / s.out[1] % s.out[0], b = item / (s.out[1] * s.out[0]);
    const Span ts = inside(ot, s.stride[0], s.padding[0], s.kernel[0], s.in[0]);
    const Span ys = inside(oy, s.stride[1], s.padding[1], s.kernel[1], s.in[1]);
    for (Index ox = 0; ox < s.out[2]; ++ox) {
      const Span xs = inside(ox, s.stride[2], s.padding[2], s.kernel[2], s.in[2]);
      float* target = out.row(item * s.out[2] + ox);
      bool first = true;
      for (Index t = ts.begin; t < ts.end; ++t)
        for (Index y = ys.begin; y < ys.end; ++y)
          for (Index i = xs.begin; i < xs.end; ++i) {
            const float* source = x.row(((b * s.in[0] + t) * s.in[1] + y) * s.in[2] + i);
            if (first)
              std::copy_n(source, s.C, target);
            else
              kind == PoolKind::max ? keep_larger(source, s.C, target) : add(source, s.C, target);
            first = false;
          }
      if (kind == PoolKind::average) {
        const Index count = (ts.end - ts.begin) * (ys.end - ys.begin) * (xs.end - xs.begin);
        const float scale = 1.0f / static_cast<float>(count);
        for (Index c = 0; c < s.C; ++c) target[c] *= scale;
      }
    }
  });
}

void gather_time_taps(const TimeTaps& s, Rows<const float> x, Rows<float> out) {
  const Index pieces = pieces_of(s.positions);
  parallel_for(s.B * s.out_frames * pieces, [&](Index item, int) {
    const Index piece = item % pieces, frame = item / pieces, b = frame / s.out_frames, u = frame % s.out_frames;
    const Index begin = piece * kPieceRows, end = std::min(begin + kPieceRows, s.positions);
    for (Index k = 0; k < s.taps; ++k) {
      const Index t = u * s.stride - s.padding + k;
      const bool valid = t >= 0 && t < s.in_frames;
      for (Index p = begin; p < end; ++p) {
        float* target = out.row(frame * s.positions + p) + k * s.C;
        if (valid)
          std::copy_n(x.row((b * s.in_frames + t) * s.positions + p), s.C, target);
        else
          std::fill_n(target, s.C, 0.0f);
      }
    }
  });
}

void relu_rows(Rows<float> rows, std::int64_t num_rows, std::int64_t num_cols) {
  parallel_for(pieces_of(num_rows), [&](Index piece, int) {
    for (Index r = piece * kPieceRows; r < std::min((piece + 1) * kPieceRows, num_rows); ++r) {
      float* row = rows.row(r);
      for (Index c = 0; c < num_cols; ++c) row[c] = row[c] < 0 ? 0 : row[c];  // a NaN stays one
    }
  });
}

void affine_relu_rows(
    Rows<float> rows, std::int64_t num_rows, std::int64_t num_cols, const float* scale, const float* shift) {
  parallel_for(pieces_of(num_rows), [&](Index piece, int) {
    for (Index r = piece * kPieceRows; r < std::min((piece + 1) * kPieceRows, num_rows); ++r) {
      float* row = rows.row(r);
      for (Index c = 0; c < num_cols; ++c) {
        const float v = scale[c] * row[c] + shift[c];
        row[c] = v < 0 ? 0 : v;
      }
    }
  });
}

void column_moments(Rows<const float> rows, std::int64_t num_rows, std::int64_t num_cols, double* mean, double* var) {
  const Index pieces = pieces_of(num_rows);
  std::vector<double> parts(static_cast<std::size_t>(pieces * num_cols));
  // Partial sums of f(value, column) per piece, then the pieces in order.
  const auto sum_columns = [&](auto f, double* sums) {
    std::fill(parts.begin(), parts.end(), 0.0);
    parallel_for(pieces, [&](Index piece, int) {
      double* part = parts.data() + piece * num_cols;
      for (Index r = piece * kPieceRows; r < std::min((piece + 1) * kPieceRows, num_rows); ++r) {
        const float* row = rows.row(r);
        for (Index c = 0; c < num_cols; ++c) part[c] += f(static_cast<double>(row[c]), c);
      }
    });
    std::fill_n(sums, num_cols, 0.0);
    for (Index piece = 0; piece < pieces; ++piece)
      for (Index c = 0; c < num_cols; ++c) sums[c] += parts[static_cast<std::size_t>(piece * num_cols + c)];
    for (Index c = 0; c < num_cols; ++c) sums[c] /= static_cast<double>(num_rows);
  };
  sum_columns([](double v, Index) { return v; }, mean);
  sum_columns([&](double v, Index c) { return (v - mean[c]) * (v - mean[c]); }, var);
}

}  // namespace avid::kernels
