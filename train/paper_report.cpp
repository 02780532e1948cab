// train/paper_report.cpp -- what the report says; how it looks is in paper_report_html.cpp
#include "train/paper_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/paper_scores.h"

namespace avid::train {
namespace {

using eval::at;
using eval::Interval;
using eval::kPaperMetrics;
using eval::PaperMetric;
using eval::PaperRow;
using eval::PaperTable;
using eval::PaperValues;

Json number(const std::optional<double>& v) { return v && std::isfinite(*v) ? Json(*v) : Json(nullptr); }

Json interval_json(const Interval& i) { return {{"mean", i.mean}, {"low", i.low}, {"high", i.high}}; }

std::string name_of(const PaperRow& row) { return row.method + (row.params.empty() ? "" : " " + row.params); }

/// The columns that at least one method has numbers for.
std::vector<Measure> measured(const PaperScores& scores) {
  std::vector<Measure> found;
  for (const Measure& m : kMeasures)
    if (std::any_of(
            scores.methods.begin(), scores.methods.end(), [&](const auto& s) { return s.second.value(m).has_value(); }))
      found.push_back(m);
  return found;
}

Json tables_json(const PaperScores& scores) {
  const std::vector<Measure> columns = measured(scores);
  Json tables = Json::array();
  for (const PaperTable& table : scores.tables) {
    Json out{{"number", table.number}, {"title", table.title}, {"rows", Json::array()}};
    for (const PaperRow& row : table.rows) {
      Json line{
          {"dataset", row.dataset},
          {"group", row.group},
          {"method", row.method},
          {"params", row.params},
          {"key", row.key}};
      for (const PaperMetric m : kPaperMetrics) {
        const auto i = static_cast<std::size_t>(m);
        line["paper"][name_of(m)] = number(row.values[i]);
        line["printed"][name_of(m)] = row.printed[i];
        line["ours"][name_of(m)] = nullptr;
      }
      const MethodScores* ours = scores.find(row);
      for (const Measure& m : columns) {
        line["ours"][m.label] = nullptr;
        if (ours == nullptr) continue;
        if (const auto found = ours->measures.find(m.key); found != ours->measures.end())
          line["ours"][m.label] = interval_json(found->second);
      }
      line["chosen"] = ours == nullptr ? Json(nullptr) : Json(ours->row);
      line["chosen_by"] = ours == nullptr || ours->chosen_by.empty() ? Json(nullptr) : Json(ours->chosen_by);
      line["extra"] = ours == nullptr ? Json(nullptr) : ours->extra;
      out["rows"].push_back(std::move(line));
    }
    tables.push_back(std::move(out));
  }
  return tables;
}

/// One table, one column: the two orders, and what our paired intervals say of the paper's pairs.
Json rank_json(const PaperScores& scores, const PaperTable& table, const Measure& measure) {
  std::vector<double> paper, ours;
  int confirmed = 0, contradicted = 0, open = 0;
  Json against = Json::array();
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const MethodScores* a = scores.find(table.rows[i]);
    const auto& p = at(table.rows[i].values, measure.paper);
    if (a == nullptr || !a->value(measure) || !p) continue;
    paper.push_back(*p);
    ours.push_back(*a->value(measure));
    for (std::size_t j = i + 1; j < table.rows.size(); ++j) {
      const MethodScores* b = scores.find(table.rows[j]);
      const auto& q = at(table.rows[j].values, measure.paper);
      if (b == nullptr || !b->value(measure) || !q || *p == *q) continue;
      const bool paper_prefers_a = (*p > *q) == higher_is_better(measure.paper);
      const auto gain = advantage(*a, *b, measure);
      if (!gain) continue;
      if (!gain->excludes_zero()) {
        ++open;
      } else if ((gain->mean > 0) == paper_prefers_a) {
        ++confirmed;
      } else {
        ++contradicted;
        against.push_back(
            {{"paper_prefers", name_of(paper_prefers_a ? table.rows[i] : table.rows[j])},
             {"over", name_of(paper_prefers_a ? table.rows[j] : table.rows[i])}});
      }
    }
  }
  if (ours.empty()) return nullptr;
  return {{"table", table.number},        {"metric", measure.label},
          {"rows", ours.size()},          {"kendall_tau", number(eval::kendall_tau(paper, ours))},
          {"pairs_confirmed", confirmed}, {"pairs_contradicted", contradicted},
          {"pairs_open", open},           {"contradicted", against}};
}

Json ranks_json(const PaperScores& scores) {
  Json ranks = Json::array();
  for (const PaperTable& table : scores.tables)
    for (const Measure& m : kMeasures)
      if (Json rank = scores.counts(m) ? rank_json(scores, table, m) : Json(nullptr); !rank.is_null())
        ranks.push_back(std::move(rank));
  return ranks;
}

/// The paper's metrics of one method, without those that say nothing.
PaperValues counted_values(const PaperScores& scores, const MethodScores& one) {
  PaperValues values = one.paper_values();
  for (const Measure& m : kMeasures)
    if (!scores.counts(m)) at(values, m.paper).reset();
  return values;
}

Json normalised_json(const PaperScores& scores) {
  std::vector<PaperValues> paper_pool, our_pool;
  std::vector<const PaperRow*> rows;  // each once, as the tables have them
  std::set<std::string> seen;
  for (const PaperTable& table : scores.tables)
    for (const PaperRow& row : table.rows) {
      if (!seen.insert(row.id()).second) continue;
      rows.push_back(&row);
      if (in_normalisation_pool(row)) {
        paper_pool.push_back(row.values);
        if (const MethodScores* ours = scores.find(row)) our_pool.push_back(counted_values(scores, *ours));
      }
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
  for (const PaperRow* row : rows) {
    const MethodScores* ours = scores.find(*row);
    const auto score = [&] { return number(eval::normalised_score(counted_values(scores, *ours), our_bounds)); };
    out["rows"].push_back(
        {{"dataset", row->dataset},
         {"method", row->method},
         {"params", row->params},
         {"key", row->key},
         {"paper_all_six", number(eval::normalised_score(row->values, paper_bounds))},
         {"paper", number(eval::normalised_score(row->values, same))},
         {"ours", ours == nullptr ? Json(nullptr) : score()}});
  }
  return out;
}

/// Every number of every method beside the data and the compute of its training.
Json scaling_json(const PaperScores& scores) {
  const std::vector<Measure> columns = measured(scores);
  Json out{{"metrics", Json::array()}, {"rows", Json::array()}};
  for (const Measure& m : columns)
    out["metrics"].push_back({{"key", m.key}, {"label", m.label}, {"higher_is_better", higher_is_better(m.paper)}});
  std::set<std::string> seen;
  for (const PaperTable& table : scores.tables)
    for (const PaperRow& row : table.rows) {
      const MethodScores* ours = scores.find(row);
      if (ours == nullptr || !seen.insert(row.id()).second) continue;
      const TrainingCost& cost = ours->training;
      Json line{{"dataset", row.dataset}, {"method", row.method}, {"params", row.params}, {"key", row.key}};
      line["frames"] = cost.frames > 0 ? Json(cost.frames) : Json(nullptr);
      line["clips_seen"] = cost.clips > 0 ? Json(cost.clips) : Json(nullptr);
      line["flop"] = cost.flop > 0 ? Json(cost.flop) : Json(nullptr);
      line["base_flop"] = cost.base_flop > 0 ? Json(cost.base_flop) : Json(nullptr);
      for (const Measure& m : columns) line["values"][m.key] = number(ours->value(m));
      out["rows"].push_back(std::move(line));
    }
  return out;
}

/// One statement "a is better than b" on the largest data set that has both.
Json claim(const PaperScores& scores, const std::string& text, const std::string& a, const std::string& b) {
  Json out{{"claim", text}, {"better", a}, {"worse", b}, {"metrics", Json::array()}};
  const MethodScores *x = nullptr, *y = nullptr;
  for (const char* dataset : {"coinrun500k", "coinrun100k", "coinrun2500k"}) {
    const auto first = scores.methods.find(std::string(dataset) + "__" + a),
               second = scores.methods.find(std::string(dataset) + "__" + b);
    if (first == scores.methods.end() || second == scores.methods.end()) continue;
    x = &first->second;
    y = &second->second;
    out["dataset"] = dataset;
    break;
  }
  if (x == nullptr) return out;
  for (const Measure& m : kMeasures) {
    if (!scores.counts(m) || !x->value(m) || !y->value(m)) continue;
    const auto gain = advantage(*x, *y, m);
    const bool better = (*x->value(m) > *y->value(m)) == higher_is_better(m.paper);
    out["metrics"].push_back(
        {{"metric", m.label},
         {"better", *x->value(m)},
         {"worse", *y->value(m)},
         {"holds", better},
         {"resolved", gain ? Json(gain->excludes_zero()) : Json(nullptr)}});
  }
  return out;
}

Json claims_json(const PaperScores& scores) {
  Json claims = Json::array();
  const auto add = [&](const char* text, const char* a, const char* b) { claims.push_back(claim(scores, text, a, b)); };
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

/// Only of what no method has.
Json unavailable_json(const PaperScores& scores) {
  Json out = Json::object();
  for (const Measure& m : kMeasures)
    for (const auto& [id, one] : scores.methods) {
      const auto reasons = one.record.find("unavailable");
      if (reasons == one.record.end() || !reasons->is_object() || !reasons->contains(m.key)) continue;
      if (std::any_of(scores.methods.begin(), scores.methods.end(), [&](const auto& s) {
            return s.second.value(m).has_value();
          }))
        continue;
      out[m.label] = reasons->at(m.key);
      break;
    }
  return out;
}

/// The notes of the first method that has some: all of them used one encoder (read_paper_scores).
Json own_json(const PaperScores& scores) {
  for (const auto& [id, one] : scores.methods)
    if (const auto notes = one.record.find("notes"); notes != one.record.end() && !notes->empty()) return *notes;
  return Json::array();
}

/// What the scores were written with a warning of, each once.
Json warnings_json(const PaperScores& scores) {
  Json out = Json::array();
  for (const auto& [id, one] : scores.methods)
    if (const auto warnings = one.record.find("warnings"); warnings != one.record.end())
      for (const Json& warning : *warnings)
        if (std::find(out.begin(), out.end(), warning) == out.end()) out.push_back(warning);
  return out;
}

}  // namespace

Json paper_report(const PaperReportRequest& request) {
  const PaperScores scores = read_paper_scores(request.tables, request.scores, request.only_tables);
  Json report;
  report["format"] = "avid-paper-report 1";
  report["title"] = request.title;
  report["notes"] = request.notes;
  report["not_counted"] = Json::array();
  if (scores.aer_is_blind) {
    report["not_counted"].push_back(name_of(PaperMetric::aer));
    report["notes"].push_back(fmt::format(
        "{} is not counted: its judge of actions cannot read the real clips either, so its numbers stand in the tables "
        "and enter no order, statement or normalised score.",
        name_of(PaperMetric::aer)));
  }
  report["tables"] = tables_json(scores);
  report["ranks"] = ranks_json(scores);
  report["normalised"] = normalised_json(scores);
  report["scaling"] = scaling_json(scores);
  report["claims"] = claims_json(scores);
  report["masks"] = Json::object();
  report["records"] = Json::object();
  for (const auto& [id, one] : scores.methods) {
    if (!one.masks.is_null()) report["masks"][id] = one.masks;
    report["records"][id] = one.record;
  }
  report["unavailable"] = unavailable_json(scores);
  report["own"] = own_json(scores);
  report["warnings"] = warnings_json(scores);
  for (const std::string& name : scores.unknown)
    report["warnings"].push_back(fmt::format(
        "{}: left out: files of scores are called DATASET__METHOD.json, as rows of the paper's tables",
        printable(name)));
  return report;
}

}  // namespace avid::train
