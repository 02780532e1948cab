// kernels/timestep_code.h -- sinusoidal code of the diffusion step (contract: tensor/ops/timestep_code.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// out row b = [sin(t_b f_0..h-1), cos(t_b f_0..h-1)], h = width / 2, f_j = exp(-j ln(10000) / (h - 1)), in Elem
/// (float, double)
template <class Elem>
void timestep_code(const std::int64_t* t, std::int64_t B, std::int64_t width, Rows<Elem> out);

/// On a device: Elem is float or BFloat16, arithmetic is f32. t [B] lies on the device. Gaps stay as they are.
template <class Backend, class Elem>
void timestep_code(const Stream& stream, const std::int64_t* t, std::int64_t B, std::int64_t width, Rows<Elem> out);

}  // namespace avid::kernels
