// tensor/ops/elementwise.cpp -- checks and allocation of the element-wise ops
#include "tensor/ops/elementwise.h"

#include <cmath>
#include <cstring>

#include "kernels/elementwise.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

using detail::buffer_elements, detail::check_float, detail::check_like, detail::usual_pitch;

Shape with_frames(const Shape& shape, std::int64_t num_frames) {
  auto extents = shape.to_vector();
  extents[1] = num_frames;
  return Shape(extents);
}

/// Bytes of one frame, gaps included; t is [B,T,...] with the usual pitch. The elements of a [B,T] tensor are its
/// frames.
std::size_t frame_bytes(const Tensor& t) {
  if (t.rank() == 2) return size_of(t.dtype());
  return static_cast<std::size_t>(Shape(std::span(t.shape().begin() + 2, t.shape().end())).rows() * t.pitch()) *
         size_of(t.dtype());
}

/// Copies `num_frames` frames of every clip from frame `from_begin` of one tensor to frame `to_begin` of another.
void copy_frames(
    const Tensor& from, std::int64_t from_begin, Tensor& to, std::int64_t to_begin, std::int64_t num_frames) {
  const std::size_t bytes = frame_bytes(to);
  const auto clip_bytes = [&](const Tensor& t) {
    return t.rank() == 2 ? static_cast<std::size_t>(t.pitch()) * size_of(t.dtype())
                         : static_cast<std::size_t>(t.dim(1)) * bytes;
  };
  const auto* source = static_cast<const std::byte*>(from.raw_data()) + static_cast<std::size_t>(from_begin) * bytes;
  auto* target = static_cast<std::byte*>(to.raw_data()) + static_cast<std::size_t>(to_begin) * bytes;
  for (std::int64_t b = 0; b < to.dim(0); ++b, source += clip_bytes(from), target += clip_bytes(to))
    std::memcpy(target, source, static_cast<std::size_t>(num_frames) * bytes);
}

}  // namespace

Tensor silu_fwd(const Tensor& x_any) {
  check_float(x_any, "silu", "x");
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), "silu", [&]<class Elem>() {
    kernels::silu_fwd(x.data<Elem>(), out.data<Elem>(), buffer_elements(x));
  });
  return out;
}

Tensor silu_bwd(const Tensor& d_out_any, const Tensor& x_any) {
  check_float(x_any, "silu", "x");
  check_like(d_out_any, x_any, "silu", "d_out");
  const Tensor x = usual_pitch(x_any), d_out = usual_pitch(d_out_any);
  Tensor d_x = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), "silu", [&]<class Elem>() {
    kernels::silu_bwd(x.data<Elem>(), d_out.data<Elem>(), d_x.data<Elem>(), buffer_elements(x));
  });
  return d_x;
}

Tensor gelu_fwd(const Tensor& x_any) {
  check_float(x_any, "gelu", "x");
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), "gelu", [&]<class Elem>() {
    kernels::gelu_fwd(x.data<Elem>(), out.data<Elem>(), buffer_elements(x));
  });
  return out;
}

Tensor gelu_bwd(const Tensor& d_out_any, const Tensor& x_any) {
  check_float(x_any, "gelu", "x");
  check_like(d_out_any, x_any, "gelu", "d_out");
  const Tensor x = usual_pitch(x_any), d_out = usual_pitch(d_out_any);
  Tensor d_x = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), "gelu", [&]<class Elem>() {
    kernels::gelu_bwd(x.data<Elem>(), d_out.data<Elem>(), d_x.data<Elem>(), buffer_elements(x));
  });
  return d_x;
}

Tensor add_fwd(const Tensor& a_any, const Tensor& b_any) {
  check_float(a_any, "add", "a");
  check_like(b_any, a_any, "add", "b");
  const Tensor a = usual_pitch(a_any), b = usual_pitch(b_any);
  Tensor out = Tensor::empty(a.shape(), a.dtype());
  dispatch_f32_f64(a.dtype(), "add", [&]<class Elem>() {
    kernels::add_fwd(a.data<Elem>(), b.data<Elem>(), out.data<Elem>(), buffer_elements(a));
  });
  return out;
}

Tensor scale_fwd(const Tensor& x_any, double factor) {
  check_float(x_any, "scale", "x");
  // inf * 0 would put NaN into the gaps.
  check(std::isfinite(factor), "scale: factor: expected a finite number, got {}", factor);
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), "scale", [&]<class Elem>() {
    kernels::scale_fwd(x.data<Elem>(), static_cast<Elem>(factor), out.data<Elem>(), buffer_elements(x));
  });
  return out;
}

Tensor slice_frames_fwd(const Tensor& x_any, std::int64_t begin, std::int64_t end) {
  check<ShapeError>(
      x_any.defined() && x_any.rank() >= 2, "slice_frames: x: expected [B,T,...], got {}", x_any.describe());
  check<ShapeError>(
      begin >= 0 && begin <= end && end <= x_any.dim(1),
      "slice_frames: expected 0 <= begin <= end <= {}, got [{},{}) of {}", x_any.dim(1), begin, end, x_any.shape());
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(with_frames(x.shape(), end - begin), x.dtype());
  if (out.numel() > 0) copy_frames(x, begin, out, 0, end - begin);
  return out;
}

Tensor slice_frames_bwd(const Tensor& d_out_any, std::int64_t num_frames, std::int64_t begin) {
  check<ShapeError>(
      d_out_any.defined() && d_out_any.rank() >= 2, "slice_frames: d_out: expected [B,T,...], got {}",
      d_out_any.describe());
  check<ShapeError>(
      begin >= 0 && begin + d_out_any.dim(1) <= num_frames, "slice_frames: d_out: frames {} to {} do not fit {}", begin,
      begin + d_out_any.dim(1), num_frames);
  const Tensor d_out = usual_pitch(d_out_any);
  Tensor d_x = Tensor::zeros(with_frames(d_out.shape(), num_frames), d_out.dtype());
  if (d_out.numel() > 0) copy_frames(d_out, 0, d_x, begin, d_out.dim(1));
  return d_x;
}

}  // namespace avid
