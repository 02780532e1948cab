// data/npz_import.h -- turns the original code's recordings (.npz chunks) into an episode store
//
// Chunks are called <game>_lvl_<level>_chunk_<i>_<20 digits of time>.npz and hold obs [n,H,W,3] uint8, act [n] integer,
// and rew and term, which the original leaves empty. The chunks of a level are joined in the order of i.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/episode_writer.h"

namespace avid::data {

/// What a chunk's name says.
struct ChunkName {
  std::string game;
  std::int32_t level = 0;
  std::int64_t chunk = 0;
  std::string time;  ///< digits, compared as text
};
/// Nothing when the name has another form.
std::optional<ChunkName> parse_chunk_name(std::string_view file_name);

struct ImportOptions {
  std::vector<std::filesystem::path> places;  ///< .npz files and folders of them
  std::filesystem::path out;                  ///< folder of shards <game>-<level_begin>-<level_end>.h5
  std::int64_t runs_per_shard = 250;
  StorageOptions storage = {};
};

struct ImportResult {
  std::vector<std::filesystem::path> shards;
  std::int64_t num_runs = 0, num_frames = 0, num_chunks = 0;
  std::vector<std::string> notes;  ///< what a person should know: ignored files, missing chunks, unknown resets
};

/// Imports every chunk found. Recordings of one level at two times, and stretches on either side of a missing chunk,
/// become separate runs, since no window may join them. When every chunk has rewards or end flags of the right length
/// they are used; otherwise rewards are 0, `first` is set at run starts only, and the shard says that its resets are
/// not known.
///
/// `report` (may be empty) gets chunks done and chunks in all; `stop` (may be empty) ends the import with Interrupted.
/// Errors   FileError naming the chunk (missing members, wrong shapes or types, bad CRC, truncated), ConfigError for
///          actions out of range; a shard with a bad chunk is not written.
ImportResult import_npz(
    const ImportOptions& options, const std::function<void(std::int64_t, std::int64_t)>& report = {},
    const std::function<bool()>& stop = {});

}  // namespace avid::data
