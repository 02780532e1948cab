// eval/media/image.h -- an RGB picture on the host, and the few ways we draw on it
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace avid::eval {

using Colour = std::array<std::uint8_t, 3>;

/// 8-bit RGB, rows from the top. Drawing outside the picture is cut off.
struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // [height,width,3]

  Image() = default;
  Image(int width, int height, Colour fill = {0, 0, 0});

  void set(int x, int y, Colour colour);
  Colour at(int x, int y) const;
  void fill_box(int x, int y, int box_width, int box_height, Colour colour);
  /// Copies `other` with its upper left corner at (x, y).
  void paste(const Image& other, int x, int y);
};

/// A frame [H,W,3] or [H,W,1] (grey) of u8, every pixel `scale` x `scale`.
Image image_of_frame(const Tensor& frame, int scale);

/// A built-in 5x7 font: upper-case letters (lower case is raised), digits, common punctuation, and arrows as \x01 left,
/// \x02 right, \x03 up, \x04 down. Unknown characters leave a gap. Every pixel of the font is `scale` x `scale`.
void draw_text(Image& image, int x, int y, std::string_view text, Colour colour, int scale = 1);
constexpr int kGlyphWidth = 6, kGlyphHeight = 7;  // the width includes one column of space
/// Pixels from the first to the last lit column of `text`.
int text_width(std::string_view text, int scale = 1);

}  // namespace avid::eval
