// tensor/ops/emulated_bf16.h -- bf16 activations on the CPU: stored in bf16, computed in f32
//
// An op whose activations are bf16 widens its inputs, runs its f32 kernels and rounds what it stores, once, to nearest
// even: what a device's kernels do with registers. So the CPU says what bf16 costs in accuracy, and checks the devices;
// it saves half of the activations' memory and no time. Biases, gammas, FiLM and gradients of parameters are f32, as
// there.
#pragma once

#include "tensor/tensor.h"

namespace avid::detail {

/// Whether an op with this activation goes the way of this file.
inline bool is_emulated_bf16(const Tensor& x) {
  return x.defined() && x.dtype() == DType::bf16 && !x.device().is_gpu();
}

/// bf16 widened to f32, exactly; everything else, and nothing, as it is.
inline Tensor widened(const Tensor& t) { return t.defined() && t.dtype() == DType::bf16 ? t.to(DType::f32) : t; }

/// Rounded to bf16; nothing stays nothing.
inline Tensor narrowed(const Tensor& t) { return t.defined() ? t.to(DType::bf16) : t; }

}  // namespace avid::detail
