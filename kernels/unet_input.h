// kernels/unet_input.h -- the channels a U-Net reads (contract: tensor/ops/unet_input.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// B clips, T generated and K conditioning frames of S = H*W pixels with C colours.
struct UnetInputSizes {
  std::int64_t B = 0, T = 0, K = 0, S = 0, C = 3;
};

// Elem is float or double. Rows are pixels: cond B*K*S rows, the others B*T*S rows.

/// out row = [cond colour-major, frame-minor (C*K)] [x_t (C)] [base (C), if present]
template <class Elem>
void unet_input_fwd(
    const UnetInputSizes& size, Rows<const Elem> cond, Rows<const Elem> x_t, Rows<const Elem> base, Rows<Elem> out);
/// d_x_t and d_base are copies of their channels of d_out; either may be absent.
template <class Elem>
void unet_input_bwd(const UnetInputSizes& size, Rows<const Elem> d_out, Rows<Elem> d_x_t, Rows<Elem> d_base);

// ---- on a device: Elem is float or BFloat16; rows start at 16-byte boundaries; gaps of the outputs become zero ----

template <class Backend, class Elem>
void unet_input_fwd(
    const Stream& stream, const UnetInputSizes& size, Rows<const Elem> cond, Rows<const Elem> x_t,
    Rows<const Elem> base, Rows<Elem> out);
template <class Backend, class Elem>
void unet_input_bwd(
    const Stream& stream, const UnetInputSizes& size, Rows<const Elem> d_out, Rows<Elem> d_x_t, Rows<Elem> d_base);

}  // namespace avid::kernels
