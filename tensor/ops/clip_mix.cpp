// tensor/ops/clip_mix.cpp -- checks, allocation and factors of clip_mix
#include "tensor/ops/clip_mix.h"

#include <vector>

#include "kernels/clip_mix.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "clip_mix";

/// Tables are f64 on the CPU, so that both element types get the same factors, and f32 on devices.
DType table_dtype(Device device) { return device.is_gpu() ? DType::f32 : DType::f64; }

void check_table(const Tensor& table, const Tensor& t, std::int64_t num_clips) {
  check<ShapeError>(table.rank() == 1 && table.dim(0) > 0, "{}: table: expected [N], got {}", kOp, table.describe());
  check_dtype(table, table_dtype(table.device()), kOp, "table");
  check<ShapeError>(t.defined(), "{}: t: expected [{}], got none", kOp, num_clips);
  detail::check_operand(t, {num_clips}, DType::i64, kOp, "t");
  detail::check_same_device(t, table, kOp, "t");
}

/// The factors of all clips.
std::vector<double> factors(const ClipFactor& factor, const Tensor& t, std::int64_t num_clips) {
  std::vector<double> out(static_cast<std::size_t>(num_clips), factor.value);
  if (!factor.table.defined()) return out;
  const std::vector<double> table = factor.table.to_values<double>();
  const std::vector<std::int64_t> times = t.to_values<std::int64_t>();
  for (std::size_t b = 0; b < out.size(); ++b) {
    check<ConfigError>(
        times[b] >= 0 && times[b] < factor.table.dim(0), "{}: t: expected 0 to {}, got {} for clip {}", kOp,
        factor.table.dim(0) - 1, times[b], b);
    out[b] *= table[static_cast<std::size_t>(times[b])];
  }
  return out;
}

kernels::ClipFactorDevice device_factor(const ClipFactor& factor) {
  return {.table = device_data<float>(factor.table), .value = static_cast<float>(factor.value)};
}

void mix(
    const Tensor& x, const ClipFactor& of_x, const Tensor& y, const ClipFactor& of_y, const Tensor& t,
    const ClipFactor& divisor, Tensor& out) {
  const std::int64_t num_clips = x.dim(0);
  if (x.numel() == 0) return;
  std::int64_t num_times = 0;
  for (const ClipFactor* factor : {&of_x, &of_y, &divisor}) {
    if (!factor->table.defined()) continue;
    check_table(factor->table, t, num_clips);
    detail::check_same_device(factor->table, x, kOp, "table");
    check<ShapeError>(
        num_times == 0 || num_times == factor->table.dim(0), "{}: table: expected {} times like the first, got {}", kOp,
        num_times, factor->table.dim(0));
    num_times = factor->table.dim(0);
  }
  const kernels::ClipMixSizes size{.B = num_clips, .rows_per_clip = x.rows() / num_clips, .C = x.cols()};
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
      const kernels::ClipMixDeviceArgs<Elem> args{
          .size = size,
          .x = device_rows_of<Elem>(x),
          .y = device_rows_of<Elem>(y),
          .of_x = device_factor(of_x),
          .of_y = device_factor(of_y),
          .divisor = device_factor(divisor),
          .t = num_times > 0 ? device_data<std::int64_t>(t) : nullptr,
          .num_times = num_times,
          .out = device_mutable_rows_of<Elem>(out)};
      on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::clip_mix_fwd<Backend, Elem>(stream, args);
      });
    });
    return;
  }
  const std::vector<double> a = factors(of_x, t, num_clips), b = factors(of_y, t, num_clips);
  const bool divides = divisor.table.defined() || divisor.value != 1;
  const std::vector<double> c = divides ? factors(divisor, t, num_clips) : std::vector<double>();
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::clip_mix_fwd<Elem>(
        {.size = size,
         .x = detail::rows_of<Elem>(x),
         .y = detail::rows_of<Elem>(y),
         .of_x = a.data(),
         .of_y = b.data(),
         .divisor = divides ? c.data() : nullptr,
         .out = detail::mutable_rows_of<Elem>(out)});
  });
}

void check_videos(const Tensor& x, const Tensor& y) {
  detail::check_float(x, kOp, "x");
  check<ShapeError>(x.rank() >= 2, "{}: x: expected [B,...] of rank 2 or more, got {}", kOp, x.describe());
  detail::check_like(y, x, kOp, "y");
}

}  // namespace

Tensor clip_mix(
    const Tensor& x, const ClipFactor& of_x, const Tensor& y, const ClipFactor& of_y, const Tensor& t,
    const ClipFactor& divisor) {
  check_videos(x, y);
  Tensor out = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  mix(detail::usual_pitch(x), of_x, detail::usual_pitch(y), of_y, t, divisor, out);
  return out;
}

void clip_mix_into(Tensor& x, const ClipFactor& of_x, const Tensor& y, const ClipFactor& of_y, const Tensor& t) {
  check_videos(x, y);
  check<ShapeError>(
      x.pitch() == row_pitch(x.shape(), x.dtype()),
      "{}: x: expected rows of the usual pitch, got rows {} elements apart", kOp, x.pitch());
  mix(x, of_x, detail::usual_pitch(y), of_y, t, {}, x);
  x.bump_version();
}

Tensor clip_lookup(const Tensor& table, const Tensor& t, DType dtype) {
  check_rank(t, 1, "clip_lookup", "t");
  check_table(table, t, t.dim(0));
  if (!table.device().is_gpu()) return Tensor::from_values(factors({table, 1}, t, t.dim(0)), t.shape()).to(dtype);
  Tensor out = Tensor::empty(t.shape(), DType::f32, t.device());
  on_device(t.device(), "clip_lookup", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::clip_lookup<Backend>(
        stream, device_data<float>(table), table.dim(0), device_data<std::int64_t>(t), t.dim(0),
        device_mutable_data<float>(out));
  });
  return out;
}

}  // namespace avid
