// data/episode_store.h -- reads recorded episodes: one or many shards as one long row of frames
//
// Frames of contiguous shards are read with positional reads, outside the HDF5 library: no lock, no chunk cache, any
// number of threads. Small deflated shards (the samples in the repository) are decoded once, at open, and checked
// against their checksum; large ones are decoded piece by piece under the library's lock. Shards without frames are
// played again (replay.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/episode_writer.h"

namespace avid::data {

/// What one shard is, for `avid inspect` and for messages.
struct ShardInfo {
  std::filesystem::path path;
  ShardMeta meta;
  std::int64_t num_frames = 0, num_runs = 0, num_segments = 0;
  std::string storage;  ///< "contiguous", "deflate, chunks of 16 frames" or "replayed"
  bool replayed = false;
  std::uint64_t file_bytes = 0, frame_checksum = 0;
  std::uint64_t table_checksum = 0;  ///< of actions, levels and segments; 0 in files that do not carry one
};

/// One recorded run of a level.
struct Run {
  std::int32_t level = 0;
  std::int32_t shard = 0;
  std::int64_t begin = 0, length = 0;  ///< global frame numbers [begin, begin + length)
};

/// A stretch without a reset inside one run.
struct Segment {
  std::int64_t begin = 0, length = 0, run = 0;
};

struct StoreOptions {
  /// Decoded deflated shards kept in memory, in all.
  std::uint64_t cache_bytes = std::uint64_t{512} << 20;
  /// Plays shards without frames; empty: the game library, which must be the one that recorded them.
  SourceFactory make_source = {};
};

/// A read-only dataset. Frames, actions and flags are numbered through all shards in the order given.
///
/// Errors   FileError naming the file for anything missing, truncated, damaged, of another format version, or that does
///          not fit the other shards; ConfigError for values out of range (actions, NaN).
/// Threads  every const function may be called from any thread.
class EpisodeStore {
 public:
  /// Files, folders (all *.h5 below them, sorted by path) and glob patterns.
  explicit EpisodeStore(const std::vector<std::string>& places, const StoreOptions& options = {});
  explicit EpisodeStore(const std::filesystem::path& place) : EpisodeStore(std::vector<std::string>{place.string()}) {}
  ~EpisodeStore();
  EpisodeStore(EpisodeStore&&) noexcept;
  EpisodeStore(const EpisodeStore&) = delete;
  EpisodeStore& operator=(const EpisodeStore&) = delete;

  std::int64_t num_frames() const { return num_frames_; }
  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  std::size_t frame_bytes() const { return static_cast<std::size_t>(height_ * width_ * 3); }
  /// 15 for Procgen; 0 when actions are vectors.
  int num_actions() const { return num_actions_; }
  /// Length of an action vector; 0 when actions are ids.
  std::int64_t action_width() const { return action_width_; }
  /// False when any shard was imported without reset flags.
  bool resets_known() const { return resets_known_; }
  const std::vector<ShardInfo>& shards() const { return shards_; }
  const std::vector<Run>& runs() const { return runs_; }
  const std::vector<Segment>& segments() const { return segments_; }

  /// Copies frames [begin, begin + count) to out [count,H,W,3]; they may lie in several runs but not in several shards.
  void read_frames(std::int64_t begin, std::int64_t count, std::span<std::uint8_t> out) const;
  int action(std::int64_t frame) const;
  std::span<const float> action_vector(std::int64_t frame) const;
  float reward(std::int64_t frame) const;
  bool first(std::int64_t frame) const;

  /// Reads every frame and compares with the stored checksums; throws FileError naming the damaged shard.
  void verify_frames() const;
  /// Several lines for people, and the same as one JSON object.
  std::string describe() const;
  std::string describe_json() const;

 private:
  struct Shard;
  const Shard& shard_of(std::int64_t frame) const;

  std::vector<std::unique_ptr<Shard>> data_;
  std::vector<ShardInfo> shards_;
  std::vector<Run> runs_;
  std::vector<Segment> segments_;
  std::int64_t num_frames_ = 0, height_ = 0, width_ = 0, action_width_ = 0;
  int num_actions_ = 0;
  bool resets_known_ = true;
};

/// Files, folders and globs to sorted shard paths; throws FileError when a place has none, or is a folder where a
/// collection is not finished.
std::vector<std::filesystem::path> find_shards(const std::vector<std::string>& places);

/// Opens one shard as far as needed to describe it (attributes and checks of the header, not of the tables).
ShardInfo read_shard_info(const std::filesystem::path& path);

}  // namespace avid::data
