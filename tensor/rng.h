// tensor/rng.h -- counter-based random numbers: Philox4x32-10
//
// A number depends only on (seed, purpose, step, element), never on threads, batch splits or call order, so a
// run can be stopped, resumed and spread over ranks without changing it. The saved state is these integers.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cstdint>

#include "tensor/tensor.h"

namespace avid {

/// What a stream of numbers is for. The values are part of the file format of a run: never renumber.
enum class RngPurpose : std::uint16_t {
  init_weights = 1,
  train_noise = 2,  // n of q_sample; step = update, element = position in the global batch tensor
  train_timestep = 3,
  data_window = 4,
  action_drop = 5,
  sample_noise = 6,  // x_T and the z of every sampling step
  collect_action = 7,
  bootstrap = 8,
  eval_timestep = 9,
  eval_noise = 10,
  test = 11,
};

struct RngKey {
  std::uint64_t seed = 0;
  RngPurpose purpose = RngPurpose::test;
  std::uint64_t step = 0;
};

/// One Philox4x32-10 block. Counter words: element block (48 bits) | purpose (16 bits), then step (64 bits);
/// key words: seed (64 bits).
std::array<std::uint32_t, 4> philox_block(const RngKey& key, std::uint64_t block);

/// The 32-bit number that belongs to `element` (word element % 4 of block element / 4).
std::uint32_t random_u32(const RngKey& key, std::uint64_t element);
/// Uniform in [0, n) by multiply-shift: (u32 * n) >> 32.
std::uint32_t random_below(const RngKey& key, std::uint64_t element, std::uint32_t n);
/// Uniform in [0, 1) with 24 bits.
float random_uniform(const RngKey& key, std::uint64_t element);

/// Fills t (f32 or f64, on a device f32 or bf16; dense order over logical elements, gaps untouched) with N(0,1) by
/// Box-Muller on pairs of words. Element e of t is number `first_element + e` of the stream. Same bits for any thread
/// count; f64 and f32 get the same values up to rounding.
void fill_normal(Tensor& t, const RngKey& key, std::uint64_t first_element = 0);
/// Fills t with numbers uniform in [low, high).
void fill_uniform(Tensor& t, const RngKey& key, double low, double high, std::uint64_t first_element = 0);

}  // namespace avid
