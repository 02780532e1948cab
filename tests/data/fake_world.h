// tests/data/fake_world.h -- frame sources and small datasets whose every byte can be predicted
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "data/episode_writer.h"
#include "data/frame_source.h"

namespace avid::test {

/// A run whose frame t is filled with t + bias (mod 256), with action t mod 15 and reward t, restarting at `resets`.
inline data::LevelRun counting_run(
    std::int64_t steps, std::int64_t size, int bias = 0, const std::vector<std::int64_t>& resets = {}) {
  data::LevelRun run;
  for (std::int64_t t = 0; t < steps; ++t) {
    run.frames.insert(run.frames.end(), static_cast<std::size_t>(size * size * 3), static_cast<std::uint8_t>(t + bias));
    run.actions.push_back(static_cast<std::uint8_t>(t % 15));
    run.rewards.push_back(static_cast<float>(t));
    run.first.push_back(t == 0);
  }
  for (const std::int64_t t : resets) run.first[static_cast<std::size_t>(t)] = 1;
  return run;
}

inline data::ShardMeta small_meta(std::int64_t size, std::int32_t levels = 1) {
  data::ShardMeta meta;
  meta.game = "coinrun";
  meta.level_end = levels;
  meta.distribution_mode = "hard";
  meta.options = "{}";
  meta.action_rng = "counting";
  meta.procgen_version = "0.10.7";
  meta.library_sha256 = "none";
  meta.asset_notice = "made up";
  meta.height = meta.width = size;
  return meta;
}

/// Writes runs as levels 0, 1, ... of one shard.
inline void write_shard(
    const std::filesystem::path& path, const std::vector<data::LevelRun>& runs, const data::ShardMeta& meta,
    const data::StorageOptions& storage = {}) {
  std::int64_t frames = 0;
  for (const auto& run : runs) frames += static_cast<std::int64_t>(run.first.size());
  data::ShardWriter writer(path, meta, frames, storage);
  std::int32_t level = 0;
  for (const auto& run : runs) writer.append(level++, run);
  writer.finish();
}

/// A world in this process: frames are 4x4, byte = level + steps since the start, an episode lasts 10 steps.
class CountingWorld : public data::FrameSource {
 public:
  std::int64_t height() const override { return 4; }
  std::int64_t width() const override { return 4; }
  std::vector<std::uint8_t> begin(std::int32_t level) override {
    level_ = level;
    step_ = 0;
    return frame();
  }
  void use(const std::string&) override {}
  data::PlayedSteps step(std::span<const std::uint8_t> actions) override {
    data::PlayedSteps out;
    for (const std::uint8_t action : actions) {
      step_ = (step_ + 1) % 10;
      const auto bytes = frame();
      out.frames.insert(out.frames.end(), bytes.begin(), bytes.end());
      out.rewards.push_back(action);
      out.first.push_back(step_ == 0);
    }
    return out;
  }

 private:
  std::vector<std::uint8_t> frame() const {
    return std::vector<std::uint8_t>(48, static_cast<std::uint8_t>(level_ + step_));
  }
  int level_ = 0, step_ = 0;
};

}  // namespace avid::test
