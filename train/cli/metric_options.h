// train/cli/metric_options.h -- which metrics a command computes and under which switches (avid metrics, evaluate)
#pragma once

#include <string>
#include <vector>

#include "eval/metrics/bootstrap.h"
#include "eval/metrics/network_metrics.h"
#include "eval/score_table.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"

namespace avid::cli {

/// What the command line says; --set takes the names of the protocol's switches.
struct MetricFlags {
  std::vector<std::string> metrics;  ///< words; "all" for every metric
  std::vector<std::string> set;      ///< "ssim.crop=valid"
  std::string weights;               ///< folder
  bool allow_unofficial = false;
  std::int64_t frechet_resamples = -1;  ///< for intervals of FID and FVD; < 0: 200 where they are cheap
};
/// Declares --metrics (help lists the words), --set, --weights, --allow-unofficial.
void add_metric_options(Command* command, MetricFlags& flags);

/// The flags understood.
struct MetricChoice {
  std::vector<eval::PixelMetric> pixel;
  std::vector<eval::NetworkMetric> network;
  bool aer = false;
  eval::SsimBorder border = eval::SsimBorder::full;
  bool psnr_per_video = false, round = false, skip_first_frame = false;
  bool by_moments = false;  ///< --features: Frechet distances out of means and covariances
  eval::NetworkMetricOptions options;
  bool all = false;  ///< metrics that cannot be computed are then listed, not an error

  bool has(eval::PixelMetric metric) const;
};
/// fid with fid.bn=batch is fid_ref, fvd is fvd_i3d or, with fvd.bn_eps=1e-3, fvd_i3d_tf: never one key for two things.
/// Errors   UsageError for unknown words, switches and values.
MetricChoice choose_metrics(const MetricFlags& flags);
/// Throws UsageError for switches that only avid metrics follows, so that no other command takes them and does nothing.
void refuse_switches_of_files(const MetricChoice& choice, const char* command);

/// Adds the values, curves and intervals (of distances between sets: frechet_bootstrap.h) of one generated set to
/// `result` as avid metrics prints them:
/// "lpips": 0.1, "curves": {"lpips": [...]}, "intervals": {"lpips": [low, high]}, "details": {"fvd_i3d.biased": ...}.
void add_network_scores(Json& result, const eval::NetworkScores& scores, const eval::BootstrapOptions& bootstrap);

/// One line on stderr for every warning.
void print_warnings(const std::vector<std::string>& warnings);

}  // namespace avid::cli
