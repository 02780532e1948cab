// kernels/device/normal.h -- Philox words and normal numbers inside a kernel: the numbers of kernels/philox_cpu.cpp
//
// The same integers, and in f32 the same steps (explicit fused multiply-adds, IEEE square root and products), so that a
// device draws the noise that the CPU draws.
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/philox.h"

namespace avid::kernels::AVID_GPU {

/// Block i of a stream (kernels/philox.h).
AVID_DEVICE uint4 philox_block(const PhiloxStream& stream, std::uint64_t i) {
  std::uint32_t c0 = static_cast<std::uint32_t>(i);
  std::uint32_t c1 = (static_cast<std::uint32_t>(i >> 32) & 0xffffu) | std::uint32_t{stream.tag} << 16;
  std::uint32_t c2 = static_cast<std::uint32_t>(stream.step), c3 = static_cast<std::uint32_t>(stream.step >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(stream.seed), k1 = static_cast<std::uint32_t>(stream.seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t high0 = __umulhi(kPhiloxMul0, c0), low0 = kPhiloxMul0 * c0;
    const std::uint32_t high1 = __umulhi(kPhiloxMul1, c2), low1 = kPhiloxMul1 * c2;
    c0 = high1 ^ c1 ^ k0, c1 = low1;
    c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1;
  }
  return make_uint4(c0, c1, c2, c3);
}

/// sqrt(-2 ln((w + 1) / 2^32)); steps and constants of box_muller_radius in kernels/philox_cpu.cpp
AVID_DEVICE float box_muller_radius(std::uint32_t w) {
  const bool upper = w >= 0xB504F333u;
  const float near_one = static_cast<float>(static_cast<std::int32_t>(~w & 0x7fffffffu)) * -0x1p-32f;
  const float u = (static_cast<float>(static_cast<std::int32_t>(w >> 8)) * 256.0f +
                   static_cast<float>(static_cast<std::int32_t>(w & 0xffu) + 1)) *
                  0x1p-32f;
  const std::int32_t bits = __float_as_int(u) - 0x3f3504f3;
  const float f = upper ? near_one : __int_as_float((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
  const float exponent = upper ? 0.0f : static_cast<float>(bits >> 23);
  // log(1 + f) + exponent ln 2
  float p = 7.0376836292e-2f;
  p = fmaf(p, f, -1.1514610310e-1f);
  p = fmaf(p, f, 1.1676998740e-1f);
  p = fmaf(p, f, -1.2420140846e-1f);
  p = fmaf(p, f, 1.4249322787e-1f);
  p = fmaf(p, f, -1.6668057665e-1f);
  p = fmaf(p, f, 2.0000714765e-1f);
  p = fmaf(p, f, -2.4999993993e-1f);
  p = fmaf(p, f, 3.3333331174e-1f);
  const float f2 = f * f;
  float tail = p * f * f2;
  tail = fmaf(exponent, -2.12194440e-4f, tail);
  tail = fmaf(f2, -0.5f, tail);
  return __fsqrt_rn(-2.0f * fmaf(exponent, 0.693359375f, f + tail));
}

/// cos and sin of 2 pi w / 2^32; steps and constants of box_muller_angle in kernels/philox_cpu.cpp
AVID_DEVICE void box_muller_angle(std::uint32_t w, float& cosine, float& sine) {
  const std::uint32_t quadrant = (w + 0x20000000u) >> 30;
  const float a = static_cast<float>(static_cast<std::int32_t>(w - (quadrant << 30))) * 1.4629180792671596e-09f;
  const float a2 = a * a;
  float s = -1.9515295891e-4f;
  s = fmaf(s, a2, 8.3321608736e-3f);
  s = fmaf(s, a2, -1.6666654611e-1f);
  s = fmaf(s * a2, a, a);
  float c = 2.443315711809948e-5f;
  c = fmaf(c, a2, -1.388731625493765e-3f);
  c = fmaf(c, a2, 4.166664568298827e-2f);
  c = fmaf(c * a2, a2, fmaf(a2, -0.5f, 1.0f));
  const bool swap = (quadrant & 1u) != 0;
  const float cos_part = swap ? s : c, sin_part = swap ? c : s;
  cosine = ((quadrant + 1u) & 2u) != 0 ? -cos_part : cos_part;
  sine = (quadrant & 2u) != 0 ? -sin_part : sin_part;
}

/// Normal numbers 4i .. 4i+3 of a stream.
AVID_DEVICE void normal_block(const PhiloxStream& stream, std::uint64_t i, float (&z)[4]) {
  const uint4 words = philox_block(stream, i);
  float cosine, sine;
  box_muller_angle(words.y, cosine, sine);
  float radius = box_muller_radius(words.x);
  z[0] = radius * cosine, z[1] = radius * sine;
  box_muller_angle(words.w, cosine, sine);
  radius = box_muller_radius(words.z);
  z[2] = radius * cosine, z[3] = radius * sine;
}

}  // namespace avid::kernels::AVID_GPU
