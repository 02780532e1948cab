// data/npz_import.cpp -- sorts chunks into runs, checks and joins them
#include "data/npz_import.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "data/games.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/booleans.h"
#include "tensor/io/new_folder.h"
#include "tensor/io/npz.h"

namespace avid::data {
namespace {

namespace fs = std::filesystem;

struct Chunk {
  ChunkName name;
  fs::path path;
};

/// Consecutive chunks of one recording of one level.
struct RecordedRun {
  std::int32_t level = 0;
  std::vector<Chunk> chunks;
};

bool all_digits(std::string_view s) {
  return !s.empty() && s.find_first_not_of("0123456789") == std::string_view::npos;
}

template <class Int>
std::optional<Int> parse_int(std::string_view digits) {
  Int value = 0;
  if (!all_digits(digits)) return std::nullopt;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

/// Each game's chunks, and how many other files there were.
std::map<std::string, std::vector<Chunk>> find_chunks(const std::vector<fs::path>& places, std::int64_t& num_others) {
  std::map<std::string, std::vector<Chunk>> games;
  const auto add = [&](const fs::path& path) {
    if (auto name = parse_chunk_name(path.filename().string())) {
      games[name->game].push_back({*name, path});
      return true;
    }
    return false;
  };
  for (const fs::path& place : places) {
    std::error_code error;
    if (fs::is_directory(place, error)) {
      for (fs::recursive_directory_iterator it(place, error), end; !error && it != end; it.increment(error))
        if (it->path().extension() == ".npz" && !add(it->path())) ++num_others;
      check<FileError>(!error, "{}: cannot be listed: {}", printable(place.string()), error.message());
    } else {
      check<FileError>(fs::exists(place, error), "{}: no such file or folder", printable(place.string()));
      check<FileError>(
          add(place), "{}: expected a name such as coinrun_lvl_12_chunk_3_01234567890123456789.npz",
          printable(place.string()));
    }
  }
  return games;
}

/// Sorts one game's chunks into runs. The k-th recording of a chunk number (by time) belongs to the level's k-th
/// recording.
std::vector<RecordedRun> sort_into_runs(std::vector<Chunk> chunks, std::vector<std::string>& notes) {
  std::sort(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) {
    return std::tie(a.name.level, a.name.chunk, a.name.time, a.path) <
           std::tie(b.name.level, b.name.chunk, b.name.time, b.path);
  });
  std::map<std::pair<std::int32_t, std::int64_t>, std::vector<Chunk>> recordings;  // (level, k) -> chunks in order
  std::int64_t k = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const bool repeated =
        i > 0 && chunks[i - 1].name.level == chunks[i].name.level && chunks[i - 1].name.chunk == chunks[i].name.chunk;
    k = repeated ? k + 1 : 0;
    recordings[{chunks[i].name.level, k}].push_back(chunks[i]);
  }
  std::vector<RecordedRun> runs;
  std::int64_t gaps = 0;
  for (auto& [key, list] : recordings) {
    for (std::size_t i = 0; i < list.size(); ++i) {
      const bool follows = i > 0 && list[i].name.chunk == list[i - 1].name.chunk + 1;
      gaps += i > 0 ? !follows : list[i].name.chunk != 0;
      if (!follows) runs.push_back({key.first, {}});
      runs.back().chunks.push_back(list[i]);
    }
  }
  if (gaps > 0)
    notes.push_back(fmt::format("{}: {} places where chunks are missing; runs end there", chunks[0].name.game, gaps));
  return runs;
}

/// Frames and size of a chunk from its headers alone.
struct ChunkShape {
  std::int64_t frames = 0, height = 0, width = 0;
  bool has_rewards = false, has_ends = false;
};

ChunkShape shape_of(const NpzFile& file) {
  const std::string path = printable(file.path().string(), 400);
  for (const char* name : {"obs", "act"})
    check<FileError>(file.contains(name), "{}: expected an array {}.npy", path, name);
  for (const char* name : {"obs", "act"}) check_no_booleans(file, name);
  const auto& obs = file.info("obs");
  check<FileError>(
      obs.dtype == DType::u8 && obs.shape.size() == 4 && obs.shape[0] > 0 && obs.shape[1] > 0 && obs.shape[2] > 0 &&
          obs.shape[3] == 3 && obs.shape[1] <= 8192 && obs.shape[2] <= 8192,
      "{}: obs: expected |u1 [n,H,W,3], got {} {}", path, obs.file_dtype, obs.shape_text());
  const auto& act = file.info("act");
  check<FileError>(
      (act.dtype == DType::i64 || act.dtype == DType::i32 || act.dtype == DType::u8) && act.shape.size() == 1 &&
          act.shape[0] == obs.shape[0],
      "{}: act: expected integers [{}], got {} {}", path, obs.shape[0], act.file_dtype, act.shape_text());
  const auto present = [&](const char* name) {
    if (!file.contains(name)) return false;
    const auto& info = file.info(name);
    const bool empty = info.numel() == 0;
    check<FileError>(
        empty || (info.dtype && info.shape.size() == 1 && info.shape[0] == obs.shape[0]),
        "{}: {}: expected [0] or [{}], got {}", path, name, obs.shape[0], info.shape_text());
    return !empty;
  };
  return {obs.shape[0], obs.shape[1], obs.shape[2], present("rew"), present("term")};
}

/// Appends a chunk's contents to a run.
void append_chunk(const NpzFile& file, const ChunkShape& shape, bool use_rewards, bool use_ends, LevelRun& run) {
  const auto frames = file.load("obs").to_values<std::uint8_t>();
  run.frames.insert(run.frames.end(), frames.begin(), frames.end());
  for (const double a : file.load("act").to_doubles()) {
    check<ConfigError>(
        a >= 0 && a < kNumActions, "{}: act: expected 0..{}, got {}", printable(file.path().string(), 400),
        kNumActions - 1, a);
    run.actions.push_back(static_cast<std::uint8_t>(a));
  }
  if (use_rewards) {
    for (const double r : file.load("rew").to_doubles()) run.rewards.push_back(static_cast<float>(r));
  } else {
    run.rewards.resize(run.rewards.size() + static_cast<std::size_t>(shape.frames));
  }
  // `term` of a step says that its action ended the episode: the next frame is the first of another. So `first` is one
  // entry ahead of the frames while a run is put together.
  if (run.first.empty()) run.first.push_back(1);
  const auto ends =
      use_ends ? file.load("term").to_doubles() : std::vector<double>(static_cast<std::size_t>(shape.frames));
  for (const double end : ends) run.first.push_back(end != 0);
}

}  // namespace

std::optional<ChunkName> parse_chunk_name(std::string_view name) {
  constexpr std::string_view kEnding = ".npz", kLevel = "_lvl_", kChunk = "_chunk_";
  if (!name.ends_with(kEnding)) return std::nullopt;
  name.remove_suffix(kEnding.size());
  const auto level_at = name.find(kLevel), chunk_at = name.find(kChunk);
  if (level_at == std::string_view::npos || chunk_at == std::string_view::npos || level_at == 0 ||
      chunk_at < level_at + kLevel.size())
    return std::nullopt;
  const std::string_view rest = name.substr(chunk_at + kChunk.size());
  const auto underscore = rest.find('_');
  if (underscore == std::string_view::npos) return std::nullopt;
  const auto level =
      parse_int<std::int32_t>(name.substr(level_at + kLevel.size(), chunk_at - level_at - kLevel.size()));
  const auto chunk = parse_int<std::int64_t>(rest.substr(0, underscore));
  const std::string_view time = rest.substr(underscore + 1);
  if (!level || !chunk || !all_digits(time)) return std::nullopt;
  return ChunkName{std::string(name.substr(0, level_at)), *level, *chunk, std::string(time)};
}

ImportResult import_npz(
    const ImportOptions& o, const std::function<void(std::int64_t, std::int64_t)>& report,
    const std::function<bool()>& stop) {
  check<ConfigError>(o.runs_per_shard >= 1, "import: runs per shard: expected >= 1, got {}", o.runs_per_shard);
  ImportResult result;
  std::int64_t num_others = 0, total = 0;
  auto games = find_chunks(o.places, num_others);
  for (const auto& [game, chunks] : games) total += static_cast<std::int64_t>(chunks.size());
  check<FileError>(
      total > 0, "import: no chunks found | they are called like coinrun_lvl_12_chunk_3_01234567890123456789.npz");
  if (num_others > 0)
    result.notes.push_back(fmt::format("{} .npz files have other names and were ignored", num_others));
  const NewFolder folder(o.out);

  for (auto& [game, chunks] : games) {
    game_index(game);
    const std::vector<RecordedRun> runs = sort_into_runs(std::move(chunks), result.notes);
    for (std::size_t begin = 0; begin < runs.size();) {
      // Two recordings of one level stay in one shard, so that shard names do not collide.
      std::size_t end = std::min(runs.size(), begin + static_cast<std::size_t>(o.runs_per_shard));
      while (end < runs.size() && runs[end].level == runs[end - 1].level) ++end;

      std::vector<ChunkShape> shapes;
      std::int64_t num_frames = 0;
      bool all_rewards = true, all_ends = true;
      for (std::size_t r = begin; r < end; ++r)
        for (const Chunk& chunk : runs[r].chunks) {
          const ChunkShape shape = shapes.emplace_back(shape_of(NpzFile(chunk.path)));
          check<FileError>(
              shape.height == shapes[0].height && shape.width == shapes[0].width,
              "{}: obs: expected frames of {}x{}, got {}x{}", printable(chunk.path.string(), 400), shapes[0].height,
              shapes[0].width, shape.height, shape.width);
          num_frames += shape.frames;
          all_rewards = all_rewards && shape.has_rewards;
          all_ends = all_ends && shape.has_ends;
        }

      ShardMeta meta;
      meta.game = game;
      meta.level_begin = runs[begin].level;
      meta.level_end = runs[end - 1].level + 1;
      meta.distribution_mode = "unknown";
      meta.options = R"({"imported":"npz chunks"})";
      meta.action_rng = "unknown (imported)";
      meta.procgen_version = "unknown";
      meta.library_sha256 = "unknown";
      meta.asset_notice = "Imported frames; procgen's artwork is partly CC-BY and OGA-BY.";
      meta.resets_known = all_ends;
      meta.num_actions = kNumActions;
      meta.height = shapes[0].height;
      meta.width = shapes[0].width;
      const fs::path path = o.out / fmt::format("{}-{:05}-{:05}.h5", game, meta.level_begin, meta.level_end);
      ShardWriter writer(path, meta, num_frames, o.storage);
      std::size_t at = 0;
      for (std::size_t r = begin; r < end; ++r) {
        LevelRun run;
        for (const Chunk& chunk : runs[r].chunks) {
          if (stop && stop())
            fail<Interrupted>("import: stopped; {} shards are finished in {}", result.shards.size(), o.out.string());
          append_chunk(NpzFile(chunk.path), shapes[at++], all_rewards, all_ends, run);
          ++result.num_chunks;
          if (report) report(result.num_chunks, total);
        }
        run.first.pop_back();  // the frame after the last action was not recorded
        writer.append(runs[r].level, run);
      }
      writer.finish();
      result.shards.push_back(path);
      result.num_runs += static_cast<std::int64_t>(end - begin);
      result.num_frames += num_frames;
      if (!all_ends)
        result.notes.push_back(fmt::format("{}: resets are not known; use resets = allow", path.filename().string()));
      begin = end;
    }
  }
  return result;
}

}  // namespace avid::data
