// train/paper_report.h -- our numbers beside the paper's: report.json, and report.html that opens offline
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace avid::train {

struct PaperReportRequest {
  std::filesystem::path tables = "configs/paper/tables.json";
  std::filesystem::path scores;    ///< a folder of DATASET__METHOD.json, written by avid evaluate --name method
  std::filesystem::path pictures;  ///< a folder of DATASET__METHOD/strip.png, written by avid sample; may be missing
  std::string title = "AVID on CoinRun";
  std::vector<std::string> notes;  ///< what a reader must know of how the numbers came about
  std::vector<int> only_tables;    ///< empty: all
};

/// Everything the report says, as JSON:
///   tables      per table its rows, each with the paper's values and ours (mean, low, high, which weight of a sweep)
///   ranks       per table and metric Kendall's tau between the paper's order and ours, and how many of the paper's
///               pairs our paired intervals confirm, contradict, or leave open
///   normalised  the paper's normalised score of every row, and ours over the metrics that all rows of the pool have
///   claims      the paper's main statements, each with what our numbers say
///   masks       mean mask against diffusion time
///   records     per row the evaluation's protocol: clips, sampler, seed, weights' sha256
///   unavailable why a metric was not measured, and what to do, as the files of scores say it
///   own         what is to be known of the project's own metrics, where there are any
///   warnings    what the files of scores warn of, each once
///   not_counted labels of metrics whose numbers stand in the tables alone: AER when its judge is blind; a note says so
/// Rows without a file of scores have null. Of a sweep the weight with the best FVD is taken as in the paper; without
/// FVD the one with the best PSNR.
/// Errors   FileError for a damaged file of scores; ConfigError when scores were taken on different clips or
///          by different protocols.
nlohmann::ordered_json paper_report(const PaperReportRequest& request);

/// The page of a report: no scripts, nothing from outside, readable on a phone.
std::string paper_report_html(const nlohmann::ordered_json& report, const PaperReportRequest& request);

}  // namespace avid::train
