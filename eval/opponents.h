// eval/opponents.h -- what an evaluation needs beside the networks: an opponent without weights, and shuffled actions
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace avid::eval {

/// "Repeat the last frame": the last given frame, num_frames times. cond [B,K,H,W,3] u8 -> [B,num_frames,H,W,3] u8.
Tensor repeat_last_frame(const Tensor& cond, std::int64_t num_frames);

/// Every clip gets the actions of another clip: rows permuted in one cycle (Sattolo's algorithm), so none keeps
/// its own place. actions [B,T] i64; a single clip is left as it is. Depends on the seed only.
Tensor shuffle_actions(const Tensor& actions, std::uint64_t seed);

/// Frames [begin, end) of every clip: [B,F,H,W,3] -> [B,end - begin,H,W,3], a copy.
Tensor take_frames(const Tensor& clips, std::int64_t begin, std::int64_t end);

}  // namespace avid::eval
