// eval/media/gif.h -- animated GIF files with one palette for all frames
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "eval/media/image.h"

namespace avid::eval {

struct GifOptions {
  int delay_ms = 200;       ///< per frame, in steps of 10
  int last_delay_ms = 800;  ///< of the last frame, before the loop starts again
  std::string comment;      ///< a comment extension, e.g. the settings as JSON
};

/// At most 256 colours for a set of pictures, and the index of the nearest for any colour.
class Palette {
 public:
  /// All colours when there are at most 256 of them, else median cut on the 5-bit histogram.
  explicit Palette(const std::vector<Image>& images);
  const std::vector<Colour>& colours() const { return colours_; }
  std::uint8_t index_of(Colour colour);

 private:
  std::vector<Colour> colours_;
  std::vector<std::int16_t> cache_;  // by 5-bit colour; -1 unknown. Unused when `exact_`.
  bool exact_ = false;
};

/// A looping GIF as bytes. All images have one size. Throws ShapeError, Error.
std::string encode_gif(const std::vector<Image>& frames, const GifOptions& options = {});
/// encode_gif to a file, atomically. Throws FileError.
void write_gif(const std::filesystem::path& path, const std::vector<Image>& frames, const GifOptions& options = {});

/// "5.2.1"
std::string giflib_version();

}  // namespace avid::eval
