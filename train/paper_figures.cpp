// train/paper_figures.cpp -- small multiples: one panel per metric, one colour per method, one legend for all
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "tensor/io/json.h"
#include "train/paper_page.h"
#include "train/paper_scores.h"
#include "train/svg_plot.h"

namespace avid::train {
namespace {

/// Hues belong to methods, the lighter one of two is the smaller network.
constexpr std::pair<const char*, const char*> kColours[] = {
    {"avid_71m", "#0072b2"},
    {"avid_22m", "#56b4e9"},
    {"scratch_71m", "#d55e00"},
    {"scratch_22m", "#e69f00"},
    {"finetune", "#222222"},
    {"controlnet", "#007a5a"},
    {"controlnet_small", "#5fc9a0"},
    {"poe_71m", "#8c510a"},
    {"poe_22m", "#c99a5b"},
    {"cfg_71m", "#7b3294"},
    {"cfg_22m", "#b98fcf"},
    {"avid_no_mask_71m", "#b2182b"},
    {"avid_no_mask_22m", "#ef8a8a"},
    {"avid_no_cond_71m", "#4d4d8f"},
    {"avid_no_cond_22m", "#9a9ad6"},
    {"classifier_guidance", "#cc79a7"},
    {"base", "#888888"}};

constexpr std::pair<const char*, double> kNominalFrames[] = {
    {"coinrun100k", 1e5}, {"coinrun500k", 5e5}, {"coinrun2500k", 25e5}};
constexpr std::pair<const char*, PlotMarker> kMarkers[] = {
    {"coinrun100k", PlotMarker::diamond}, {"coinrun500k", PlotMarker::circle}, {"coinrun2500k", PlotMarker::square}};

template <class Value, std::size_t N>
Value look_up(const std::pair<const char*, Value> (&table)[N], const std::string& key, Value otherwise) {
  const auto found = std::find_if(std::begin(table), std::end(table), [&](const auto& e) { return e.first == key; });
  return found == std::end(table) ? otherwise : found->second;
}

std::string colour_of(const std::string& key) { return look_up(kColours, key, "#555555"); }

/// Place in the legend: the order of kColours.
std::size_t place_of(const std::string& key) {
  std::size_t place = 0;
  while (place < std::size(kColours) && kColours[place].first != key) ++place;
  return place;
}

std::string method_title(const Json& row) {
  const std::string params = row["params"];
  return row["method"].get<std::string>() + (params.empty() ? "" : " " + params);
}

/// Methods by key in the legend's order.
struct Legend {
  std::map<std::size_t, std::pair<std::string, std::string>> entries;  // place -> key, title
  void add(const Json& row) { entries[place_of(row["key"])] = {row["key"].get<std::string>(), method_title(row)}; }
  std::string html() const {
    std::string out = "<p class=\"legend\">";
    for (const auto& [place, entry] : entries)
      out += fmt::format(
          "<span><i style=\"background:{}\"></i>{}</span> ", colour_of(entry.first), escape_html(entry.second));
    return out + "</p>\n";
  }
};

/// 12000 -> "12k", 2500000 -> "2.5M".
std::string short_count(double v) {
  if (v >= 1e6) return fmt::format("{:.3g}M", v / 1e6);
  if (v >= 1e3) return fmt::format("{:.3g}k", v / 1e3);
  return fmt::format("{:.3g}", v);
}

/// 10 to a whole power, with raised digits; in front a factor that is not 1.
std::string power_label(int factor, int exponent) {
  static constexpr const char* kRaised[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out = factor == 1 ? "10" : std::to_string(factor) + "·10";
  for (const char digit : std::to_string(exponent)) out += digit == '-' ? "⁻" : kRaised[digit - '0'];
  return out;
}

/// Decades; with 2 and 5 between them where the values span few.
std::vector<std::pair<double, std::string>> power_ticks(double low, double high) {
  std::vector<std::pair<double, std::string>> ticks;
  const bool few = std::log10(high / low) < 1.5;
  for (int e = static_cast<int>(std::floor(std::log10(low))); e <= static_cast<int>(std::ceil(std::log10(high))); ++e)
    for (const int factor : {1, 2, 5})
      if (factor == 1 || few) ticks.emplace_back(factor * std::pow(10.0, e), power_label(factor, e));
  return ticks;
}

std::string panel(
    const Json& metric, const std::vector<PlotSeries>& series, const std::string& x_label,
    const std::vector<std::pair<double, std::string>>& ticks) {
  const std::string label = metric["label"];
  return "<figure>" +
         svg_line_plot(
             {.title = label + (metric["higher_is_better"].get<bool>() ? ", higher is better" : ", lower is better"),
              .x_label = x_label,
              .y_label = "",
              .log_x = true,
              .width = 400,
              .height = 270,
              .legend = false,
              .x_ticks = ticks},
             series) +
         "</figure>\n";
}

std::string id_of(const Json& row) { return row["dataset"].get<std::string>() + "__" + row["key"].get<std::string>(); }

/// Lines over data sizes, of those methods that were trained on more than one. `frames`: by id_of.
std::vector<PlotSeries> lines_over_data(
    const Json& rows, const std::map<std::string, double>& frames, const auto& value_of, Legend& legend) {
  std::map<std::size_t, std::vector<std::pair<double, double>>> points;
  std::map<std::size_t, const Json*> methods;
  for (const Json& row : rows) {
    const Json value = value_of(row);
    if (value.is_null() || row["key"] == "base") continue;  // one base, whatever the data set
    const std::size_t place = place_of(row["key"]);
    points[place].emplace_back(frames.at(id_of(row)), value.get<double>());
    methods[place] = &row;
  }
  std::vector<PlotSeries> series;
  for (auto& [place, list] : points) {
    if (list.size() < 2) continue;
    std::sort(list.begin(), list.end());
    const Json& row = *methods[place];
    legend.add(row);
    PlotSeries s{method_title(row), {}, {}, colour_of(row["key"]), PlotMarker::circle};
    for (const auto& [x, y] : list) s.x.push_back(x), s.y.push_back(y);
    series.push_back(std::move(s));
  }
  return series;
}

/// A tick at every size that some point has.
std::vector<std::pair<double, std::string>> size_ticks(const std::vector<PlotSeries>& series) {
  std::set<double> sizes;
  for (const PlotSeries& s : series) sizes.insert(s.x.begin(), s.x.end());
  std::vector<std::pair<double, std::string>> ticks;
  for (const double size : sizes) ticks.emplace_back(size, short_count(size));
  return ticks;
}

/// Frames that each row was trained on as its run recorded them; those of the paper's data sets where one did not.
std::pair<std::map<std::string, double>, bool> frames_of(const Json& rows) {
  std::map<std::string, double> recorded, nominal;
  bool complete = true;
  for (const Json& row : rows) {
    nominal[id_of(row)] = look_up(kNominalFrames, row["dataset"], 1.0);
    complete = complete && (!row["frames"].is_null() || row["key"] == "base");
    recorded[id_of(row)] = row["frames"].is_null() ? 0.0 : row["frames"].get<double>();
  }
  return {complete ? recorded : nominal, complete};
}

/// The paper's numbers of the rows of all tables, each once, in the form of "scaling".
Json paper_rows(const Json& report) {
  Json rows = Json::array();
  std::set<std::string> seen;
  for (const Json& table : report["tables"])
    for (const Json& row : table["rows"])
      if (seen.insert(id_of(row)).second) rows.push_back(row);
  return rows;
}

/// The normalised scores as one more panel.
Json normalised_metric() { return {{"label", "Normalised score"}, {"higher_is_better", true}}; }

std::string paper_panels(const Json& report) {
  const Json rows = paper_rows(report);
  std::map<std::string, double> frames;
  for (const Json& row : rows) frames[id_of(row)] = look_up(kNominalFrames, row["dataset"], 1.0);
  Legend legend;
  std::string panels;
  for (const Measure& m : kMeasures) {
    if (m.substitute) continue;
    const auto series = lines_over_data(
        rows, frames, [&](const Json& row) { return row["paper"][m.label]; }, legend);
    if (!series.empty())
      panels += panel(
          {{"label", m.label}, {"higher_is_better", higher_is_better(m.paper)}}, series, "frames of the data set",
          size_ticks(series));
  }
  if (panels.empty()) return "";
  return "<details><summary>The paper's numbers in the same form</summary>\n" + legend.html() + "<div class=\"grid\">" +
         panels + "</div></details>\n";
}

}  // namespace

std::string dataset_title(const std::string& key) {
  return key == "coinrun100k" ? "CoinRun 100k" : key == "coinrun500k" ? "CoinRun 500k" : "CoinRun 2.5M";
}

std::string data_figures_html(const Json& report) {
  const Json& rows = report["scaling"]["rows"];
  const auto [frames, recorded] = frames_of(rows);
  const std::string x_label =
      recorded ? "frames of the training data" : "frames of the paper's data set (ours are not recorded)";
  Legend legend;
  std::string panels;
  for (const Json& metric : report["scaling"]["metrics"]) {
    const std::string key = metric["key"];
    const auto series = lines_over_data(
        rows, frames, [&](const Json& row) { return row["values"][key]; }, legend);
    if (!series.empty()) panels += panel(metric, series, x_label, size_ticks(series));
  }
  const auto normalised = lines_over_data(
      report["normalised"]["rows"], frames, [](const Json& row) { return row["ours"]; }, legend);
  if (!normalised.empty()) panels += panel(normalised_metric(), normalised, x_label, size_ticks(normalised));
  if (panels.empty()) return "";
  return "<section id=\"figure-data\"><h2>Against the size of the data</h2>\n<p>Each method trained on more than one "
         "data set, by the frames that it was trained on.</p>\n" +
         legend.html() + "<div class=\"grid\">" + panels + "</div>\n" + paper_panels(report) + "</section>\n";
}

std::string compute_figures_html(const Json& report) {
  double low = 0, high = 0;
  Legend legend;
  std::set<std::string> datasets;
  for (const Json& row : report["scaling"]["rows"]) {
    if (row["flop"].is_null()) continue;
    const double flop = row["flop"];
    low = low == 0 ? flop : std::min(low, flop);
    high = std::max(high, flop);
    legend.add(row);
    datasets.insert(row["dataset"].get<std::string>());
  }
  if (high == 0) return "";
  std::string panels, cells;
  for (const Json& metric : report["scaling"]["metrics"]) {
    const std::string key = metric["key"];
    std::vector<PlotSeries> series;
    for (const Json& row : report["scaling"]["rows"])
      if (!row["flop"].is_null() && !row["values"][key].is_null())
        series.push_back(
            {method_title(row),
             {row["flop"].get<double>()},
             {row["values"][key].get<double>()},
             colour_of(row["key"]),
             look_up(kMarkers, row["dataset"], PlotMarker::circle),
             false});
    if (!series.empty()) panels += panel(metric, series, "FLOPs of the training", power_ticks(low, high));
  }
  for (const Json& row : report["scaling"]["rows"])
    if (!row["flop"].is_null())
      cells += fmt::format(
          "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.3g}</td><td>{}</td></tr>\n",
          escape_html(method_title(row)), dataset_title(row["dataset"]),
          row["frames"].is_null() ? "-" : short_count(row["frames"]),
          row["clips_seen"].is_null() ? "-" : short_count(row["clips_seen"]), row["flop"].get<double>(),
          row["base_flop"].is_null() ? "-" : fmt::format("{:.3g}", row["base_flop"].get<double>()));
  std::string shapes;
  for (const char* dataset : {"coinrun100k", "coinrun500k", "coinrun2500k"}) {
    if (!datasets.contains(dataset)) continue;
    const PlotMarker marker = look_up(kMarkers, dataset, PlotMarker::circle);
    shapes += fmt::format(
        "{}{} {}", shapes.empty() ? "" : ", ",
        marker == PlotMarker::diamond  ? "◆"
        : marker == PlotMarker::square ? "■"
                                       : "●",
        dataset_title(dataset));
  }
  return fmt::format(
      "<section id=\"figure-compute\"><h2>Against the compute of the training</h2>\n<p>What a method's own training "
      "took, from the record in its weights: three forward passes a clip of what is trained, one of what is frozen. "
      "The base below it was paid for before. {}.</p>\n{}<div class=\"grid\">{}</div>\n<details><summary>The "
      "FLOPs as a table</summary><div class=\"scroll\" tabindex=\"0\"><table>\n<tr><th>method</th><th>data</th>"
      "<th>frames</th><th>clips seen</th><th>FLOP</th><th>FLOP of the base</th></tr>\n{}</table></div></details>"
      "</section>\n",
      shapes, legend.html(), panels, cells);
}

std::string mask_figures_html(const Json& report) {
  std::map<std::string, std::map<std::size_t, PlotSeries>> by_dataset;
  Legend legend;
  for (const Json& row : report["scaling"]["rows"]) {
    const auto found = report["masks"].find(id_of(row));
    if (found == report["masks"].end() || found->empty()) continue;
    PlotSeries s{method_title(row), {}, {}, colour_of(row["key"])};
    for (const Json& point : *found) {
      s.x.push_back(static_cast<double>(s.x.size() + 1));
      s.y.push_back(point["mean"].get<double>());
    }
    legend.add(row);
    by_dataset[row["dataset"].get<std::string>()].emplace(place_of(row["key"]), std::move(s));
  }
  if (by_dataset.empty()) return "";
  std::string panels;
  for (const char* dataset : {"coinrun500k", "coinrun100k", "coinrun2500k"}) {
    const auto found = by_dataset.find(dataset);
    if (found == by_dataset.end()) continue;
    std::vector<PlotSeries> series;
    for (auto& [place, s] : found->second) series.push_back(std::move(s));
    panels += "<figure>" +
              svg_line_plot(
                  {.title = dataset_title(dataset),
                   .x_label = "denoising step, from noise to frames",
                   .y_label = "mean mask",
                   .width = 400,
                   .height = 270,
                   .legend = false},
                  series) +
              "</figure>\n";
  }
  return "<section id=\"figure-mask\"><h2>Mean mask against denoising step</h2>\n<p>1: the base's prediction is used, "
         "0: the adapter's. Averaged over pixels, frames and clips.</p>\n" +
         legend.html() + "<div class=\"grid\">" + panels + "</div></section>\n";
}

}  // namespace avid::train
