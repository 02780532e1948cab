// train/cli/cmd_clips.cpp -- avid clips: a stored list of evaluation clips that every method is scored on
#include <cstdio>
#include <memory>
#include <set>

#include "data/loader.h"
#include "eval/clip_list.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

struct Options {
  std::vector<std::string> data;
  std::string out, name, resets = "exclude", windows = "full";
  std::int64_t count = 1024, context = 2, targets = 8;
  std::uint64_t seed = 0;
  bool json = false;
};

void clips(const Options& options) {
  const data::EpisodeStore store(options.data);
  const data::WindowSampler sampler(
      store, {.num_frames = options.context + options.targets,
              .resets = data::parse_reset_policy(options.resets),
              .windows = data::parse_window_set(options.windows)});
  check<ConfigError>(
      options.count <= sampler.num_windows(),
      "clips: --count: expected at most {}, so many windows of {} frames there are, got {} | collect more levels, or "
      "ask for fewer",
      sampler.num_windows(), options.context + options.targets, options.count);
  const eval::ClipList list{
      .name = options.name.empty() ? std::filesystem::path(options.out).stem().string() : options.name,
      .dataset = eval::dataset_digest(store),
      .context = options.context,
      .targets = options.targets,
      .resets = options.resets,
      .seed = options.seed,
      .starts = sampler.draw_evaluation(options.seed, options.count)};
  write_text_atomic(options.out, list.to_json());
  // Windows are drawn one by one (every level equally likely), so one may come twice; few windows show here.
  const std::size_t distinct = std::set<std::int64_t>(list.starts.begin(), list.starts.end()).size();
  if (options.json) {
    const Json json = {
        {"out", options.out},
        {"name", list.name},
        {"hash", list.hash()},
        {"count", list.starts.size()},
        {"distinct", distinct}};
    print_json(json, 2);
  } else {
    std::printf(
        "%s: %zu clips (%zu different ones) of %lld + %lld frames, hash %s\n", options.out.c_str(), list.starts.size(),
        distinct, static_cast<long long>(options.context), static_cast<long long>(options.targets),
        list.hash().c_str());
  }
}

const CommandRegistrar registrar(
    "clips", "store a list of evaluation clips, so that all methods are scored on the same ones", [](Command* command) {
      auto options = std::make_shared<Options>();
      command->add_option("--data", options->data, "held-out episodes: files, folders or patterns")
          ->type_name("HELDOUT")
          ->required();
      command->add_option("--count", options->count, "how many clips")->positive()->capture_default_str();
      command->add_option("--seed", options->seed, "which clips are drawn")->capture_default_str();
      command->add_option("--context", options->context, "conditioning frames K")->positive()->capture_default_str();
      command->add_option("--targets", options->targets, "frames to generate T")->positive()->capture_default_str();
      command->add_option("--resets", options->resets, "exclude or allow windows over a restart")
          ->one_of({"exclude", "allow"})
          ->capture_default_str();
      command->add_option("--windows", options->windows, "full or reference: which starts exist")
          ->one_of({"full", "reference"})
          ->capture_default_str();
      command->add_option("--name", options->name, "the list's name (default: the file's)");
      command->add_option("--out", options->out, "the list, JSON")->type_name("FILE")->required();
      command->add_flag("--json", options->json, "print name, hash and count as JSON");
      set_example(
          command,
          "avid clips --data data/samples/coinrun32-heldout.h5 --count 256 --seed 0 --out coinrun32-eval256.json");
      command->callback([options] { clips(*options); });
    });

}  // namespace
}  // namespace avid::cli
