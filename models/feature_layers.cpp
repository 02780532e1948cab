// models/feature_layers.cpp -- convolutions with folded norms, pooling and branches of the feature networks
#include "models/feature_layers.h"

#include <algorithm>
#include <cmath>

#include "kernels/plane_conv_f32.h"
#include "tensor/error.h"
#include "tensor/kernel_args.h"

namespace avid::features {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Rows of channels [first, ...) of a tensor.
kernels::Rows<float> columns_from(Tensor& t, std::int64_t first) { return {t.data<float>() + first, t.pitch()}; }

Shape weight_shape(std::int64_t in, std::int64_t out, const Window& w, int rank) {
  return rank == 4 ? Shape{out, in, w.kernel[1], w.kernel[2]} : Shape{out, in, w.kernel[0], w.kernel[1], w.kernel[2]};
}

Shape placed(const Shape& x, const Window& window, std::int64_t channels) {
  const auto out = window.place(x).out;
  return {x[0], out[0], out[1], out[2], channels};
}

}  // namespace

Window::Placement Window::place(const Shape& x) const {
  check<ShapeError>(x.rank() == 5, "feature network: input: expected [B,T,H,W,C], got {}", x);
  Placement p;
  for (std::size_t d = 0; d < 3; ++d) {
    const std::int64_t n = x[static_cast<int>(d) + 1];
    if (same) {
      p.out[d] = (n + stride[d] - 1) / stride[d];
      p.front[d] = std::max<std::int64_t>((p.out[d] - 1) * stride[d] + kernel[d] - n, 0) / 2;
    } else {
      const std::int64_t room = n + 2 * padding[d] - kernel[d];
      p.out[d] = room < 0 ? 0 : room / stride[d] + 1;
      p.front[d] = padding[d];
    }
    check<ShapeError>(
        p.out[d] >= 1, "feature network: input: {} is too small for a window of {} in dimension {} | use larger frames",
        x, kernel[d], d + 1);
  }
  return p;
}

WeightReader::WeightReader(const nn::TensorMap& tensors, std::string_view source, std::string_view network)
    : WeightReader(
          [&tensors](const std::string& name, const Shape&) {
            const auto found = tensors.find(name);
            return found == tensors.end() ? Tensor{} : found->second;
          },
          source, network) {}

std::vector<float> WeightReader::take(const std::string& name, const Shape& shape) const {
  constexpr const char* kRemedy = "convert the official file with: avid weights convert";
  const Tensor tensor = find_(name, shape);
  check<FileError>(tensor.defined(), "{}: {}: no tensor '{}' | {}", source_, network_, name, kRemedy);
  check<FileError>(
      tensor.shape() == shape && is_float(tensor.dtype()), "{}: {}: tensor '{}': expected f32 {}, got {} | {}", source_,
      network_, name, shape, tensor.describe(), kRemedy);
  std::vector<float> values =
      tensor.dtype() == DType::f32 ? tensor.to_values<float>() : tensor.to(DType::f32).to_values<float>();
  check<FileError>(
      std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }),
      "{}: {}: tensor '{}' holds values that are not finite | {}", source_, network_, name, kRemedy);
  return values;
}

void ConvUnit::set_weight(const std::vector<float>& weight, const std::vector<double>& scale) {
  const auto [kt, ky, kx] = window_.kernel;
  w_ = Tensor::empty({out_, 1, ky, kx, kt * in_});
  float* to = w_.data<float>();
  for (std::int64_t o = 0; o < out_; ++o)
    for (std::int64_t i = 0; i < in_; ++i)
      for (std::int64_t t = 0; t < kt; ++t)
        for (std::int64_t s = 0; s < ky * kx; ++s)
          to[(o * ky * kx + s) * w_.pitch() + t * in_ + i] =
              static_cast<float>(weight[at(((o * in_ + i) * kt + t) * ky * kx + s)] * scale[at(o)]);
}

ConvUnit ConvUnit::with_bias(
    const WeightReader& reader, const std::string& name, std::int64_t in, std::int64_t out, const Window& window,
    bool relu, int weight_rank) {
  ConvUnit unit(in, out, window);
  unit.set_weight(
      reader.take(name + ".weight", weight_shape(in, out, window, weight_rank)), std::vector<double>(at(out), 1.0));
  unit.bias_ = reader.take(name + ".bias", {out});
  unit.relu_ = relu;
  return unit;
}

ConvUnit ConvUnit::with_norm(
    const WeightReader& reader, const std::string& conv, const std::string& norm, std::int64_t in, std::int64_t out,
    const Window& window, double eps, Norm mode, int weight_rank) {
  ConvUnit unit(in, out, window);
  const std::vector<float> gamma = reader.take(norm + ".weight", {out}), beta = reader.take(norm + ".bias", {out}),
                           mean = reader.take(norm + ".running_mean", {out}),
                           var = reader.take(norm + ".running_var", {out});
  std::vector<double> scale(at(out), 1.0);
  if (mode == Norm::stored) {
    unit.bias_.resize(at(out));
    for (std::size_t c = 0; c < at(out); ++c) {
      scale[c] = gamma[c] / std::sqrt(static_cast<double>(std::max(var[c], 0.0f)) + eps);
      unit.bias_[c] = static_cast<float>(beta[c] - mean[c] * scale[c]);
    }
  } else {
    unit.gamma_ = gamma;
    unit.beta_ = beta;
    unit.eps_ = eps;
  }
  unit.set_weight(reader.take(conv + ".weight", weight_shape(in, out, window, weight_rank)), scale);
  return unit;
}

Shape ConvUnit::out_shape(const Shape& x) const { return placed(x, window_, out_); }

void ConvUnit::run_into(const Tensor& x, Tensor& out, std::int64_t first) const {
  const Window::Placement place = window_.place(x.shape());
  check<ShapeError>(x.cols() == in_, "feature network: expected {} channels, got {}", in_, x.shape());
  const std::int64_t B = x.dim(0), H = x.dim(2), W = x.dim(3);
  Tensor source = x;
  if (window_.kernel[0] > 1 || window_.stride[0] > 1) {
    const kernels::TimeTaps taps{
        .B = B,
        .in_frames = x.dim(1),
        .out_frames = place.out[0],
        .positions = H * W,
        .C = in_,
        .taps = window_.kernel[0],
        .stride = window_.stride[0],
        .padding = place.front[0]};
    source = Tensor::empty({B, place.out[0], H, W, window_.kernel[0] * in_});
    kernels::gather_time_taps(taps, rows_of<float>(x), mutable_rows_of<float>(source));
  }
  const kernels::Conv3dSize size{
      .B = B,
      .in = {place.out[0], H, W},
      .out = place.out,
      .I = source.cols(),
      .O = out_,
      .kernel = {1, window_.kernel[1], window_.kernel[2]},
      .stride = {1, window_.stride[1], window_.stride[2]},
      .padding = {0, place.front[1], place.front[2]}};
  const kernels::Rows<float> target = columns_from(out, first);
  kernels::plane_conv_fwd(
      size, rows_of<float>(source), {}, rows_of<float>(w_), bias_.empty() ? nullptr : bias_.data(), target);

  const std::int64_t num_rows = size.out_positions();
  if (!gamma_.empty()) {
    std::vector<double> mean(at(out_)), var(at(out_));
    kernels::column_moments(target, num_rows, out_, mean.data(), var.data());
    std::vector<float> scale(at(out_)), shift(at(out_));
    for (std::size_t c = 0; c < at(out_); ++c) {
      const double factor = gamma_[c] / std::sqrt(var[c] + eps_);
      scale[c] = static_cast<float>(factor);
      shift[c] = static_cast<float>(beta_[c] - mean[c] * factor);
    }
    kernels::affine_relu_rows(target, num_rows, out_, scale.data(), shift.data());
  } else if (relu_) {
    kernels::relu_rows(target, num_rows, out_);
  }
}

Tensor ConvUnit::run(const Tensor& x) const {
  Tensor out = Tensor::empty(out_shape(x.shape()));
  run_into(x, out, 0);
  return out;
}

Shape Pool::out_shape(const Shape& x) const { return placed(x, window, x.cols()); }

void Pool::run_into(const Tensor& x, Tensor& out, std::int64_t first) const {
  const Window::Placement place = window.place(x.shape());
  const kernels::Pool3dSize size{
      .B = x.dim(0),
      .C = x.cols(),
      .in = {x.dim(1), x.dim(2), x.dim(3)},
      .out = place.out,
      .kernel = window.kernel,
      .stride = window.stride,
      .padding = place.front};
  kernels::pool3d_fwd(size, kind, rows_of<float>(x), columns_from(out, first));
}

Shape Branch::out_shape(const Shape& x) const {
  Shape shape = pool ? pool->out_shape(x) : x;
  for (const ConvUnit& unit : chain) shape = unit.out_shape(shape);
  if (ends.empty()) return shape;
  std::int64_t channels = 0;
  for (const ConvUnit& unit : ends) channels += unit.out_channels();
  return ends.front().out_shape(shape).with_cols(channels);
}

void Branch::run_into(const Tensor& x, Tensor& out, std::int64_t first) const {
  Tensor at_hand = x;
  if (pool) {
    if (chain.empty() && ends.empty()) return pool->run_into(x, out, first);
    at_hand = Tensor::empty(pool->out_shape(x.shape()));
    pool->run_into(x, at_hand, 0);
  }
  for (std::size_t i = 0; i < chain.size(); ++i) {
    if (ends.empty() && i + 1 == chain.size()) return chain[i].run_into(at_hand, out, first);
    at_hand = chain[i].run(at_hand);
  }
  for (const ConvUnit& unit : ends) {
    unit.run_into(at_hand, out, first);
    first += unit.out_channels();
  }
}

Tensor Block::run(const Tensor& x) const {
  Shape shape = branches.front().out_shape(x.shape());
  std::int64_t channels = 0;
  for (const Branch& branch : branches) {
    const Shape part = branch.out_shape(x.shape());
    check<ShapeError>(
        part.with_cols(shape.cols()) == shape, "feature network: branches of {} and {} do not meet", shape, part);
    channels += part.cols();
  }
  Tensor out = Tensor::empty(shape.with_cols(channels));
  std::int64_t first = 0;
  for (const Branch& branch : branches) {
    branch.run_into(x, out, first);
    first += branch.out_shape(x.shape()).cols();
  }
  return out;
}

Tensor frames_to_input(const Tensor& frames, const Shape& out, std::array<float, 3> shift, std::array<float, 3> scale) {
  check_dtype(frames, DType::u8, "feature network", "frames");
  check<ShapeError>(
      frames.numel() == out.numel() && out.cols() == 3, "feature network: frames: expected {} with 3 colours, got {}",
      out, frames.shape());
  Tensor result = Tensor::empty(out);
  std::array<std::array<float, 256>, 3> table;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t v = 0; v < 256; ++v)
      table[c][v] = (static_cast<float>(v) / 255.0f * 2.0f - 1.0f - shift[c]) / scale[c];
  const std::uint8_t* from = frames.data<std::uint8_t>();
  float* to = result.data<float>();
  for (std::int64_t r = 0; r < result.rows(); ++r, from += 3, to += result.pitch())
    for (std::size_t c = 0; c < 3; ++c) to[c] = table[c][from[c]];
  return result;
}

Tensor global_average(const Tensor& x) {
  check_rank(x, 5, "global_average", "x");
  const std::int64_t positions = x.dim(1) * x.dim(2) * x.dim(3), channels = x.cols();
  Tensor out = Tensor::empty({x.dim(0), channels});
  std::vector<double> mean(at(channels));
  for (std::int64_t b = 0; b < x.dim(0); ++b) {
    std::fill(mean.begin(), mean.end(), 0.0);
    for (std::int64_t p = 0; p < positions; ++p) {
      const float* row = x.data<float>() + (b * positions + p) * x.pitch();
      for (std::int64_t c = 0; c < channels; ++c) mean[at(c)] += row[c];
    }
    float* to = out.data<float>() + b * out.pitch();
    for (std::int64_t c = 0; c < channels; ++c)
      to[c] = static_cast<float>(mean[at(c)] / static_cast<double>(positions));
  }
  return out;
}

}  // namespace avid::features
