// eval/score_table.h -- scores of several models on the same clips, as a table and as JSON
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "eval/metrics/bootstrap.h"
#include "eval/metrics/pixel_metrics.h"

namespace avid::eval {

/// One model's scores. All rows of a table score the same clips in the same order.
struct ScoreRow {
  std::string name;
  PixelScores scores;
};

/// Row `a` minus row `b`, paired over clips.
struct Comparison {
  std::string a, b;
};

enum class PixelMetric { mse, psnr, ssim };
inline constexpr PixelMetric kPixelMetrics[] = {PixelMetric::mse, PixelMetric::psnr, PixelMetric::ssim};
const char* name_of(PixelMetric metric);
/// Nothing for other words.
std::optional<PixelMetric> find_pixel_metric(const std::string& word);
const std::vector<double>& values_of(const PixelScores& scores, PixelMetric metric);

/// Mean over clips and frames with its bootstrap interval over clips.
Interval interval_of(const PixelScores& scores, PixelMetric metric, const BootstrapOptions& options);
Interval interval_of_difference(
    const PixelScores& a, const PixelScores& b, PixelMetric metric, const BootstrapOptions& options);

class ScoreTable {
 public:
  explicit ScoreTable(BootstrapOptions bootstrap) : bootstrap_(bootstrap) {}

  /// Throws Error when the name is taken or the clips are not as many as in the other rows.
  void add(ScoreRow row);
  /// Both names must be rows; throws Error.
  void compare(const std::string& a, const std::string& b);
  const std::vector<ScoreRow>& rows() const { return rows_; }
  const ScoreRow& row(const std::string& name) const;

  /// Several lines for people: means with intervals, then the differences; a star marks intervals without zero.
  std::string text() const;
  /// {"rows": [{"name", "mse": {"mean", "low", "high", "per_frame": [...]}, ...}], "differences": [...]}
  nlohmann::ordered_json json() const;

 private:
  BootstrapOptions bootstrap_;
  std::vector<ScoreRow> rows_;
  std::vector<Comparison> comparisons_;
};

}  // namespace avid::eval
