// train/svg_plot.cpp -- axes, ticks, polylines
#include "train/svg_plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace avid::train {
namespace {

constexpr std::array<const char*, 6> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
constexpr double kLeft = 62, kRight = 14, kTop = 30, kBottom = 40;
constexpr std::size_t kMaxPoints = 2000;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double v) { low = std::min(low, v), high = std::max(high, v); }
  void widen() {
    if (!(low <= high)) low = 0, high = 1;
    if (low == high) low -= low == 0 ? 1 : std::abs(low) * 0.05, high += high == 0 ? 1 : std::abs(high) * 0.05;
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

std::string svg_line_plot(const PlotOptions& options, const std::vector<PlotSeries>& series) {
  const auto value = [&](double y) {
    return options.log_y ? (y > 0 ? std::log10(y) : std::numeric_limits<double>::quiet_NaN()) : y;
  };
  Range xs, ys;
  for (const PlotSeries& s : series)
    for (std::size_t i = 0; i < s.x.size(); ++i)
      if (std::isfinite(s.x[i]) && std::isfinite(value(s.y[i]))) xs.add(s.x[i]), ys.add(value(s.y[i]));
  xs.widen();
  ys.widen();
  const double w = options.width, h = options.height;
  const auto px = [&](double x) { return kLeft + (x - xs.low) / (xs.high - xs.low) * (w - kLeft - kRight); };
  const auto py = [&](double y) { return h - kBottom - (y - ys.low) / (ys.high - ys.low) * (h - kTop - kBottom); };

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{2}\" y=\"18\" "
      "font-size=\"14\" "
      "font-weight=\"bold\">{3}</text>\n",
      options.width, options.height, kLeft, escape_html(options.title));
  for (const double tick : nice_ticks(xs.low, xs.high, 6))
    out += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#e5e5e5\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\" fill=\"#444\">{4:.6g}</text>\n",
        px(tick), kTop, h - kBottom, h - kBottom + 16, tick == 0 ? 0.0 : tick);
  for (const double tick : nice_ticks(ys.low, ys.high, 5))
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#e5e5e5\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\" fill=\"#444\">{5:.3g}</text>\n",
        kLeft, w - kRight, py(tick), kLeft - 6, py(tick) + 4,
        options.log_y ? std::pow(10.0, tick) : (tick == 0 ? 0.0 : tick));
  out += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">{}</text>\n", (kLeft + w - kRight) / 2, h - 6,
      escape_html(options.x_label));
  out += fmt::format(
      "<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\" fill=\"#444\">{}</text>\n",
      (kTop + h - kBottom) / 2, escape_html(options.y_label));
  double legend_y = kTop + 14;
  for (std::size_t k = 0; k < series.size(); ++k) {
    const PlotSeries& s = series[k];
    const char* colour = kColours[k % kColours.size()];
    const std::size_t stride = std::max<std::size_t>(1, (s.x.size() + kMaxPoints - 1) / kMaxPoints);
    std::string points;
    std::size_t num_points = 0;
    double last_x = 0, last_y = 0;
    const auto end_line = [&] {
      if (num_points == 1)
        out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>\n", last_x, last_y, colour);
      if (num_points > 1)
        out +=
            fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>\n", colour, points);
      points.clear();
      num_points = 0;
    };
    for (std::size_t i = 0; i < s.x.size(); i += stride) {
      if (!std::isfinite(s.x[i]) || !std::isfinite(value(s.y[i]))) {
        end_line();
        continue;
      }
      last_x = px(s.x[i]), last_y = py(value(s.y[i]));
      points += fmt::format("{}{:.1f},{:.1f}", num_points++ ? " " : "", last_x, last_y);
    }
    end_line();
    if (series.size() > 1) {
      out += fmt::format(
          "<rect x=\"{0:.1f}\" y=\"{1}\" width=\"12\" height=\"3\" fill=\"{2}\"/><text x=\"{3:.1f}\" "
          "y=\"{4}\">{5}</text>\n",
          w - kRight - 130, legend_y - 5, colour, w - kRight - 112, legend_y, escape_html(s.name));
      legend_y += 16;
    }
  }
  return out + "</svg>\n";
}

}  // namespace avid::train
