// train/cli/kept_clips.h -- generated clips on the disk: another metric later, or a second try, samples nothing twice
#pragma once

#include <filesystem>
#include <optional>

#include "tensor/io/json.h"
#include "tensor/io/new_folder.h"
#include "tensor/tensor.h"

namespace avid::cli {

/// A folder of safetensors files, one for each thing sampled: tensor `generated`, u8 [N,T,H,W,3], and metadata that say
/// what it was made from. The name is the start of the sha256 over that, so nothing is ever taken for something else.
class KeptClips {
 public:
  /// What sampling left behind.
  struct Clips {
    Tensor frames;                    ///< u8 [N,T,H,W,3]
    Json masks = Json::array();       ///< [{"t", "mean"}]
    double seconds = 0;               ///< that the sampling took
    std::string commit, device;       ///< of the program that sampled them, and where
    std::filesystem::path file = {};  ///< set by find
  };

  /// An empty path keeps nothing and finds nothing. Makes the folder, so that a wrong one shows before the sampling; if
  /// it stays empty it goes again.
  explicit KeptClips(std::filesystem::path folder);

  /// `made_from`: everything that the frames depend on. A file that is damaged is named on stderr and counts as absent.
  std::optional<Clips> find(const Json& made_from) const;
  void keep(const Json& made_from, const Clips& clips) const;

 private:
  std::filesystem::path file_of(const Json& made_from) const;

  std::filesystem::path folder_;
  NewFolder made_;
};

}  // namespace avid::cli
