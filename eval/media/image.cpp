// eval/media/image.cpp -- an RGB picture on the host, and the few ways we draw on it
#include "eval/media/image.h"

#include <algorithm>
#include <cctype>

#include "tensor/error.h"

namespace avid::eval {
namespace {

struct Glyph {
  char character;
  std::array<std::uint8_t, 7> rows;  // 5 bits each, the leftmost pixel is 16
};

constexpr Glyph kFont[] = {
    {'A', {14, 17, 17, 31, 17, 17, 17}}, {'B', {30, 17, 17, 30, 17, 17, 30}}, {'C', {14, 17, 16, 16, 16, 17, 14}},
    {'D', {30, 17, 17, 17, 17, 17, 30}}, {'E', {31, 16, 16, 30, 16, 16, 31}}, {'F', {31, 16, 16, 30, 16, 16, 16}},
    {'G', {14, 17, 16, 23, 17, 17, 15}}, {'H', {17, 17, 17, 31, 17, 17, 17}}, {'I', {14, 4, 4, 4, 4, 4, 14}},
    {'J', {7, 2, 2, 2, 2, 18, 12}},      {'K', {17, 18, 20, 24, 20, 18, 17}}, {'L', {16, 16, 16, 16, 16, 16, 31}},
    {'M', {17, 27, 21, 21, 17, 17, 17}}, {'N', {17, 25, 21, 19, 17, 17, 17}}, {'O', {14, 17, 17, 17, 17, 17, 14}},
    {'P', {30, 17, 17, 30, 16, 16, 16}}, {'Q', {14, 17, 17, 17, 21, 18, 13}}, {'R', {30, 17, 17, 30, 20, 18, 17}},
    {'S', {15, 16, 16, 14, 1, 1, 30}},   {'T', {31, 4, 4, 4, 4, 4, 4}},       {'U', {17, 17, 17, 17, 17, 17, 14}},
    {'V', {17, 17, 17, 17, 17, 10, 4}},  {'W', {17, 17, 17, 21, 21, 27, 17}}, {'X', {17, 17, 10, 4, 10, 17, 17}},
    {'Y', {17, 17, 10, 4, 4, 4, 4}},     {'Z', {31, 1, 2, 4, 8, 16, 31}},     {'0', {14, 17, 19, 21, 25, 17, 14}},
    {'1', {4, 12, 4, 4, 4, 4, 14}},      {'2', {14, 17, 1, 2, 4, 8, 31}},     {'3', {31, 2, 4, 2, 1, 17, 14}},
    {'4', {2, 6, 10, 18, 31, 2, 2}},     {'5', {31, 16, 30, 1, 1, 17, 14}},   {'6', {6, 8, 16, 30, 17, 17, 14}},
    {'7', {31, 1, 2, 4, 8, 8, 8}},       {'8', {14, 17, 17, 14, 17, 17, 14}}, {'9', {14, 17, 17, 15, 1, 2, 12}},
    {'.', {0, 0, 0, 0, 0, 12, 12}},      {',', {0, 0, 0, 0, 12, 4, 8}},       {':', {0, 12, 12, 0, 12, 12, 0}},
    {'-', {0, 0, 0, 31, 0, 0, 0}},       {'_', {0, 0, 0, 0, 0, 0, 31}},       {'+', {0, 4, 4, 31, 4, 4, 0}},
    {'*', {0, 21, 14, 31, 14, 21, 0}},   {'/', {0, 1, 2, 4, 8, 16, 0}},       {'=', {0, 0, 31, 0, 31, 0, 0}},
    {'(', {2, 4, 8, 8, 8, 4, 2}},        {')', {8, 4, 2, 2, 2, 4, 8}},        {'%', {24, 25, 2, 4, 8, 19, 3}},
    {'#', {10, 10, 31, 10, 31, 10, 10}}, {'\x01', {0, 4, 8, 31, 8, 4, 0}},    {'\x02', {0, 4, 2, 31, 2, 4, 0}},
    {'\x03', {4, 14, 21, 4, 4, 4, 0}},   {'\x04', {0, 4, 4, 4, 21, 14, 4}},
};

const Glyph* find_glyph(char c) {
  const char upper = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const auto* found =
      std::find_if(std::begin(kFont), std::end(kFont), [upper](const Glyph& g) { return g.character == upper; });
  return found == std::end(kFont) ? nullptr : found;
}

}  // namespace

Image::Image(int image_width, int image_height, Colour fill) : width(image_width), height(image_height) {
  check<ShapeError>(
      width >= 1 && height >= 1 && std::int64_t{width} * height <= std::int64_t{1} << 28,
      "image: expected a size of 1x1 to 2^28 pixels, got {}x{} | choose fewer clips or a smaller scale", width, height);
  rgb.resize(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  fill_box(0, 0, width, height, fill);
}

void Image::set(int x, int y, Colour colour) {
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  std::copy(colour.begin(), colour.end(), rgb.begin() + (std::ptrdiff_t{y} * width + x) * 3);
}

Colour Image::at(int x, int y) const {
  const std::size_t i =
      (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) * 3;
  return {rgb.at(i), rgb.at(i + 1), rgb.at(i + 2)};
}

void Image::fill_box(int x, int y, int box_width, int box_height, Colour colour) {
  for (int row = y; row < y + box_height; ++row)
    for (int col = x; col < x + box_width; ++col) set(col, row, colour);
}

void Image::paste(const Image& other, int x, int y) {
  for (int row = 0; row < other.height; ++row)
    for (int col = 0; col < other.width; ++col) set(x + col, y + row, other.at(col, row));
}

Image image_of_frame(const Tensor& frame, int scale) {
  check_rank(frame, 3, "image", "frame");
  check_dtype(frame, DType::u8, "image", "frame");
  const std::int64_t channels = frame.dim(2);
  check<ShapeError>(channels == 1 || channels == 3, "image: frame: expected 1 or 3 channels, got {}", channels);
  Image image(static_cast<int>(frame.dim(1)) * scale, static_cast<int>(frame.dim(0)) * scale);
  const std::uint8_t* p = frame.data<std::uint8_t>();
  for (int y = 0; y < static_cast<int>(frame.dim(0)); ++y)
    for (int x = 0; x < static_cast<int>(frame.dim(1)); ++x, p += channels)
      image.fill_box(
          x * scale, y * scale, scale, scale, channels == 1 ? Colour{p[0], p[0], p[0]} : Colour{p[0], p[1], p[2]});
  return image;
}

void draw_text(Image& image, int x, int y, std::string_view text, Colour colour, int scale) {
  for (const char c : text) {
    if (const Glyph* glyph = find_glyph(c))
      for (int row = 0; row < 7; ++row)
        for (int col = 0; col < 5; ++col)
          if (glyph->rows[static_cast<std::size_t>(row)] >> (4 - col) & 1)
            image.fill_box(x + col * scale, y + row * scale, scale, scale, colour);
    x += kGlyphWidth * scale;
  }
}

int text_width(std::string_view text, int scale) {
  return text.empty() ? 0 : (static_cast<int>(text.size()) * kGlyphWidth - 1) * scale;
}

}  // namespace avid::eval
