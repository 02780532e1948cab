// tests/train/profile_test.cpp -- rows, trace and picture of a profile, each against numbers worked out by hand
#include "train/profile.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid::train;
using nlohmann::json;

namespace {

// A machine of 100 GFLOP/s and 10 GB/s: the roofs meet at 10 FLOP/byte.
const DevicePeaks kPeaks{100e9, 10e9, "a test"};
const ProfileTitle kTitle{"avid", "cpu, 2 threads", "f32"};

// Two steps of 10 ms, in each: conv3d 4 ms, inside a module; its gradient 2 ms with a cast of 0.5 ms inside.
BenchResult two_steps() {
  BenchResult result;
  const auto op = [&](const char* name, double start, double seconds, double self, double flops, double bytes) {
    avid::kernels::OpEvent event;
    event.name = name;
    event.module = "a.<b>";
    event.start = start;
    event.seconds = seconds;
    event.self_seconds = self;
    event.flops = flops;
    event.bytes = bytes;
    result.events.push_back(event);
  };
  for (int i = 0; i < 2; ++i) {
    const double t = 0.010 * i;
    result.step_starts.push_back(t);
    result.seconds.push_back(0.010);
    op("conv3d", t + 0.001, 0.004, 0.004, 2e8, 4e6);
    avid::kernels::OpEvent module;
    module.name = "a.<b>";
    module.is_module = true;
    module.start = t + 0.001;
    module.seconds = 0.005;
    result.events.push_back(module);
    op("cast", t + 0.0065, 0.0005, 0.0005, 0, 1e6);
    op("conv3d_bwd", t + 0.006, 0.002, 0.0015, 3e6, 6e6);
  }
  for (const auto& event : result.events) {
    if (event.is_module) continue;
    avid::kernels::OpTime& sum = result.ops[event.name];
    ++sum.calls;
    sum.seconds += event.self_seconds;
    sum.flops += event.flops;
    sum.bytes += event.bytes;
  }
  return result;
}

/// Every element closed in the order it was opened, attributes quoted, nothing stray: what an XML reader asks for.
bool well_formed(const std::string& text) {
  std::vector<std::string> open;
  const std::regex tag(R"(<(/?)([A-Za-z]+)((?:\s+[A-Za-z][A-Za-z0-9-]*="[^"<>]*")*)\s*(/?)>)");
  std::size_t at = 0;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), tag); it != std::sregex_iterator(); ++it) {
    const std::string between = text.substr(at, static_cast<std::size_t>(it->position()) - at);
    if (between.find_first_of("<>") != std::string::npos) return false;
    if (std::regex_search(between, std::regex("&(?!amp;|lt;|gt;|quot;)"))) return false;
    at = static_cast<std::size_t>(it->position() + it->length());
    if ((*it)[1] == "/") {
      if (open.empty() || open.back() != (*it)[2]) return false;
      open.pop_back();
    } else if ((*it)[4] != "/") {
      open.push_back((*it)[2]);
    }
  }
  return open.empty() && text.find_first_of("<>", at) == std::string::npos;
}

/// Where the labels of two decades stand: exponent -> pixel.
std::map<int, double> decades(const std::string& svg, const std::string& axis, const std::string& coordinate) {
  std::map<int, double> out;
  const std::regex label("<text x=\"([-0-9.]+)\" y=\"([-0-9.]+)\"[^>]*data-decade-" + axis + "=\"(-?[0-9]+)\"");
  for (auto it = std::sregex_iterator(svg.begin(), svg.end(), label); it != std::sregex_iterator(); ++it)
    out[std::stoi((*it)[3])] = std::stod(coordinate == "x" ? (*it)[1] : (*it)[2]);
  return out;
}

/// The pixel of a value, from the labels alone.
double pixel(const std::map<int, double>& axis, double value) {
  const auto [e0, p0] = *axis.begin();
  const auto [e1, p1] = *axis.rbegin();
  return p0 + (std::log10(value) - e0) / (e1 - e0) * (p1 - p0);
}

struct Circle {
  double x, y, r;
};
std::map<std::string, Circle> circles(const std::string& svg) {
  std::map<std::string, Circle> out;
  const std::regex circle(
      "<circle class=\"op\" data-op=\"([^\"]*)\" cx=\"([-0-9.]+)\" cy=\"([-0-9.]+)\" r=\"([0-9.]+)\"");
  for (auto it = std::sregex_iterator(svg.begin(), svg.end(), circle); it != std::sregex_iterator(); ++it)
    out[(*it)[1]] = {std::stod((*it)[2]), std::stod((*it)[3]), std::stod((*it)[4])};
  return out;
}

}  // namespace

TEST_CASE("profile/rows/per step, share of the nearer roof") {
  const auto rows = op_rows(two_steps(), kPeaks);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].name == "conv3d");
  CHECK(rows[0].calls == 1);
  CHECK(rows[0].seconds == doctest::Approx(0.004));
  CHECK(rows[0].share == doctest::Approx(0.4));
  CHECK(rows[0].flops_per_s() == doctest::Approx(50e9));
  CHECK(rows[0].intensity() == doctest::Approx(50));
  CHECK(rows[0].roof_share == doctest::Approx(0.5));  // under the product's roof
  CHECK(rows[1].name == "conv3d_bwd");
  CHECK(rows[1].intensity() == doctest::Approx(0.5));
  CHECK(rows[1].roof_share == doctest::Approx(6e6 / 10e9 / 0.0015));  // under the copy's
  CHECK(rows[2].name == "cast");
  CHECK(rows[2].roof_share == doctest::Approx(0.2));
  CHECK(kPeaks.roof(10) == doctest::Approx(100e9));
  CHECK(kPeaks.roof(2) == doctest::Approx(20e9));
  for (const OpRow& row : op_rows(two_steps(), {})) CHECK(row.roof_share == 0);
}

TEST_CASE("profile/trace/complete events whose sums are the table") {
  const BenchResult result = two_steps();
  const json trace = json::parse(chrome_trace(kTitle, result));
  std::map<std::string, double> self_us, gflop;
  std::vector<json> ops;
  int steps = 0, modules = 0;
  double last = -1;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == "M") continue;
    REQUIRE(event["ph"] == "X");
    CHECK(event["dur"].get<double>() >= 0);
    CHECK(event["pid"] == 1);
    if (event["cat"] == "step") ++steps;
    if (event["cat"] == "module") {
      ++modules;
      CHECK(event["name"] == "a.<b>");
    }
    if (event["cat"] != "op") continue;
    CHECK(event["args"]["module"] == "a.<b>");
    CHECK(event["ts"].get<double>() >= last);
    last = event["ts"].get<double>();
    ops.push_back(event);
    gflop[event["name"]] += event["args"]["gflop"].get<double>();
  }
  CHECK(steps == 2);
  CHECK(modules == 2);
  // The time of an op without inner ones, from the bars alone: a bar less the bars that lie in it.
  for (const json& outer : ops) {
    double self = outer["dur"].get<double>();
    const double begin = outer["ts"].get<double>(), end = begin + self;
    for (const json& inner : ops) {
      const double from = inner["ts"].get<double>(), length = inner["dur"].get<double>();
      if (inner != outer && from >= begin && from + length <= end) self -= length;
    }
    CHECK(self == doctest::Approx(outer["args"]["self_us"].get<double>()));
    self_us[outer["name"]] += self;
  }
  REQUIRE(self_us.size() == result.ops.size());
  for (const auto& [name, sum] : result.ops) {
    CHECK(self_us.at(name) == doctest::Approx(sum.seconds * 1e6));
    CHECK(gflop.at(name) == doctest::Approx(sum.flops * 1e-9));
  }
  CHECK(trace["traceEvents"][1]["args"]["name"] == "cpu, 2 threads");
  CHECK(ops[0]["args"]["gflop_per_s"] == doctest::Approx(50));
}

TEST_CASE("profile/trace/the simulator's times are called what they are") {
  ProfileTitle sim = kTitle;
  sim.times_mean_something = false;
  const json trace = json::parse(chrome_trace(sim, two_steps()));
  CHECK(trace["otherData"]["times"].get<std::string>().find("not meaningful") != std::string::npos);
  for (const json& event : trace["traceEvents"])
    if (event["ph"] == "X" && event["cat"] == "op") CHECK_FALSE(event["args"].contains("gflop_per_s"));
}

TEST_CASE("profile/picture/points stand where their numbers are") {
  const auto rows = op_rows(two_steps(), kPeaks);
  const std::string svg = roofline_svg(kTitle, rows, kPeaks);
  CHECK(well_formed(svg));
  const auto xs = decades(svg, "x", "x");
  auto ys = decades(svg, "y", "y");
  REQUIRE(xs.size() >= 3);
  REQUIRE(ys.size() >= 3);
  for (auto& [exponent, y] : ys) y -= 4;  // labels stand 4 pixels below their line
  const auto points = circles(svg);
  REQUIRE(points.size() == 2);  // a cast has no FLOPs
  CHECK(std::abs(points.at("conv3d").x - pixel(xs, 50)) < 0.1);
  CHECK(std::abs(points.at("conv3d").y - pixel(ys, 50e9)) < 0.1);
  CHECK(std::abs(points.at("conv3d_bwd").x - pixel(xs, 0.5)) < 0.1);
  CHECK(std::abs(points.at("conv3d_bwd").y - pixel(ys, 2e9)) < 0.1);
  CHECK(points.at("conv3d").r > points.at("conv3d_bwd").r);
  // The roof bends at 10 FLOP/byte, 100 GFLOP/s; its left end lies on 10 GB/s.
  std::smatch roof;
  REQUIRE(std::regex_search(
      svg, roof, std::regex("id=\"roof\" points=\"([0-9.]+),([0-9.]+) ([0-9.]+),([0-9.]+) ([0-9.]+),([0-9.]+)\"")));
  CHECK(std::abs(std::stod(roof[3]) - pixel(xs, 10)) < 0.1);
  CHECK(std::abs(std::stod(roof[4]) - pixel(ys, 100e9)) < 0.1);
  CHECK(roof[4] == roof[6]);
  const auto [e0, p0] = *xs.begin();
  const auto [e1, p1] = *xs.rbegin();
  const double left = std::pow(10, e0 + (std::stod(roof[1]) - p0) / (p1 - p0) * (e1 - e0));
  CHECK(std::abs(std::stod(roof[2]) - pixel(ys, 10e9 * left)) < 0.2);
  for (const char* name : {"conv3d", "conv3d_bwd", "cast"})
    CHECK(svg.find(">" + std::string(name) + "<") != std::string::npos);
  CHECK(svg.find("50%") != std::string::npos);
}

TEST_CASE("profile/picture/without peaks counts only") {
  ProfileTitle sim{"sample", "sim <the simulator>", "bf16", false};
  const std::string svg = roofline_svg(sim, op_rows(two_steps(), {}), {});
  CHECK(well_formed(svg));
  CHECK(svg.find("id=\"roof\"") == std::string::npos);
  CHECK(svg.find("FLOP/s") == std::string::npos);
  const auto xs = decades(svg, "x", "x");
  auto ys = decades(svg, "y", "y");
  for (auto& [exponent, y] : ys) y -= 4;
  CHECK(std::abs(circles(svg).at("conv3d").x - pixel(xs, 50)) < 0.1);
  CHECK(std::abs(circles(svg).at("conv3d").y - pixel(ys, 2e8)) < 0.1);  // FLOPs of a step
}

TEST_CASE("profile/picture/nothing measured is still a picture") {
  const std::string svg = roofline_svg(kTitle, {}, kPeaks);
  CHECK(well_formed(svg));
  CHECK(circles(svg).empty());
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.find("inf") == std::string::npos);
}

TEST_CASE("profile/picture/the check of well-formed text finds mistakes") {
  CHECK(well_formed("<a b=\"1\"><c/>x &lt; y</a>"));
  CHECK_FALSE(well_formed("<a><b></a></b>"));
  CHECK_FALSE(well_formed("<a>1 < 2</a>"));
  CHECK_FALSE(well_formed("<a>R&D</a>"));
  CHECK_FALSE(well_formed("<a>"));
}

TEST_CASE("profile/prefix/three digits") {
  CHECK(with_prefix(1.234e12, "FLOP/s") == "1.23 TFLOP/s");
  CHECK(with_prefix(999.6, "B") == "1 kB");
  CHECK(with_prefix(0.5, "B") == "0.5 B");
}

TEST_CASE("profile/peaks/none on the simulator") {
  CHECK_FALSE(measure_peaks({.kind = avid::DeviceKind::sim}, avid::DType::f32).has_value());
}
