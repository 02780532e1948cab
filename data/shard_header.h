// data/shard_header.h -- a shard opened as far as its header: what it is, and that its frames fit the file
#pragma once

#include <filesystem>

#include "data/episode_store.h"
#include "data/hdf5_file.h"

namespace avid::data {

struct OpenShard {
  H5File file;
  H5Extent frames;
  ShardInfo info;
};

/// A file <game>-<level_begin>-<level_end> with this extension lies beside the shards of a collection from its first
/// finished shard to its last one.
inline constexpr const char* kUnfinished = ".unfinished";

/// Opens a shard and checks everything that its header says; tables and frames are not read.
/// Errors   FileError naming the file: missing, empty, truncated, of another format or version, of unlikely sizes.
OpenShard open_shard(const std::filesystem::path& path);

}  // namespace avid::data
