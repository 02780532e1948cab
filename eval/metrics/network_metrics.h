// eval/metrics/network_metrics.h -- LPIPS, FID and FVD of generated clips: protocol around the networks
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "eval/metrics/frechet.h"
#include "models/lpips.h"

namespace avid::eval {

/// fid: stored batch-norm statistics. fid_ref: the original's flaw, statistics of each batch; for comparison with the
/// paper's tables only. fvd_i3d: batch-norm eps 1e-5 as in the paper. fvd_i3d_tf: 1e-3, which I3D was trained with.
enum class NetworkMetric { lpips, fid, fid_ref, fvd_i3d, fvd_i3d_tf };
inline constexpr NetworkMetric kNetworkMetrics[] = {
    NetworkMetric::lpips, NetworkMetric::fid, NetworkMetric::fid_ref, NetworkMetric::fvd_i3d,
    NetworkMetric::fvd_i3d_tf};
const char* name_of(NetworkMetric metric);
/// Nothing for other words.
std::optional<NetworkMetric> find_network_metric(const std::string& word);
/// The network whose weights it needs (weight_files.h).
const char* network_of(NetworkMetric metric);

struct NetworkMetricOptions {
  std::filesystem::path weights;  ///< folder
  bool allow_unofficial = false;
  LpipsNorm lpips_norm = LpipsNorm::torchmetrics;
  Covariance fvd_covariance = Covariance::biased;  ///< of the headline value; both are recorded
};

/// Scores of one generated set.
struct NetworkScores {
  std::int64_t num_clips = 0, num_frames = 0;
  std::vector<double> lpips;                ///< per clip n and frame t at n * num_frames + t; empty when not asked for
  std::map<std::string, double> distances;  ///< "fid", "fid_ref", "fvd_i3d", "fvd_i3d_tf" (by the chosen covariance),
                                            ///< and "fvd_i3d.biased", "fvd_i3d.unbiased", ...
};

/// Mean over frames for every clip: what a bootstrap over clips resamples.
std::vector<double> lpips_per_clip(const NetworkScores& scores);

/// Scores sets of clips against one set of real clips, whose features are computed once.
///
/// A metric that cannot be computed (no weights, clips too short for I3D) is listed with the reason and left out; the
/// others go on. There is never a stand-in.
class NetworkScorer {
 public:
  NetworkScorer(std::vector<NetworkMetric> metrics, NetworkMetricOptions options);
  ~NetworkScorer();
  NetworkScorer(const NetworkScorer&) = delete;
  NetworkScorer& operator=(const NetworkScorer&) = delete;

  /// real [N,T,H,W,3] u8: the frames that were to be generated; cond [N,K,H,W,3] u8 or undefined: the frames before
  /// them, which FVD sees in front of both sets.
  void set_real(const Tensor& real, const Tensor& cond);
  /// generated: the shape of real. Throws ShapeError.
  NetworkScores score(const Tensor& generated);

  /// Metric -> why it cannot be computed, with the next step. Known after the constructor, and set_real for lengths.
  const std::map<std::string, std::string>& unavailable() const { return unavailable_; }
  /// What a reader of the numbers should know: too few clips for the number of features, unofficial weights.
  std::vector<std::string> warnings() const;
  /// {"lpips-vgg": {"file", "sha256", "source_sha256", "state"}, ...} for the networks in use.
  nlohmann::ordered_json weights_record() const;
  /// Values of the switches that the metrics in use depend on.
  nlohmann::ordered_json switches() const;

 private:
  struct Networks;
  bool uses(NetworkMetric metric) const;
  void load(NetworkMetric metric);
  Tensor frame_features(NetworkMetric metric, const Tensor& videos) const;
  Tensor clip_features(NetworkMetric metric, const Tensor& videos) const;
  Tensor set_features(NetworkMetric metric, const Tensor& videos) const;

  std::vector<NetworkMetric> metrics_;  // those that can be computed
  NetworkMetricOptions options_;
  std::unique_ptr<Networks> networks_;
  std::map<std::string, std::string> unavailable_;
  Tensor real_, cond_;
  std::map<NetworkMetric, Tensor> real_features_;
};

}  // namespace avid::eval
