// data/episode_store.cpp -- shards one after another as one row of frames
#include "data/episode_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "data/frame_ops.h"
#include "data/procgen.h"
#include "data/replay.h"
#include "data/shard_header.h"
#include "data/shard_tables.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"

namespace avid::data {
namespace {

namespace fs = std::filesystem;

/// The game library, if it is the one that recorded this shard: another one may draw other frames.
SourceFactory game_of(const ShardMeta& meta, const std::string& name, std::string& library_sha256) {
  const ProcgenFiles files = find_procgen();
  if (library_sha256.empty()) library_sha256 = sha256_of_file(files.library);
  check<FileError>(
      library_sha256 == meta.library_sha256,
      "{}: holds no frames; they were recorded with the game library {}..., here is {}... | install procgen {}", name,
      printable(meta.library_sha256.substr(0, 12)), library_sha256.substr(0, 12), printable(meta.procgen_version));
  return [files, options = ProcgenOptions::from_json(meta.options)] {
    return std::make_unique<ProcgenSource>(files, options);
  };
}

/// A descriptor that closes itself.
struct FileDescriptor {
  FileDescriptor() = default;
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int fd = -1;
};

}  // namespace

struct EpisodeStore::Shard {
  std::string name;
  ShardTables tables;
  std::int64_t begin = 0;  // global number of its first frame
  std::size_t frame_bytes = 0;
  std::uint64_t frame_checksum = 0;
  // Exactly one of these holds the pixels.
  FileDescriptor file;  // contiguous: pread at frames_offset
  std::uint64_t frames_offset = 0;
  std::vector<std::uint8_t> in_memory;  // small and deflated
  std::optional<H5File> hdf5;           // large and deflated
  std::shared_ptr<Replayer> replayer;   // none stored; shared by all shards of a store
  std::string game_options;

  /// Piece by piece, as the runs lie.
  void replay(std::int64_t local, std::span<std::uint8_t> out) const {
    while (!out.empty()) {
      const auto after =
          std::upper_bound(tables.run_offset.begin(), tables.run_offset.end(), static_cast<std::uint64_t>(local));
      const auto r = static_cast<std::size_t>(after - tables.run_offset.begin()) - 1;
      const std::size_t begin_of_run = tables.run_offset[r], length = tables.run_length[r];
      const std::size_t from = static_cast<std::size_t>(local) - begin_of_run,
                        count = std::min<std::size_t>(out.size() / frame_bytes, length - from);
      replayer->read(
          {.key = begin + static_cast<std::int64_t>(begin_of_run),
           .options = game_options,
           .level = tables.run_level[r],
           .actions = std::span(tables.actions).subspan(begin_of_run, length)},
          static_cast<std::int64_t>(from), static_cast<std::int64_t>(count), out.first(count * frame_bytes));
      out = out.subspan(count * frame_bytes);
      local += static_cast<std::int64_t>(count);
    }
  }

  void read(std::int64_t local, std::span<std::uint8_t> out) const {
    const std::uint64_t from = static_cast<std::uint64_t>(local) * frame_bytes;
    if (replayer) {
      replay(local, out);
    } else if (!in_memory.empty()) {
      std::memcpy(out.data(), in_memory.data() + from, out.size());
    } else if (hdf5) {
      hdf5->read_rows("/frames", H5Type::u8, static_cast<std::uint64_t>(local), out.size() / frame_bytes, out.data());
    } else {
      std::uint64_t offset = frames_offset + from;
      while (!out.empty()) {
        const ssize_t got = ::pread(file.fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
          fail<FileError>(
              "{}: frames: byte {} cannot be read: {} | was the file changed while in use?", name, offset,
              got < 0 ? std::strerror(errno) : "the file ends before it");
        out = out.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
      }
    }
  }

  std::uint64_t checksum_of_frames() const {
    Checksum sum;
    const std::uint64_t step = std::max<std::uint64_t>(1, (std::uint64_t{4} << 20) / frame_bytes),
                        n = tables.num_frames();
    std::vector<std::uint8_t> piece;
    for (std::uint64_t f = 0; f < n; f += step) {
      piece.resize(std::min(step, n - f) * frame_bytes);
      read(static_cast<std::int64_t>(f), piece);
      sum.update(piece);
    }
    return sum.value();
  }
  void verify() const {
    const std::uint64_t sum = checksum_of_frames();
    check<FileError>(
        sum == frame_checksum, "{}: frames: checksum: expected {:016x}, got {:016x} | damaged: fetch or make it again",
        name, frame_checksum, sum);
  }
};

EpisodeStore::EpisodeStore(const std::vector<std::string>& places, const StoreOptions& options) {
  std::uint64_t cache_left = options.cache_bytes;
  std::shared_ptr<Replayer> replayer;
  std::string library_sha256;
  for (const fs::path& path : find_shards(places)) {
    OpenShard open = open_shard(path);
    const ShardMeta& meta = open.info.meta;
    auto shard = std::make_unique<Shard>();
    shard->name = printable(path.string(), 400);
    shard->frame_bytes = static_cast<std::size_t>(meta.height * meta.width * 3);
    shard->frame_checksum = open.info.frame_checksum;
    shard->begin = num_frames_;
    shard->tables = ShardTables::read(open.file, shard->name, static_cast<std::uint64_t>(open.info.num_frames));
    if (open.file.has_attribute("table_checksum"))
      check<FileError>(
          open.file.uint_attribute("table_checksum") == shard->tables.checksum(),
          "{}: tables: the checksum is wrong | damaged: fetch or make it again", shard->name);
    shard->tables.validate_values(shard->name, meta.num_actions);
    shard->tables.validate_structure(shard->name);

    if (shards_.empty()) {
      height_ = meta.height;
      width_ = meta.width;
      num_actions_ = meta.num_actions;
      action_width_ = meta.action_width;
    }
    const std::string& first_name = data_.empty() ? shard->name : data_.front()->name;
    check<FileError>(
        meta.height == height_ && meta.width == width_, "{}: frames: expected {}x{} as in {}, got {}x{}", shard->name,
        height_, width_, first_name, meta.height, meta.width);
    check<FileError>(
        meta.num_actions == num_actions_ && meta.action_width == action_width_,
        "{}: actions: expected {} ids or vectors of {} as in {}, got {} and {}", shard->name, num_actions_,
        action_width_, first_name, meta.num_actions, meta.action_width);
    resets_known_ = resets_known_ && meta.resets_known;

    const std::uint64_t raw_bytes = static_cast<std::uint64_t>(open.info.num_frames) * shard->frame_bytes;
    if (open.info.replayed) {
      SourceFactory make = options.make_source ? options.make_source : game_of(meta, shard->name, library_sha256);
      if (!replayer) replayer = std::make_shared<Replayer>(std::move(make), meta.height);
      shard->replayer = replayer;
      shard->game_options = meta.options;
    } else if (open.frames.offset_bytes) {
      shard->frames_offset = *open.frames.offset_bytes;
      shard->file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
      check<FileError>(shard->file.fd >= 0, "{}: cannot be opened: {}", shard->name, std::strerror(errno));
    } else if (raw_bytes <= cache_left) {
      cache_left -= raw_bytes;
      shard->in_memory.resize(raw_bytes);
      open.file.read("/frames", H5Type::u8, shard->in_memory.data(), raw_bytes);
      shard->verify();
    } else {
      shard->hdf5.emplace(std::move(open.file));
    }

    const auto shard_index = static_cast<std::int32_t>(data_.size());
    const auto first_run = static_cast<std::int64_t>(runs_.size());
    const ShardTables& t = shard->tables;
    for (std::size_t r = 0; r < t.run_level.size(); ++r)
      runs_.push_back(
          {t.run_level[r], shard_index, num_frames_ + static_cast<std::int64_t>(t.run_offset[r]),
           static_cast<std::int64_t>(t.run_length[r])});
    for (std::size_t s = 0; s < t.segment_offset.size(); ++s)
      segments_.push_back(
          {num_frames_ + static_cast<std::int64_t>(t.segment_offset[s]), static_cast<std::int64_t>(t.segment_length[s]),
           first_run + static_cast<std::int64_t>(t.segment_run[s])});
    num_frames_ += open.info.num_frames;
    shards_.push_back(std::move(open.info));
    data_.push_back(std::move(shard));
  }
}

EpisodeStore::~EpisodeStore() = default;
EpisodeStore::EpisodeStore(EpisodeStore&&) noexcept = default;

const EpisodeStore::Shard& EpisodeStore::shard_of(std::int64_t frame) const {
  check<ShapeError>(
      frame >= 0 && frame < num_frames_, "dataset: frame: expected 0..{}, got {}", num_frames_ - 1, frame);
  const auto after = std::upper_bound(
      data_.begin(), data_.end(), frame, [](std::int64_t f, const std::unique_ptr<Shard>& s) { return f < s->begin; });
  return **(after - 1);
}

void EpisodeStore::read_frames(std::int64_t begin, std::int64_t count, std::span<std::uint8_t> out) const {
  const Shard& shard = shard_of(begin);
  const std::int64_t local = begin - shard.begin,
                     available = static_cast<std::int64_t>(shard.tables.num_frames()) - local;
  check<ShapeError>(
      count >= 0 && count <= available && out.size() == static_cast<std::size_t>(count) * frame_bytes(),
      "dataset: frames: expected at most {} from {} on and room for them, got {} into {} bytes", available, begin,
      count, out.size());
  shard.read(local, out);
}

int EpisodeStore::action(std::int64_t frame) const {
  const Shard& shard = shard_of(frame);
  check<ShapeError>(action_width_ == 0, "dataset: actions are vectors of {}, not ids", action_width_);
  return shard.tables.actions[static_cast<std::size_t>(frame - shard.begin)];
}

std::span<const float> EpisodeStore::action_vector(std::int64_t frame) const {
  const Shard& shard = shard_of(frame);
  check<ShapeError>(action_width_ > 0, "dataset: actions are ids, not vectors");
  const auto width = static_cast<std::size_t>(action_width_);
  return std::span(shard.tables.float_actions).subspan(static_cast<std::size_t>(frame - shard.begin) * width, width);
}

float EpisodeStore::reward(std::int64_t frame) const {
  const Shard& shard = shard_of(frame);
  return shard.tables.rewards[static_cast<std::size_t>(frame - shard.begin)];
}

bool EpisodeStore::first(std::int64_t frame) const {
  const Shard& shard = shard_of(frame);
  return shard.tables.first[static_cast<std::size_t>(frame - shard.begin)] != 0;
}

void EpisodeStore::verify_frames() const {
  for (const auto& shard : data_) shard->verify();
}

std::string EpisodeStore::describe() const {
  std::string text = fmt::format(
      "dataset: {} frames {}x{} in {} runs, {} segments without a reset, {} shard{}\n", num_frames_, height_, width_,
      runs_.size(), segments_.size(), shards_.size(), shards_.size() == 1 ? "" : "s");
  text += action_width_ > 0 ? fmt::format("actions: vectors of {}\n", action_width_)
                            : fmt::format("actions: 0..{}\n", num_actions_ - 1);
  if (!resets_known_) text += "resets: not known (imported data)\n";
  for (const ShardInfo& s : shards_) {
    text += fmt::format(
        "{}\n  {}, levels {}..{}, mode {}, seed {}, {} frames, {}, {:.1f} MB, frame checksum {:016x}\n",
        s.path.string(), printable(s.meta.game), s.meta.level_begin, s.meta.level_end - 1,
        printable(s.meta.distribution_mode), s.meta.dataset_seed, s.num_frames, s.storage,
        static_cast<double>(s.file_bytes) / 1e6, s.frame_checksum);
  }
  return text;
}

std::string EpisodeStore::describe_json() const {
  Json j;
  j["kind"] = "dataset";
  j["num_frames"] = num_frames_;
  j["height"] = height_;
  j["width"] = width_;
  j["num_runs"] = runs_.size();
  j["num_segments"] = segments_.size();
  j["num_actions"] = num_actions_;
  j["action_width"] = action_width_;
  j["resets_known"] = resets_known_;
  j["shards"] = Json::array();
  for (const ShardInfo& s : shards_) {
    Json o;
    o["path"] = s.path.string();
    o["game"] = s.meta.game;
    o["level_begin"] = s.meta.level_begin;
    o["level_end"] = s.meta.level_end;
    o["steps_per_level"] = s.meta.steps_per_level;
    o["distribution_mode"] = s.meta.distribution_mode;
    o["options"] = parse_json(s.meta.options);
    if (o["options"].is_discarded()) o["options"] = s.meta.options;
    o["action_rng"] = s.meta.action_rng;
    o["dataset_seed"] = s.meta.dataset_seed;
    o["procgen_version"] = s.meta.procgen_version;
    o["library_sha256"] = s.meta.library_sha256;
    o["asset_notice"] = s.meta.asset_notice;
    o["frame_filter"] = s.meta.frame_filter;
    o["num_frames"] = s.num_frames;
    o["storage"] = s.storage;
    o["file_bytes"] = s.file_bytes;
    o["frame_checksum"] = fmt::format("{:016x}", s.frame_checksum);
    j["shards"].push_back(std::move(o));
  }
  return json_text(j, 2);
}

}  // namespace avid::data
