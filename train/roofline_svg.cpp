// train/roofline_svg.cpp -- the picture: axes in decades, roofs, points with names that do not cover each other
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train/profile.h"
#include "train/svg_plot.h"

namespace avid::train {
namespace {

constexpr double kWidth = 1200, kHeight = 680;
constexpr double kLeft = 100, kRight = 800, kTop = 84, kBottom = 606;  // of the plot
constexpr double kList = 834, kListRight = 1176;                       // of the list beside it
constexpr double kFont = 11.5, kCharacter = 6.9;                       // of names at points, and a letter's width
constexpr std::size_t kMaxListed = 20;
constexpr const char* kForward = "#0072b2";
constexpr const char* kBackward = "#d55e00";
constexpr const char* kInk = "#1f2933";
constexpr const char* kQuiet = "#66727f";

struct Box {
  double left, top, right, bottom;
  bool meets(const Box& o) const { return left < o.right && o.left < right && top < o.bottom && o.top < bottom; }
};

/// A logarithmic axis over whole decades.
struct Axis {
  double low = 0, high = 1;  // exponents of ten
  double from = 0, to = 1;   // pixels
  double at(double value) const { return from + (std::log10(value) - low) / (high - low) * (to - from); }
};

Axis decades(double smallest, double largest, double from, double to) {
  Axis axis{std::floor(std::log10(smallest)), std::ceil(std::log10(largest)), from, to};
  if (axis.high - axis.low < 2) axis.high = axis.low + 2;
  return axis;
}

struct Point {
  const OpRow* row;
  double value;  // of the vertical axis
  double x, y, radius;
  const char* colour;
};

std::string text(
    double x, double y, const std::string& what, const char* colour = kInk, double size = 12, const char* more = "") {
  return fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\" font-size=\"{}\"{}{}>{}</text>\n", x, y, colour, size,
      *more ? " " : "", more, escape_html(what));
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format("<line x1=\"{:.2f}\" y1=\"{:.2f}\" x2=\"{:.2f}\" y2=\"{:.2f}\" {}/>\n", x1, y1, x2, y2, style);
}

std::string tick_text(int exponent) {
  if (exponent >= 0 && exponent <= 3) return fmt::format("{:.0f}", std::pow(10.0, exponent));
  if (exponent < 0 && exponent >= -2) return fmt::format("{:g}", std::pow(10.0, exponent));
  return fmt::format("1e{}", exponent);
}

std::string grid(const Axis& xs, const Axis& ys, const std::string& y_unit) {
  std::string out = fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#ffffff\" stroke=\"#cbd2d9\"/>\n", kLeft, kTop,
      kRight - kLeft, kBottom - kTop);
  for (auto e = static_cast<int>(xs.low); e <= static_cast<int>(xs.high); ++e) {
    const double x = xs.at(std::pow(10.0, e));
    out += line(x, kTop, x, kBottom, "stroke=\"#dde3e9\"");
    out += text(
        x, kBottom + 18, tick_text(e), kQuiet, 12,
        fmt::format("text-anchor=\"middle\" data-decade-x=\"{}\"", e).c_str());
    for (int k = 2; k < 10 && e < static_cast<int>(xs.high); ++k)
      out +=
          line(xs.at(k * std::pow(10.0, e)), kBottom, xs.at(k * std::pow(10.0, e)), kBottom - 4, "stroke=\"#cbd2d9\"");
  }
  for (auto e = static_cast<int>(ys.low); e <= static_cast<int>(ys.high); ++e) {
    const double y = ys.at(std::pow(10.0, e));
    out += line(kLeft, y, kRight, y, "stroke=\"#dde3e9\"");
    out += text(
        kLeft - 8, y + 4, with_prefix(std::pow(10.0, e), y_unit), kQuiet, 12,
        fmt::format("text-anchor=\"end\" data-decade-y=\"{}\"", e).c_str());
    for (int k = 2; k < 10 && e < static_cast<int>(ys.high); ++k)
      out += line(kLeft, ys.at(k * std::pow(10.0, e)), kLeft + 4, ys.at(k * std::pow(10.0, e)), "stroke=\"#cbd2d9\"");
  }
  return out;
}

/// The two roofs, the region under them, and what they are. `taken` gets the places of their names.
std::string roofs(const DevicePeaks& peaks, const Axis& xs, const Axis& ys, std::vector<Box>& taken) {
  const double ridge = peaks.flops_per_s / peaks.bytes_per_s, floor = std::pow(10.0, ys.low);
  // The slope enters the plot at the left or at the bottom edge.
  const double first = std::max(std::pow(10.0, xs.low), floor / peaks.bytes_per_s);
  const double x0 = xs.at(first), y0 = ys.at(peaks.roof(first)), xr = xs.at(ridge), yr = ys.at(peaks.flops_per_s);
  std::string out = fmt::format(
      "<path d=\"M{0:.2f},{1} L{0:.2f},{2:.2f} L{3:.2f},{4:.2f} L{5},{4:.2f} L{5},{1} Z\" fill=\"#eef4fa\"/>\n", x0,
      kBottom, y0, xr, yr, kRight);
  out += fmt::format(
      "<polyline id=\"roof\" points=\"{:.2f},{:.2f} {:.2f},{:.2f} {:.2f},{:.2f}\" fill=\"none\" stroke=\"{}\" "
      "stroke-width=\"2\" stroke-linejoin=\"round\"/>\n",
      x0, y0, xr, yr, kRight, yr, kInk);
  out += line(xr, yr, xr, kBottom, "stroke=\"#9aa5b1\" stroke-dasharray=\"3 4\"");
  out += text(xr + 6, kBottom - 8, fmt::format("ridge {:.3g} FLOP/byte", ridge), kQuiet, 11);
  taken.push_back({xr + 4, kBottom - 20, xr + 140, kBottom - 4});
  const std::string gemm = fmt::format("{} ({})", with_prefix(peaks.flops_per_s, "FLOP/s"), peaks.gemm_by);
  out += text(
      kRight - 8, yr - 7, gemm, kInk, 12,
      "text-anchor=\"end\" font-weight=\"600\" stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"");
  taken.push_back({kRight - 8 - 7.0 * static_cast<double>(gemm.size()), yr - 20, kRight, yr});
  const double angle = std::atan2(yr - y0, xr - x0), along = 0.30, degrees = angle * 180 / std::numbers::pi;
  const double ax = x0 + along * (xr - x0), ay = y0 + along * (yr - y0);
  out += fmt::format(
      "<text transform=\"translate({:.1f} {:.1f}) rotate({:.2f})\" text-anchor=\"middle\" fill=\"{}\" font-size=\"12\" "
      "font-weight=\"600\">copy {}</text>\n",
      ax + 9 * std::sin(angle), ay - 9 * std::cos(angle), degrees, kInk, with_prefix(peaks.bytes_per_s, "B/s"));
  // Names keep off the roof itself.
  taken.push_back({xr, yr - 3, kRight, yr + 3});
  for (double part = 0; part < 1; part += 0.01) {
    const double x = x0 + part * (xr - x0), y = y0 + part * (yr - y0);
    taken.push_back({x - 4, y - 4, x + 4, y + 4});
  }
  for (double part = along - 0.14; part < along + 0.15; part += 0.02) {
    const double x = x0 + part * (xr - x0), y = y0 + part * (yr - y0);
    taken.push_back({x - 8, y - 18, x + 4, y});
  }
  return out;
}

/// A name beside every point where it covers neither points nor other names; a thin line where it had to go further.
std::string names(const std::vector<Point>& points, std::vector<Box> taken) {
  for (const Point& p : points) taken.push_back({p.x - p.radius, p.y - p.radius, p.x + p.radius, p.y + p.radius});
  std::string out;
  for (const Point& p : points) {
    const double w = kCharacter * static_cast<double>(p.row->name.size()), h = kFont + 1;
    bool done = false;
    for (double gap = 4; gap <= 90 && !done; gap += gap < 10 ? 5 : 10) {
      for (int k = 0; k < 16 && !done; ++k) {
        // Right first, then up and down by turns.
        const double turn = (k % 2 ? 1 : -1) * ((k + 1) / 2) * std::numbers::pi / 8;
        const double dx = std::cos(turn), dy = std::sin(turn), reach = p.radius + gap;
        const double cx = p.x + dx * (reach + w / 2), cy = p.y + dy * (reach + h / 2);
        const Box box{cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2};
        if (box.left < kLeft + 3 || box.right > kRight - 3 || box.top < kTop + 3 || box.bottom > kBottom - 3) continue;
        if (std::any_of(taken.begin(), taken.end(), [&](const Box& other) { return box.meets(other); })) continue;
        if (gap > 12)
          out += line(
              p.x + dx * p.radius, p.y + dy * p.radius, cx - dx * w / 2, cy - dy * h / 2,
              "stroke=\"#9aa5b1\" stroke-width=\"0.8\"");
        out += text(cx, cy + 4, p.row->name, kInk, kFont, "text-anchor=\"middle\" class=\"name\"");
        taken.push_back(box);
        done = true;
      }
    }
    // No room left: the list beside the plot and the tooltip still name it.
  }
  return out;
}

std::string describe(const OpRow& row, bool times) {
  std::string out = fmt::format(
      "{}: {:g} calls, {}, {}, {:.3g} FLOP/byte", row.name, row.calls, with_prefix(row.flops, "FLOP"),
      with_prefix(row.bytes, "B"), row.intensity());
  if (times)
    out += fmt::format(
        "; {:.3g} ms, {}, {}, {:.0f}% of the roof", row.seconds * 1e3, with_prefix(row.flops_per_s(), "FLOP/s"),
        with_prefix(row.bytes_per_s(), "B/s"), 100 * row.roof_share);
  return out;
}

/// The ops by time, with bars for their share of the roof; or by FLOPs.
std::string list(std::vector<OpRow> rows, bool times) {
  if (!times)
    std::stable_sort(rows.begin(), rows.end(), [](const OpRow& a, const OpRow& b) { return a.flops > b.flops; });
  std::string out = text(kList, kTop - 10, "op, per step", kQuiet, 12);
  constexpr const char* kEnd = "text-anchor=\"end\"";
  out += text(times ? kList + 206 : kList + 250, kTop - 10, times ? "ms" : "FLOP", kQuiet, 12, kEnd);
  out += text(times ? kList + 250 : kListRight, kTop - 10, times ? "time" : "bytes", kQuiet, 12, kEnd);
  if (times) out += text(kListRight, kTop - 10, "of roof", kQuiet, 12, kEnd);
  double y = kTop + 10, rest_seconds = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const OpRow& row = rows[i];
    if (i >= kMaxListed) {
      rest_seconds += row.seconds;
      continue;
    }
    const char* colour = row.name.ends_with("_bwd") ? kBackward : kForward;
    out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"4\" fill=\"{}\"/>\n", kList + 4, y - 4, colour);
    out += text(kList + 14, y, row.name, kInk, 12);
    if (times) {
      out += text(kList + 206, y, fmt::format("{:.2f}", row.seconds * 1e3), kInk, 12, kEnd);
      out += text(kList + 250, y, fmt::format("{:.1f}%", 100 * row.share), kInk, 12, kEnd);
      const double width = 40 * std::clamp(row.roof_share, 0.0, 1.0);
      out += fmt::format(
          "<rect x=\"{0}\" y=\"{1:.1f}\" width=\"40\" height=\"8\" fill=\"#e4e9ee\"/><rect x=\"{0}\" y=\"{1:.1f}\" "
          "width=\"{2:.1f}\" height=\"8\" fill=\"{3}\"/>\n",
          kList + 258, y - 8, width, colour);
      out += text(kListRight, y, fmt::format("{:.0f}%", 100 * row.roof_share), kInk, 12, kEnd);
    } else {
      out += text(kList + 250, y, with_prefix(row.flops, ""), kInk, 12, kEnd);
      out += text(kListRight, y, with_prefix(row.bytes, "B"), kInk, 12, kEnd);
    }
    y += 23;
  }
  if (rows.size() > kMaxListed)
    out += text(
        kList + 14, y,
        times ? fmt::format("{} more, {:.2f} ms", rows.size() - kMaxListed, rest_seconds * 1e3)
              : fmt::format("{} more", rows.size() - kMaxListed),
        kQuiet, 12);
  return out;
}

}  // namespace

std::string roofline_svg(
    const ProfileTitle& title, const std::vector<OpRow>& rows, const std::optional<DevicePeaks>& peaks) {
  const bool times = title.times_mean_something && peaks.has_value();
  std::vector<Point> points;
  double least_x = 0.1, most_x = 10, least_y = 1e30, most_y = 0;
  for (const OpRow& row : rows) {
    const double value = times ? row.flops_per_s() : row.flops;
    if (!(row.intensity() > 0) || !(value > 0)) continue;  // moves data only: in the list
    points.push_back({&row, value, 0, 0, 0, row.name.ends_with("_bwd") ? kBackward : kForward});
    least_x = std::min(least_x, row.intensity());
    most_x = std::max(most_x, row.intensity());
    least_y = std::min(least_y, value);
    most_y = std::max(most_y, value);
  }
  if (points.empty()) least_y = 1e6, most_y = 1e9;
  if (times) {
    most_x = std::max(most_x, 4 * peaks->flops_per_s / peaks->bytes_per_s);
    most_y = std::max(most_y, 1.5 * peaks->flops_per_s);
  }
  const Axis xs = decades(least_x, most_x, kLeft, kRight), ys = decades(least_y, most_y, kBottom, kTop);
  double total = 0;
  for (const Point& p : points) total += times ? p.row->seconds : p.row->flops;
  for (Point& p : points) {
    p.x = xs.at(p.row->intensity());
    p.y = ys.at(p.value);
    p.radius = 4.5 + 16 * std::sqrt((times ? p.row->seconds : p.row->flops) / total);
  }
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.radius > b.radius; });

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"Helvetica, Arial, sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fbfcfd\"/>\n",
      kWidth, kHeight);
  out += text(
      kLeft, 32, fmt::format("{} step on {}, {}", title.kind, title.device, title.dtype), kInk, 18,
      "font-weight=\"bold\"");
  out += text(
      kLeft, 54,
      times ? "Each op of a step under what this device reached in the same run: a copy, and a matrix product. "
              "Area of a point: its time."
            : "Counts only: the simulator's times say nothing about any hardware. Area of a point: its FLOPs.",
      kQuiet, 12.5);
  out += grid(xs, ys, times ? "FLOP/s" : "FLOP");
  std::vector<Box> taken;
  if (times) out += roofs(*peaks, xs, ys, taken);
  for (const Point& p : points)
    out += fmt::format(
        "<circle class=\"op\" data-op=\"{}\" cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"{:.2f}\" fill=\"{}\" fill-opacity=\"0.8\" "
        "stroke=\"#ffffff\" stroke-width=\"1.2\"><title>{}</title></circle>\n",
        escape_html(p.row->name), p.x, p.y, p.radius, p.colour, escape_html(describe(*p.row, times)));
  out += names(points, taken);
  out += list(rows, times);
  constexpr const char* kMiddle = "text-anchor=\"middle\"";
  out += text((kLeft + kRight) / 2, kBottom + 44, "FLOP per byte that the op has to move", kInk, 13, kMiddle);
  out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"5\" fill=\"{}\"/>\n", kLeft + 5, kBottom + 40, kForward);
  out += text(kLeft + 15, kBottom + 44, "forward", kInk, 12);
  out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"5\" fill=\"{}\"/>\n", kLeft + 83, kBottom + 40, kBackward);
  out += text(kLeft + 93, kBottom + 44, "backward", kInk, 12);
  return out + "</svg>\n";
}

}  // namespace avid::train
