// data/collect.cpp -- game processes play, one thread writes in level order
#include "data/collect.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "data/episode_store.h"
#include "data/frame_ops.h"
#include "data/shard_header.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"

namespace avid::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProcgenVersion = "0.10.7";

struct ShardPlan {
  fs::path path;
  std::int32_t level_begin, level_end;
};

std::vector<ShardPlan> plan_shards(const CollectOptions& o) {
  if (!o.single_file.empty()) return {{o.single_file, o.level_begin, o.level_end}};
  std::vector<ShardPlan> plan;
  for (std::int32_t level = o.level_begin; level < o.level_end;) {
    const std::int32_t end = std::min(o.level_end - level, o.levels_per_shard) + level;
    plan.push_back({o.out / fmt::format("{}-{:05}-{:05}.h5", o.game.game, level, end), level, end});
    level = end;
  }
  return plan;
}

/// What tells readers of the folder that a collection is not finished; empty for a single file, which appears whole.
fs::path unfinished_mark(const CollectOptions& o) {
  if (!o.single_file.empty()) return {};
  return o.out / fmt::format("{}-{:05}-{:05}{}", o.game.game, o.level_begin, o.level_end, kUnfinished);
}

std::string asset_notice(const ProcgenOptions& game) {
  if (!game.use_backgrounds && game.game == "coinrun")
    return "Frames show only CC0 art by Kenney (kenney.nl); rendered without backgrounds by the procgen library (MIT).";
  return "Frames show procgen's artwork, partly under CC-BY 3.0/4.0 and OGA-BY 3.0 (GameArtGuppy, ansimuz, davis123, "
         "Alucard, "
         "SugarMoonWitch, CraftPix.net); regenerate rather than redistribute.";
}

ShardMeta meta_of(
    const CollectOptions& o, const ShardPlan& shard, std::int64_t source_size, const std::string& library_sha256) {
  ShardMeta m;
  m.game = o.game.game;
  m.level_begin = shard.level_begin;
  m.level_end = shard.level_end;
  m.steps_per_level = static_cast<std::uint32_t>(o.steps);
  m.distribution_mode = o.game.distribution_mode;
  m.options = o.game.to_json();
  m.action_rng = fmt::format(
      "policy {}; philox4x32-10 with key seed = dataset_seed * 256 + {} (game), purpose 7, step = level, element = t; "
      "a = (u32 * 15) >> 32",
      name_of(o.actions), game_index(o.game.game));
  m.dataset_seed = o.seed;
  m.procgen_version = kProcgenVersion;
  m.library_sha256 = library_sha256;
  m.asset_notice = asset_notice(o.game);
  m.frame_filter =
      o.size == source_size
          ? "none"
          : fmt::format("mean of {0}x{0} boxes, halves up, from {1}x{1}", source_size / o.size, source_size);
  m.num_actions = kNumActions;
  m.height = m.width = o.size;
  return m;
}

/// True when the shard exists and was made with exactly these options; ConfigError when it was made with others.
bool already_there(const ShardMeta& wanted, bool frames, const fs::path& path) {
  if (!fs::exists(path)) return false;
  const ShardInfo info = read_shard_info(path);
  const ShardMeta& found = info.meta;
  const auto same = [&](const char* what, const auto& a, const auto& b) {
    check<ConfigError>(
        a == b,
        "{}: exists, but was made with another {} (expected '{}', got '{}') | choose another folder or delete it",
        path.string(), what, a, b);
  };
  same("game", wanted.game, found.game);
  same("level range", wanted.level_begin, found.level_begin);
  same("level range", wanted.level_end, found.level_end);
  same("number of steps", wanted.steps_per_level, found.steps_per_level);
  same("frame size", wanted.height, found.height);
  same("set of options", wanted.options, found.options);
  same("action stream", wanted.action_rng, found.action_rng);
  same("seed", wanted.dataset_seed, found.dataset_seed);
  same("game library", wanted.library_sha256, found.library_sha256);
  same("kind of frames", frames ? "stored" : kReplayed, info.replayed ? kReplayed : "stored");
  return true;
}

/// Plays levels in several threads and hands them out in order.
class LevelPlayer {
 public:
  LevelPlayer(
      const CollectOptions& options, std::vector<std::int32_t> levels,
      std::vector<std::unique_ptr<FrameSource>> sources)
      : options_(options), levels_(std::move(levels)), sources_(std::move(sources)) {
    for (auto& source : sources_) threads_.emplace_back([this, &source] { work(*source); });
  }
  ~LevelPlayer() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  /// The next level's run; waits for it. Throws what a worker threw.
  LevelRun next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return error_ || done_.contains(next_out_); });
    if (error_) std::rethrow_exception(error_);
    LevelRun run = std::move(done_.extract(next_out_).mapped());
    ++next_out_;
    changed_.notify_all();
    return run;
  }

 private:
  void work(FrameSource& source) {
    try {
      while (true) {
        std::size_t index = 0;
        {
          std::unique_lock lock(mutex_);
          // A little ahead of the writer, but not the whole dataset in memory.
          changed_.wait(lock, [&] { return stopped_ || error_ || next_in_ < next_out_ + 2 * sources_.size(); });
          if (stopped_ || error_ || next_in_ >= levels_.size()) return;
          index = next_in_++;
        }
        const std::int32_t level = levels_[index];
        const auto actions = level_actions(options_.seed, options_.game.game, level, options_.steps, options_.actions);
        LevelRun run = play_level(source, level, actions);
        if (options_.size != source.height())
          run.frames = box_downscale(run.frames, source.height(), source.width(), source.height() / options_.size);
        const std::lock_guard lock(mutex_);
        done_.emplace(index, std::move(run));
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      changed_.notify_all();
    }
  }

  const CollectOptions& options_;
  std::vector<std::int32_t> levels_;
  std::vector<std::unique_ptr<FrameSource>> sources_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::size_t, LevelRun> done_;
  std::size_t next_in_ = 0, next_out_ = 0;
  bool stopped_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

void check_options(const CollectOptions& o) {
  game_index(o.game.game);
  distribution_mode(o.game.distribution_mode, o.game.game);
  check<ConfigError>(
      o.level_begin >= 0 && o.level_end > o.level_begin, "collect: levels: expected A:B with 0 <= A < B, got {}:{}",
      o.level_begin, o.level_end);
  check<ConfigError>(o.steps >= 1 && o.steps <= 1'000'000'000, "collect: steps: expected 1..10^9, got {}", o.steps);
  check<ConfigError>(o.size >= 1, "collect: size: expected >= 1, got {}", o.size);
  check<ConfigError>(o.levels_per_shard >= 1, "collect: levels per shard: expected >= 1, got {}", o.levels_per_shard);
  check<ConfigError>(o.jobs >= 1 && o.jobs <= 256, "collect: jobs: expected 1..256, got {}", o.jobs);
}

}  // namespace

CollectResult collect(
    const CollectOptions& o, const SourceFactory& make_source, const std::string& library_sha256,
    const std::function<void(const CollectProgress&)>& report, const std::function<bool()>& stop) {
  check_options(o);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };

  std::vector<std::unique_ptr<FrameSource>> sources;
  sources.push_back(make_source());
  const std::int64_t source_size = sources[0]->height();
  check<ConfigError>(
      sources[0]->width() == source_size && source_size % o.size == 0,
      "collect: size: expected a divisor of {}, got {}", source_size, o.size);

  std::error_code error;
  const fs::path folder = o.single_file.empty() ? o.out : o.single_file.parent_path();
  if (!folder.empty()) fs::create_directories(folder, error);
  check<FileError>(!error, "{}: cannot be made: {} | choose another folder", folder.string(), error.message());

  remove_abandoned_temporaries(folder.empty() ? fs::path(".") : folder);

  const std::vector<ShardPlan> plan = plan_shards(o);
  CollectResult result;
  std::vector<ShardPlan> missing;
  for (const ShardPlan& shard : plan) {
    result.shards.push_back(shard.path);
    if (!already_there(meta_of(o, shard, source_size, library_sha256), o.storage.frames, shard.path))
      missing.push_back(shard);
  }
  result.shards_found = static_cast<int>(plan.size() - missing.size());

  std::vector<std::int32_t> levels;
  for (const ShardPlan& shard : missing)
    for (std::int32_t level = shard.level_begin; level < shard.level_end; ++level) levels.push_back(level);
  while (sources.size() < std::min<std::size_t>(static_cast<std::size_t>(o.jobs), levels.size()))
    sources.push_back(make_source());

  CollectProgress progress;
  progress.frames_total = static_cast<std::int64_t>(levels.size()) * o.steps;
  progress.shards_total = static_cast<int>(plan.size());
  progress.shards_done = progress.shards_found = result.shards_found;
  LevelPlayer player(o, levels, std::move(sources));
  const fs::path mark = unfinished_mark(o);
  for (const ShardPlan& shard : missing) {
    const std::int64_t num_frames = (std::int64_t{shard.level_end} - shard.level_begin) * o.steps;
    ShardWriter writer(shard.path, meta_of(o, shard, source_size, library_sha256), num_frames, o.storage);
    for (std::int32_t level = shard.level_begin; level < shard.level_end; ++level) {
      if (stop && stop())
        fail<Interrupted>(
            "collect: stopped; {} of {} shards are finished in {} | the same command goes on from there",
            progress.shards_done, progress.shards_total, folder.string());
      writer.append(level, player.next());
      progress.frames_done += o.steps;
      progress.seconds = seconds();
      if (report) report(progress);
    }
    // Before there is a shard that could be taken for all of them.
    if (!mark.empty() && progress.shards_done + 1 < progress.shards_total && !fs::exists(mark))
      write_text_atomic(mark, "Repeat the avid collect command that stopped here: it goes on.\n");
    writer.finish();
    ++progress.shards_done;
  }
  if (!mark.empty()) fs::remove(mark, error);
  check<FileError>(
      !error, "{}: cannot be removed: {} | the shards are complete, remove it", mark.string(), error.message());
  result.frames_written = progress.frames_done;
  result.seconds = seconds();
  return result;
}

}  // namespace avid::data
