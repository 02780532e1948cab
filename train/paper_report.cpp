// train/paper_report.cpp -- what the report says; how it looks is in paper_report_html.cpp
#include "train/paper_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include <nlohmann/json.hpp>

#include "eval/metrics/bootstrap.h"
#include "eval/paper_tables.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using eval::at;
using eval::Interval;
using eval::kPaperMetrics;
using eval::PaperMetric;
using eval::PaperRow;
using eval::PaperTable;
using eval::PaperValues;

/// One method's scores: the row chosen out of a file of avid evaluate.
struct Scores {
  std::string row;  // its name in the file
  std::array<std::optional<Interval>, 6> intervals;
  PaperValues values;
  Json extra = Json::object();                          // metrics that are not the paper's
  std::map<std::string, std::vector<double>> per_clip;  // "psnr", "ssim", "acc"
  std::vector<double> real_accuracy;
  Json record, masks;
};

std::optional<Interval> interval_at(const Json& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end() || found->is_null()) return {};
  if (found->is_number()) return Interval{found->get<double>(), found->get<double>(), found->get<double>()};
  if (!found->is_object() || !found->contains("mean")) return {};
  const double mean = found->at("mean");
  return Interval{mean, found->value("low", mean), found->value("high", mean)};
}

/// Where each paper metric stands in a row of avid evaluate.
std::optional<Interval> metric_of(const Json& file, const Json& row, PaperMetric metric) {
  switch (metric) {
    case PaperMetric::aer: {
      const auto errors = file.find("action_error");
      const std::string name = row.at("name");
      if (errors == file.end() || !errors->contains(name)) return {};
      return interval_at(errors->at(name), "aer");
    }
    case PaperMetric::fvd:
      return interval_at(row, "fvd_i3d");
    case PaperMetric::fid:
      return interval_at(row, "fid_ref");
    case PaperMetric::ssim:
      return interval_at(row, "ssim");
    case PaperMetric::lpips:
      return interval_at(row, "lpips");
    case PaperMetric::psnr:
      return interval_at(row, "psnr");
  }
  return {};
}

/// The method's own rows ("method" or "method, poe 0.4"); of several the best by FVD, or by PSNR without FVD.
const Json& choose_row(const Json& file, const std::string& source) {
  const Json* best = nullptr;
  double best_value = 0;
  for (const Json& row : file.at("rows")) {
    const std::string name = row.at("name");
    if (name != "method" && !name.starts_with("method, ")) continue;
    if (name.find("shuffled actions") != std::string::npos) continue;
    const auto fvd = interval_at(row, "fvd_i3d"), substitute = interval_at(row, "fvd_procgen"),
               psnr = interval_at(row, "psnr");
    const double value = fvd ? -fvd->mean : substitute ? -substitute->mean : psnr ? psnr->mean : 0;
    if (best == nullptr || value > best_value) best = &row, best_value = value;
  }
  check<FileError>(best != nullptr, "{}: no row named 'method' in it | evaluate with --name method", source);
  return *best;
}

Scores read_scores(const fs::path& path) {
  const Json file = Json::parse(read_text(path, std::size_t{1} << 28), nullptr, false);
  check<FileError>(file.is_object(), "{}: damaged: not JSON | remove it and evaluate again", path.string());
  Scores scores;
  try {
    const Json& row = choose_row(file, path.string());
    scores.row = row.at("name");
    for (const PaperMetric m : kPaperMetrics) {
      const auto interval = metric_of(file, row, m);
      scores.intervals[static_cast<std::size_t>(m)] = interval;
      if (interval) at(scores.values, m) = interval->mean;
    }
    for (const char* key : {"mse", "fid", "fid_procgen", "fvd_procgen", "fvd_i3d_tf"})
      if (const auto value = interval_at(row, key)) scores.extra[key] = value->mean;
    if (const auto errors = file.find("action_error"); errors != file.end() && errors->contains(scores.row))
      for (const char* key : {"acc_real", "acc_generated", "prob_real", "prob_generated"})
        scores.extra[key] = errors->at(scores.row).at(key);
    if (const auto clips = file.find("per_clip"); clips != file.end()) {
      for (const auto& [key, values] : clips->at(scores.row).items())
        scores.per_clip[key] = values.get<std::vector<double>>();
      if (clips->contains("real")) scores.real_accuracy = clips->at("real").at("acc").get<std::vector<double>>();
    }
    scores.record = Json::object();
    for (const char* key :
         {"n_clips", "frames", "t_cond", "height", "width", "data", "dataset_sha256", "clips", "sampler", "switches",
          "classifier", "program", "device"})
      if (file.contains(key)) scores.record[key] = file.at(key);
    scores.record["row"] = scores.row;
    if (file.at("sources").contains(scores.row)) scores.record["sources"] = file.at("sources").at(scores.row);
    if (const auto masks = file.find("mask_mean_per_step"); masks != file.end() && masks->contains(scores.row))
      scores.masks = masks->at(scores.row);
  } catch (const nlohmann::json::exception& error) {
    fail<FileError>("{}: damaged: {} | remove it and evaluate again", path.string(), error.what());
  }
  return scores;
}

Json number(const std::optional<double>& v) { return v && std::isfinite(*v) ? Json(*v) : Json(nullptr); }

/// Everything the parts of the report share.
struct Material {
  std::vector<PaperTable> tables;
  std::map<std::string, Scores> scores;  // by PaperRow::id()

  const Scores* find(const PaperRow& row) const {
    const auto found = scores.find(row.id());
    return found == scores.end() ? nullptr : &found->second;
  }
};

Material read_material(const PaperReportRequest& request) {
  Material material;
  for (PaperTable& table : eval::load_paper_tables(request.tables)) {
    if (!request.only_tables.empty() &&
        std::find(request.only_tables.begin(), request.only_tables.end(), table.number) == request.only_tables.end())
      continue;
    material.tables.push_back(std::move(table));
  }
  check<UsageError>(!material.tables.empty(), "report: expected tables out of 1, 3, 4, 5 and 6");
  std::string hash, first;
  for (const PaperTable& table : material.tables)
    for (const PaperRow& row : table.rows) {
      const fs::path path = request.scores / (row.id() + ".json");
      if (material.scores.contains(row.id()) || !fs::exists(path)) continue;
      Scores scores = read_scores(path);
      const std::string own = scores.record.contains("clips") ? scores.record["clips"].value("hash", "") : "";
      if (first.empty()) hash = own, first = path.string();
      check<ConfigError>(
          own == hash, "{}: scored on other clips than {} | evaluate both with one --clip-list", path.string(), first);
      material.scores.emplace(row.id(), std::move(scores));
    }
  return material;
}

Json tables_json(const Material& material) {
  Json tables = Json::array();
  for (const PaperTable& table : material.tables) {
    Json out{{"number", table.number}, {"title", table.title}, {"rows", Json::array()}};
    for (const PaperRow& row : table.rows) {
      Json line{
          {"dataset", row.dataset},
          {"group", row.group},
          {"method", row.method},
          {"params", row.params},
          {"key", row.key}};
      const Scores* ours = material.find(row);
      for (const PaperMetric m : kPaperMetrics) {
        const auto i = static_cast<std::size_t>(m);
        line["paper"][name_of(m)] = number(row.values[i]);
        line["printed"][name_of(m)] = row.printed[i];
        line["ours"][name_of(m)] = nullptr;
        if (ours != nullptr && ours->intervals[i])
          line["ours"][name_of(m)] = {
              {"mean", ours->intervals[i]->mean}, {"low", ours->intervals[i]->low}, {"high", ours->intervals[i]->high}};
      }
      line["chosen"] = ours == nullptr ? Json(nullptr) : Json(ours->row);
      line["extra"] = ours == nullptr ? Json(nullptr) : ours->extra;
      out["rows"].push_back(std::move(line));
    }
    tables.push_back(std::move(out));
  }
  return tables;
}

/// Our paired interval of how much better `a` is than `b`, where both have values for each clip.
std::optional<Interval> advantage(const Scores& a, const Scores& b, PaperMetric metric) {
  const char* key = metric == PaperMetric::psnr    ? "psnr"
                    : metric == PaperMetric::ssim  ? "ssim"
                    : metric == PaperMetric::lpips ? "lpips"
                    : metric == PaperMetric::aer   ? "acc"  // of the same real clips: higher accuracy, lower ratio
                                                   : nullptr;
  if (key == nullptr || !a.per_clip.contains(key) || !b.per_clip.contains(key)) return {};
  const auto &x = a.per_clip.at(key), &y = b.per_clip.at(key);
  if (x.size() != y.size()) return {};
  return metric == PaperMetric::lpips ? eval::bootstrap_difference(y, x) : eval::bootstrap_difference(x, y);
}

Json ranks_json(const Material& material) {
  Json ranks = Json::array();
  for (const PaperTable& table : material.tables)
    for (const PaperMetric m : kPaperMetrics) {
      std::vector<double> paper, ours;
      int confirmed = 0, contradicted = 0, open = 0;
      Json against = Json::array();
      for (std::size_t i = 0; i < table.rows.size(); ++i) {
        const Scores* a = material.find(table.rows[i]);
        if (a == nullptr || !at(a->values, m) || !at(table.rows[i].values, m)) continue;
        paper.push_back(*at(table.rows[i].values, m));
        ours.push_back(*at(a->values, m));
        for (std::size_t j = i + 1; j < table.rows.size(); ++j) {
          const Scores* b = material.find(table.rows[j]);
          const auto &p = at(table.rows[i].values, m), &q = at(table.rows[j].values, m);
          if (b == nullptr || !at(b->values, m) || !q || *p == *q) continue;
          const bool paper_prefers_a = (*p > *q) == higher_is_better(m);
          const auto gain = advantage(*a, *b, m);
          if (!gain) continue;
          if (!gain->excludes_zero()) {
            ++open;
          } else if ((gain->mean > 0) == paper_prefers_a) {
            ++confirmed;
          } else {
            ++contradicted;
            const auto name = [](const PaperRow& r) { return r.method + (r.params.empty() ? "" : " " + r.params); };
            against.push_back(
                {{"paper_prefers", name(paper_prefers_a ? table.rows[i] : table.rows[j])},
                 {"over", name(paper_prefers_a ? table.rows[j] : table.rows[i])}});
          }
        }
      }
      if (ours.empty()) continue;
      ranks.push_back(
          {{"table", table.number},
           {"metric", name_of(m)},
           {"rows", ours.size()},
           {"kendall_tau", number(eval::kendall_tau(paper, ours))},
           {"pairs_confirmed", confirmed},
           {"pairs_contradicted", contradicted},
           {"pairs_open", open},
           {"contradicted", against}});
    }
  return ranks;
}

Json normalised_json(const Material& material) {
  std::vector<PaperValues> paper_pool, our_pool;
  std::map<std::string, const PaperRow*> rows;
  for (const PaperTable& table : material.tables)
    for (const PaperRow& row : table.rows)
      if (rows.emplace(row.id(), &row).second && in_normalisation_pool(row)) {
        paper_pool.push_back(row.values);
        if (const Scores* ours = material.find(row)) our_pool.push_back(ours->values);
      }
  const eval::MetricBounds paper_bounds = eval::bounds_of(paper_pool), our_bounds = eval::bounds_of(our_pool);
  // The paper's score over only those metrics that ours has, so that the two can be compared.
  eval::MetricBounds same = paper_bounds;
  Json metrics = Json::array();
  for (const PaperMetric m : kPaperMetrics) {
    if (at(our_bounds.low, m)) {
      metrics.push_back(name_of(m));
    } else {
      at(same.low, m).reset();
      at(same.high, m).reset();
    }
  }
  Json out{{"metrics", metrics}, {"rows", Json::array()}};
  for (const auto& [id, row] : rows) {
    const Scores* ours = material.find(*row);
    out["rows"].push_back(
        {{"dataset", row->dataset},
         {"method", row->method},
         {"params", row->params},
         {"key", row->key},
         {"paper_all_six", number(eval::normalised_score(row->values, paper_bounds))},
         {"paper", number(eval::normalised_score(row->values, same))},
         {"ours", ours == nullptr ? Json(nullptr) : number(eval::normalised_score(ours->values, our_bounds))}});
  }
  return out;
}

/// One statement "a is better than b" on the largest data set that has both.
Json claim(const Material& material, const std::string& text, const std::string& a, const std::string& b) {
  Json out{{"claim", text}, {"better", a}, {"worse", b}, {"metrics", Json::array()}};
  const Scores *x = nullptr, *y = nullptr;
  for (const char* dataset : {"coinrun500k", "coinrun100k", "coinrun2500k"}) {
    const auto first = material.scores.find(std::string(dataset) + "__" + a),
               second = material.scores.find(std::string(dataset) + "__" + b);
    if (first == material.scores.end() || second == material.scores.end()) continue;
    x = &first->second;
    y = &second->second;
    out["dataset"] = dataset;
    break;
  }
  if (x == nullptr) return out;
  for (const PaperMetric m : kPaperMetrics) {
    if (!at(x->values, m) || !at(y->values, m)) continue;
    const auto gain = advantage(*x, *y, m);
    const bool better = (*at(x->values, m) > *at(y->values, m)) == higher_is_better(m);
    out["metrics"].push_back(
        {{"metric", name_of(m)},
         {"better", *at(x->values, m)},
         {"worse", *at(y->values, m)},
         {"holds", better},
         {"resolved", gain ? Json(gain->excludes_zero()) : Json(nullptr)}});
  }
  return out;
}

Json claims_json(const Material& material) {
  Json claims = Json::array();
  const auto add = [&](const char* text, const char* a, const char* b) {
    claims.push_back(claim(material, text, a, b));
  };
  add("AVID beats the same network trained from scratch (22M)", "avid_22m", "scratch_22m");
  add("AVID beats the same network trained from scratch (71M)", "avid_71m", "scratch_71m");
  add("AVID beats the product of experts (22M)", "avid_22m", "poe_22m");
  add("AVID beats action classifier-free guidance (22M)", "avid_22m", "cfg_22m");
  add("AVID beats ControlNet-Small (22M)", "avid_22m", "controlnet_small");
  add("Finetuning the whole base beats AVID 71M", "finetune", "avid_71m");
  add("Classifier guidance hardly helps the base", "classifier_guidance", "base");
  add("Seeing the base's output helps AVID (22M)", "avid_22m", "avid_no_cond_22m");
  add("AVID 71M beats AVID 22M", "avid_71m", "avid_22m");
  return claims;
}

}  // namespace

Json paper_report(const PaperReportRequest& request) {
  const Material material = read_material(request);
  Json report;
  report["format"] = "avid-paper-report 1";
  report["title"] = request.title;
  report["notes"] = request.notes;
  report["tables"] = tables_json(material);
  report["ranks"] = ranks_json(material);
  report["normalised"] = normalised_json(material);
  report["claims"] = claims_json(material);
  report["masks"] = Json::object();
  report["records"] = Json::object();
  for (const auto& [id, scores] : material.scores) {
    if (!scores.masks.is_null()) report["masks"][id] = scores.masks;
    report["records"][id] = scores.record;
  }
  return report;
}

}  // namespace avid::train
