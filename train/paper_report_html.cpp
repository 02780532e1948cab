// train/paper_report_html.cpp -- the page of a report: HTML by hand, no scripts, no links, pictures inside
#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "eval/paper_tables.h"
#include "tensor/io/atomic_file.h"
#include "train/paper_report.h"
#include "train/report.h"
#include "train/svg_plot.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kStyle =
    ":root{color-scheme:light}body{font:15px/1.5 sans-serif;max-width:1100px;margin:1em auto;padding:0 "
    "1em;color:#222;background:#fff}"
    "h1{font-size:1.6em}h2{margin-top:2em;border-bottom:1px solid #ccc}.scroll{overflow-x:auto}"
    "table{border-collapse:collapse;font-size:13px}th,td{padding:3px 8px;text-align:right;white-space:nowrap}"
    "th{border-bottom:2px solid #888;vertical-align:bottom}td:first-child,th:first-child{text-align:left}"
    "tr.group td{font-weight:600;background:#f2f2f2;text-align:left}td.ours{font-weight:600}td "
    "small{font-weight:400;color:#555}"
    "td.none{color:#999}tr:nth-child(even) td{background:#fafafa}.good{color:#06702a}.bad{color:#a11}.open{color:#666}"
    "svg,img{max-width:100%;height:auto}img{image-rendering:pixelated}figure{margin:1em "
    "0}figcaption{color:#555;font-size:13px}"
    "pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:12px}.note{background:#fff6dd;border-left:4px solid "
    "#e0b000;padding:.4em 1em}"
    "@media(max-width:600px){body{font-size:14px;padding:0 .6em}th,td{padding:2px 5px}}";

std::string text(const Json& v) { return v.is_string() ? escape_html(v.get<std::string>()) : ""; }

std::string name_of_row(const Json& row) {
  return text(row["method"]) + (row["params"] == "" ? "" : " <small>" + text(row["params"]) + "</small>");
}

std::string dataset_name(const std::string& key) {
  return key == "coinrun100k" ? "CoinRun 100k" : key == "coinrun500k" ? "CoinRun 500k" : "CoinRun 2.5M";
}

int digits(const std::string& metric) { return metric == "PSNR" ? 2 : metric == "FVD" || metric == "FID" ? 2 : 3; }

std::string our_cell(const Json& value, const std::string& metric) {
  if (value.is_null()) return "<td class=\"none\">not measured</td>";
  const int d = digits(metric);
  const double mean = value["mean"], low = value["low"], high = value["high"];
  std::string out = fmt::format("<td class=\"ours\">{:.{}f}", mean, d);
  if (low != high) out += fmt::format("<br><small>{:.{}f} to {:.{}f}</small>", low, d, high, d);
  return out + "</td>";
}

bool any_ours(const Json& table, const char* metric) {
  return std::any_of(
      table["rows"].begin(), table["rows"].end(), [&](const Json& r) { return !r["ours"][metric].is_null(); });
}

std::string table_html(const Json& table) {
  std::string html = fmt::format(
      "<h2 id=\"table{0}\">Table {0}: {1}</h2>\n<div class=\"scroll\"><table>\n<tr><th>method</th>",
      table["number"].get<int>(), text(table["title"]));
  for (const auto m : eval::kPaperMetrics) html += fmt::format("<th>{0}<br>paper</th><th>{0}<br>ours</th>", name_of(m));
  html += "<th>weight</th></tr>\n";
  std::string group;
  for (const Json& row : table["rows"]) {
    const std::string here = dataset_name(row["dataset"]) + ", " + row["group"].get<std::string>();
    if (here != group)
      html += fmt::format("<tr class=\"group\"><td colspan=\"14\">{}</td></tr>\n", escape_html(group = here));
    html += "<tr><td>" + name_of_row(row) + "</td>";
    for (const auto m : eval::kPaperMetrics)
      html +=
          fmt::format("<td>{}</td>", text(row["printed"][name_of(m)])) + our_cell(row["ours"][name_of(m)], name_of(m));
    std::string chosen = row["chosen"].is_string() ? row["chosen"].get<std::string>() : "";
    chosen = chosen.starts_with("method, ") ? chosen.substr(8) : "";
    html += fmt::format("<td>{}</td></tr>\n", escape_html(chosen));
  }
  html += "</table></div>\n";
  std::string missing;
  for (const auto m : eval::kPaperMetrics)
    if (!any_ours(table, name_of(m))) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", name_of(m));
  if (!missing.empty())
    html += fmt::format("<p class=\"open\">Not measured in this run: {}.</p>\n", escape_html(missing));
  return html;
}

std::string ranks_html(const Json& ranks) {
  if (ranks.empty()) return "";
  std::string html =
      "<h2>Does the paper's order hold?</h2>\n<p>Kendall's tau compares two orders: 1 the same, 0 unrelated, -1 "
      "reversed. Pairs are "
      "methods whose order the paper gives; a pair counts as confirmed or contradicted when our 95 % interval of the "
      "paired difference "
      "over clips excludes zero, and as open otherwise (or when the metric has no values per clip).</p>\n"
      "<div class=\"scroll\"><table>\n<tr><th>table</th><th>metric</th><th>methods</th><th>tau</th><th>confirmed</th>"
      "<th>contradicted</th><th>open</th></tr>\n";
  for (const Json& r : ranks)
    html += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"good\">{}</td><td class=\"bad\">{}</td><td "
        "class=\"open\">{}</td></tr>\n",
        r["table"].get<int>(), text(r["metric"]), r["rows"].get<int>(),
        r["kendall_tau"].is_null() ? "-" : fmt::format("{:.2f}", r["kendall_tau"].get<double>()),
        r["pairs_confirmed"].get<int>(), r["pairs_contradicted"].get<int>(), r["pairs_open"].get<int>());
  return html + "</table></div>\n";
}

std::string claims_html(const Json& claims) {
  std::string html =
      "<h2>The paper's statements</h2>\n<div class=\"scroll\"><table>\n<tr><th>statement</th><th>data</th><th>our "
      "numbers (better : worse)</th></tr>\n";
  for (const Json& c : claims) {
    std::string cells;
    for (const Json& m : c["metrics"]) {
      const bool holds = m["holds"], resolved = m["resolved"].is_boolean() && m["resolved"].get<bool>();
      cells += fmt::format(
          "<span class=\"{}\">{} {:.3g} : {:.3g} {}</span>; ",
          !resolved ? "open"
          : holds   ? "good"
                    : "bad",
          text(m["metric"]), m["better"].get<double>(), m["worse"].get<double>(),
          !resolved ? "(open)"
          : holds   ? "yes"
                    : "NO");
    }
    html += fmt::format(
        "<tr><td>{}</td><td>{}</td><td style=\"text-align:left\">{}</td></tr>\n", text(c["claim"]),
        c.contains("dataset") ? dataset_name(c["dataset"]) : "", cells.empty() ? "not measured" : cells);
  }
  return html + "</table></div>\n";
}

std::string normalised_html(const Json& normalised) {
  std::string names;
  for (const Json& m : normalised["metrics"]) names += (names.empty() ? "" : ", ") + m.get<std::string>();
  std::string html = fmt::format(
      "<h2 id=\"figure-normalised\">Normalised scores</h2>\n<p>Each metric from 0 (worst) to 1 (best row of the pool: "
      "AVID, action-conditioned "
      "diffusion, ControlNet), then the mean. Ours: over {}; the paper's over the same metrics and over all six.</p>\n"
      "<div class=\"scroll\"><table>\n<tr><th>method</th><th>data</th><th>paper, all six</th><th>paper, same "
      "metrics</th><th>ours</th></tr>\n",
      names.empty() ? "nothing yet" : escape_html(names));
  const auto cell = [](const Json& v) {
    return v.is_null() ? std::string("-") : fmt::format("{:.3f}", v.get<double>());
  };
  for (const Json& row : normalised["rows"])
    html += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"ours\">{}</td></tr>\n", name_of_row(row),
        dataset_name(row["dataset"]), cell(row["paper_all_six"]), cell(row["paper"]), cell(row["ours"]));
  return html + "</table></div>\n";
}

/// The score of each method against the size of its data, where it has more than one.
std::string data_size_html(const Json& normalised) {
  std::map<std::string, PlotSeries> by_method;
  const std::vector<std::pair<std::string, double>> sizes = {
      {"coinrun100k", 0.1}, {"coinrun500k", 0.5}, {"coinrun2500k", 2.5}};
  for (const auto& [key, million] : sizes)
    for (const Json& row : normalised["rows"]) {
      if (row["dataset"] != key || row["ours"].is_null() || row["key"] == "base") continue;
      PlotSeries& s = by_method[row["key"].get<std::string>()];
      s.name = row["key"].get<std::string>();
      s.x.push_back(std::log10(million));
      s.y.push_back(row["ours"].get<double>());
    }
  std::vector<PlotSeries> series;
  for (auto& [key, s] : by_method)
    if (s.x.size() > 1) series.push_back(std::move(s));
  if (series.empty()) return "";
  return "<h2 id=\"figure-data\">Normalised score against data</h2>\n<figure>" +
         svg_line_plot(
             {.title = "",
              .x_label = "log10 of the data set, millions of frames at the paper's size",
              .y_label = "normalised score"},
             series) +
         "</figure>\n";
}

std::string masks_html(const Json& masks) {
  std::vector<PlotSeries> series;
  for (const auto& [id, points] : masks.items()) {
    PlotSeries s{id, {}, {}};
    for (const Json& p : points) {
      s.x.push_back(p["t"].get<double>());
      s.y.push_back(p["mean"].get<double>());
    }
    series.push_back(std::move(s));
  }
  if (series.empty()) return "";
  return "<h2 id=\"figure-mask\">Mean mask against diffusion time</h2>\n<p>1: the base is used, 0: the adapter. "
         "Sampling runs from right (noise) "
         "to left (clean).</p>\n<figure>" +
         svg_line_plot({.title = "", .x_label = "diffusion time t", .y_label = "mean mask"}, series) + "</figure>\n";
}

std::string pictures_html(const Json& report, const fs::path& folder) {
  std::string html;
  for (const auto& [id, record] : report["records"].items()) {
    const fs::path picture = folder / id / "strip.png";
    if (!fs::exists(picture)) continue;
    html += fmt::format(
        "<figure><img alt=\"{0}\" src=\"data:image/png;base64,{1}\"><figcaption>{0}: conditioning frames and real "
        "continuation, base, method, "
        "mask (white: the base is used)</figcaption></figure>\n",
        escape_html(id), base64(read_text(picture)));
  }
  return html.empty() ? "" : "<h2 id=\"figure-strips\">Side by side</h2>\n" + html;
}

std::string records_html(const Json& records) {
  std::string html =
      "<h2>Audit</h2>\n<p>How each row was measured: clips, sampler, seed, and sha256 of every weights file.</p>\n";
  for (const auto& [id, record] : records.items())
    html += fmt::format(
        "<details><summary>{}</summary><pre>{}</pre></details>\n", escape_html(id),
        escape_html(record.dump(1, ' ', false, Json::error_handler_t::replace)));
  return html;
}

}  // namespace

std::string paper_report_html(const Json& report, const PaperReportRequest& request) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>{0}</title><style>{1}</style></head>\n<body><h1>{0}</"
      "h1>\n",
      text(report["title"]), kStyle);
  for (const Json& note : report["notes"]) html += "<p class=\"note\">" + text(note) + "</p>\n";
  html +=
      "<p>Bold: ours, with the 95 % bootstrap interval over clips below it. The paper's numbers are Rigter et al. "
      "2024, arXiv 2410.12822.</p>\n";
  html += claims_html(report["claims"]);
  for (const Json& table : report["tables"]) html += table_html(table);
  html += ranks_html(report["ranks"]) + normalised_html(report["normalised"]) + data_size_html(report["normalised"]) +
          masks_html(report["masks"]) + pictures_html(report, request.pictures) + records_html(report["records"]);
  return html + "</body></html>\n";
}

}  // namespace avid::train
