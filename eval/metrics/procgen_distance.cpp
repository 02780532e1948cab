// eval/metrics/procgen_distance.cpp -- see procgen_distance.h
#include "eval/metrics/procgen_distance.h"

#include <algorithm>
#include <span>
#include <vector>

#include "data/frame_ops.h"
#include "tensor/error.h"
#include "tensor/io/sha256.h"

namespace avid::eval {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShippedFile = "data/pretrained/procgen-encoder.safetensors";
constexpr const char* kShippedSha256 = "81ceac7722221e74faaad1d872b9ce02045169ecf475c57c23548ac009bcb017";

/// A file below this folder or one above it, or an empty path.
fs::path find_upwards(fs::path folder, const fs::path& file) {
  std::error_code ignored;
  for (;;) {
    if (fs::exists(folder / file, ignored)) return folder / file;
    if (!folder.has_relative_path()) return {};
    folder = folder.parent_path();
  }
}

}  // namespace

fs::path procgen_encoder_file(const std::string& option) {
  if (!option.empty()) return option;
  std::error_code ignored;
  const fs::path here = find_upwards(fs::current_path(ignored), kShippedFile);
  return here.empty() ? find_upwards(fs::read_symlink("/proc/self/exe", ignored).parent_path(), kShippedFile) : here;
}

ProcgenEncoder load_procgen_encoder(const std::string& option, std::string_view metric) {
  ProcgenEncoder encoder{.network = nullptr, .file = procgen_encoder_file(option), .sha256 = {}};
  std::error_code ignored;
  check<FileError>(
      fs::is_regular_file(encoder.file, ignored),
      "{}: unavailable: no {} | run from the repository, or name the file: --set procgen.encoder=F", metric,
      encoder.file.empty() ? kShippedFile : encoder.file.string());
  try {
    encoder.network = load_clip_encoder(encoder.file);
  } catch (const Error& error) {
    fail<FileError>(
        "{}: unavailable: {}: not a whole clip encoder ({}) | restore {}, or train one: avid train --config "
        "configs/clip_encoder32.toml",
        metric, encoder.file.string(), error.what(), kShippedFile);
  }
  encoder.sha256 = sha256_of_file(encoder.file);
  encoder.shipped = encoder.sha256 == kShippedSha256;
  return encoder;
}

void check_procgen_frames(std::int64_t height, std::int64_t width, std::string_view metric) {
  check<ShapeError>(
      height == width && height > 0 && height % ClipEncoder::kSize == 0,
      "{}: expected square frames whose side is a multiple of {} pixels, got {}x{} | its encoder knows Procgen frames "
      "of that size only",
      metric, ClipEncoder::kSize, height, width);
}

Tensor procgen_frames(const Tensor& frames) {
  check_dtype(frames, DType::u8, "procgen", "frames");
  std::vector<std::int64_t> extents = frames.shape().to_vector();
  check<ShapeError>(
      extents.size() >= 3 && extents.back() == 3, "procgen: frames: expected [...,H,W,3], got {}", frames.shape());
  const std::int64_t height = extents[extents.size() - 3], width = extents[extents.size() - 2];
  check_procgen_frames(height, width, "procgen");
  if (height == ClipEncoder::kSize) return frames;
  extents[extents.size() - 3] = extents[extents.size() - 2] = ClipEncoder::kSize;
  Tensor out = Tensor::empty(Shape(extents), DType::u8);
  const std::vector<std::byte> bytes = frames.to_dense_bytes();
  data::box_downscale(
      {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()}, height, width, height / ClipEncoder::kSize,
      {out.data<std::uint8_t>(), static_cast<std::size_t>(out.numel())});
  return out;
}

}  // namespace avid::eval
