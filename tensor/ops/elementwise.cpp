// tensor/ops/elementwise.cpp -- checks and allocation of the element-wise ops
#include "tensor/ops/elementwise.h"

#include <cmath>
#include <cstring>

#include "kernels/accumulate.h"
#include "kernels/elementwise.h"
#include "kernels/op_watch.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

using detail::buffer_elements, detail::check_float, detail::check_like, detail::usual_pitch;
using detail::is_emulated_bf16, detail::narrowed, detail::widened;

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
  const std::size_t from_offset = static_cast<std::size_t>(from_begin) * bytes;
  const std::size_t to_offset = static_cast<std::size_t>(to_begin) * bytes;
  if (to.device().is_gpu()) {
    on_device(to.device(), "slice_frames", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::device_copy<Backend>(
          stream, kernels::CopyKind::on_device, static_cast<std::byte*>(to.device_pointer(to.dtype())) + to_offset,
          clip_bytes(to), static_cast<const std::byte*>(from.device_pointer(from.dtype())) + from_offset,
          clip_bytes(from), static_cast<std::size_t>(num_frames) * bytes, to.dim(0));
    });
    return;
  }
  const auto* source = static_cast<const std::byte*>(from.raw_data()) + from_offset;
  auto* target = static_cast<std::byte*>(to.raw_data()) + to_offset;
  for (std::int64_t b = 0; b < to.dim(0); ++b, source += clip_bytes(from), target += clip_bytes(to))
    std::memcpy(target, source, static_cast<std::size_t>(num_frames) * bytes);
}

}  // namespace

Tensor silu_fwd(const Tensor& x_any) {
  if (is_emulated_bf16(x_any)) return narrowed(silu_fwd(widened(x_any)));
  check_float(x_any, "silu", "x");
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "silu", [&]<class Elem>() {
      on_device(x.device(), "silu", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::silu_fwd<Backend, Elem>(
            stream, device_data<Elem>(x), device_mutable_data<Elem>(out), buffer_elements(x));
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "silu", [&]<class Elem>() {
    kernels::silu_fwd(x.data<Elem>(), out.data<Elem>(), buffer_elements(x));
  });
  return out;
}

Tensor silu_bwd(const Tensor& d_out_any, const Tensor& x_any) {
  if (is_emulated_bf16(x_any)) return narrowed(silu_bwd(widened(d_out_any), widened(x_any)));
  check_float(x_any, "silu", "x");
  check_like(d_out_any, x_any, "silu", "d_out");
  const Tensor x = usual_pitch(x_any), d_out = usual_pitch(d_out_any);
  Tensor d_x = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "silu", [&]<class Elem>() {
      on_device(x.device(), "silu", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::silu_bwd<Backend, Elem>(
            stream, device_data<Elem>(x), device_data<Elem>(d_out), device_mutable_data<Elem>(d_x), buffer_elements(x));
      });
    });
    return d_x;
  }
  dispatch_f32_f64(x.dtype(), "silu", [&]<class Elem>() {
    kernels::silu_bwd(x.data<Elem>(), d_out.data<Elem>(), d_x.data<Elem>(), buffer_elements(x));
  });
  return d_x;
}

Tensor gelu_fwd(const Tensor& x_any) {
  if (is_emulated_bf16(x_any)) return narrowed(gelu_fwd(widened(x_any)));
  check_float(x_any, "gelu", "x");
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "gelu", [&]<class Elem>() {
      on_device(x.device(), "gelu", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::gelu_fwd<Backend, Elem>(
            stream, device_data<Elem>(x), device_mutable_data<Elem>(out), buffer_elements(x));
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "gelu", [&]<class Elem>() {
    kernels::gelu_fwd(x.data<Elem>(), out.data<Elem>(), buffer_elements(x));
  });
  return out;
}

Tensor gelu_bwd(const Tensor& d_out_any, const Tensor& x_any) {
  if (is_emulated_bf16(x_any)) return narrowed(gelu_bwd(widened(d_out_any), widened(x_any)));
  check_float(x_any, "gelu", "x");
  check_like(d_out_any, x_any, "gelu", "d_out");
  const Tensor x = usual_pitch(x_any), d_out = usual_pitch(d_out_any);
  Tensor d_x = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "gelu", [&]<class Elem>() {
      on_device(x.device(), "gelu", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::gelu_bwd<Backend, Elem>(
            stream, device_data<Elem>(x), device_data<Elem>(d_out), device_mutable_data<Elem>(d_x), buffer_elements(x));
      });
    });
    return d_x;
  }
  dispatch_f32_f64(x.dtype(), "gelu", [&]<class Elem>() {
    kernels::gelu_bwd(x.data<Elem>(), d_out.data<Elem>(), d_x.data<Elem>(), buffer_elements(x));
  });
  return d_x;
}

Tensor add_fwd(const Tensor& a_any, const Tensor& b_any) {
  if (is_emulated_bf16(a_any)) return narrowed(add_fwd(widened(a_any), widened(b_any)));
  check_float(a_any, "add", "a");
  check_like(b_any, a_any, "add", "b");
  const Tensor a = usual_pitch(a_any), b = usual_pitch(b_any);
  Tensor out = Tensor::empty(a.shape(), a.dtype(), a.device());
  if (a.device().is_gpu()) {
    dispatch_f32_bf16(a.dtype(), "add", [&]<class Elem>() {
      on_device(a.device(), "add", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::add_fwd<Backend, Elem>(
            stream, device_data<Elem>(a), device_data<Elem>(b), device_mutable_data<Elem>(out), buffer_elements(a));
      });
    });
    return out;
  }
  dispatch_f32_f64(a.dtype(), "add", [&]<class Elem>() {
    kernels::add_fwd(a.data<Elem>(), b.data<Elem>(), out.data<Elem>(), buffer_elements(a));
  });
  return out;
}

void add_in_place(Tensor& sum, const Tensor& x_any) {
  check(sum.use_count() == 1, "add_in_place: sum: expected to be its storage's only holder");
  if (is_emulated_bf16(sum)) {
    sum = narrowed(add_fwd(widened(sum), widened(x_any)));
    return;
  }
  check_float(sum, "add_in_place", "sum");
  check_like(x_any, sum, "add_in_place", "x");
  const kernels::OpTimer timer("add_in_place");
  kernels::note_more_bytes(static_cast<double>(sum.num_bytes()));  // read and written
  const Tensor x = usual_pitch(x_any);
  if (sum.device().is_gpu()) {
    dispatch_f32_bf16(sum.dtype(), "add_in_place", [&]<class Elem>() {
      on_device(sum.device(), "add_in_place", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::accumulate<Backend>(
            stream, device_mutable_data<Elem>(sum), device_data<Elem>(x), buffer_elements(sum));
      });
    });
    sum.bump_version();
    return;
  }
  dispatch_f32_f64(sum.dtype(), "add_in_place", [&]<class Elem>() {
    kernels::accumulate(sum.data<Elem>(), x.data<Elem>(), buffer_elements(sum));
  });
}

Tensor scale_fwd(const Tensor& x_any, double factor) {
  if (is_emulated_bf16(x_any)) return narrowed(scale_fwd(widened(x_any), factor));
  check_float(x_any, "scale", "x");
  // inf * 0 would put NaN into the gaps.
  check(std::isfinite(factor), "scale: factor: expected a finite number, got {}", factor);
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "scale", [&]<class Elem>() {
      on_device(x.device(), "scale", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::scale_fwd<Backend, Elem>(
            stream, device_data<Elem>(x), static_cast<float>(factor), device_mutable_data<Elem>(out),
            buffer_elements(x));
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "scale", [&]<class Elem>() {
    kernels::scale_fwd(x.data<Elem>(), static_cast<Elem>(factor), out.data<Elem>(), buffer_elements(x));
  });
  return out;
}

void clamp_to_unit(Tensor& x) {
  check_float(x, "clamp_to_unit", "x");
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "clamp_to_unit", [&]<class Elem>() {
      on_device(x.device(), "clamp_to_unit", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::clamp_unit<Backend, Elem>(stream, device_mutable_data<Elem>(x), buffer_elements(x));
      });
    });
  } else {
    dispatch_f32_f64(
        x.dtype(), "clamp_to_unit", [&]<class Elem>() { kernels::clamp_unit(x.data<Elem>(), buffer_elements(x)); });
  }
  x.bump_version();
}

void note_non_finite(const Tensor& x, Tensor& found) {
  check_float(x, "all_finite", "x");
  detail::check_operand(found, {1}, DType::i32, "all_finite", "found");
  detail::check_same_device(found, x, "all_finite", "found");
  dispatch_f32_bf16(x.dtype(), "all_finite", [&]<class Elem>() {
    on_device(x.device(), "all_finite", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::find_non_finite<Backend, Elem>(
          stream, device_data<Elem>(x), buffer_elements(x), device_mutable_data<std::int32_t>(found));
    });
  });
}

bool all_finite(const Tensor& x) {
  if (!x.defined() || !is_float(x.dtype())) return true;
  if (is_emulated_bf16(x)) return all_finite(widened(x));
  check_float(x, "all_finite", "x");
  if (x.device().is_gpu()) {
    Tensor found = Tensor::zeros({1}, DType::i32, x.device());
    note_non_finite(x, found);
    return found.item() == 0;
  }
  return dispatch_f32_f64(
      x.dtype(), "all_finite", [&]<class Elem>() { return kernels::all_finite(x.data<Elem>(), buffer_elements(x)); });
}

Tensor slice_frames_fwd(const Tensor& x_any, std::int64_t begin, std::int64_t end) {
  check<ShapeError>(
      x_any.defined() && x_any.rank() >= 2, "slice_frames: x: expected [B,T,...], got {}", x_any.describe());
  check<ShapeError>(
      begin >= 0 && begin <= end && end <= x_any.dim(1),
      "slice_frames: expected 0 <= begin <= end <= {}, got [{},{}) of {}", x_any.dim(1), begin, end, x_any.shape());
  const Tensor x = usual_pitch(x_any);
  Tensor out = Tensor::empty(with_frames(x.shape(), end - begin), x.dtype(), x.device());
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
  Tensor d_x = Tensor::zeros(with_frames(d_out.shape(), num_frames), d_out.dtype(), d_out.device());
  if (d_out.numel() > 0) copy_frames(d_out, 0, d_x, begin, d_out.dim(1));
  return d_x;
}

}  // namespace avid
