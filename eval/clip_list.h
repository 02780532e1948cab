// eval/clip_list.h -- a stored list of evaluation clips, so that all methods are scored on the same ones
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/episode_store.h"

namespace avid::eval {

/// Windows of a dataset. `dataset` is the sha256 over the shards' frame checksums: a list fits no other frames.
struct ClipList {
  std::string name;  ///< "coinrun-eval1024"
  std::string dataset;
  std::int64_t context = 2, targets = 8;  ///< K and T
  std::string resets = "exclude";
  std::uint64_t seed = 0;
  std::vector<std::int64_t> starts;  ///< global numbers of the windows' first frames

  /// sha256 over everything but the name: two lists with one hash are the same clips.
  std::string hash() const;
  /// JSON, with the hash.
  std::string to_json() const;
  /// Throws FileError naming `source` for anything missing, damaged, or whose hash does not fit.
  static ClipList from_json(const std::string& text, const std::string& source);
};

ClipList load_clip_list(const std::filesystem::path& file);

/// What ClipList::dataset holds.
std::string dataset_digest(const data::EpisodeStore& store);

}  // namespace avid::eval
