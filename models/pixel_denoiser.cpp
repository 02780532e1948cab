// models/pixel_denoiser.cpp -- a U-Net as a Denoiser
#include "models/pixel_denoiser.h"

#include "autograd/ops/unet_input.h"

namespace avid {

Tensor PixelDenoiser::predict(const diffusion::DenoiserInput& input) {
  const NoGrad no_grad;
  const Var x = unet_input(input.cond, Var(input.x_t), {});
  return unet_.forward(x, input.t, actions_ == Actions::use ? input.actions : Tensor()).value();
}

}  // namespace avid
