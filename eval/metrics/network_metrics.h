// eval/metrics/network_metrics.h -- LPIPS, FID, FVD, our own distances of clips: the protocol around the networks
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "eval/metrics/bootstrap.h"
#include "eval/metrics/frechet.h"
#include "models/lpips.h"

namespace avid::eval {

/// fid: stored batch-norm statistics. fid_ref: the original's flaw, statistics of each batch; for comparison with the
/// paper's tables only. fvd_i3d: batch-norm eps 1e-5 as in the paper. fvd_i3d_tf: 1e-3, which I3D was trained with.
/// fid_procgen, fvd_procgen: the same distances on features of this project's own encoder (procgen_distance.h).
enum class NetworkMetric { lpips, fid, fid_ref, fvd_i3d, fvd_i3d_tf, fid_procgen, fvd_procgen };
inline constexpr NetworkMetric kNetworkMetrics[] = {
    NetworkMetric::lpips,      NetworkMetric::fid,         NetworkMetric::fid_ref,    NetworkMetric::fvd_i3d,
    NetworkMetric::fvd_i3d_tf, NetworkMetric::fid_procgen, NetworkMetric::fvd_procgen};
const char* name_of(NetworkMetric metric);
/// Nothing for other words.
std::optional<NetworkMetric> find_network_metric(const std::string& word);
/// The network whose weights it needs (weight_files.h; procgen_distance.h for the last two).
const char* network_of(NetworkMetric metric);
/// Metrics of whole clips, conditioning frames included; the others look at single generated frames.
bool sees_clips(NetworkMetric metric);

struct NetworkMetricOptions {
  std::filesystem::path weights;  ///< folder
  bool allow_unofficial = false;
  LpipsNorm lpips_norm = LpipsNorm::torchmetrics;
  Covariance fvd_covariance = Covariance::biased;  ///< of the headline value of I3D's; both are recorded
  std::string procgen_encoder;                     ///< file; empty: the shipped one
  /// For intervals of the distances (frechet_bootstrap.h); resamples < 0 means 200 where they are cheap, 0 none.
  BootstrapOptions bootstrap{.seed = 0, .resamples = 0, .level = 0.95};
};

/// Scores of one generated set.
struct NetworkScores {
  std::int64_t num_clips = 0, num_frames = 0;
  std::vector<double> lpips;  ///< per clip n and frame t at n * num_frames + t; empty when not asked for
  /// "fid", "fid_ref", "fvd_i3d", "fvd_i3d_tf" (by the chosen covariance), "fvd_i3d.biased", "fvd_i3d.unbiased", ...;
  /// "fid_procgen", "fvd_procgen" over N - 1, and "fid_procgen.real_halves" ...: the distance between the even and the
  /// odd real clips, which says what so few clips cannot tell apart (from 4 clips on).
  std::map<std::string, double> distances;
  std::map<std::string, std::vector<double>> resamples;  ///< "fid", "fvd_i3d", ...: the same of resampled clips
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
  /// One line about metrics that are this project's own, or nothing: to be printed beside their values.
  std::vector<std::string> notes() const;
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
  Tensor procgen_features(NetworkMetric metric, const Tensor& videos) const;
  Tensor set_features(NetworkMetric metric, const Tensor& videos) const;
  std::int64_t num_features(NetworkMetric metric) const;
  /// How often the clips are resampled for this metric; none where nobody asked and it would take long.
  std::int64_t num_resamples(NetworkMetric metric) const;
  /// Of the real clips, computed once.
  const Tensor& real_features(NetworkMetric metric);

  std::vector<NetworkMetric> metrics_;  // those that can be computed
  NetworkMetricOptions options_;
  std::unique_ptr<Networks> networks_;
  std::map<std::string, std::string> unavailable_;
  Tensor real_, cond_;
  std::map<NetworkMetric, Tensor> real_features_;
  std::map<NetworkMetric, double> real_halves_;
};

}  // namespace avid::eval
