// train/svg_plot.h -- line plots as SVG text, for the run folder and the report
#pragma once

#include <string>
#include <vector>

namespace avid::train {

struct PlotSeries {
  std::string name;
  std::vector<double> x, y;  // same length; points that are not finite break the line
};

struct PlotOptions {
  std::string title, x_label, y_label;
  bool log_y = false;  // decades; points that are not positive break the line
  int width = 640, height = 320;
};

/// A complete <svg> element without references to anything outside. Long series are thinned to what can be seen.
std::string svg_line_plot(const PlotOptions& options, const std::vector<PlotSeries>& series);

/// Ticks at 1, 2 or 5 times a power of ten that cover [low, high], about `count` of them.
std::vector<double> nice_ticks(double low, double high, int count);

/// & < > " made harmless for HTML, SVG and attributes.
std::string escape_html(const std::string& text);

}  // namespace avid::train
