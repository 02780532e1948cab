// models/feature_layers.h -- the parts that the networks behind LPIPS, FID and FVD are built from
//
// Inference only, f32, on the CPU. Activations are [B,T,H,W,C] with T = 1 for images. Weights come in PyTorch's order
// [O,I,kh,kw] or [O,I,kt,kh,kw] and are brought into ours once.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/feature_ops.h"
#include "nn/module.h"

namespace avid::features {

/// Where the windows of a convolution or pooling lie, [t,y,x] order.
struct Window {
  std::array<std::int64_t, 3> kernel{1, 1, 1}, stride{1, 1, 1};
  std::array<std::int64_t, 3> padding{};  ///< on both sides; the last incomplete window is dropped
  /// TensorFlow's rule instead: ceil(n / stride) windows, padding as they need it, the odd one behind.
  bool same = false;

  struct Placement {
    std::array<std::int64_t, 3> out{}, front{};
  };
  /// Number of windows and padding in front for an input [B,T,H,W,C]. Throws ShapeError when no window fits.
  Placement place(const Shape& x) const;
};

/// Looks tensors up by name and checks them; every complaint names the file and the network.
class WeightReader {
 public:
  /// Returns the tensor of this name, or an undefined one when there is none. The shape is the one that will be
  /// demanded: sources that make weights up need it.
  using Find = std::function<Tensor(const std::string& name, const Shape& shape)>;

  WeightReader(Find find, std::string_view source, std::string_view network)
      : find_(std::move(find)), source_(source), network_(network) {}
  /// Tensors by name; the map must outlive the reader.
  WeightReader(const nn::TensorMap& tensors, std::string_view source, std::string_view network);

  /// f32 values of exactly this shape, all finite. Throws FileError.
  std::vector<float> take(const std::string& name, const Shape& shape) const;

 private:
  Find find_;
  std::string source_, network_;
};

/// A convolution, what normalises it, and ReLU:  out = relu(norm(x * w + bias)).
class ConvUnit {
 public:
  /// Which statistics a batch norm uses: those stored with the weights (folded into them), or those of the batch at
  /// hand (biased variance over everything but channels). The latter is a fault of the original's FID.
  enum class Norm { stored, batch };

  /// Convolution with bias, `<name>.weight` and `<name>.bias`.
  static ConvUnit with_bias(
      const WeightReader&, const std::string& name, std::int64_t in, std::int64_t out, const Window&, bool relu,
      int weight_rank = 4);
  /// Convolution `<conv>.weight` without bias, batch norm `<norm>.{weight,bias,running_mean,running_var}`, ReLU.
  static ConvUnit with_norm(
      const WeightReader&, const std::string& conv, const std::string& norm, std::int64_t in, std::int64_t out,
      const Window&, double eps, Norm mode = Norm::stored, int weight_rank = 4);

  std::int64_t in_channels() const { return in_; }
  std::int64_t out_channels() const { return out_; }
  /// [B,T,H,W,I] -> [B,T',H',W',O]
  Shape out_shape(const Shape& x) const;
  /// Writes channels [first, first + O) of `out`, whose other extents are those of out_shape(x).
  void run_into(const Tensor& x, Tensor& out, std::int64_t first) const;
  Tensor run(const Tensor& x) const;

 private:
  ConvUnit(std::int64_t in, std::int64_t out, const Window& window) : in_(in), out_(out), window_(window) {}
  /// `weight` in PyTorch's order, `scale` per output channel.
  void set_weight(const std::vector<float>& weight, const std::vector<double>& scale);

  std::int64_t in_, out_;
  Window window_;
  Tensor w_;                 // [O,1,kh,kw,kt*I]: frames of a window side by side in channels
  std::vector<float> bias_;  // [O] or empty
  bool relu_ = true;
  std::vector<float> gamma_, beta_;  // [O] when the batch's own statistics are used
  double eps_ = 0;
};

struct Pool {
  kernels::PoolKind kind = kernels::PoolKind::max;
  Window window;

  Shape out_shape(const Shape& x) const;
  void run_into(const Tensor& x, Tensor& out, std::int64_t first) const;
};

/// pool -> chain of units -> ends, each part optional. The ends all read the chain's result and lie side by side.
struct Branch {
  std::optional<Pool> pool;
  std::vector<ConvUnit> chain, ends;

  Shape out_shape(const Shape& x) const;
  void run_into(const Tensor& x, Tensor& out, std::int64_t first) const;
};

/// Branches of one input, concatenated along channels.
struct Block {
  std::vector<Branch> branches;

  /// [B,T,H,W,I] -> [B,T',H',W', sum of the branches' channels]
  Tensor run(const Tensor& x) const;
};

/// u8 [...,H,W,C] -> f32 [B,T,H,W,C] of shape `out`: value / 255 * 2 - 1, then (v - shift[c]) / scale[c].
Tensor frames_to_input(
    const Tensor& frames, const Shape& out, std::array<float, 3> shift = {0, 0, 0},
    std::array<float, 3> scale = {1, 1, 1});

/// Mean over frames, rows and columns: [B,T,H,W,C] -> [B,C]. Sums in f64.
Tensor global_average(const Tensor& x);

}  // namespace avid::features
