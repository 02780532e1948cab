// eval/score_table.cpp -- scores of several models on the same clips, as a table and as JSON
#include "eval/score_table.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/io/json.h"

namespace avid::eval {
namespace {

Json to_json(const Interval& interval) {
  return {{"mean", interval.mean}, {"low", interval.low}, {"high", interval.high}};
}

/// "0.0213 [0.0198, 0.0229]" with the digits that suit the metric.
std::string format(const Interval& i, PixelMetric metric, bool sign) {
  const int digits = metric == PixelMetric::psnr ? 2 : 4;
  return sign ? fmt::format(
                    "{:+.{}f} [{:+.{}f}, {:+.{}f}]{}", i.mean, digits, i.low, digits, i.high, digits,
                    i.excludes_zero() ? " *" : "")
              : fmt::format("{:.{}f} [{:.{}f}, {:.{}f}]", i.mean, digits, i.low, digits, i.high, digits);
}

}  // namespace

const char* name_of(PixelMetric metric) {
  switch (metric) {
    case PixelMetric::mse: return "mse";
    case PixelMetric::psnr: return "psnr";
    case PixelMetric::ssim: return "ssim";
  }
  return "?";
}

std::optional<PixelMetric> find_pixel_metric(const std::string& word) {
  for (const PixelMetric m : kPixelMetrics)
    if (word == name_of(m)) return m;
  return std::nullopt;
}

const std::vector<double>& values_of(const PixelScores& scores, PixelMetric metric) {
  return metric == PixelMetric::mse ? scores.mse : metric == PixelMetric::psnr ? scores.psnr : scores.ssim;
}

Interval interval_of(const PixelScores& scores, PixelMetric metric, const BootstrapOptions& options) {
  return bootstrap_mean(clip_means(scores, values_of(scores, metric)), options);
}

Interval interval_of_difference(
    const PixelScores& a, const PixelScores& b, PixelMetric metric, const BootstrapOptions& options) {
  return bootstrap_difference(clip_means(a, values_of(a, metric)), clip_means(b, values_of(b, metric)), options);
}

const ScoreRow& ScoreTable::row(const std::string& name) const {
  const auto found = std::find_if(rows_.begin(), rows_.end(), [&](const ScoreRow& r) { return r.name == name; });
  check<Error>(found != rows_.end(), "score table: no row '{}'", name);
  return *found;
}

void ScoreTable::add(ScoreRow row) {
  for (const ScoreRow& other : rows_) {
    check<Error>(other.name != row.name, "score table: the name '{}' is taken", row.name);
    check<ShapeError>(
        other.scores.num_clips == row.scores.num_clips && other.scores.num_frames == row.scores.num_frames,
        "score table: row '{}': expected {} clips of {} frames, got {} of {}", row.name, other.scores.num_clips,
        other.scores.num_frames, row.scores.num_clips, row.scores.num_frames);
  }
  rows_.push_back(std::move(row));
}

void ScoreTable::compare(const std::string& a, const std::string& b) {
  row(a);
  row(b);
  comparisons_.push_back({a, b});
}

std::string ScoreTable::text() const {
  std::size_t name_width = 0;
  for (const ScoreRow& r : rows_) name_width = std::max(name_width, r.name.size());
  for (const Comparison& c : comparisons_) name_width = std::max(name_width, c.a.size() + c.b.size() + 3);
  const auto line = [&](const std::string& name, auto cell) {
    std::string text = fmt::format("{:<{}}", name, name_width);
    for (const PixelMetric m : kPixelMetrics) text += fmt::format("  {:<30}", cell(m));
    text.erase(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  std::string out = line("", [](PixelMetric m) {
    return std::string(m == PixelMetric::mse ? "MSE (frames in [-1,1])" : m == PixelMetric::psnr ? "PSNR, dB" : "SSIM");
  });
  for (const ScoreRow& r : rows_)
    out += line(r.name, [&](PixelMetric m) { return format(interval_of(r.scores, m, bootstrap_), m, false); });
  if (!comparisons_.empty())
    out +=
        fmt::format("differences, paired over clips (* = the {:.0f} % interval excludes 0)\n", 100 * bootstrap_.level);
  for (const Comparison& c : comparisons_)
    out += line(c.a + " - " + c.b, [&](PixelMetric m) {
      return format(interval_of_difference(row(c.a).scores, row(c.b).scores, m, bootstrap_), m, true);
    });
  return out;
}

Json ScoreTable::json() const {
  Json out;
  out["bootstrap"] = {
      {"level", bootstrap_.level}, {"resamples", bootstrap_.resamples}, {"seed", bootstrap_.seed}, {"unit", "clip"}};
  out["rows"] = Json::array();
  for (const ScoreRow& r : rows_) {
    Json row{{"name", r.name}};
    for (const PixelMetric m : kPixelMetrics) {
      row[name_of(m)] = to_json(interval_of(r.scores, m, bootstrap_));
      row[name_of(m)]["per_frame"] = curve(r.scores, values_of(r.scores, m));
    }
    row["psnr_per_video"] = overall(psnr_per_video(r.scores));
    out["rows"].push_back(std::move(row));
  }
  out["differences"] = Json::array();
  for (const Comparison& c : comparisons_) {
    Json difference{{"a", c.a}, {"b", c.b}};
    for (const PixelMetric m : kPixelMetrics) {
      const Interval i = interval_of_difference(row(c.a).scores, row(c.b).scores, m, bootstrap_);
      difference[name_of(m)] = to_json(i);
      difference[name_of(m)]["excludes_zero"] = i.excludes_zero();
    }
    out["differences"].push_back(std::move(difference));
  }
  return out;
}

}  // namespace avid::eval
