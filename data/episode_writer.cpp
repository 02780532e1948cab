// data/episode_writer.cpp -- frames go straight to their place in the file, everything else through HDF5
#include "data/episode_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>

#include "data/frame_ops.h"
#include "data/hdf5_file.h"
#include "data/shard_tables.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::data {

struct ShardWriter::Impl {
  Impl(const std::filesystem::path& path, const ShardMeta& m, std::int64_t n, const StorageOptions& s)
      : file(path, AtomicFile::Writer::external), meta(m), storage(s), num_frames(static_cast<std::uint64_t>(n)) {}
  ~Impl() {
    if (fd >= 0) ::close(fd);
  }

  std::string name() const { return printable(file.path().string(), 400); }
  std::size_t frame_bytes() const { return static_cast<std::size_t>(meta.height * meta.width * 3); }

  [[noreturn]] void write_failed(int error) const {
    fail<FileError>(
        "{}: frames: cannot be written: {} ({} of {} frames done) | free some space and run the same command again",
        name(), std::strerror(error), tables.first.size(), num_frames);
  }

  /// Writes at a byte offset; the whole span or a FileError.
  void write_at(std::span<const std::uint8_t> bytes, std::uint64_t offset) {
    while (!bytes.empty()) {
      const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) write_failed(put < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
      offset += static_cast<std::uint64_t>(put);
    }
  }

  /// Sends what was written on its way, and drops from the page cache what has arrived: memory stays flat however large
  /// the set, and pages are used again instead of new ones (a quarter of all processor time of a collection).
  void write_behind() {
    const std::uint64_t end = frames_stored * frame_bytes();
    if (end - flushed < kWriteBehind) return;
    sync_file_range(
        fd, static_cast<off_t>(frames_offset + flushed), static_cast<off_t>(end - flushed), SYNC_FILE_RANGE_WRITE);
    if (flushed > dropped) {
      const auto from = static_cast<off_t>(frames_offset + dropped);
      const auto bytes = static_cast<off_t>(flushed - dropped);
      sync_file_range(
          fd, from, bytes, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
      posix_fadvise(fd, from, bytes, POSIX_FADV_DONTNEED);
    }
    dropped = flushed;
    flushed = end;
  }

  /// Deflated chunks are written whole: rewriting one leaves a hole in the file.
  void write_chunks(bool last) {
    const std::size_t whole = static_cast<std::size_t>(storage.chunk_frames) * frame_bytes();
    const std::size_t bytes = last ? pending.size() : pending.size() / whole * whole;
    if (bytes == 0) return;
    chunked->write_rows("/frames", H5Type::u8, frames_stored, bytes / frame_bytes(), pending.data());
    frames_stored += bytes / frame_bytes();
    pending.erase(pending.begin(), pending.begin() + static_cast<std::ptrdiff_t>(bytes));
  }

  AtomicFile file;
  ShardMeta meta;
  StorageOptions storage;
  std::uint64_t num_frames;
  ShardTables tables;
  Checksum checksum;
  int fd = -1;  // contiguous: frames are written here
  std::uint64_t frames_offset = 0;
  std::optional<H5File> chunked;  // deflated: frames are written through HDF5
  static constexpr std::uint64_t kWriteBehind = 8 << 20;
  std::uint64_t flushed = 0, dropped = 0;  // bytes of the frames that are on their way to the disk, and have arrived
  std::vector<std::uint8_t> pending;
  std::uint64_t frames_stored = 0;
};

ShardWriter::ShardWriter(
    const std::filesystem::path& path, const ShardMeta& meta, std::int64_t num_frames, const StorageOptions& storage)
    : impl_(std::make_unique<Impl>(path, meta, num_frames, storage)) {
  check<ConfigError>(num_frames > 0, "{}: expected at least one frame, got {}", impl_->name(), num_frames);
  check<ConfigError>(
      storage.deflate_level >= 0 && storage.deflate_level <= 9, "compress: expected 0..9, got {}",
      storage.deflate_level);
  check<ConfigError>(storage.chunk_frames >= 1, "chunk_frames: expected >= 1, got {}", storage.chunk_frames);
  check<ShapeError>(
      meta.height > 0 && meta.width > 0, "{}: frames: expected a size, got {}x{}", impl_->name(), meta.height,
      meta.width);
  const std::vector<std::uint64_t> dims = {
      impl_->num_frames, static_cast<std::uint64_t>(meta.height), static_cast<std::uint64_t>(meta.width), 3};
  H5File file(impl_->file.temporary_path(), H5File::Mode::create);
  if (!storage.frames) {
    check<ConfigError>(
        meta.action_width == 0 && storage.deflate_level == 0,
        "{}: runs that are played again need numbered actions, and have no frames to compress", impl_->name());
    impl_->chunked.emplace(std::move(file));
    return;
  }
  if (storage.deflate_level > 0) {
    file.make_deflated(
        "/frames", H5Type::u8, dims, static_cast<std::uint64_t>(storage.chunk_frames), storage.deflate_level);
    impl_->chunked.emplace(std::move(file));
    return;
  }
  impl_->frames_offset = file.reserve_contiguous("/frames", H5Type::u8, dims);
  file.close();
  impl_->fd = ::open(impl_->file.temporary_path().c_str(), O_WRONLY | O_CLOEXEC);
  if (impl_->fd < 0) impl_->write_failed(errno);
  // The frames and room for the tables behind them.
  const std::uint64_t total = impl_->frames_offset + impl_->num_frames * (impl_->frame_bytes() + 64) + (1 << 16);
  const int error = posix_fallocate(impl_->fd, 0, static_cast<off_t>(total));
  if (error != 0 && error != EINVAL && error != EOPNOTSUPP) impl_->write_failed(error);
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::append(std::int32_t level, const LevelRun& run, const std::vector<float>& float_actions) {
  Impl& w = *impl_;
  const std::size_t n = run.first.size(), width = static_cast<std::size_t>(w.meta.action_width);
  check<ShapeError>(
      n > 0 && run.frames.size() == n * w.frame_bytes() && run.rewards.size() == n &&
          (width == 0 ? run.actions.size() == n && float_actions.empty() : float_actions.size() == n * width),
      "{}: level {}: expected {} frames of {}x{} with actions and rewards, got {} bytes, {} actions, {} rewards",
      w.name(), level, n, w.meta.height, w.meta.width, run.frames.size(),
      width == 0 ? run.actions.size() : float_actions.size(), run.rewards.size());
  check<ShapeError>(
      w.tables.first.size() + n <= w.num_frames, "{}: level {}: expected at most {} frames in all, got {}", w.name(),
      level, w.num_frames, w.tables.first.size() + n);
  w.tables.add_run(level, run.first);
  w.tables.rewards.insert(w.tables.rewards.end(), run.rewards.begin(), run.rewards.end());
  w.tables.actions.insert(w.tables.actions.end(), run.actions.begin(), run.actions.end());
  w.tables.float_actions.insert(w.tables.float_actions.end(), float_actions.begin(), float_actions.end());
  w.tables.action_width = w.meta.action_width;
  w.tables.validate_values(w.name(), w.meta.num_actions, w.tables.first.size() - n);
  w.checksum.update(run.frames);
  if (!w.storage.frames) return;
  if (w.chunked) {
    w.pending.insert(w.pending.end(), run.frames.begin(), run.frames.end());
    w.write_chunks(false);
  } else {
    w.write_at(run.frames, w.frames_offset + w.frames_stored * w.frame_bytes());
    w.frames_stored += n;
    w.write_behind();
  }
}

void ShardWriter::finish() {
  Impl& w = *impl_;
  check<ShapeError>(
      w.tables.first.size() == w.num_frames, "{}: expected {} frames, got {}", w.name(), w.num_frames,
      w.tables.first.size());
  if (w.chunked) w.write_chunks(true);
  if (!w.chunked) w.chunked.emplace(w.file.temporary_path(), H5File::Mode::extend);
  H5File& file = *w.chunked;
  w.tables.write(file);
  const ShardMeta& m = w.meta;
  file.set_attribute("format", std::string(kStoreFormat));
  file.set_attribute("version", std::int64_t{kStoreVersion});
  file.set_attribute("game", m.game);
  file.set_attribute("level_begin", std::int64_t{m.level_begin});
  file.set_attribute("level_end", std::int64_t{m.level_end});
  file.set_attribute("steps_per_level", std::int64_t{m.steps_per_level});
  file.set_attribute("distribution_mode", m.distribution_mode);
  file.set_attribute("options", m.options);
  file.set_attribute("action_rng", m.action_rng);
  file.set_attribute_u64("dataset_seed", m.dataset_seed);
  file.set_attribute("procgen_version", m.procgen_version);
  file.set_attribute("library_sha256", m.library_sha256);
  file.set_attribute("asset_notice", m.asset_notice);
  file.set_attribute("frame_filter", m.frame_filter);
  file.set_attribute("resets_known", std::int64_t{m.resets_known});
  file.set_attribute("num_actions", std::int64_t{m.num_actions});
  if (!w.storage.frames) {
    file.set_attribute("frames", std::string(kReplayed));
    file.set_attribute("height", m.height);
    file.set_attribute("width", m.width);
  }
  file.set_attribute_u64("frame_checksum", w.checksum.value());
  file.set_attribute_u64("table_checksum", w.tables.checksum());
  file.close();
  w.chunked.reset();
  if (w.fd >= 0) ::close(std::exchange(w.fd, -1));
  w.file.commit();
}

}  // namespace avid::data
