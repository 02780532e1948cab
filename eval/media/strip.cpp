// eval/media/strip.cpp -- clips as pictures: a strip with time to the right, and an animation with panels side by side
#include "eval/media/strip.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace avid::eval {
namespace {

constexpr Colour kBackground{24, 26, 32}, kEmpty{38, 41, 50}, kText{225, 228, 235}, kDim{140, 146, 160};
constexpr int kGap = 1, kPad = 6;

/// Frame size on screen, from the first frame there is.
struct Cell {
  int width, height;
};
Cell cell_of(const std::vector<ClipRow>& rows, int scale) {
  check<Error>(
      !rows.empty() && scale >= 1, "strip: expected at least one row and a scale of 1 or more, got {} and {}",
      rows.size(), scale);
  const Tensor& frames = rows[0].frames.defined() ? rows[0].frames : rows[0].cond;
  check_rank(frames, 4, "strip", "frames");
  for (const ClipRow& row : rows)
    for (const Tensor* part : {&row.cond, &row.frames})
      check<ShapeError>(
          !part->defined() || (part->rank() == 4 && part->dim(1) == frames.dim(1) && part->dim(2) == frames.dim(2)),
          "strip: row '{}': expected frames of {}x{}, got {}", row.label, frames.dim(1), frames.dim(2),
          part->defined() ? part->shape() : Shape{});
  return {static_cast<int>(frames.dim(2)) * scale, static_cast<int>(frames.dim(1)) * scale};
}

std::int64_t num_frames_of(const std::vector<ClipRow>& rows) {
  std::int64_t most = 0;
  for (const ClipRow& row : rows)
    if (row.frames.defined()) most = std::max(most, row.frames.dim(0));
  return most;
}

/// Largest whole factor (at most 2) at which `text` fits into `width`.
int fitting_scale(const std::string& text, int width) { return text_width(text, 2) <= width ? 2 : 1; }

void draw_centred(Image& image, int x, int y, int width, const std::string& text, Colour colour) {
  const int scale = fitting_scale(text, width);
  draw_text(
      image, x + std::max(0, (width - text_width(text, scale)) / 2), y + (scale == 1 ? kGlyphHeight / 2 : 0), text,
      colour, scale);
}

}  // namespace

Image draw_strip(const std::vector<ClipRow>& rows, const StripOptions& options) {
  const Cell cell = cell_of(rows, options.scale);
  const auto num_cond = static_cast<int>(options.num_cond), num_frames = static_cast<int>(num_frames_of(rows));
  int label_width = 0;
  for (const ClipRow& row : rows) label_width = std::max(label_width, text_width(row.label, 2));
  const int left = label_width + 2 * kPad, top = 2 * kGlyphHeight + 2 * kPad;
  // A wider space marks where generation starts.
  const int split = num_cond > 0 ? kPad : 0;
  const auto column = [&](int i) { return left + i * (cell.width + kGap) + (i >= num_cond ? split : 0); };
  Image image(
      column(num_cond + num_frames) + kPad, top + static_cast<int>(rows.size()) * (cell.height + kGap) + kPad,
      kBackground);
  for (int i = 0; i < num_cond; ++i) draw_centred(image, column(i), kPad, cell.width, "given", kDim);
  for (int i = 0; i < num_frames && i < static_cast<int>(options.actions.size()); ++i)
    draw_centred(image, column(num_cond + i), kPad, cell.width, options.actions[static_cast<std::size_t>(i)], kText);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const ClipRow& row = rows[r];
    const int y = top + static_cast<int>(r) * (cell.height + kGap);
    draw_text(
        image, kPad + label_width - text_width(row.label, 2), y + cell.height / 2 - kGlyphHeight, row.label, kText, 2);
    for (int i = 0; i < num_cond + num_frames; ++i) {
      const Tensor& part = i < num_cond ? row.cond : row.frames;
      const std::int64_t at = i < num_cond ? i : i - num_cond;
      if (part.defined() && at < part.dim(0))
        image.paste(image_of_frame(part.select(at), options.scale), column(i), y);
      else
        image.fill_box(column(i), y, cell.width, cell.height, kEmpty);
    }
  }
  return image;
}

std::vector<Image> draw_animation(const std::vector<ClipRow>& rows, const StripOptions& options) {
  const Cell cell = cell_of(rows, options.scale);
  const auto num_cond = static_cast<int>(options.num_cond), num_frames = static_cast<int>(num_frames_of(rows));
  const auto given = std::find_if(rows.begin(), rows.end(), [](const ClipRow& row) { return row.cond.defined(); });
  const int header = 2 * kGlyphHeight + kPad, footer = options.actions.empty() ? kPad : 2 * kGlyphHeight + 2 * kPad;
  const std::size_t columns = options.columns == 0 ? rows.size() : std::min(options.columns, rows.size());
  const auto lines = static_cast<int>((rows.size() + columns - 1) / columns);
  const int line_height = header + kPad + cell.height;
  std::vector<Image> out;
  for (int i = 0; i < num_cond + num_frames; ++i) {
    Image image(static_cast<int>(columns) * (cell.width + kPad) + kPad, lines * line_height + footer, kBackground);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const int x = kPad + static_cast<int>(r % columns) * (cell.width + kPad),
                top = static_cast<int>(r / columns) * line_height, y = top + header + kPad / 2;
      draw_centred(image, x, top + kPad / 2, cell.width, rows[r].label, kText);
      // A mask has no past.
      const bool colour = rows[r].frames.defined() && rows[r].frames.dim(3) == 3;
      const Tensor past = rows[r].cond.defined() || !colour || given == rows.end() ? rows[r].cond : given->cond;
      const Tensor& part = i < num_cond ? past : rows[r].frames;
      const std::int64_t at = i < num_cond ? i : i - num_cond;
      if (part.defined() && at < part.dim(0))
        image.paste(image_of_frame(part.select(at), options.scale), x, y);
      else
        image.fill_box(x, y, cell.width, cell.height, kEmpty);
    }
    if (!options.actions.empty()) {
      const auto at = static_cast<std::size_t>(std::max(0, i - num_cond));
      const std::string caption = i < num_cond ? "given" : at < options.actions.size() ? options.actions[at] : "";
      draw_centred(image, 0, lines * line_height, image.width, caption, i < num_cond ? kDim : kText);
    }
    out.push_back(std::move(image));
  }
  return out;
}

Image stack(const std::vector<Image>& images, int gap) {
  check<Error>(!images.empty(), "picture: expected at least one part, got none");
  int width = 0, height = -gap;
  for (const Image& image : images) {
    width = std::max(width, image.width);
    height += image.height + gap;
  }
  Image out(width, height, kBackground);
  int y = 0;
  for (const Image& image : images) {
    out.paste(image, 0, y);
    y += image.height + gap;
  }
  return out;
}

std::string action_caption(const std::string& action_name) {
  std::string out;
  for (std::size_t begin = 0; begin <= action_name.size();) {
    const std::size_t end = std::min(action_name.find('+', begin), action_name.size());
    const std::string part = action_name.substr(begin, end - begin);
    if (part == "left")
      out += '\x01';
    else if (part == "right")
      out += '\x02';
    else if (part == "up")
      out += '\x03';
    else if (part == "down")
      out += '\x04';
    else
      out += part;
    begin = end + 1;
  }
  return out;
}

Tensor mask_to_u8(const Tensor& mask) {
  check<ShapeError>(mask.rank() >= 2 && mask.cols() == 1, "mask picture: expected [...,1], got {}", mask.shape());
  std::vector<std::uint8_t> levels;
  for (const double m : mask.to_doubles())
    levels.push_back(static_cast<std::uint8_t>(std::lround(std::clamp(m, 0.0, 1.0) * 255)));
  return Tensor::from_values(levels, mask.shape());
}

}  // namespace avid::eval
