// kernels/vendor/cudnn.h -- conv3d, softmax attention and layer norm through cuDNN; for CUDA builds (others do not
// define these)
//
// Measured  never run on a GPU yet; descriptors, engines and work space are tested against cuDNN itself with a
// described GPU
#pragma once

#include "kernels/attention.h"
#include "kernels/layer_norm.h"
#include "kernels/vendor/conv_problem.h"
#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Bytes of workspace of a pass, 256-byte aligned, uninitialised. Finds the algorithms at the first call with a shape,
/// in the library's order and among those that are allowed (engine_allowed). LibraryError when there is none.
template <class Elem>
std::int64_t library_conv3d_workspace_bytes(ConvPass pass, const Conv3dSize& size, const ConvPitches& pitches);

// The calls mean what those of kernels/conv3d.h mean, with these differences. Elem bf16: the output is rounded before
// the bias is added, and again after it; the gradient of w is rounded to bf16 on its way to f32. f32 is computed
// without tensor cores. Two sources are joined by copies, since cuDNN takes one. d_bias is not among the results of
// bwd_weight. Throws LibraryError.

template <class Elem>
void library_conv3d_fwd(
    const Stream& stream, const Conv3dSize& size, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w,
    const float* bias, Rows<Elem> out, void* workspace);
template <class Elem>
void library_conv3d_bwd_data(
    const Stream& stream, const Conv3dSize& size, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x,
    Rows<Elem> d_x2, void* workspace);
template <class Elem>
void library_conv3d_bwd_weight(
    const Stream& stream, const Conv3dSize& size, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, void* workspace);

/// Bytes of workspace, 256-byte aligned, uninitialised. LibraryError where cuDNN has no engine, and for f32, which it
/// would compute on tensor cores in TF32, and forward only.
template <class Elem>
std::int64_t library_attention_workspace_bytes(const AttentionArgs<Elem>& p);
template <class Elem>
std::int64_t library_attention_workspace_bytes(const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g);

// As in kernels/attention.h, log_sum too: a forward pass of ours can be followed by a backward pass of cuDNN's. log_sum
// may be null in fwd. Heads whose width is no multiple of 8 are copied to rows where it is one, and back.

template <class Elem>
void library_attention_fwd(const Stream& stream, const AttentionArgs<Elem>& p, void* workspace);
template <class Elem>
void library_attention_bwd(
    const Stream& stream, const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g, void* workspace);

/// As above. LibraryError for rows with gaps.
template <class Elem>
std::int64_t library_layer_norm_workspace_bytes(const LayerNormDeviceArgs<Elem>& p);
template <class Elem>
std::int64_t library_layer_norm_workspace_bytes(
    const LayerNormDeviceArgs<Elem>& p, const LayerNormDeviceGrads<Elem>& g);

// As in kernels/layer_norm.h, without d_residual. The backward pass does the forward pass again, for mean and
// deviation.

template <class Elem>
void library_layer_norm_fwd(const Stream& stream, const LayerNormDeviceArgs<Elem>& p, void* workspace);
template <class Elem>
void library_layer_norm_bwd(
    const Stream& stream, const LayerNormDeviceArgs<Elem>& p, const LayerNormDeviceGrads<Elem>& g, void* workspace);

}  // namespace avid::kernels::vendor
