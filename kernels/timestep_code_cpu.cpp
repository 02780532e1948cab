// kernels/timestep_code_cpu.cpp -- sinusoidal code of the diffusion step
//
// Numerics   f32 evaluates exponent, frequency and angle in f32, as the original does: at t = 199 an angle of 199
//            rounded to f32 moves the sine by up to 8e-6, more than any other rounding here
#include "kernels/timestep_code.h"

#include <cmath>

namespace avid::kernels {

template <class Elem>
void timestep_code(const std::int64_t* t, std::int64_t B, std::int64_t width, Rows<Elem> out) {
  const std::int64_t half = width / 2;
  const Elem rate = static_cast<Elem>(-std::log(10000.0) / static_cast<double>(half - 1));
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t j = 0; j < half; ++j) {
      const Elem angle = static_cast<Elem>(t[b]) * std::exp(static_cast<Elem>(j) * rate);
      out.row(b)[j] = std::sin(angle);
      out.row(b)[half + j] = std::cos(angle);
    }
  }
}

template void timestep_code<float>(const std::int64_t*, std::int64_t, std::int64_t, Rows<float>);
template void timestep_code<double>(const std::int64_t*, std::int64_t, std::int64_t, Rows<double>);

}  // namespace avid::kernels
