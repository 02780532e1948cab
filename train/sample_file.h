// train/sample_file.h -- samples.safetensors as avid sample writes it
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "eval/media/strip.h"
#include "tensor/io/tensor_file.h"

namespace avid::train {

/// Clips by one method, u8; what is undefined was not written.
struct SampleFile {
  Tensor cond, real, generated;  // [B,K,H,W,3], [B,T,H,W,3] or undefined, [B,T,H,W,3]
  Tensor base, mask;             // [B,T,H,W,3], [B,T,H,W,1], or undefined
  Tensor actions;                // [B,T] i64, or undefined
  NamedTensors tensors;          // all of the file, under their names

  std::int64_t num_clips() const { return generated.dim(0); }
  /// Above each frame of a clip: arrows and names; empty without actions.
  std::vector<std::string> captions(std::int64_t clip) const;
  /// Real frames, base, the method under this label, mask: those that there are.
  std::vector<eval::ClipRow> rows(std::int64_t clip, const std::string& label) const;
};

/// The file of samples that `place` means: itself, or samples.safetensors in a folder; empty when it means none.
std::filesystem::path find_sample_file(const std::filesystem::path& place);

/// Errors   FileError, DTypeError, ShapeError for a file without u8 `generated` and `cond` of the same clips.
SampleFile read_sample_file(const std::filesystem::path& file);

}  // namespace avid::train
