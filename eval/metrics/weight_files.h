// eval/metrics/weight_files.h -- pretrained weights of LPIPS, FID and FVD: where they come from, whether they are there
//
// The project ships none of them. A user downloads the official files, `avid weights convert` turns them into one
// safetensors file per network, and every score says which bytes it was computed with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "nn/module.h"

namespace avid::eval {

/// A file as its makers publish it.
struct OfficialFile {
  const char* network;  ///< whose weights; the safetensors file is <network>.safetensors
  const char* part;     ///< "trunk", "heads", "trunk and heads", "all"; "wrong" for a look-alike that must not be used
  const char* file_name;
  std::uint64_t num_bytes;  ///< 0: not known exactly
  const char* sha256;
  const char* origin;
  const char* licence;
};
std::span<const OfficialFile> official_files();
/// Null when no official file has this digest.
const OfficialFile* find_official_file(std::string_view sha256);

/// The networks, and the metrics that need them.
struct MetricNetwork {
  const char* name;  ///< "lpips-vgg", "fid-inception", "i3d-k400"
  std::vector<std::string> metrics;
  const char* how;  ///< the command that converts its official files
};
std::span<const MetricNetwork> metric_networks();
/// Throws Error for a name that is none of them.
const MetricNetwork& metric_network(std::string_view name);

/// `option` when given, else $AVID_WEIGHTS, else "weights".
std::filesystem::path weights_folder(const std::string& option);

/// What lies in a folder for one network.
struct WeightStatus {
  enum class State { missing, official, unofficial, damaged };
  State state = State::missing;
  std::filesystem::path file;
  std::string sha256;         ///< of the safetensors file
  std::string source_sha256;  ///< of the files it was converted from, joined by '+'
  std::string problem;        ///< why it is damaged
};
const char* name_of(WeightStatus::State state);
WeightStatus weight_status(const std::filesystem::path& folder, std::string_view network);

/// Weights ready for a network's constructor.
struct NetworkWeights {
  nn::TensorMap tensors;
  WeightStatus status;
};
/// Loads them, or explains in one line what to do.
/// `metric` is named in the message. Unofficial weights (any file converted with --allow-unofficial) are refused unless
/// allowed.
/// Errors   FileError "fid: unavailable: ... | get ..., then: avid weights convert ...".
NetworkWeights load_network_weights(
    const std::filesystem::path& folder, std::string_view network, std::string_view metric, bool allow_unofficial);

}  // namespace avid::eval
