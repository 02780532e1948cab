// data/episode_writer.h -- writes one shard of the episode store (HDF5, format "avid-clips" version 1)
//
// Layout of a shard; N frames in L runs:
//   /frames           uint8 [N,H,W,3] RGB, contiguous or in deflated chunks of some frames; not there with the
//                     attributes frames = "replayed", height, width
//   /actions          uint8 [N], or float32 [N,A]: applied while the frame is visible
//   /rewards          float32 [N] caused by that action
//   /first            uint8 [N] 1 = frame starts an episode; always 1 at the start of a run
//   /runs/{level,offset,length}          int32, uint64, uint32 [L]
//   /segments/{offset,length,run}        uint64, uint32, uint32 [S]: the stretches without a reset
// and the attributes of ShardMeta plus frame_checksum and table_checksum (frame_ops.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/frame_source.h"

namespace avid::data {

inline constexpr const char* kStoreFormat = "avid-clips";
inline constexpr int kStoreVersion = 1;
inline constexpr const char* kReplayed = "replayed";  ///< the attribute `frames` of shards without frames

/// What a shard says about where it came from. The names are those of the file's attributes.
struct ShardMeta {
  std::string game;
  std::int32_t level_begin = 0, level_end = 0;  ///< levels [begin, end)
  std::uint32_t steps_per_level = 0;            ///< 0 = they differ
  std::string distribution_mode;
  std::string options;     ///< JSON text: the library's options
  std::string action_rng;  ///< how the actions were drawn, in words
  std::uint64_t dataset_seed = 0;
  std::string procgen_version;
  std::string library_sha256;
  std::string asset_notice;
  std::string frame_filter = "none";  ///< what was done to the frames after rendering
  bool resets_known = true;           ///< false: `first` is set at run starts only (imported data)
  int num_actions = 15;               ///< discrete actions lie in [0, num_actions); 0 with float actions
  std::int64_t action_width = 0;      ///< A of float actions; 0 = discrete
  std::int64_t height = 64, width = 64;
};

struct StorageOptions {
  bool frames = true;              ///< false: none are stored, readers play the runs again (replay.h)
  int deflate_level = 0;           ///< 0 = contiguous (fast random access), 1..9 = deflated chunks
  std::int64_t chunk_frames = 16;  ///< frames in one deflated chunk
};

/// One shard, appended run by run. It appears under its name only after finish(); until then, or after an error or an
/// interruption, nothing is left of it.
///
/// Errors   FileError (unwritable folder, disk full, ...); ShapeError and ConfigError for runs that do not fit `meta`
///          (frame size, action range, NaN, first flag missing at the start, more frames than announced).
class ShardWriter {
 public:
  /// `num_frames` is the total over all runs; space for it is claimed at once, so that a full disk shows here.
  ShardWriter(
      const std::filesystem::path& path, const ShardMeta& meta, std::int64_t num_frames, const StorageOptions& storage);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// `float_actions` [n,A] replaces run.actions when meta.action_width > 0.
  void append(std::int32_t level, const LevelRun& run, const std::vector<float>& float_actions = {});
  /// Writes the tables and attributes, syncs, renames.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace avid::data
