// train/svg_plot.h -- line plots as SVG text, for the run folder and the report
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace avid::train {

enum class PlotMarker { none, circle, square, diamond };

struct PlotSeries {
  std::string name;
  std::vector<double> x, y;  // same length; points that are not finite break the line
  std::string colour = {};   // of CSS; empty: the next of the palette
  PlotMarker marker = PlotMarker::none;
  bool line = true, dashed = false;
};

struct PlotOptions {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;  // decades; points that are not positive break the line
  int width = 640, height = 320;
  bool legend = true;                                        // with more than one series
  std::vector<std::pair<double, std::string>> x_ticks = {};  // values and their labels; empty: chosen
};

/// Colour i of the palette (distinct under the usual colour blindnesses), again from the start after the last.
const char* plot_colour(std::size_t i);

/// A complete <svg> element without references to anything outside. Long series are thinned to what can be seen.
std::string svg_line_plot(const PlotOptions& options, const std::vector<PlotSeries>& series);

/// Ticks at 1, 2 or 5 times a power of ten that cover [low, high], about `count` of them.
std::vector<double> nice_ticks(double low, double high, int count);

/// & < > " made harmless for HTML, SVG and attributes.
std::string escape_html(const std::string& text);

}  // namespace avid::train
