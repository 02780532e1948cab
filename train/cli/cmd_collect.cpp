// train/cli/cmd_collect.cpp -- `avid collect`: play levels of a Procgen game and store them; and its child process
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "data/collect.h"
#include "data/procgen_worker.h"
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"
#include "train/cli/command.h"
#include "train/stop_signal.h"

namespace avid::cli {
namespace {

/// "0:500" -> levels 0..499, "7" -> level 7 alone.
std::pair<std::int32_t, std::int32_t> parse_levels(const std::string& text) {
  const auto number = [&](const std::string& part) {
    check<UsageError>(
        !part.empty() && part.size() <= 9 && part.find_first_not_of("0123456789") == std::string::npos,
        "collect: --levels: expected A:B (levels A to B-1) or one level, got '{}'", text);
    return static_cast<std::int32_t>(std::stol(part));
  };
  const auto colon = text.find(':');
  if (colon == std::string::npos) return {number(text), number(text) + 1};
  const auto begin = number(text.substr(0, colon)), end = number(text.substr(colon + 1));
  check<UsageError>(begin < end, "collect: --levels: expected A:B with A below B, got '{}'", text);
  return {begin, end};
}

struct Settings {
  std::string levels, out, actions = "uniform";
  bool no_backgrounds = false, json = false;
  data::CollectOptions collect;
};

void run_collect(Settings& s) {
  std::tie(s.collect.level_begin, s.collect.level_end) = parse_levels(s.levels);
  s.collect.game.use_backgrounds = !s.no_backgrounds;
  try {
    s.collect.actions = data::parse_action_policy(s.actions);
    data::distribution_mode(s.collect.game.distribution_mode, s.collect.game.game);
  } catch (const ConfigError& error) {
    throw UsageError(error.what());  // here these words came from the command line
  }
  check<UsageError>(
      s.collect.size >= 1 && 64 % s.collect.size == 0, "collect: --size: expected a divisor of 64, got {}",
      s.collect.size);
  const std::filesystem::path out = s.out;
  (out.extension() == ".h5" ? s.collect.single_file : s.collect.out) = out;

  const data::ProcgenFiles files = data::find_procgen();
  const std::string sha = sha256_of_file(files.library);
  const train::StopSignal stop;

  const bool terminal = isatty(STDERR_FILENO) == 1;
  double shown_at = -1;
  const auto report = [&](const data::CollectProgress& p) {
    const bool last = p.frames_done == p.frames_total;
    if (!last && p.seconds - shown_at < (terminal ? 0.2 : 10.0)) return;
    shown_at = p.seconds;
    const double rate = static_cast<double>(p.frames_done) / std::max(p.seconds, 1e-9);
    const double left = static_cast<double>(p.frames_total - p.frames_done) / rate;
    std::fprintf(
        stderr, "%scollect %s: %.0f%%, %lld of %lld frames, %.0f frames/s, shard %d of %d, %.0f s left%s",
        terminal ? "\r" : "", s.collect.game.game.c_str(),
        100.0 * static_cast<double>(p.frames_done) / static_cast<double>(p.frames_total),
        static_cast<long long>(p.frames_done), static_cast<long long>(p.frames_total), rate,
        std::min(p.shards_done + 1, p.shards_total), p.shards_total, left, terminal && !last ? "  " : "\n");
  };
  const auto make_source = [&] { return std::make_unique<data::ProcgenSource>(files, s.collect.game); };
  const data::CollectResult result =
      data::collect(s.collect, make_source, sha, report, [&] { return stop.received() != 0; });

  if (s.json) {
    Json j;
    j["shards"] = Json::array();
    for (const auto& path : result.shards) j["shards"].push_back(path.string());
    j["frames_written"] = result.frames_written;
    j["shards_found"] = result.shards_found;
    j["seconds"] = result.seconds;
    j["library_sha256"] = sha;
    print_json(j, 2);
  } else {
    for (const auto& path : result.shards) std::printf("%s\n", path.c_str());
    if (result.shards_found > 0)
      std::fprintf(stderr, "collect: %d of %zu shards were there already\n", result.shards_found, result.shards.size());
  }
}

const CommandRegistrar collect_command(
    "collect", "play levels of a Procgen game and store the frames", [](Command* app) {
      auto s = std::make_shared<Settings>();
      app->add_option("--game", s->collect.game.game, "one of the 16 games")->required();
      app->add_option("--levels", s->levels, "A:B = levels A to B-1, or one level")->required();
      app->add_option("--steps", s->collect.steps, "frames per level")->range(1, 1'000'000'000)->capture_default_str();
      app->add_option("--out", s->out, "folder of shards, or one .h5 file")->required();
      app->add_option("--seed", s->collect.seed, "chooses the actions")->capture_default_str();
      app->add_option("--mode", s->collect.game.distribution_mode, "easy, hard, extreme, memory")
          ->capture_default_str();
      app->add_flag("--no-backgrounds", s->no_backgrounds, "black background (with coinrun: only CC0 art)");
      app->add_option("--size", s->collect.size, "stored frame size: 64 or a divisor (box average)")
          ->capture_default_str();
      app->add_option("--actions", s->actions, "uniform (the paper's), or hold: kept for 4 steps on average")
          ->capture_default_str();
      app->add_flag(
          "--replay", [s] { s->collect.storage.frames = false; },
          "store no frames, 6 bytes for each: whoever reads them plays the levels again with the same game library");
      app->add_option("--compress", s->collect.storage.deflate_level, "deflate level 1..9; 0 stores plain")
          ->range(0, 9)
          ->capture_default_str();
      app->add_option("--chunk-frames", s->collect.storage.chunk_frames, "frames per compressed chunk")
          ->positive()
          ->capture_default_str();
      app->add_option("--levels-per-shard", s->collect.levels_per_shard, "levels in one file")
          ->positive()
          ->capture_default_str();
      app->add_option("--jobs", s->collect.jobs, "game processes side by side")->range(1, 256)->capture_default_str();
      app->add_flag("--json", s->json, "print one JSON value");
      set_example(
          app,
          "avid collect --game coinrun --levels 0:500 --out data/coinrun500k --jobs 2\n"
          "Needs the game library (scripts/get_procgen.sh). Repeating a command goes on after its last finished "
          "shard.");
      app->callback([s] { run_collect(*s); });
    });

// Hidden: the program runs itself with this command to host the game library, see data/procgen.h.
const CommandRegistrar worker_command("procgen-worker", "hosts the game library for this program", [](Command* app) {
  auto library = std::make_shared<std::string>();
  app->hide();
  app->add_option("library", *library)->required();
  app->callback([library] {
    const int code = data::worker::run(*library, 3, 4);
    std::fflush(nullptr);
    _exit(code);  // the library's static destructors are not worth the risk
  });
});

}  // namespace
}  // namespace avid::cli
