// eval/media/gif.cpp -- animated GIF files with one palette for all frames
#include "eval/media/gif.h"

#include <gif_lib.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <set>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::eval {
namespace {

constexpr std::size_t kMaxColours = 256;

std::size_t cell_of(Colour c) {
  return static_cast<std::size_t>(c[0] >> 3) << 10 | static_cast<std::size_t>(c[1] >> 3) << 5 | c[2] >> 3;
}

/// One 5-bit cell of colour space: how many pixels fell in, and their sum.
struct Cell {
  std::int64_t count = 0;
  std::array<std::int64_t, 3> sum{};
  Colour mean() const {
    Colour c{};
    for (std::size_t k = 0; k < 3; ++k)
      c[k] = static_cast<std::uint8_t>((sum[k] + count / 2) / std::max<std::int64_t>(count, 1));
    return c;
  }
};

/// A group of cells that shares one palette entry.
struct Box {
  std::vector<Cell> cells;
  std::size_t widest = 0;  // channel
  double spread = 0;       // squared error along that channel: what a split can win

  explicit Box(std::vector<Cell> members) : cells(std::move(members)) {
    for (std::size_t k = 0; k < 3; ++k) {
      double n = 0, sum = 0, squares = 0;
      for (const Cell& cell : cells) {
        const double v = static_cast<double>(cell.sum[k]) / static_cast<double>(cell.count),
                     w = static_cast<double>(cell.count);
        n += w;
        sum += w * v;
        squares += w * v * v;
      }
      const double error = squares - sum * sum / n;
      if (error > spread) {
        spread = error;
        widest = k;
      }
    }
  }
  Colour mean() const {
    Cell total;
    for (const Cell& cell : cells) {
      total.count += cell.count;
      for (std::size_t k = 0; k < 3; ++k) total.sum[k] += cell.sum[k];
    }
    return total.mean();
  }
};

/// Splits a box at the mean of its widest channel; both halves are non-empty because the spread is positive.
std::pair<Box, Box> split(const Box& box) {
  std::vector<Cell> cells = box.cells;
  const auto value = [&](const Cell& c) {
    return static_cast<double>(c.sum[box.widest]) / static_cast<double>(c.count);
  };
  std::sort(cells.begin(), cells.end(), [&](const Cell& a, const Cell& b) { return value(a) < value(b); });
  double n = 0, sum = 0;
  for (const Cell& c : cells) {
    n += static_cast<double>(c.count);
    sum += static_cast<double>(c.sum[box.widest]);
  }
  auto middle = std::find_if(cells.begin(), cells.end(), [&](const Cell& c) { return value(c) > sum / n; });
  if (middle == cells.begin() || middle == cells.end())
    middle = cells.begin() + static_cast<std::ptrdiff_t>(cells.size() / 2);
  return {Box({cells.begin(), middle}), Box({middle, cells.end()})};
}

std::vector<Colour> median_cut(const std::vector<Image>& images) {
  std::vector<Cell> histogram(1 << 15);
  for (const Image& image : images)
    for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
      const Colour c{image.rgb[i], image.rgb[i + 1], image.rgb[i + 2]};
      Cell& cell = histogram[cell_of(c)];
      ++cell.count;
      for (std::size_t k = 0; k < 3; ++k) cell.sum[k] += c[k];
    }
  std::erase_if(histogram, [](const Cell& c) { return c.count == 0; });
  std::vector<Box> boxes{Box(std::move(histogram))};
  while (boxes.size() < kMaxColours) {
    const auto worst = std::max_element(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) {
      return (a.cells.size() > 1 ? a.spread : 0) < (b.cells.size() > 1 ? b.spread : 0);
    });
    if (worst->cells.size() < 2 || worst->spread <= 0) break;
    auto [low, high] = split(*worst);
    *worst = std::move(low);
    boxes.push_back(std::move(high));
  }
  std::vector<Colour> colours;
  for (const Box& box : boxes) colours.push_back(box.mean());
  return colours;
}

/// giflib reports through return codes.
void must(bool ok, const char* step) { check<Error>(ok, "gif: could not write the {}", step); }

struct CloseGif {
  void operator()(GifFileType* file) const { EGifCloseFile(file, nullptr); }
};
struct FreeMap {
  void operator()(ColorMapObject* map) const { GifFreeMapObject(map); }
};

}  // namespace

Palette::Palette(const std::vector<Image>& images) : cache_(1 << 15, -1) {
  std::set<Colour> distinct;
  for (const Image& image : images)
    for (std::size_t i = 0; i < image.rgb.size() && distinct.size() <= kMaxColours; i += 3)
      distinct.insert({image.rgb[i], image.rgb[i + 1], image.rgb[i + 2]});
  exact_ = distinct.size() <= kMaxColours;
  if (exact_)
    colours_.assign(distinct.begin(), distinct.end());  // sorted: found by bisection
  else
    colours_ = median_cut(images);
}

std::uint8_t Palette::index_of(Colour colour) {
  if (exact_) {
    const auto found = std::lower_bound(colours_.begin(), colours_.end(), colour);
    if (found != colours_.end() && *found == colour) return static_cast<std::uint8_t>(found - colours_.begin());
  }
  std::int16_t& known = cache_[cell_of(colour)];
  if (known < 0) {
    int nearest = std::numeric_limits<int>::max();
    for (std::size_t i = 0; i < colours_.size(); ++i) {
      int distance = 0;
      for (std::size_t k = 0; k < 3; ++k) distance += (colours_[i][k] - colour[k]) * (colours_[i][k] - colour[k]);
      if (distance < nearest) {
        nearest = distance;
        known = static_cast<std::int16_t>(i);
      }
    }
  }
  return static_cast<std::uint8_t>(known);
}

std::string encode_gif(const std::vector<Image>& frames, const GifOptions& options) {
  check<Error>(!frames.empty(), "gif: expected at least one frame, got none");
  const int width = frames[0].width, height = frames[0].height;
  for (const Image& frame : frames)
    check<ShapeError>(
        frame.width == width && frame.height == height && width < 65536 && height < 65536,
        "gif: expected frames of {}x{} (below 65536), got {}x{}", width, height, frame.width, frame.height);
  Palette palette(frames);
  int map_size = 2;  // giflib wants a power of two
  while (map_size < static_cast<int>(palette.colours().size())) map_size *= 2;
  std::vector<GifColorType> entries(static_cast<std::size_t>(map_size), GifColorType{0, 0, 0});
  for (std::size_t i = 0; i < palette.colours().size(); ++i)
    entries[i] = {palette.colours()[i][0], palette.colours()[i][1], palette.colours()[i][2]};
  const std::unique_ptr<ColorMapObject, FreeMap> map(GifMakeMapObject(map_size, entries.data()));
  must(map != nullptr, "palette");

  std::string out;
  const auto append = [](GifFileType* file, const GifByteType* data, int size) {
    static_cast<std::string*>(file->UserData)
        ->append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    return size;
  };
  int error = 0;
  std::unique_ptr<GifFileType, CloseGif> file(EGifOpen(&out, append, &error));
  must(file != nullptr, "file");
  EGifSetGifVersion(file.get(), true);
  must(EGifPutScreenDesc(file.get(), width, height, 8, 0, map.get()) == GIF_OK, "header");
  const GifByteType loop_forever[] = {1, 0, 0};
  must(
      EGifPutExtensionLeader(file.get(), APPLICATION_EXT_FUNC_CODE) == GIF_OK &&
          EGifPutExtensionBlock(file.get(), 11, "NETSCAPE2.0") == GIF_OK &&
          EGifPutExtensionBlock(file.get(), 3, loop_forever) == GIF_OK && EGifPutExtensionTrailer(file.get()) == GIF_OK,
      "loop extension");
  if (!options.comment.empty()) must(EGifPutComment(file.get(), options.comment.c_str()) == GIF_OK, "comment");

  std::vector<GifByteType> row(static_cast<std::size_t>(width));
  for (std::size_t f = 0; f < frames.size(); ++f) {
    const GraphicsControlBlock control{
        DISPOSE_DO_NOT, false, (f + 1 == frames.size() ? options.last_delay_ms : options.delay_ms) / 10,
        NO_TRANSPARENT_COLOR};
    GifByteType packed[4];
    EGifGCBToExtension(&control, packed);
    must(EGifPutExtension(file.get(), GRAPHICS_EXT_FUNC_CODE, sizeof packed, packed) == GIF_OK, "frame delay");
    must(EGifPutImageDesc(file.get(), 0, 0, width, height, false, nullptr) == GIF_OK, "frame header");
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) row[static_cast<std::size_t>(x)] = palette.index_of(frames[f].at(x, y));
      must(EGifPutLine(file.get(), row.data(), width) == GIF_OK, "pixels");
    }
  }
  must(EGifCloseFile(file.release(), &error) == GIF_OK, "end of the file");
  return out;
}

void write_gif(const std::filesystem::path& path, const std::vector<Image>& frames, const GifOptions& options) {
  write_text_atomic(path, encode_gif(frames, options));
}

std::string giflib_version() { return fmt::format("{}.{}.{}", GIFLIB_MAJOR, GIFLIB_MINOR, GIFLIB_RELEASE); }

}  // namespace avid::eval
