// train/paper_scores.cpp -- reading files of scores, and paired differences between them
#include "train/paper_scores.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "eval/metrics/action_error.h"
#include "eval/metrics/frechet_bootstrap.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;
using eval::Interval;
using eval::PaperMetric;
using eval::PaperRow;

/// A number, with the interval that stands apart if there is one; or an object with its own.
std::optional<Interval> interval_at(const Json& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end() || found->is_null()) return {};
  if (found->is_number()) {
    Interval value{found->get<double>(), found->get<double>(), found->get<double>()};
    if (const auto apart = row.find("intervals"); apart != row.end() && apart->contains(key))
      value.low = apart->at(key).at("low"), value.high = apart->at(key).at("high");
    return value;
  }
  if (!found->is_object() || !found->contains("mean")) return {};
  const double mean = found->at("mean");
  return Interval{mean, found->value("low", mean), found->value("high", mean)};
}

/// Where a measure stands in a file of avid evaluate.
std::optional<Interval> measure_of(const Json& file, const Json& row, const Measure& measure) {
  if (measure.paper != PaperMetric::aer) return interval_at(row, measure.key);
  const auto errors = file.find("action_error");
  const std::string name = row.at("name");
  if (errors == file.end() || !errors->contains(name)) return {};
  return interval_at(errors->at(name), "aer");
}

/// The method's own rows are called "method", or "method, poe 0.4"; out of several the best by the first of these that
/// the file has. The second is that metric's key, or empty where there was no choice.
std::pair<const Json*, std::string> choose_row(const Json& file, const std::string& source) {
  std::vector<const Json*> rows;
  for (const Json& row : file.at("rows")) {
    const std::string name = row.at("name");
    if (name != "method" && !name.starts_with("method, ")) continue;
    if (name.find("shuffled actions") == std::string::npos) rows.push_back(&row);
  }
  check<FileError>(!rows.empty(), "{}: no row named 'method' in it | evaluate with --name method", source);
  if (rows.size() == 1) return {rows[0], ""};
  for (const char* key : {"fvd_i3d", "fvd_procgen", "psnr"}) {
    const Json* best = nullptr;
    double best_value = 0;
    bool complete = true;
    for (const Json* row : rows) {
      const auto found = interval_at(*row, key);
      complete = complete && found;
      if (!found) continue;
      const double value = std::string(key) == "psnr" ? found->mean : -found->mean;
      if (best == nullptr || value > best_value) best = row, best_value = value;
    }
    if (complete) return {best, key};
  }
  return {rows[0], ""};
}

TrainingCost training_of(const Json& file, const std::string& row) {
  TrainingCost cost;
  const auto all = file.find("training");
  if (all == file.end() || !all->contains(row)) return cost;
  const Json& roles = all->at(row);
  const bool base_only = roles.size() == 1 && roles.contains("base") && file.at("sources").at(row).size() <= 2;
  for (const auto& [role, one] : roles.items()) {
    if (role == "base" && !base_only) {
      cost.base_flop += one.at("flop").get<double>();
      continue;
    }
    cost.flop += one.at("flop").get<double>();
    cost.clips += one.at("clips").get<std::int64_t>();
    cost.frames = std::max(cost.frames, one.at("frames").get<std::int64_t>());
  }
  return cost;
}

MethodScores scores_of(const Json& file, const std::string& source) {
  MethodScores scores;
  scores.extra = scores.record = Json::object();
  const auto [chosen, chosen_by] = choose_row(file, source);
  const Json& row = *chosen;
  scores.row = row.at("name");
  scores.chosen_by = chosen_by;
  for (const Measure& m : kMeasures)
    if (const auto interval = measure_of(file, row, m)) scores.measures[m.key] = *interval;
  for (const char* key : {"mse", "fid", "fvd_i3d_tf"})
    if (const auto value = interval_at(row, key)) scores.extra[key] = value->mean;
  if (const auto errors = file.find("action_error"); errors != file.end() && errors->contains(scores.row))
    for (const char* key : {"acc_real", "acc_generated", "prob_real", "prob_generated"})
      scores.extra[key] = errors->at(scores.row).at(key);
  if (const auto clips = file.find("per_clip"); clips != file.end())
    for (const auto& [key, values] : clips->at(scores.row).items())
      scores.per_clip[key] = values.get<std::vector<double>>();
  if (const auto resamples = file.find("resamples"); resamples != file.end() && resamples->contains(scores.row)) {
    for (const auto& [key, values] : resamples->at(scores.row).items())
      scores.resamples[key] = values.get<std::vector<double>>();
    scores.resampling = json_text(file.at("bootstrap").at("seed"));
  }
  scores.training = training_of(file, scores.row);
  for (const char* key :
       {"n_clips", "frames", "t_cond", "height", "width", "data", "dataset_sha256", "clips", "sampler", "switches",
        "classifier", "weights", "warnings", "notes", "unavailable", "program", "commit", "device"})
    if (file.contains(key)) scores.record[key] = file.at(key);
  scores.record["row"] = scores.row;
  if (file.at("sources").contains(scores.row)) scores.record["sources"] = file.at("sources").at(scores.row);
  if (file.contains("kept_clips") && file.at("kept_clips").contains(scores.row))
    scores.record["kept_clips"] = file.at("kept_clips").at(scores.row);
  if (file.contains("training") && file.at("training").contains(scores.row))
    scores.record["training"] = file.at("training").at(scores.row);
  if (const auto masks = file.find("mask_mean_per_step"); masks != file.end() && masks->contains(scores.row))
    scores.masks = masks->at(scores.row);
  return scores;
}

MethodScores read_scores(const fs::path& path) {
  const Json file = parse_json(read_text(path, std::size_t{1} << 28));
  check<FileError>(file.is_object(), "{}: damaged: not JSON | remove it and evaluate again", path.string());
  try {
    return scores_of(file, path.string());
  } catch (const Json::exception& error) {
    fail<FileError>(
        "{}: damaged: a field is missing or of the wrong type ({}) | remove it and evaluate again", path.string(),
        error.what());
  }
}

bool warns_of_blind_aer(const Json& record) {
  const auto warnings = record.find("warnings");
  return warnings != record.end() && std::any_of(warnings->begin(), warnings->end(), [](const Json& warning) {
           return warning.is_string() && warning.get<std::string>().starts_with(eval::kAerSaysNothing);
         });
}

/// Numbers of one column must come from one file of weights and one protocol; the first to say something decides.
class SameProtocol {
 public:
  void check_row(const Json& record, const std::string& source) {
    const auto weights = record.find("weights"), switches = record.find("switches");
    if (weights != record.end() && weights->is_object())
      for (const auto& [network, file] : weights->items())
        if (file.is_object() && file.contains("sha256"))
          check_one("weights of " + network, file["sha256"].get<std::string>().substr(0, 12), source);
    if (switches != record.end() && switches->is_object())
      for (const auto& [name, value] : switches->items()) check_one("switch " + name, json_text(value), source);
  }

 private:
  void check_one(const std::string& what, const std::string& value, const std::string& source) {
    const auto [found, fresh] = seen_.try_emplace(what, value, source);
    const auto& [expected, first] = found->second;
    check<ConfigError>(
        fresh || expected == value, "{}: {}: expected {} as in {}, got {} | evaluate both alike", source, what,
        printable(expected), first, printable(value));
  }

  std::map<std::string, std::pair<std::string, std::string>> seen_;
};

}  // namespace

std::optional<double> MethodScores::value(const Measure& measure) const {
  const auto found = measures.find(measure.key);
  return found == measures.end() ? std::nullopt : std::optional(found->second.mean);
}

eval::PaperValues MethodScores::paper_values() const {
  eval::PaperValues values;
  for (const Measure& m : kMeasures)
    if (!m.substitute) at(values, m.paper) = value(m);
  return values;
}

const MethodScores* PaperScores::find(const PaperRow& row) const {
  const auto found = methods.find(row.id());
  return found == methods.end() ? nullptr : &found->second;
}

PaperScores read_paper_scores(const fs::path& tables, const fs::path& scores, const std::vector<int>& only_tables) {
  PaperScores all;
  std::set<std::string> known;
  for (const int number : only_tables)
    check<UsageError>(
        number == 1 || (number >= 3 && number <= 6), "report: --table: expected 1, 3, 4, 5 or 6, got {}", number);
  for (eval::PaperTable& table : eval::load_paper_tables(tables)) {
    for (const PaperRow& row : table.rows) known.insert(row.id() + ".json");
    if (!only_tables.empty() && std::find(only_tables.begin(), only_tables.end(), table.number) == only_tables.end())
      continue;
    all.tables.push_back(std::move(table));
  }
  for (const auto& entry : fs::directory_iterator(scores))
    if (const std::string name = entry.path().filename().string(); name.ends_with(".json") && !known.contains(name))
      all.unknown.push_back(name);
  std::sort(all.unknown.begin(), all.unknown.end());
  std::string hash, first;
  SameProtocol protocol;
  for (const eval::PaperTable& table : all.tables)
    for (const PaperRow& row : table.rows) {
      const fs::path path = scores / (row.id() + ".json");
      if (all.methods.contains(row.id()) || !fs::exists(path)) continue;
      MethodScores one = read_scores(path);
      const std::string own = one.record.contains("clips") ? one.record["clips"].value("hash", "") : "";
      if (first.empty()) hash = own, first = path.string();
      check<ConfigError>(
          own == hash, "{}: scored on other clips than {} | evaluate both with one --clip-list", path.string(), first);
      protocol.check_row(one.record, path.string());
      all.aer_is_blind = all.aer_is_blind || warns_of_blind_aer(one.record);
      all.methods.emplace(row.id(), std::move(one));
    }
  return all;
}

std::optional<Interval> advantage(const MethodScores& a, const MethodScores& b, const Measure& measure) {
  const bool higher = higher_is_better(measure.paper);
  const std::string key = measure.key;
  if (const auto x = a.resamples.find(key), y = b.resamples.find(key);
      x != a.resamples.end() && y != b.resamples.end()) {
    if (a.resampling != b.resampling || x->second.size() != y->second.size()) return {};
    const eval::FrechetResamples first{*a.value(measure), x->second}, second{*b.value(measure), y->second};
    return higher ? eval::frechet_difference(first, second) : eval::frechet_difference(second, first);
  }
  // Of the same real clips: higher accuracy, lower ratio.
  const bool ratio = measure.paper == PaperMetric::aer;
  const std::string per_clip = ratio ? "acc" : key;
  const auto x = a.per_clip.find(per_clip), y = b.per_clip.find(per_clip);
  if (x == a.per_clip.end() || y == b.per_clip.end() || x->second.size() != y->second.size()) return {};
  return higher || ratio ? eval::bootstrap_difference(x->second, y->second)
                         : eval::bootstrap_difference(y->second, x->second);
}

}  // namespace avid::train
