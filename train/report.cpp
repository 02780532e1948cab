// train/report.cpp -- HTML by hand: no scripts, no links, pictures inside
#include "train/report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tensor/io/atomic_file.h"
#include "train/calibration.h"
#include "train/config.h"
#include "train/run_folder.h"
#include "train/svg_plot.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxPictures = 12;

PlotSeries series_of(const std::vector<LogRecord>& records, const std::string& name, const std::string& label) {
  PlotSeries s{label, {}, {}};
  for (const LogRecord& record : records) {
    const bool has =
        std::any_of(record.values.begin(), record.values.end(), [&](const auto& v) { return v.first == name; });
    if (!has) continue;
    s.x.push_back(static_cast<double>(record.update));
    s.y.push_back(record.value(name));
  }
  return s;
}

struct Plot {
  std::string file;
  PlotOptions options;
  std::vector<PlotSeries> series;
};

std::vector<Plot> make_plots(const std::vector<LogRecord>& records) {
  const auto all = [&](std::initializer_list<std::pair<const char*, const char*>> names) {
    std::vector<PlotSeries> out;
    for (const auto& [name, label] : names) out.push_back(series_of(records, name, label));
    std::erase_if(out, [](const PlotSeries& s) { return s.x.empty(); });
    return out;
  };
  std::vector<Plot> plots = {
      {"loss",
       {.title = "Loss", .x_label = "update", .y_label = "loss", .log_y = true},
       all({{"train/loss", "training"}, {"val/loss", "validation (averaged weights)"}})},
      {"mask",
       {.title = "Mask (1 = the base is used)", .x_label = "update", .y_label = "mask"},
       all(
           {{"train/mask_mean", "mean"},
            {"train/mask_min", "min"},
            {"train/mask_max", "max"},
            {"val/mask_mean", "mean, validation"}})},
      {"accuracy",
       {.title = "Accuracy", .x_label = "update", .y_label = "share of right actions"},
       all({{"train/acc", "training"}, {"val/acc", "validation"}})},
      {"grad_norm",
       {.title = "Gradient norm before clipping", .x_label = "update", .y_label = "norm", .log_y = true},
       all({{"train/grad_norm", "norm"}})},
      {"lr", {.title = "Learning rate", .x_label = "update", .y_label = "lr"}, all({{"train/lr", "lr"}})},
      {"clips_per_s",
       {.title = "Speed", .x_label = "update", .y_label = "clips / s"},
       all({{"clips_per_s", "clips / s"}})},
  };
  std::erase_if(plots, [](const Plot& p) { return p.series.empty(); });
  return plots;
}

std::string row(const std::string& name, const std::string& value) {
  return fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escape_html(name), escape_html(value));
}

std::string last_value(const std::vector<LogRecord>& records, const std::string& name) {
  for (auto r = records.rbegin(); r != records.rend(); ++r)
    if (const double v = r->value(name); std::isfinite(v)) return fmt::format("{:.5g} (update {})", v, r->update);
  return {};
}

// The pictures of the newest sample folder.
std::vector<fs::path> newest_samples(const fs::path& run) {
  std::vector<fs::path> folders, pictures;
  std::error_code error;
  for (fs::directory_iterator it(run / "samples", error), end; !error && it != end; it.increment(error))
    if (it->is_directory()) folders.push_back(it->path());
  if (folders.empty()) return {};
  for (fs::directory_iterator it(*std::max_element(folders.begin(), folders.end()), error), end; !error && it != end;
       it.increment(error))
    if (it->path().extension() == ".png" || it->path().extension() == ".gif") pictures.push_back(it->path());
  std::sort(pictures.begin(), pictures.end());
  if (pictures.size() > kMaxPictures) pictures.resize(kMaxPictures);
  return pictures;
}

constexpr const char* kStyle =
    "body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse}th{text-align:left;padding:2px 16px 2px 0;font-weight:600}td{padding:2px 0}"
    "svg,img{max-width:100%;height:auto;border:1px solid #ddd;margin:4px "
    "0}img{image-rendering:pixelated;min-width:240px}"
    "pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:13px}figure{margin:1em 0}figcaption{color:#555}";

}  // namespace

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](std::size_t j) {
      return j < bytes.size() ? static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[j])) : 0u;
    };
    const std::uint32_t word = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    out += kDigits[word >> 18];
    out += kDigits[word >> 12 & 63];
    out += i + 1 < bytes.size() ? kDigits[word >> 6 & 63] : '=';
    out += i + 2 < bytes.size() ? kDigits[word & 63] : '=';
  }
  return out;
}

void write_run_report(
    const fs::path& run, const TrainConfig& config, const RunInfo& info, const RunState& state,
    const std::string& description, const std::vector<LogRecord>& records) {
  const std::string title = config.run.name.empty() ? run.filename().string() : config.run.name;
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{1}</style></head>\n"
      "<body><h1>{0}</h1>\n<p>{2}</p>\n<table>\n",
      escape_html(title), kStyle, escape_html(description));
  html += row("Updates", fmt::format("{} of {}", state.update, config.train.updates));
  html += row("Training loss", last_value(records, "train/loss"));
  if (const std::string v = last_value(records, "val/loss"); !v.empty()) html += row("Validation loss", v);
  if (state.best_update >= 0)
    html += row("Best validation loss", fmt::format("{:.5g} (update {})", state.best_loss, state.best_update));
  if (const std::string v = last_value(records, "train/mask_mean"); !v.empty()) html += row("Mask mean", v);
  html += row("Training time", fmt::format("{:.1f} min", state.train_seconds / 60));
  html += row(
      "Speed", fmt::format(
                   "{:.2f} clips/s", static_cast<double>(state.update * config.train.batch * config.train.accumulate) /
                                         std::max(state.train_seconds, 1e-9)));
  if (state.bad_total > 0) html += row("Skipped updates", std::to_string(state.bad_total));
  html += row("Device", fmt::format("{}, {} threads", info.device, info.threads));
  if (info.conv != "native" || info.gemm != "native" || info.attention != "native" || info.norm != "native")
    html += row(
        "Kernels",
        fmt::format(
            "convolutions {}, products {}, attention {}, norm {}", info.conv, info.gemm, info.attention, info.norm));
  html += row("Seed", std::to_string(info.seed));
  html += row("Program", fmt::format("avid {}, commit {}", info.version, info.commit));
  html += row("Started", info.started);
  html += "</table>\n<h2>Curves</h2>\n";
  for (const Plot& plot : make_plots(records)) {
    const std::string svg = svg_line_plot(plot.options, plot.series);
    write_text_atomic(run / "plots" / (plot.file + ".svg"), svg);
    html += svg;
  }
  html += calibration_html(run);
  const auto pictures = newest_samples(run);
  if (!pictures.empty()) html += "<h2>Samples</h2>\n";
  for (const fs::path& picture : pictures)
    html += fmt::format(
        "<figure><img alt=\"{0}\" src=\"data:image/{1};base64,{2}\"><figcaption>{0}</figcaption></figure>\n",
        escape_html(picture.lexically_relative(run).string()), picture.extension() == ".gif" ? "gif" : "png",
        base64(read_text(picture)));
  std::string events;
  for (const LogRecord& record : records)
    if (!record.event.empty()) events += row(fmt::format("Update {}", record.update), record.event);
  if (!events.empty()) html += "<h2>Events</h2>\n<table>\n" + events + "</table>\n";
  html += "<h2>Configuration</h2>\n<pre>" + escape_html(config.to_toml()) + "</pre>\n</body></html>\n";
  write_text_atomic(run / "report.html", html);
}

}  // namespace avid::train
