// eval/paper_tables.cpp -- the paper's CoinRun tables beside our own numbers
#include "eval/paper_tables.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"

namespace avid::eval {
namespace {

const std::map<std::string, std::string> kKeys = {
    {"AVID", "avid"},
    {"No Mask", "avid_no_mask"},
    {"No Conditioning", "avid_no_cond"},
    {"Action-Conditioned Diffusion", "scratch"},
    {"Product of Experts", "poe"},
    {"Action Classifier-Free Guidance", "cfg"},
    {"ControlNet-Small", "controlnet_small"},
    {"ControlNet", "controlnet"},
    {"Pretrained Base Model", "base"},
    {"Classifier Guidance", "classifier_guidance"},
    {"Action-Conditioned Finetuning", "finetune"}};

std::string dataset_key(const std::string& name) {
  if (name == "Coinrun100k") return "coinrun100k";
  if (name == "Coinrun500k") return "coinrun500k";
  if (name == "Coinrun2.5M") return "coinrun2500k";
  return "";
}

}  // namespace

const char* name_of(PaperMetric metric) {
  static constexpr const char* kNames[] = {"Action Err. Ratio", "FVD", "FID", "SSIM", "LPIPS", "PSNR"};
  return kNames[static_cast<std::size_t>(metric)];
}

bool higher_is_better(PaperMetric metric) { return metric == PaperMetric::ssim || metric == PaperMetric::psnr; }

std::string method_key(const std::string& method, const std::string& params) {
  const auto found = kKeys.find(method);
  check<FileError>(found != kKeys.end(), "paper tables: expected a method of the paper, got '{}'", printable(method));
  // Only what comes in two sizes says which.
  const std::string& key = found->second;
  if (params == "22M" && key != "controlnet_small") return key + "_22m";
  if (params == "71M" && key != "controlnet") return key + "_71m";
  return key;
}

std::vector<PaperTable> load_paper_tables(const std::filesystem::path& file) {
  const auto json = parse_json(read_text(file));
  check<FileError>(json.is_object(), "{}: damaged: not JSON", file.string());
  std::vector<PaperTable> tables;
  try {
    for (const int number : {1, 3, 4, 5, 6}) {
      const auto& source = json.at(fmt::format("table{}", number));
      PaperTable table{.number = number, .title = source.at("title"), .rows = {}};
      for (const auto& line : source.at("rows")) {
        PaperRow row;
        row.dataset = dataset_key(line.at("dataset"));
        if (row.dataset.empty()) continue;
        row.group = line.at("group");
        row.method = line.at("method");
        if (line.at("params").is_string()) row.params = line.at("params");
        row.key = method_key(row.method, row.params);
        for (std::size_t i = 0; i < kPaperMetrics.size(); ++i) {
          const std::string column = source.at("columns").at(i).at("name");
          check<FileError>(
              column == name_of(kPaperMetrics[i]), "{}: table {}: expected column {}, got {}", file.string(), number,
              name_of(kPaperMetrics[i]), column);
          if (!line.at("values").at(i).is_null()) row.values[i] = line.at("values").at(i).get<double>();
          row.printed[i] = line.at("printed").at(i).is_string() ? line.at("printed").at(i).get<std::string>() : "";
        }
        table.rows.push_back(std::move(row));
      }
      tables.push_back(std::move(table));
    }
  } catch (const Json::exception& error) {
    fail<FileError>(
        "{}: not the paper's tables, a field is missing or of the wrong type ({}) | use configs/paper/tables.json",
        file.string(), error.what());
  }
  return tables;
}

bool in_normalisation_pool(const PaperRow& row) {
  return row.method == "AVID" || row.method == "Action-Conditioned Diffusion" || row.method == "ControlNet" ||
         row.method == "ControlNet-Small";
}

MetricBounds bounds_of(const std::vector<PaperValues>& pool) {
  MetricBounds bounds;
  for (const PaperMetric m : kPaperMetrics) {
    if (pool.empty() || !std::all_of(pool.begin(), pool.end(), [&](const auto& v) { return at(v, m).has_value(); }))
      continue;
    const auto by_value = [&](const auto& a, const auto& b) { return *at(a, m) < *at(b, m); };
    const auto [low, high] = std::minmax_element(pool.begin(), pool.end(), by_value);
    at(bounds.low, m) = *at(*low, m);
    at(bounds.high, m) = *at(*high, m);
  }
  return bounds;
}

std::optional<double> normalised_score(const PaperValues& values, const MetricBounds& bounds) {
  double sum = 0;
  int count = 0;
  for (const PaperMetric m : kPaperMetrics) {
    if (!at(bounds.low, m) || !at(bounds.high, m)) continue;
    const double low = *at(bounds.low, m), range = *at(bounds.high, m) - low;
    if (!(range > 0)) continue;
    if (!at(values, m)) return {};
    const double share = (*at(values, m) - low) / range;
    sum += higher_is_better(m) ? share : 1 - share;
    ++count;
  }
  if (count == 0) return {};
  return sum / count;
}

std::optional<double> kendall_tau(const std::vector<double>& a, const std::vector<double>& b) {
  check<ShapeError>(a.size() == b.size(), "kendall_tau: expected as many values, got {} and {}", a.size(), b.size());
  double agreement = 0, pairs_a = 0, pairs_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = i + 1; j < a.size(); ++j) {
      const int sign_a = (a[i] > a[j]) - (a[i] < a[j]), sign_b = (b[i] > b[j]) - (b[i] < b[j]);
      agreement += sign_a * sign_b;
      pairs_a += sign_a != 0;
      pairs_b += sign_b != 0;
    }
  if (pairs_a == 0 || pairs_b == 0) return {};
  return agreement / std::sqrt(pairs_a * pairs_b);
}

}  // namespace avid::eval
