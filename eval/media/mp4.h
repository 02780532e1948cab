// eval/media/mp4.h -- MP4 files through libavcodec, where this build has it
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "eval/media/image.h"

namespace avid::eval {

struct Mp4Options {
  int delay_ms = 200;       ///< per frame
  int last_delay_ms = 800;  ///< of the last frame, which is held
};

/// Empty when write_mp4 works here; else the reason and what to do, for a person.
std::string mp4_problem();
/// "libavcodec 59.37.100 with libx264", or empty when there is none.
std::string mp4_encoder();

/// Writes the frames as one video: H.264 where an encoder for it is there (libx264, libopenh264), else MPEG-4 part 2.
/// 8-bit 4:2:0 in BT.709, so colours of single pixels blur; odd sizes are padded by a column or row. The bytes depend
/// on the frames and the library only.
/// Errors   ShapeError unless all frames have one size and there is at least one; FileError when it cannot be written;
///          Error with mp4_problem() in a build without the library.
void write_mp4(const std::filesystem::path& path, const std::vector<Image>& frames, const Mp4Options& options = {});

}  // namespace avid::eval
