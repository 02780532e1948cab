// eval/paper_tables.h -- the paper's CoinRun tables beside our own numbers: cells, ranks, normalised scores
//
// Source   AVID (arXiv 2410.12822), tables 1, 3, 4, 5, 6 and 11, as configs/paper/tables.json holds them; metrics.md 9.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace avid::eval {

/// The six columns of every table.
enum class PaperMetric { aer, fvd, fid, ssim, lpips, psnr };
inline constexpr std::array<PaperMetric, 6> kPaperMetrics = {PaperMetric::aer,  PaperMetric::fvd,   PaperMetric::fid,
                                                             PaperMetric::ssim, PaperMetric::lpips, PaperMetric::psnr};
const char* name_of(PaperMetric metric);  ///< "Action Err. Ratio", "FVD", ...
bool higher_is_better(PaperMetric metric);

/// Values by metric; empty where there is none.
using PaperValues = std::array<std::optional<double>, 6>;
inline std::optional<double>& at(PaperValues& v, PaperMetric m) { return v[static_cast<std::size_t>(m)]; }
inline const std::optional<double>& at(const PaperValues& v, PaperMetric m) { return v[static_cast<std::size_t>(m)]; }

struct PaperRow {
  std::string dataset;  ///< "coinrun500k"
  std::string group;    ///< Medium, Large, Full
  std::string method;   ///< as printed
  std::string params;   ///< "22M", or empty
  std::string key;      ///< "avid_22m": dataset + "__" + key names its file of scores
  PaperValues values;
  std::array<std::string, 6> printed;

  std::string id() const { return dataset + "__" + key; }
};

struct PaperTable {
  int number = 0;
  std::string title;
  std::vector<PaperRow> rows;  ///< CoinRun rows only
};

/// Reads tables 1, 3, 4, 5, 6. Throws FileError.
std::vector<PaperTable> load_paper_tables(const std::filesystem::path& file);

/// "Product of Experts", "22M" -> "poe_22m". Throws FileError for a method that is not the paper's.
std::string method_key(const std::string& method, const std::string& params);

/// Smallest and largest value of each metric; empty where a row of the pool lacks it.
struct MetricBounds {
  PaperValues low, high;
};
/// True for the rows of table 11's pool: AVID, action-conditioned diffusion, ControlNet and ControlNet-Small.
bool in_normalisation_pool(const PaperRow& row);
MetricBounds bounds_of(const std::vector<PaperValues>& pool);

/// Mean over the metrics that have bounds of (v - low) / (high - low), or 1 minus that where lower is better. Not
/// clipped. Empty when a needed value is missing, or no metric has bounds with low < high.
std::optional<double> normalised_score(const PaperValues& values, const MetricBounds& bounds);

/// Kendall's tau-b of two orders of the same things; empty for fewer than two, or when one side is constant.
std::optional<double> kendall_tau(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace avid::eval
