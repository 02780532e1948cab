// tests/train/svg_plot_test.cpp -- ticks and the shape of the SVG text
#include "train/svg_plot.h"

#include <cmath>

#include "tests/doctest.h"

using namespace avid::train;

namespace {
std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}
}  // namespace

TEST_CASE("svg_plot/ticks/round_numbers") {
  CHECK(nice_ticks(0, 10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
  const auto small = nice_ticks(0.013, 0.047, 4);
  REQUIRE(small.size() == 3);
  CHECK(small[0] == doctest::Approx(0.02));
}

TEST_CASE("svg_plot/lines/gaps_and_points") {
  const double nan = std::nan("");
  const std::string svg = svg_line_plot(
      {.title = "a < b", .x_label = "update", .y_label = "loss"},
      {{"one", {0, 1, 2, 3, 4}, {1, 2, nan, 3, 4}}, {"two", {2}, {1}}});
  CHECK(count(svg, "<polyline") == 2);
  CHECK(count(svg, "<circle") == 1);
  CHECK(svg.find("a &lt; b") != std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(count(svg, "<text") == count(svg, "</text>"));
}

TEST_CASE("svg_plot/labels/neighbours_differ_however_narrow_the_range") {
  const std::string svg =
      svg_line_plot({.title = "", .x_label = "", .y_label = ""}, {{"one", {0, 1}, {0.5056, 0.5072}}});
  CHECK(count(svg, ">0.5060<") == 1);
  CHECK(count(svg, ">0.5065<") == 1);
  CHECK(count(svg, ">0.5070<") == 1);
}

TEST_CASE("svg_plot/markers/log_axes_and_named_ticks") {
  PlotSeries s{"one", {1e3, 1e5, -1}, {1, 2, 3}};
  s.marker = PlotMarker::square;
  s.line = false;
  const std::string svg = svg_line_plot(
      {.title = "", .x_label = "", .y_label = "", .log_x = true, .x_ticks = {{1e4, "ten <k>"}, {1e9, "far"}}}, {s});
  CHECK(count(svg, "width=\"7\"") == 2);  // the one that has no logarithm is left out
  CHECK(count(svg, "<polyline") == 0);
  CHECK(count(svg, "ten &lt;k&gt;") == 1);
  CHECK(svg.find("far") == std::string::npos);
}

TEST_CASE("svg_plot/empty/still_a_picture") {
  for (const bool log_y : {false, true}) {
    const std::string svg = svg_line_plot(
        {.title = "t", .x_label = "", .y_label = "", .log_y = log_y}, {{"none", {}, {}}, {"zero", {1}, {0}}});
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
    CHECK(svg.find("</svg>") != std::string::npos);
  }
}

TEST_CASE("svg_plot/long/thinned") {
  PlotSeries s{"s", {}, {}};
  for (int i = 0; i < 100000; ++i) s.x.push_back(i), s.y.push_back(i);
  CHECK(svg_line_plot({.title = "t", .x_label = "", .y_label = ""}, {s}).size() < 60000);
}
