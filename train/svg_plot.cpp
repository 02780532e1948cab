// train/svg_plot.cpp -- axes, ticks, polylines
#include "train/svg_plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace avid::train {
namespace {

constexpr std::array<const char*, 8> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                 "#e69f00", "#56b4e9", "#8c510a", "#5e5e5e"};
constexpr double kLeft = 62, kRight = 14, kTop = 30, kBottom = 40;
constexpr std::size_t kMaxPoints = 2000;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double v) { low = std::min(low, v), high = std::max(high, v); }
  void widen() {
    if (!(low <= high)) low = 0, high = 1;
    if (low == high) low -= low == 0 ? 1 : std::abs(low) * 0.05, high += high == 0 ? 1 : std::abs(high) * 0.05;
  }
  void pad(double share) {
    const double margin = share * (high - low);
    low -= margin, high += margin;
  }
};

}  // namespace

std::vector<double> nice_ticks(double low, double high, int count) {
  const double raw = (high - low) / std::max(count, 1);
  if (!(raw > 0) || !std::isfinite(raw)) return {low};
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= raw * 0.999) {
      step = factor * power;
      break;
    }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

const char* plot_colour(std::size_t i) { return kColours[i % kColours.size()]; }

namespace {

/// A marker around (x, y), about 7 pixels wide, with a white rim that keeps neighbours apart.
std::string draw_marker(PlotMarker marker, double x, double y, const std::string& colour) {
  const std::string style = fmt::format("fill=\"{}\" stroke=\"white\" stroke-width=\"1\"", colour);
  switch (marker) {
    case PlotMarker::none: return {};
    case PlotMarker::circle: return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" {}/>\n", x, y, style);
    case PlotMarker::square:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"7\" height=\"7\" {}/>\n", x - 3.5, y - 3.5, style);
    case PlotMarker::diamond: return fmt::format("<path d=\"M{:.1f} {:.1f}l5 5l-5 5l-5 -5z\" {}/>\n", x, y - 5, style);
  }
  return {};
}

double decades(bool log, double v) {
  return !log ? v : v > 0 ? std::log10(v) : std::numeric_limits<double>::quiet_NaN();
}

/// The lines of the grid, across (y) or down (x).
struct Axes {
  const PlotOptions& options;
  Range xs, ys;
  double px(double x) const { return kLeft + (x - xs.low) / (xs.high - xs.low) * (options.width - kLeft - kRight); }
  double py(double y) const {
    return options.height - kBottom - (y - ys.low) / (ys.high - ys.low) * (options.height - kTop - kBottom);
  }
  double x(double v) const { return decades(options.log_x, v); }
  double y(double v) const { return decades(options.log_y, v); }
  bool shown(const PlotSeries& s, std::size_t i) const { return std::isfinite(x(s.x[i])) && std::isfinite(y(s.y[i])); }
};

std::string tick_label(bool log, double tick) {
  return fmt::format("{:.6g}", log ? std::pow(10.0, tick) : tick == 0 ? 0.0 : tick);
}

std::string draw_axes(const Axes& axes) {
  const PlotOptions& options = axes.options;
  const double w = options.width, h = options.height;
  std::string out;
  std::vector<std::pair<double, std::string>> ticks;
  for (const auto& [value, label] : options.x_ticks) ticks.emplace_back(axes.x(value), label);
  if (ticks.empty())
    for (const double tick : nice_ticks(axes.xs.low, axes.xs.high, options.width / 100))
      ticks.emplace_back(tick, tick_label(options.log_x, tick));
  for (const auto& [tick, label] : ticks) {
    if (!(tick >= axes.xs.low - 1e-9 && tick <= axes.xs.high + 1e-9)) continue;
    out += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#e5e5e5\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\" fill=\"#444\">{4}</text>\n",
        axes.px(tick), kTop, h - kBottom, h - kBottom + 16, escape_html(label));
  }
  const std::vector<double> y_ticks = nice_ticks(axes.ys.low, axes.ys.high, 5);
  // As many decimals as tell neighbours apart.
  const double step = y_ticks.size() > 1 ? y_ticks[1] - y_ticks[0] : 1;
  const int decimals = static_cast<int>(std::ceil(-std::log10(step) - 1e-9));
  const auto y_label = [&](double tick) {
    if (options.log_y) return fmt::format("{:.3g}", std::pow(10.0, tick));
    if (decimals <= 0 || decimals > 5) return fmt::format("{:.6g}", tick == 0 ? 0.0 : tick);
    return fmt::format("{:.{}f}", std::abs(tick) < step / 2 ? 0.0 : tick, decimals);
  };
  for (const double tick : y_ticks)
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#e5e5e5\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\" fill=\"#444\">{5}</text>\n",
        kLeft, w - kRight, axes.py(tick), kLeft - 6, axes.py(tick) + 4, y_label(tick));
  out += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">{}</text>\n", (kLeft + w - kRight) / 2, h - 6,
      escape_html(options.x_label));
  return out + fmt::format(
                   "<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\" fill=\"#444\">{}</text>\n",
                   (kTop + h - kBottom) / 2, escape_html(options.y_label));
}

/// Lines between neighbouring points, broken at gaps; a point alone is a dot; then the markers.
std::string draw_series(const Axes& axes, const PlotSeries& s, const std::string& colour) {
  std::string out, points, markers;
  std::size_t num_points = 0;
  double last_x = 0, last_y = 0;
  const auto end_line = [&] {
    if (num_points == 1 && s.marker == PlotMarker::none)
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>\n", last_x, last_y, colour);
    if (num_points > 1 && s.line)
      out += fmt::format(
          "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{} points=\"{}\"/>\n", colour,
          s.dashed ? " stroke-dasharray=\"5 3\"" : "", points);
    points.clear();
    num_points = 0;
  };
  const std::size_t stride = std::max<std::size_t>(1, (s.x.size() + kMaxPoints - 1) / kMaxPoints);
  for (std::size_t i = 0; i < s.x.size(); i += stride) {
    if (!axes.shown(s, i)) {
      end_line();
      continue;
    }
    last_x = axes.px(axes.x(s.x[i])), last_y = axes.py(axes.y(s.y[i]));
    points += fmt::format("{}{:.1f},{:.1f}", num_points++ ? " " : "", last_x, last_y);
    markers += draw_marker(s.marker, last_x, last_y, colour);
  }
  end_line();
  return out + markers;
}

}  // namespace

std::string svg_line_plot(const PlotOptions& options, const std::vector<PlotSeries>& series) {
  Axes axes{options, {}, {}};
  for (const PlotSeries& s : series)
    for (std::size_t i = 0; i < s.x.size(); ++i)
      if (axes.shown(s, i)) axes.xs.add(axes.x(s.x[i])), axes.ys.add(axes.y(s.y[i]));
  axes.xs.widen();
  axes.ys.widen();
  const bool markers =
      std::any_of(series.begin(), series.end(), [](const PlotSeries& s) { return s.marker != PlotMarker::none; });
  if (markers) axes.xs.pad(0.05), axes.ys.pad(0.06);  // or they would lie on the frame
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{2}\" y=\"18\" "
      "font-size=\"14\" "
      "font-weight=\"bold\">{3}</text>\n",
      options.width, options.height, kLeft, escape_html(options.title));
  out += draw_axes(axes);
  double legend_y = kTop + 14;
  for (std::size_t k = 0; k < series.size(); ++k) {
    const std::string colour = series[k].colour.empty() ? plot_colour(k) : series[k].colour;
    out += draw_series(axes, series[k], colour);
    if (series.size() < 2 || !options.legend) continue;
    out += fmt::format(
        "<rect x=\"{0:.1f}\" y=\"{1}\" width=\"12\" height=\"3\" fill=\"{2}\"/><text x=\"{3:.1f}\" "
        "y=\"{4}\">{5}</text>\n",
        options.width - kRight - 130, legend_y - 5, colour, options.width - kRight - 112, legend_y,
        escape_html(series[k].name));
    legend_y += 16;
  }
  return out + "</svg>\n";
}

}  // namespace avid::train
