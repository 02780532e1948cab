// train/paper_media.cpp -- pictures and animations of the report, inside the page
#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "eval/media/gif.h"
#include "eval/media/png.h"
#include "eval/media/strip.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/paper_page.h"
#include "train/report.h"
#include "train/sample_file.h"
#include "train/svg_plot.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kMostClips = 4;

/// Two methods began from the same frames, so that their clips belong side by side.
bool same_clips(const SampleFile& a, const SampleFile& b) {
  return a.cond.shape() == b.cond.shape() && a.generated.shape() == b.generated.shape() &&
         a.cond.to_dense_bytes() == b.cond.to_dense_bytes();
}

int scale_for(const SampleFile& samples, std::int64_t pixels) {
  return static_cast<int>(std::max<std::int64_t>(1, pixels / samples.generated.dim(2)));
}

/// What a panel is called in a picture, where there is little room.
std::string short_label(const std::string& key) {
  if (key == "scratch_22m") return "scratch";
  if (key == "avid_22m") return "AVID 22M";
  if (key == "avid_71m") return "AVID 71M";
  if (key == "controlnet") return "ControlNet";
  return key;
}

/// The samples of several methods of one data set that began from the same frames; the first of them decides.
using NamedSamples = std::vector<std::pair<std::string, SampleFile>>;
NamedSamples comparable(const fs::path& pictures, const std::string& dataset, const std::vector<const char*>& keys) {
  NamedSamples found;
  for (const char* key : keys) {
    const fs::path file = find_sample_file(pictures / (dataset + "__" + key));
    if (file.empty()) continue;
    SampleFile samples = read_sample_file(file);
    if (found.empty() || same_clips(found.front().second, samples)) found.emplace_back(key, std::move(samples));
  }
  return found;
}

std::string gif_figure(const std::string& bytes, const std::string& alt, const std::string& caption) {
  return fmt::format(
      "<figure><img class=\"video\" alt=\"{}\" src=\"data:image/gif;base64,{}\"><figcaption>{}</figcaption></figure>\n",
      escape_html(alt), base64(bytes), escape_html(caption));
}

std::string png_figure(const std::string& bytes, const std::string& alt, const std::string& caption) {
  return fmt::format(
      "<figure><div class=\"scroll\" tabindex=\"0\"><img class=\"strip\" alt=\"{}\" src=\"data:image/png;base64,{}\">"
      "</div><figcaption>{}</figcaption></figure>\n",
      escape_html(alt), base64(bytes), escape_html(caption));
}

constexpr const char* kDatasets[] = {"coinrun500k", "coinrun100k", "coinrun2500k"};

}  // namespace

std::string side_by_side_html(const fs::path& pictures) {
  std::string html;
  for (const char* dataset : kDatasets) {
    const NamedSamples all =
        comparable(pictures, dataset, {"avid_22m", "avid_71m", "scratch_22m", "controlnet", "finetune"});
    if (all.empty()) continue;
    const SampleFile& first = all.front().second;
    for (std::int64_t b = 0; b < std::min(first.generated.dim(0), kMostClips); ++b) {
      // Real, base, first method, its mask; the other methods go before the mask.
      std::vector<eval::ClipRow> rows = first.rows(b, short_label(all.front().first));
      const auto mask_rows = static_cast<std::ptrdiff_t>(first.mask.defined());
      for (std::size_t i = 1; i < all.size(); ++i)
        rows.insert(
            rows.end() - mask_rows,
            eval::ClipRow{short_label(all[i].first), first.cond.select(b), all[i].second.generated.select(b)});
      const eval::StripOptions options{
          .scale = scale_for(first, 128),
          .num_cond = first.cond.dim(1),
          .actions = first.captions(b),
          .columns = std::size_t{rows.size() <= 4 ? 2u : 4u}};
      html += gif_figure(
          eval::encode_gif(eval::draw_animation(rows, options), {.delay_ms = 250, .comment = {}}),
          fmt::format("{}, clip {}: all methods side by side", dataset_title(dataset), b + 1),
          fmt::format("{}, clip {}", dataset_title(dataset), b + 1));
    }
  }
  if (html.empty()) return "";
  return "<section id=\"videos\"><h2>Side by side</h2>\n<p>The same start frames and actions for every method; the "
         "arrows below the panels are the actions. The mask is AVID's: white where the base is used, black where the "
         "adapter is.</p>\n<div class=\"videos\">" +
         html + "</div></section>\n";
}

std::string mask_pictures_html(const fs::path& pictures) {
  std::string html;
  for (const char* dataset : kDatasets) {
    const NamedSamples all = comparable(pictures, dataset, {"avid_22m", "avid_71m"});
    if (all.empty()) continue;
    const SampleFile& first = all.front().second;
    std::vector<eval::Image> strips;
    for (std::int64_t b = 0; b < std::min<std::int64_t>(first.generated.dim(0), 2); ++b) {
      std::vector<eval::ClipRow> rows;
      if (first.real.defined()) rows.push_back({"real", first.cond.select(b), first.real.select(b)});
      for (const auto& [key, samples] : all) {
        if (!samples.mask.defined()) continue;
        rows.push_back({short_label(key), samples.cond.select(b), samples.generated.select(b)});
        rows.push_back({"its mask", {}, samples.mask.select(b)});
      }
      if (rows.size() < 2) continue;
      strips.push_back(eval::draw_strip(
          rows, {.scale = scale_for(first, 96), .num_cond = first.cond.dim(1), .actions = first.captions(b)}));
    }
    if (!strips.empty())
      html += png_figure(
          eval::encode_png(eval::stack(strips, 10)),
          fmt::format("{}: real frames, AVID's frames and its masks", dataset_title(dataset)),
          fmt::format("{}: time runs to the right", dataset_title(dataset)));
  }
  if (html.empty()) return "";
  return "<section id=\"figure-masks\"><h2>What the masks look like</h2>\n<p>At the last denoising step. White: the "
         "frozen base's prediction is used; black: the adapter's.</p>\n" +
         html + "</section>\n";
}

std::string strips_html(const Json& report, const fs::path& pictures) {
  std::string html;
  for (const auto& [id, record] : report["records"].items()) {
    const fs::path picture = pictures / id / "strip.png";
    if (!fs::exists(picture)) continue;
    html += fmt::format("<details><summary>{}</summary>\n", escape_html(id)) +
            png_figure(
                read_text(picture), id,
                "conditioning frames and real continuation, base, method, mask (white: the base is used)") +
            "</details>\n";
  }
  return html.empty() ? "" : "<section id=\"figure-strips\"><h2>Frame by frame</h2>\n" + html + "</section>\n";
}

}  // namespace avid::train
