// eval/corruptions.h -- known damage to clips, of known strength: what a metric should answer to
//
// Clips u8 [N,T,H,W,3]; every function returns new clips of the same shape, and the clips themselves at strength 0.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace avid::eval {

/// Gaussian blur of every frame with this sigma in pixels; edges repeat; rounded to the nearest level.
Tensor blurred(const Tensor& clips, double sigma);

/// Adds independent N(0, levels^2) to every value, rounds, clamps to 0..255. Reproducible from the seed.
Tensor with_noise(const Tensor& clips, double levels, std::uint64_t seed);

/// The last `count` frames of every clip repeat the frame before them. Throws ShapeError unless 0 <= count < T.
Tensor frozen(const Tensor& clips, std::int64_t count);

/// Frames change places inside blocks of `block` frames (the last block may be shorter), another permutation in each
/// clip and block. Throws ShapeError for block < 1.
Tensor shuffled_in_time(const Tensor& clips, std::int64_t block, std::uint64_t seed);

/// The first round(share * N) clips come from `other`, which has the same shape. Throws ShapeError.
Tensor partly_replaced(const Tensor& clips, const Tensor& other, double share);

}  // namespace avid::eval
