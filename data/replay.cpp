// data/replay.cpp -- see replay.h
#include "data/replay.h"

#include <algorithm>
#include <cstring>

#include "data/frame_ops.h"
#include "tensor/error.h"

namespace avid::data {
namespace {

constexpr std::int64_t kPiece = 128;  // steps asked for at a time

}  // namespace

Replayer::Player Replayer::take(std::int64_t key, std::int64_t from) {
  {
    const std::lock_guard lock(mutex_);
    // Best is one that stands before the window in its run, the nearer the better; else any.
    const auto distance = [&](const Player& p) { return p.key == key && p.at <= from ? from - p.at : INT64_MAX; };
    const auto best = std::min_element(
        idle_.begin(), idle_.end(), [&](const Player& a, const Player& b) { return distance(a) < distance(b); });
    if (best != idle_.end()) {
      Player player = std::move(*best);
      idle_.erase(best);
      return player;
    }
  }
  Player player;
  player.source = make_();
  check<ConfigError>(
      size_ > 0 && player.source->height() % size_ == 0 && player.source->width() == player.source->height(),
      "replay: frames of {0}x{0} cannot be made of {1}x{2}", size_, player.source->height(), player.source->width());
  return player;
}

void Replayer::read(const RecordedRun& run, std::int64_t from, std::int64_t count, std::span<std::uint8_t> out) {
  const auto out_bytes = static_cast<std::size_t>(size_ * size_ * 3);
  check<ShapeError>(
      from >= 0 && count >= 0 && from + count <= static_cast<std::int64_t>(run.actions.size()) &&
          out.size() == static_cast<std::size_t>(count) * out_bytes,
      "replay: expected frames inside a run of {}, got {} from {} on", run.actions.size(), count, from);
  if (count == 0) return;
  Player player = take(run.key, from);
  FrameSource& source = *player.source;
  const std::int64_t factor = source.height() / size_;
  // Frames on the way to the window are played, but not copied.
  const auto show = [&](std::int64_t at, std::span<const std::uint8_t> frame) {
    if (at < from || at >= from + count) return;
    const auto to = out.subspan(static_cast<std::size_t>(at - from) * out_bytes, out_bytes);
    if (factor == 1)
      std::memcpy(to.data(), frame.data(), out_bytes);
    else
      box_downscale(frame, source.height(), source.width(), factor, to);
  };
  if (player.key != run.key || player.at > from) {
    if (player.options != run.options) {
      source.use(run.options);
      player.options = run.options;
    }
    player.frame = source.begin(run.level);
    player.key = run.key;
    player.at = 0;
  }
  show(player.at, player.frame);
  const std::size_t frame_bytes = source.frame_bytes();
  while (player.at + 1 < from + count) {
    const std::int64_t n = std::min(kPiece, from + count - 1 - player.at);
    const PlayedSteps steps =
        source.step(run.actions.subspan(static_cast<std::size_t>(player.at), static_cast<std::size_t>(n)));
    check<Error>(
        steps.frames.size() == static_cast<std::size_t>(n) * frame_bytes, "replay: expected {} frames, got {} bytes", n,
        steps.frames.size());
    for (std::int64_t i = 0; i < n; ++i)
      show(player.at + 1 + i, std::span(steps.frames).subspan(static_cast<std::size_t>(i) * frame_bytes, frame_bytes));
    player.frame.assign(steps.frames.end() - static_cast<std::ptrdiff_t>(frame_bytes), steps.frames.end());
    player.at += n;
  }
  // A source that threw is not given back.
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(player));
}

}  // namespace avid::data
