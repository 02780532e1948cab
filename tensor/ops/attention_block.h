// tensor/ops/attention_block.h -- what the three attention blocks share: options, checks, gradients
#pragma once

#include <cstdint>

#include "kernels/attention_block.h"
#include "kernels/op_timer.h"
#include "kernels/op_watch.h"
#include "tensor/ops/on_device.h"
#include "tensor/tensor.h"

namespace avid {

/// Heads of an attention block. The inner width is heads * head_dim.
struct AttentionOptions {
  std::int64_t heads = 1;
  std::int64_t head_dim = 32;
};

/// Which gradients a backward pass is asked for; the work of the others is skipped.
struct AttentionNeeds {
  bool x = true, norm_gamma = true, w_qkv = true, w_out = true;
  bool b_out = false;       ///< linear_attention only
  bool bias_table = false;  ///< temporal_attention only
};

/// Gradients in the shapes of their inputs; those not asked for are undefined.
struct AttentionGrads {
  Tensor d_x, d_norm_gamma, d_w_qkv, d_w_out, d_b_out, d_bias_table;
};

namespace detail {

/// Checks shapes, dtypes and devices of the common operands. `b_out` may be undefined. `op` opens every message.
/// On a device the matrices have the type of x, norm_gamma and b_out are f32.
void check_attention_operands(
    const char* op, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options);
/// Checks d_out against x.
void check_attention_grad(const char* op, const Tensor& d_out, const Tensor& x);
/// Throws ShapeError for heads wider than the device cores of linear and spatial attention hold.
void check_core_head(const char* op, const AttentionOptions& options);
/// The gradients that are needed, uninitialised; those of parameters are f32 on a device.
AttentionGrads allocate_attention_grads(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionNeeds& needs);

/// Tells the op timer on what sizes a block works and what it has to do: projections, and a core of `core_flops` per
/// position and head. A backward pass has twice as much; what it computes again is not counted.
inline void note_block(const Tensor& x, const AttentionOptions& options, std::int64_t core_flops, bool backward) {
  const std::int64_t per_position = options.heads * (8 * x.cols() * options.head_dim + core_flops);
  kernels::note_flops((backward ? 2.0 : 1.0) * static_cast<double>(x.rows()) * static_cast<double>(per_position));
  kernels::note_sizes(
      {{"clips", x.dim(0)},
       {"frames", x.dim(1)},
       {"height", x.dim(2)},
       {"width", x.dim(3)},
       {"channels", x.cols()},
       {"heads", options.heads},
       {"head_dim", options.head_dim}});
}

// ---- on the CPU ----

/// Checks the common operands and fills `args` with them.
void set_attention_operands(
    kernels::AttentionBlockArgs& args, const char* op, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv,
    const Tensor& w_out, const Tensor& b_out, const AttentionOptions& options);

/// Allocates the common gradients that are needed and fills `grads` with them and with d_out.
AttentionGrads allocate_attention_grads(
    kernels::AttentionBlockGrads& grads, const char* op, const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma,
    const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out, const AttentionNeeds& needs);

// ---- on a device: checked operands as pointers ----

template <class Elem>
void set_device_attention_operands(
    kernels::AttentionBlockDeviceArgs<Elem>& args, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv,
    const Tensor& w_out, const Tensor& b_out, const AttentionOptions& options) {
  args.B = x.dim(0);
  args.T = x.dim(1);
  args.S = x.dim(2) * x.dim(3);
  args.C = x.cols();
  args.N = options.heads;
  args.D = options.head_dim;
  args.x = device_rows_of<Elem>(x);
  args.gamma = device_data<float>(norm_gamma);
  args.w_qkv = device_rows_of<Elem>(w_qkv);
  args.w_out = device_rows_of<Elem>(w_out);
  args.b_out = device_data<float>(b_out);
}

template <class Elem>
void set_device_attention_grads(
    kernels::AttentionBlockDeviceGrads<Elem>& args, const Tensor& d_out, AttentionGrads& grads) {
  args.d_y = device_rows_of<Elem>(d_out);
  args.d_x = device_mutable_rows_of<Elem>(grads.d_x);
  args.d_gamma = device_mutable_data<float>(grads.d_norm_gamma);
  args.d_w_qkv = device_mutable_rows_of<float>(grads.d_w_qkv);
  args.d_w_out = device_mutable_rows_of<float>(grads.d_w_out);
  args.d_b_out = device_mutable_data<float>(grads.d_b_out);
}

/// Forward of a block on a device, from checked operands. Block names it (kOp), says its workspace (`bytes(args,
/// backward)`) and runs it (`fwd<Backend>(stream, args, x)`, `bwd<Backend>(stream, args, grads, x)`; x tells the device
/// where more memory can be had). A block that keeps f32 numbers for its backward pass says how many
/// (`kept_elements(args)`, 0: none); they are returned in *kept where that is not null.
template <class Block>
Tensor attention_fwd_on_device(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options, Tensor* kept = nullptr) {
  check_core_head(Block::kOp, options);
  Tensor out = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  dispatch_f32_bf16(x.dtype(), Block::kOp, [&]<class Elem>() {
    kernels::AttentionBlockDeviceArgs<Elem> args;
    set_device_attention_operands(args, x, norm_gamma, w_qkv, w_out, b_out, options);
    args.y = device_mutable_rows_of<Elem>(out);
    if constexpr (requires { Block::kept_elements(args); })
      if (const std::int64_t n = kept != nullptr ? Block::kept_elements(args) : 0; n > 0) {
        *kept = Tensor::empty({n}, DType::f32, x.device());
        args.key_sums = device_mutable_data<float>(*kept);
      }
    Tensor workspace = device_workspace(Block::bytes(args, false), x);
    args.workspace = device_mutable_data<float>(workspace);
    on_device(x.device(), Block::kOp, [&]<class Backend>(const kernels::Stream& stream) {
      Block::template fwd<Backend>(stream, args, x);
    });
  });
  return out;
}

/// Backward of the same; kept: as the forward pass left it, or undefined.
template <class Block>
AttentionGrads attention_bwd_on_device(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options, const AttentionNeeds& needs, const Tensor& kept = {}) {
  check_core_head(Block::kOp, options);
  AttentionGrads out = allocate_attention_grads(x, norm_gamma, w_qkv, w_out, b_out, needs);
  dispatch_f32_bf16(x.dtype(), Block::kOp, [&]<class Elem>() {
    kernels::AttentionBlockDeviceArgs<Elem> args;
    set_device_attention_operands(args, x, norm_gamma, w_qkv, w_out, b_out, options);
    if constexpr (requires { Block::kept_elements(args); })
      if (kept.defined()) {
        check<ShapeError>(
            kept.shape() == Shape{Block::kept_elements(args)}, "{}: key_sums: expected [{}], got {}", Block::kOp,
            Block::kept_elements(args), kept.describe());
        args.key_sums = const_cast<float*>(device_data<float>(kept));
      }
    kernels::AttentionBlockDeviceGrads<Elem> grads;
    set_device_attention_grads(grads, d_out, out);
    Tensor workspace = device_workspace(Block::bytes(args, true), x);
    args.workspace = device_mutable_data<float>(workspace);
    on_device(x.device(), Block::kOp, [&]<class Backend>(const kernels::Stream& stream) {
      Block::template bwd<Backend>(stream, args, grads, x);
    });
  });
  return out;
}

}  // namespace detail
}  // namespace avid
