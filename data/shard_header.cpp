// data/shard_header.cpp -- finds shards, opens them and checks what their headers say
#include "data/shard_header.h"

#include <glob.h>

#include <algorithm>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::data {
namespace {

namespace fs = std::filesystem;

/// The best deflate can do is 1032:1, so more decoded bytes than this per stored byte is a lie in the header.
constexpr std::uint64_t kMaxDeflateRatio = 1040;

/// Where /frames is missing on purpose: its extent as it would be.
H5Extent extent_of_replayed(const H5File& file, const std::string& name, std::uint64_t file_bytes) {
  const std::string how = file.text_attribute("frames");
  check<FileError>(how == kReplayed, "{}: frames: expected {}, got '{}'", name, kReplayed, printable(how));
  H5Extent frames;
  const H5Extent actions = file.extent("/actions");
  const std::int64_t height = file.int_attribute("height"), width = file.int_attribute("width");
  check<FileError>(
      actions.type == H5Type::u8 && actions.dims.size() == 1 && actions.dims[0] > 0 && actions.dims[0] <= file_bytes,
      "{}: /actions: expected uint8 [N] to play, got {}", name, actions.dims_text());
  check<FileError>(
      height == width && height >= 1 && height <= 8192, "{}: frames: expected a square size, got {}x{}", name, height,
      width);
  const auto side = static_cast<std::uint64_t>(height);
  frames.type = H5Type::u8;
  frames.dims = {actions.dims[0], side, side, 3};
  return frames;
}

/// Whether /frames has a shape of frames, and the file room for them: a header alone may claim anything.
void check_frames(const H5Extent& frames, const std::string& name, std::uint64_t file_bytes, bool replayed) {
  const auto& dims = frames.dims;
  check<FileError>(
      frames.type == H5Type::u8 && dims.size() == 4 && dims[3] == 3 && dims[1] >= 1 && dims[1] <= 8192 &&
          dims[2] >= 1 && dims[2] <= 8192,
      "{}: /frames: expected uint8 [N,H,W,3], got {}", name, frames.dims_text());
  check<FileError>(dims[0] > 0, "{}: /frames: the dataset is empty | collect some levels first", name);
  const std::uint64_t most = file_bytes * (frames.chunked ? kMaxDeflateRatio : 1);
  check<FileError>(
      replayed || dims[0] <= most / (dims[1] * dims[2] * 3),
      "{}: /frames: {} do not fit a file of {} bytes | truncated? fetch or make it again", name, frames.dims_text(),
      file_bytes);
  const std::uint64_t frame_total = dims[0] * dims[1] * dims[2] * 3;
  if (frames.offset_bytes)
    check<FileError>(
        *frames.offset_bytes <= file_bytes && frame_total <= file_bytes - *frames.offset_bytes,
        "{}: /frames: the file ends at byte {} of {} | truncated: fetch or make it again", name, file_bytes,
        *frames.offset_bytes + frame_total);
}

ShardMeta read_meta(const H5File& file, const H5Extent& frames, const std::string& name) {
  ShardMeta meta;
  meta.height = static_cast<std::int64_t>(frames.dims[1]);
  meta.width = static_cast<std::int64_t>(frames.dims[2]);
  meta.game = file.text_attribute("game");
  meta.level_begin = static_cast<std::int32_t>(file.int_attribute("level_begin"));
  meta.level_end = static_cast<std::int32_t>(file.int_attribute("level_end"));
  meta.steps_per_level = static_cast<std::uint32_t>(file.int_attribute("steps_per_level"));
  meta.distribution_mode = file.text_attribute("distribution_mode");
  meta.options = file.text_attribute("options");
  meta.action_rng = file.text_attribute("action_rng");
  meta.dataset_seed = file.uint_attribute("dataset_seed");
  meta.procgen_version = file.text_attribute("procgen_version");
  meta.library_sha256 = file.text_attribute("library_sha256");
  meta.asset_notice = file.text_attribute("asset_notice");
  // Absent in files of other writers of this format.
  if (file.has_attribute("frame_filter")) meta.frame_filter = file.text_attribute("frame_filter");
  if (file.has_attribute("resets_known")) meta.resets_known = file.int_attribute("resets_known") != 0;
  const H5Extent actions = file.extent("/actions");
  if (actions.type == H5Type::f32 && actions.dims.size() == 2) {
    meta.action_width = static_cast<std::int64_t>(actions.dims[1]);
    meta.num_actions = 0;
  } else if (file.has_attribute("num_actions")) {
    const std::int64_t n = file.int_attribute("num_actions");
    check<FileError>(n >= 1 && n <= 256, "{}: num_actions: expected 1..256, got {}", name, n);
    meta.num_actions = static_cast<int>(n);
  }
  return meta;
}

/// "contiguous", "deflate, chunks of 16 frames" or "replayed".
std::string storage_text(const H5Extent& frames, bool replayed) {
  if (replayed) return kReplayed;
  if (!frames.chunked) return "contiguous";
  return fmt::format("deflate, chunks of {} frames", frames.chunk_dims.empty() ? 0 : frames.chunk_dims[0]);
}

}  // namespace

OpenShard open_shard(const fs::path& path) {
  const std::string name = printable(path.string(), 400);
  std::error_code error;
  const auto status = fs::status(path, error);
  check<FileError>(
      !error && fs::exists(status), "{}: no such file | make it with `avid collect` or check the path", name);
  check<FileError>(fs::is_regular_file(status), "{}: expected a file", name);
  const std::uint64_t file_bytes = fs::file_size(path, error);
  check<FileError>(!error && file_bytes > 0, "{}: is empty | fetch or make it again", name);

  OpenShard out{H5File(path, H5File::Mode::read), {}, {}};
  const H5File& file = out.file;
  const std::string format = file.text_attribute("format");
  check<FileError>(format == kStoreFormat, "{}: format: expected {}, got '{}'", name, kStoreFormat, printable(format));
  const std::int64_t version = file.int_attribute("version");
  check<FileError>(
      version == kStoreVersion, "{}: version: expected {}, got {} | written by another avid", name, kStoreVersion,
      version);

  const bool replayed = !file.has("/frames") && file.has_attribute("frames");
  out.frames = replayed ? extent_of_replayed(file, name, file_bytes) : file.extent("/frames");
  check_frames(out.frames, name, file_bytes, replayed);

  ShardInfo& info = out.info;
  info.path = path;
  info.file_bytes = file_bytes;
  info.num_frames = static_cast<std::int64_t>(out.frames.dims[0]);
  info.num_runs = static_cast<std::int64_t>(file.extent("/runs/level").num_elements());
  info.num_segments = static_cast<std::int64_t>(file.extent("/segments/offset").num_elements());
  info.replayed = replayed;
  info.storage = storage_text(out.frames, replayed);
  info.frame_checksum = file.uint_attribute("frame_checksum");
  if (file.has_attribute("table_checksum")) info.table_checksum = file.uint_attribute("table_checksum");
  info.meta = read_meta(file, out.frames, name);
  return out;
}

ShardInfo read_shard_info(const fs::path& path) { return open_shard(path).info; }

std::vector<fs::path> find_shards(const std::vector<std::string>& places) {
  std::vector<fs::path> out;
  for (const std::string& place : places) {
    const std::string name = printable(place, 400);
    std::vector<fs::path> found;
    std::error_code error;
    if (fs::is_directory(place, error)) {
      for (fs::recursive_directory_iterator it(place, error), end; !error && it != end; it.increment(error)) {
        const fs::path& path = it->path();
        check<FileError>(
            path.extension() != kUnfinished,
            "{}: half collected: some shards of {} are missing | repeat its avid collect command, which goes on, or "
            "name the finished files: '{}/*.h5'",
            name, printable(path.stem().string()), printable(path.parent_path().string(), 400));
        if (path.extension() == ".h5" && it->is_regular_file(error)) found.push_back(path);
      }
      check<FileError>(!found.empty(), "{}: no .h5 files in this folder | make some with `avid collect`", name);
    } else if (!fs::exists(place, error) && place.find_first_of("*?[") != std::string::npos) {
      glob_t matches{};
      if (glob(place.c_str(), 0, nullptr, &matches) == 0)
        found.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
      globfree(&matches);
      check<FileError>(!found.empty(), "{}: no file matches", name);
    } else {
      found.emplace_back(place);  // open_shard says what is wrong with it
    }
    std::sort(found.begin(), found.end());
    out.insert(out.end(), found.begin(), found.end());
  }
  check<FileError>(!out.empty(), "dataset: no files given | name a file, a folder or a pattern");
  return out;
}

}  // namespace avid::data
