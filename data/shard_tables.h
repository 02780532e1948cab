// data/shard_tables.h -- everything of a shard but its pixels: actions, rewards, flags, runs, segments
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/hdf5_file.h"

namespace avid::data {

/// The small arrays of a shard (layout: episode_writer.h). One frame costs 6 bytes here.
struct ShardTables {
  std::vector<std::uint8_t> actions;  ///< [N]; empty with float actions
  std::vector<float> float_actions;   ///< [N,A]; empty with discrete actions
  std::int64_t action_width = 0;      ///< A
  std::vector<float> rewards;         ///< [N]
  std::vector<std::uint8_t> first;    ///< [N]
  std::vector<std::int32_t> run_level;
  std::vector<std::uint64_t> run_offset;
  std::vector<std::uint32_t> run_length;
  std::vector<std::uint64_t> segment_offset;
  std::vector<std::uint32_t> segment_length, segment_run;

  std::uint64_t num_frames() const { return first.size(); }

  /// Appends a run and its segments from the first flags; `name` of errors is the level.
  void add_run(std::int32_t level, std::span<const std::uint8_t> run_first);
  /// Actions in range and finite, rewards finite, flags 0 or 1, from frame `begin` on. Throws ConfigError or FileError
  /// that names the frame.
  void validate_values(const std::string& path, int num_actions, std::uint64_t begin = 0) const;
  /// Runs follow each other without gaps and cover all frames; segments are what the flags say. Throws FileError.
  void validate_structure(const std::string& path) const;
  /// Checksum (frame_ops.h) of all arrays in the order of this struct.
  std::uint64_t checksum() const;

  void write(H5File& file) const;
  /// Reads and checks shapes and element types against the number of frames. Throws FileError.
  static ShardTables read(const H5File& file, const std::string& path, std::uint64_t num_frames);
};

}  // namespace avid::data
