// train/paper_report_html.cpp -- the page of a report: HTML by hand, no scripts, nothing from outside, pictures inside
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include <fmt/format.h>

#include "tensor/io/json.h"
#include "train/paper_page.h"
#include "train/paper_report.h"
#include "train/paper_scores.h"
#include "train/svg_plot.h"

namespace avid::train {
namespace {

constexpr const char* kStyle = R"(
:root{color-scheme:light;--ink:#1b2330;--soft:#596373;--line:#dfe4ec;--wash:#f5f7fa;--accent:#0b5cad;--good:#0a7a33;
--bad:#b3261e;--open:#6b7280}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;
color:var(--ink);background:#fff}
header{background:#0f2138;color:#eef3f9;padding:28px 0 20px}header h1{margin:0 0 4px;font-size:1.7em;line-height:1.2}
header p{margin:0;color:#b8c6d8}.wrap{max-width:1160px;margin:0 auto;padding:0 20px}
nav{margin-top:16px;display:flex;flex-wrap:wrap;gap:6px}
nav a{color:#dbe7f5;text-decoration:none;border:1px solid #3b5270;border-radius:99px;padding:2px 11px;font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:20px 0}
.card{border:1px solid var(--line);border-radius:10px;padding:12px 16px;background:var(--wash)}
.card b{display:block;font-size:1.5em;line-height:1.25}.card>span{color:var(--soft);font-size:14px}
section{margin-top:44px}h2{font-size:1.3em;margin:0 0 8px;padding-bottom:6px;border-bottom:2px solid var(--line)}
p{max-width:75ch}.note{max-width:none;background:#fff7e0;border-left:4px solid #e0b000;padding:8px 14px;margin:10px 0}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:5px 9px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line);background:#fff}
th{background:var(--wash);vertical-align:bottom;font-weight:600}tr:last-child td{border-bottom:0}
td:first-child,th:first-child{text-align:left;position:sticky;left:0;z-index:1;border-right:1px solid var(--line)}
tr.group td:first-child{position:static;max-width:none;white-space:nowrap;background:#e9eef5;font-weight:600}
tr.group span{position:sticky;left:9px}td.ours{font-weight:600}
td.best{background:#e6f4ea}td small{font-weight:400;color:var(--soft)}td.none{color:#9aa3af}
td.left,.chips{text-align:left}td.chips{white-space:normal;min-width:15em}
td.wide{white-space:normal;min-width:15em}.chip{display:inline-block;margin:1px 6px 1px 0;padding:0 7px;
border-radius:6px;background:var(--wash);font-size:12.5px;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
.bar{display:inline-block;width:90px;height:9px;margin-right:7px;border-radius:3px;background:#e6eaf0;overflow:hidden}
.bar i{display:block;height:100%;background:#9db4ce}.bar.us i{background:var(--accent)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:12px}
.videos{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px}
figure{margin:0;min-width:0}figcaption{color:var(--soft);font-size:13px;margin-top:4px}
svg{width:100%;height:auto;display:block;border:1px solid var(--line);border-radius:8px}
img{display:block;max-width:100%;height:auto;image-rendering:pixelated}
img.video{width:100%;max-width:640px;border-radius:8px}
img.strip{max-width:none;width:auto;min-width:100%}@media(min-width:900px){img.strip{min-width:0;max-width:100%}}
.legend{max-width:none;font-size:13.5px}.legend span{display:inline-block;margin-right:14px;white-space:nowrap}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:5px;vertical-align:-1px}
details{margin:10px 0}summary{cursor:pointer;color:var(--accent)}details>*:not(summary){margin-top:8px}
pre{background:var(--wash);padding:12px;overflow:auto;font-size:12px;border-radius:8px}
footer{margin:50px 0 30px;color:var(--soft);font-size:13px}
@media(max-width:640px){body{font-size:15px}.wrap{padding:0 14px}section{margin-top:34px}th,td{padding:4px 7px}
header{padding:20px 0 14px}td:first-child,th:first-child{white-space:normal;min-width:7.5em;max-width:9.5em}}
@media print{nav{display:none}.scroll{overflow:visible}}
)";

std::string text(const Json& v) { return v.is_string() ? escape_html(v.get<std::string>()) : ""; }

std::string name_of_row(const Json& row) {
  return text(row["method"]) + (row["params"] == "" ? "" : " <small>" + text(row["params"]) + "</small>");
}

std::string scroll(const std::string& label, const std::string& table) {
  return fmt::format(
      "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\"><table>\n{}</table></div>\n",
      escape_html(label), table);
}

int digits(const eval::PaperMetric metric) {
  using eval::PaperMetric;
  return metric == PaperMetric::psnr || metric == PaperMetric::fvd || metric == PaperMetric::fid ? 2 : 3;
}

std::string our_cell(const Json& value, const Measure& measure, bool best) {
  if (value.is_null()) return "<td class=\"none\">not measured</td>";
  const int d = digits(measure.paper);
  const double mean = value["mean"], low = value["low"], high = value["high"];
  std::string out = fmt::format("<td class=\"ours{}\">{:.{}f}", best ? " best" : "", mean, d);
  if (low != high) out += fmt::format("<br><small>{:.{}f} to {:.{}f}</small>", low, d, high, d);
  return out + "</td>";
}

bool any_ours(const Json& table, const char* label) {
  return std::any_of(table["rows"].begin(), table["rows"].end(), [&](const Json& row) {
    return row["ours"].contains(label) && !row["ours"][label].is_null();
  });
}

std::string group_of(const Json& row) { return dataset_title(row["dataset"]) + ", " + row["group"].get<std::string>(); }

/// Our best value of each group of rows.
double best_in_group(const Json& table, const std::string& group, const Measure& m) {
  const double sign = higher_is_better(m.paper) ? 1 : -1;
  double best = -std::numeric_limits<double>::infinity();
  for (const Json& row : table["rows"])
    if (group_of(row) == group && !row["ours"][m.label].is_null())
      best = std::max(best, sign * row["ours"][m.label]["mean"].get<double>());
  return sign * best;
}

bool is_counted(const Json& report, const char* label) {
  return std::find(report["not_counted"].begin(), report["not_counted"].end(), label) == report["not_counted"].end();
}

std::string table_html(const Json& report, const Json& table) {
  std::vector<Measure> columns;  // the paper's six, and ours that stand beside them
  for (const Measure& m : kMeasures)
    if (!m.substitute || any_ours(table, m.label)) columns.push_back(m);
  std::string head = "<tr><th>method</th>", body, group, missing;
  std::size_t width = 2;
  for (const Measure& m : columns) {
    const bool ours = any_ours(table, m.label);
    if (!m.substitute) head += fmt::format("<th>{}<br>paper</th>", m.label);
    if (ours) head += fmt::format("<th>{}<br>{}</th>", m.label, m.substitute ? "own metric" : "ours");
    if (!ours) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", m.label);
    width += static_cast<std::size_t>(!m.substitute) + static_cast<std::size_t>(ours);
  }
  for (const Json& row : table["rows"]) {
    if (const std::string here = group_of(row); here != group) {
      group = here;
      body +=
          fmt::format("<tr class=\"group\"><td colspan=\"{}\"><span>{}</span></td></tr>\n", width, escape_html(here));
    }
    body += "<tr><td>" + name_of_row(row) + "</td>";
    for (const Measure& m : columns) {
      if (!m.substitute) body += fmt::format("<td>{}</td>", text(row["printed"][m.label]));
      if (!any_ours(table, m.label)) continue;
      const Json& ours = row["ours"][m.label];
      const bool best =
          !ours.is_null() && is_counted(report, m.label) && ours["mean"] == best_in_group(table, group, m);
      body += our_cell(ours, m, best);
    }
    std::string chosen = row["chosen"].is_string() ? row["chosen"].get<std::string>() : "";
    chosen = chosen.starts_with("method, ") ? chosen.substr(8) : "";
    if (!chosen.empty() && row["chosen_by"].is_string())
      chosen += " (best " + row["chosen_by"].get<std::string>() + ")";
    body += fmt::format("<td class=\"left\">{}</td></tr>\n", escape_html(chosen));
  }
  const std::string title = fmt::format("Table {}: {}", table["number"].get<int>(), table["title"].get<std::string>());
  return fmt::format("<section id=\"table{}\"><h2>{}</h2>\n", table["number"].get<int>(), escape_html(title)) +
         scroll(title, head + "<th>weight</th></tr>\n" + body) +
         (missing.empty() ? "" : fmt::format("<p class=\"open\">Not measured in this run: {}.</p>\n", missing)) +
         "</section>\n";
}

/// What stands in the tables without being the paper's, and what is not in them.
std::string measures_html(const Json& report) {
  std::string body, rows;
  for (const Json& note : report["own"]) body += "<p>" + text(note) + ".</p>\n";
  if (!body.empty())
    body +=
        "<p>Their columns have no number of the paper beside them. Where they are compared with the paper at all, it "
        "is with the order of its FVD or FID.</p>\n";
  for (const Json& warning : report["warnings"]) body += "<p class=\"open\">" + text(warning) + ".</p>\n";
  for (const auto& [label, reason] : report["unavailable"].items())
    rows += fmt::format("<tr><td>{}</td><td class=\"left wide\">{}</td></tr>\n", escape_html(label), text(reason));
  if (!rows.empty())
    body += scroll("Not measured", "<tr><th>not measured</th><th>why, and what to do</th></tr>\n" + rows);
  return body.empty() ? "" : "<section id=\"measures\"><h2>The metrics</h2>\n" + body + "</section>\n";
}

/// The metric of our own with this name, or null.
const Measure* own_metric(const Json& label) {
  for (const Measure& m : kMeasures)
    if (m.substitute && label == m.label) return &m;
  return nullptr;
}

/// A metric of our own says which column of the paper gives the other order.
std::string rank_title(const Json& label) {
  const Measure* own = own_metric(label);
  return own == nullptr ? text(label) : fmt::format("{}, against the paper's {}", own->label, name_of(own->paper));
}

std::string ranks_html(const Json& ranks) {
  if (ranks.empty()) return "";
  std::string rows =
      "<tr><th>metric</th><th>table</th><th>methods</th><th>tau</th><th>confirmed</th><th>contradicted</th>"
      "<th>open</th></tr>\n";
  for (const Json& r : ranks)
    rows += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"good\">{}</td><td class=\"bad\">{}</td><td "
        "class=\"open\">{}</td></tr>\n",
        rank_title(r["metric"]), r["table"].get<int>(), r["rows"].get<int>(),
        r["kendall_tau"].is_null() ? "-" : fmt::format("{:.2f}", r["kendall_tau"].get<double>()),
        r["pairs_confirmed"].get<int>(), r["pairs_contradicted"].get<int>(), r["pairs_open"].get<int>());
  return "<section id=\"ranks\"><h2>Does the paper's order hold?</h2>\n<p>Kendall's tau compares two orders: 1 the "
         "same, 0 unrelated, -1 reversed. Pairs are methods whose order the paper gives; a pair is confirmed or "
         "contradicted when our 95 % interval of the paired difference excludes zero, and open otherwise.</p>\n" +
         scroll("Rank agreement", rows) + "</section>\n";
}

/// "yes", "no", or "open" when the interval of the difference holds zero or there is none.
const char* verdict(const Json& metric) {
  if (!metric["resolved"].is_boolean() || !metric["resolved"].get<bool>()) return "open";
  return metric["holds"].get<bool>() ? "good" : "bad";
}

std::string claims_html(const Json& claims) {
  std::string rows = "<tr><th>statement</th><th class=\"chips\">our numbers, better : worse</th></tr>\n";
  for (const Json& c : claims) {
    std::string cells;
    for (const Json& m : c["metrics"]) {
      const std::string says = verdict(m);
      cells += fmt::format(
          "<span class=\"chip {}\">{} {:.3g} : {:.3g} {}</span>", says, text(m["metric"]), m["better"].get<double>(),
          m["worse"].get<double>(),
          says == "good"  ? "✓"
          : says == "bad" ? "✗"
                          : "open");
    }
    rows += fmt::format(
        "<tr><td class=\"wide\">{}<br><small>{}</small></td><td class=\"chips\">{}</td></tr>\n", text(c["claim"]),
        c.contains("dataset") ? dataset_title(c["dataset"]) : "",
        cells.empty() ? "<span class=\"open\">not measured</span>" : cells);
  }
  return "<section id=\"claims\"><h2>The paper's statements</h2>\n<p>✓ our numbers agree and the 95 % interval of the "
         "paired difference excludes zero; ✗ they disagree so clearly; open: the clips do not decide.</p>\n" +
         scroll("Statements", rows) + "</section>\n";
}

std::string normalised_html(const Json& normalised) {
  std::string names,
      rows = "<tr><th>method</th><th>data</th><th>paper, all six</th><th>paper, same metrics</th><th>ours</th></tr>\n";
  for (const Json& m : normalised["metrics"]) names += (names.empty() ? "" : ", ") + m.get<std::string>();
  const auto cell = [](const Json& v, const char* kind) {
    if (v.is_null()) return std::string("-");
    return fmt::format(
        "<span class=\"bar{}\"><i style=\"width:{:.0f}%\"></i></span>{:.3f}", kind,
        100 * std::clamp(v.get<double>(), 0.0, 1.0), v.get<double>());
  };
  for (const Json& row : normalised["rows"])
    rows += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"ours\">{}</td></tr>\n", name_of_row(row),
        dataset_title(row["dataset"]), cell(row["paper_all_six"], ""), cell(row["paper"], ""),
        cell(row["ours"], " us"));
  return fmt::format(
             "<section id=\"figure-normalised\"><h2>Normalised scores</h2>\n<p>Each metric from 0 (worst) to 1 (best "
             "row of the pool: AVID, action-conditioned diffusion, ControlNet), then the mean. Ours: over {}; the "
             "paper's over the same metrics and over all six.</p>\n",
             names.empty() ? "nothing yet" : escape_html(names)) +
         scroll("Normalised scores", rows) + "</section>\n";
}

std::string records_html(const Json& records) {
  std::string html =
      "<section id=\"audit\"><h2>Audit</h2>\n<p>How each row was measured: clips, sampler, seed, switches, program, "
      "commit, device, and sha256 of every weights file.</p>\n";
  for (const auto& [id, record] : records.items())
    html += fmt::format(
        "<details><summary>{}</summary><pre>{}</pre></details>\n", escape_html(id), escape_html(json_text(record, 1)));
  return html + "</section>\n";
}

std::string card(const std::string& value, const std::string& what) {
  return fmt::format("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", value, escape_html(what));
}

/// The page in four numbers, those of the paper's metrics.
std::string cards_html(const Json& report) {
  std::size_t rows = 0;
  std::map<std::string, int> pairs, statements;
  for (const Json& row : report["normalised"]["rows"]) rows += row.is_object();
  for (const Json& rank : report["ranks"])
    if (own_metric(rank["metric"]) == nullptr)
      for (const char* key : {"pairs_confirmed", "pairs_contradicted", "pairs_open"})
        pairs[key] += rank[key].get<int>();
  for (const Json& claim : report["claims"])
    for (const Json& metric : claim["metrics"])
      if (own_metric(metric["metric"]) == nullptr) ++statements[verdict(metric)];
  std::string clips = "-", what = "clips";
  if (!report["records"].empty()) {
    const Json& record = report["records"].begin().value();
    if (record.contains("n_clips") && record.contains("height")) {
      clips = std::to_string(record["n_clips"].get<long long>());
      what = fmt::format(
          "held-out clips of {} + {} frames, {}x{}", record["t_cond"].get<long long>(),
          record["frames"].get<long long>(), record["height"].get<long long>(), record["width"].get<long long>());
    }
  }
  return "<div class=\"cards\">" + card(fmt::format("{} of {}", report["records"].size(), rows), "rows measured") +
         card(clips, what) +
         card(
             fmt::format(
                 "<span class=\"good\">{}</span> : <span class=\"bad\">{}</span> : {}", pairs["pairs_confirmed"],
                 pairs["pairs_contradicted"], pairs["pairs_open"]),
             "pairs of the paper confirmed : contradicted : open") +
         card(
             fmt::format(
                 "<span class=\"good\">{}</span> : <span class=\"bad\">{}</span> : {}", statements["good"],
                 statements["bad"], statements["open"]),
             "statements by metric: agree : disagree : open") +
         "</div>\n";
}

/// Links to the sections that are there.
std::string navigation(const std::string& body) {
  static constexpr std::pair<const char*, const char*> kPlaces[] = {
      {"claims", "Statements"},
      {"table1", "Table 1"},
      {"table3", "Table 3"},
      {"table4", "Table 4"},
      {"table5", "Table 5"},
      {"table6", "Table 6"},
      {"measures", "Metrics"},
      {"ranks", "Order"},
      {"figure-normalised", "Normalised"},
      {"figure-data", "Data"},
      {"figure-compute", "Compute"},
      {"figure-mask", "Mask"},
      {"figure-masks", "Mask pictures"},
      {"videos", "Videos"},
      {"figure-strips", "Frames"},
      {"audit", "Audit"}};
  std::string html = "<nav aria-label=\"Sections\">";
  for (const auto& [id, title] : kPlaces)
    if (body.find(fmt::format("<section id=\"{}\">", id)) != std::string::npos)
      html += fmt::format("<a href=\"#{}\">{}</a>", id, title);
  return html + "</nav>\n";
}

}  // namespace

std::string paper_report_html(const Json& report, const PaperReportRequest& request) {
  std::string body;
  for (const Json& note : report["notes"]) body += "<p class=\"note\">" + text(note) + "</p>\n";
  body += cards_html(report) + claims_html(report["claims"]);
  for (const Json& table : report["tables"]) body += table_html(report, table);
  body += measures_html(report) + ranks_html(report["ranks"]) + normalised_html(report["normalised"]) +
          data_figures_html(report) + compute_figures_html(report) + mask_figures_html(report) +
          mask_pictures_html(request.pictures) + side_by_side_html(request.pictures) +
          strips_html(report, request.pictures) + records_html(report["records"]);
  return fmt::format(
             "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
             "content=\"width=device-width,initial-scale=1\"><title>{0}</title><style>{1}</style></"
             "head>\n<body><header>"
             "<div class=\"wrap\"><h1>{0}</h1>\n<p>Our numbers beside those of Rigter et al. 2024 (arXiv "
             "2410.12822)</p>\n{2}</div></header>\n<main class=\"wrap\">\n",
             text(report["title"]), kStyle, navigation(body)) +
         body +
         "<footer>Bold: ours, with the 95 % interval of a bootstrap over clips below it; green: our best of the group. "
         "One file, nothing is loaded from elsewhere.</footer>\n</main></body></html>\n";
}

}  // namespace avid::train
