// models/avid.h -- AVID: a trained adapter next to a frozen base model that it only sees through its predictions
//
// Source   Rigter et al. 2024, arXiv:2410.12822; pixel.md section 3.
#pragma once

#include <string_view>

#include "diffusion/denoiser.h"
#include "models/unet3d.h"
#include "nn/layers.h"

namespace avid {

/// mask             adapter sees the base output; out = base * m + rgb * (1 - m)
/// no_mask          adapter sees the base output; out = base + M rgb, M a 3x3 channel mix with bias, zero at first
/// no_conditioning  mask, but the adapter does not see the base output
enum class AvidVariant { mask, no_mask, no_conditioning };
const char* name_of(AvidVariant variant);

struct AvidConfig {
  AvidVariant variant = AvidVariant::mask;
  Unet3dConfig adapter;  ///< in_channels and out_channels as the variant needs them: see make_avid_config
};
/// Sets the adapter's in_channels and out_channels from the variant and cond_frames.
AvidConfig make_avid_config(AvidVariant variant, Unet3dConfig adapter);
/// Reads variant and adapter from the tensors `adapter.*`, `mixture_conv.*`. `cond_frames` is the base's K; < 0 when
/// unknown (then a masked adapter is taken to see the base output).
AvidConfig infer_avid_config(const nn::TensorMap& tensors, std::string_view source, std::int64_t cond_frames = -1);

/// Statistics of a mask over all its elements (pixel.md 3.3); std with N - 1.
struct MaskStats {
  double mean = 0, std = 0, min = 0, max = 0;
};
MaskStats mask_stats(const Tensor& mask);

struct AvidOutput {
  Var prediction;  // [B,T,H,W,3]
  Var adapter;     // [B,T,H,W,3 or 4] raw, mask logit last
  Tensor mask;     // [B,T,H,W,1], undefined for no_mask; 1 = the base is used
};

/// Adapter and mixing layer. The base enters as a tensor: its weights and activations are not known here.
/// Parameter names: `adapter.*`, `mixture_conv.weight`, `mixture_conv.bias`.
class Avid final : public nn::Module {
 public:
  explicit Avid(const AvidConfig& config);

  const AvidConfig& config() const { return config_; }
  const Unet3d& adapter() const { return adapter_; }

  /// Shapes   x_t, base [B,T,H,W,3]; t [B] i64; cond [B,K,H,W,3]; actions [B,T] i64; drop as in Unet3d::forward.
  /// Grad     of adapter and mixing layer; the base is a constant.
  AvidOutput forward(
      const Tensor& x_t, const Tensor& t, const Tensor& cond, const Tensor& actions, const Tensor& base,
      const Tensor& drop = {}, const Probe& probe = {}) const;

 private:
  AvidConfig config_;
  Unet3d adapter_;
  nn::Pointwise mixture_;
};

/// A frozen base plus an adapter as one Denoiser. The base is asked without actions, once per predict().
class AvidDenoiser final : public diffusion::Denoiser {
 public:
  /// Both must outlive this object.
  AvidDenoiser(diffusion::Denoiser& base, const Avid& avid) : base_(base), avid_(avid) {}

  Tensor predict(const diffusion::DenoiserInput& input) override;
  diffusion::Objective objective() const override { return base_.objective(); }
  Tensor last_mask() const override { return mask_; }

 private:
  diffusion::Denoiser& base_;
  const Avid& avid_;
  Tensor mask_;
};

}  // namespace avid
