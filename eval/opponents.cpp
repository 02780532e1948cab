// eval/opponents.cpp -- what an evaluation needs beside the networks: an opponent without weights, and shuffled actions
#include "eval/opponents.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/rng.h"

namespace avid::eval {
namespace {

// The bootstrap stream counts resamples in `step`; this one starts where they never come.
constexpr std::uint64_t kShuffleStep = std::uint64_t{1} << 63;

}  // namespace

Tensor take_frames(const Tensor& clips, std::int64_t begin, std::int64_t end) {
  check_rank(clips, 5, "take_frames", "clips");
  check<ShapeError>(
      begin >= 0 && begin <= end && end <= clips.dim(1), "take_frames: expected 0 <= begin <= end <= {}, got {} and {}",
      clips.dim(1), begin, end);
  Tensor out = Tensor::empty({clips.dim(0), end - begin, clips.dim(2), clips.dim(3), clips.dim(4)}, clips.dtype());
  for (std::int64_t b = 0; b < clips.dim(0); ++b) {
    Tensor target = out.select(b);
    target.copy_from(clips.select(b).slice(begin, end));
  }
  return out;
}

Tensor repeat_last_frame(const Tensor& cond, std::int64_t num_frames) {
  check_rank(cond, 5, "repeat_last_frame", "cond");
  check<ShapeError>(cond.dim(1) >= 1, "repeat_last_frame: cond: expected at least one frame, got {}", cond.shape());
  Tensor out = Tensor::empty({cond.dim(0), num_frames, cond.dim(2), cond.dim(3), cond.dim(4)}, cond.dtype());
  for (std::int64_t b = 0; b < cond.dim(0); ++b)
    for (std::int64_t t = 0; t < num_frames; ++t) {
      Tensor target = out.select(b).select(t);
      target.copy_from(cond.select(b).select(cond.dim(1) - 1));
    }
  return out;
}

Tensor shuffle_actions(const Tensor& actions, std::uint64_t seed) {
  check_rank(actions, 2, "shuffle_actions", "actions");
  check_dtype(actions, DType::i64, "shuffle_actions", "actions");
  std::vector<std::int64_t> source(static_cast<std::size_t>(actions.dim(0)));
  std::iota(source.begin(), source.end(), 0);
  const RngKey key{seed, RngPurpose::bootstrap, kShuffleStep};
  for (std::size_t i = source.size(); i-- > 1;)
    std::swap(source[i], source[random_below(key, i, static_cast<std::uint32_t>(i))]);
  Tensor out = Tensor::empty(actions.shape(), DType::i64);
  const std::int64_t width = actions.dim(1);
  for (std::int64_t b = 0; b < actions.dim(0); ++b)
    std::copy_n(
        actions.data<std::int64_t>() + source[static_cast<std::size_t>(b)] * width, width,
        out.data<std::int64_t>() + b * width);
  return out;
}

}  // namespace avid::eval
