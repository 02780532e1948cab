// eval/metrics/procgen_distance.h -- fid_procgen and fvd_procgen: which encoder they use, and which frames it sees
//
// For work without any downloads. The encoder (models/clip_encoder.h) is trained by this project on real Procgen
// frames and lies in data/pretrained. Its distances are no FID and no FVD: they have keys of their own, every result
// says which file they were computed with, and they compare only with values of the same file, number of clips and
// frame size.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "models/clip_encoder.h"

namespace avid::eval {

/// The encoder and where it came from.
struct ProcgenEncoder {
  std::unique_ptr<ClipEncoder> network;
  std::filesystem::path file;
  std::string sha256;
  bool shipped = false;  ///< the very file that comes with the program
};

/// `option` when given; else data/pretrained/procgen-encoder.safetensors in the current folder, or in that of the
/// program, or in one above either of them. Empty when there is none.
std::filesystem::path procgen_encoder_file(const std::string& option);

/// Errors   FileError "<metric>: unavailable: ... | what to do" for a file that is missing, damaged or of another
///          network.
ProcgenEncoder load_procgen_encoder(const std::string& option, std::string_view metric);

/// Frames as the encoder was trained on: the mean of each box of pixels, as data sets of 32x32 are made from 64x64.
/// Shapes   u8 [...,H,W,3] -> [...,32,32,3]; H = W, a multiple of 32.
Tensor procgen_frames(const Tensor& frames);
/// ShapeError "<metric>: ..." for frames that procgen_frames cannot take.
void check_procgen_frames(std::int64_t height, std::int64_t width, std::string_view metric);

}  // namespace avid::eval
