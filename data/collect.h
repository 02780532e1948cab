// data/collect.h -- records levels of a game into shards
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/episode_writer.h"
#include "data/games.h"
#include "data/procgen.h"

namespace avid::data {

struct CollectOptions {
  std::filesystem::path out;  ///< a folder; shards are named <game>-<level_begin>-<level_end>.h5
  /// When not empty: all levels into this one file instead of a folder of shards.
  std::filesystem::path single_file;
  std::int32_t level_begin = 0, level_end = 0;
  std::int64_t steps = 1000;
  std::int64_t size = 64;  ///< stored frame size: 64, or a divisor of it (box average)
  std::uint64_t seed = 0;
  ActionPolicy actions = ActionPolicy::uniform;
  std::int32_t levels_per_shard = 250;
  StorageOptions storage = {};
  int jobs = 1;  ///< game processes side by side; the result does not depend on it
  ProcgenOptions game;
};

struct CollectProgress {
  std::int64_t frames_done = 0, frames_total = 0;
  int shards_done = 0, shards_total = 0, shards_found = 0;  ///< found: finished by an earlier run
  double seconds = 0;
};

struct CollectResult {
  std::vector<std::filesystem::path> shards;
  std::int64_t frames_written = 0;
  int shards_found = 0;
  double seconds = 0;
};

/// Records every level once and writes finished shards one after the other. A shard that is already there and was made
/// with the same options is kept, so that an interrupted call can simply be repeated; until then a mark in the folder
/// keeps readers from taking its shards for all (kUnfinished, data/shard_header.h).
///
/// `library_sha256` is stored as provenance; `report` (may be empty) is called after every level; when `stop` (may be
/// empty) becomes true the current shard is dropped and Interrupted says how to go on.
/// Errors   ConfigError (levels, size, an existing shard made with other options); whatever the source and
///          ShardWriter throw.
CollectResult collect(
    const CollectOptions& options, const SourceFactory& make_source, const std::string& library_sha256,
    const std::function<void(const CollectProgress&)>& report = {}, const std::function<bool()>& stop = {});

}  // namespace avid::data
