// train/cli/cmd_evaluate.cpp -- avid evaluate: scores models on held-out clips against base and "repeat the last frame"
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "data/loader.h"
#include "eval/opponents.h"
#include "eval/score_table.h"
#include "tensor/io/atomic_file.h"
#include "tensor/ops/frames.h"
#include "train/batches.h"
#include "train/cli/command.h"
#include "train/cli/world_model.h"

namespace avid::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ModelFiles files;
  SamplingFlags sampling;
  std::vector<std::string> data, more_adapters;  // the latter NAME=FILE or FILE
  std::string name, out, resets = "exclude";
  std::int64_t clips = 64, frames = 0, size = 0;
  eval::BootstrapOptions bootstrap;
  bool shuffle_actions = false, json = false;
};

/// Held-out clips, the same for every model.
struct Clips {
  Tensor cond_u8, real_u8;  // [B,K,H,W,3], [B,T,H,W,3]
  Tensor cond;              // [B,K,H,W,3] in [-1,1]
  Tensor actions;           // [B,T] i64
};

Clips read_clips(const Options& options, const WorldModel& world, std::int64_t frames) {
  auto store = std::make_shared<const data::EpisodeStore>(options.data);
  check<ConfigError>(
      !world.uses_actions() || (store->num_actions() > 0 && store->num_actions() <= world.num_actions()),
      "evaluate: data: expected at most {} kinds of actions (the model's), got {}", world.num_actions(),
      store->num_actions());
  const data::Loader loader(
      store, {.batch = 1,
              .context = world.cond_frames(),
              .targets = frames,
              .size = options.size != 0 ? options.size : world.trained_size(),
              .resets = data::parse_reset_policy(options.resets),
              .seed = options.sampling.seed,
              .workers = 0});
  world.check_size(loader.height(), loader.width());
  const data::Batch batch = loader.read_windows(loader.sampler().draw_evaluation(options.sampling.seed, options.clips));
  const std::int64_t k = world.cond_frames();
  return {
      .cond_u8 = eval::take_frames(batch.frames, 0, k),
      .real_u8 = eval::take_frames(batch.frames, k, batch.frames.dim(1)),
      .cond = train::split_clips(batch.frames, k).cond.to(world.device()),
      .actions = batch.actions};
}

/// Collects rows, and for each the mean mask per diffusion step.
class Evaluation {
 public:
  Evaluation(const Options& options, const Clips& clips)
      : options_(options), clips_(clips), table_(options.bootstrap) {}

  void add(
      const std::string& name, diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule,
      const Tensor& actions) {
    diffusion::SamplerOptions sampler = sampler_options(options_.sampling, schedule);
    diffusion::MaskTrace trace;
    sampler.on_step = [&](const diffusion::StepReport& step) { trace.add(step); };
    show_sampling_progress(sampler, name);
    const Tensor made =
        diffusion::sample(denoiser, schedule, clips_.cond, actions, clips_.real_u8.dim(1), sampler).to(Device());
    table_.add({name, eval::score_frames(frames_to_u8(made), clips_.real_u8)});
    for (const auto& point : trace.points()) masks_[name].push_back({{"t", point.t}, {"mean", point.mean}});
  }
  void add_repeat_last_frame() {
    table_.add(
        {kRepeat, eval::score_frames(eval::repeat_last_frame(clips_.cond_u8, clips_.real_u8.dim(1)), clips_.real_u8)});
  }
  eval::ScoreTable& table() { return table_; }
  const Json& masks() const { return masks_; }

  static constexpr const char* kRepeat = "repeat-last-frame";

 private:
  const Options& options_;
  const Clips& clips_;
  eval::ScoreTable table_;
  Json masks_ = Json::object();
};

/// Scores one model, and the same model under other clips' actions if asked.
void add_model(
    Evaluation& evaluation, const Options& options, const std::string& name, WorldModel& world, const Clips& clips,
    bool has_base) {
  evaluation.add(name, world.denoiser(), world.schedule(), world.uses_actions() ? clips.actions : Tensor{});
  if (has_base) evaluation.table().compare(name, "base");
  evaluation.table().compare(name, Evaluation::kRepeat);
  if (!options.shuffle_actions || !world.uses_actions()) return;
  const std::string shuffled = name + ", shuffled actions";
  evaluation.add(
      shuffled, world.denoiser(), world.schedule(), eval::shuffle_actions(clips.actions, options.sampling.seed));
  evaluation.table().compare(name, shuffled);
}

/// NAME=FILE, or FILE, whose stem is then the name.
std::pair<std::string, std::string> named_file(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || std::filesystem::exists(text))
    return {std::filesystem::path(text).stem().string(), text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

void print_table(const Options& options, const Json& report, const eval::ScoreTable& table) {
  std::printf(
      "device %s\n%lld held-out clips of %lld + %lld frames, %lldx%lld, %s with %zu steps, seed %llu\n",
      report["device"].get<std::string>().c_str(),
      static_cast<long long>(options.clips), report["t_cond"].get<long long>(), report["frames"].get<long long>(),
      report["height"].get<long long>(), report["width"].get<long long>(),
      report["sampler"]["kind"].get<std::string>().c_str(), report["sampler"]["steps"].get<std::size_t>(),
      static_cast<unsigned long long>(options.sampling.seed));
  std::printf("%s", table.text().c_str());
}

void evaluate(const Options& options) {
  check<UsageError>(options.clips >= 1, "evaluate: --clips: expected at least 1, got {}", options.clips);
  const std::unique_ptr<WorldModel> world = WorldModel::load(options.files);
  const std::int64_t frames = options.frames != 0            ? options.frames
                              : world->trained_frames() != 0 ? world->trained_frames()
                                                             : 8;
  const diffusion::SamplerOptions sampler = sampler_options(options.sampling, world->schedule());
  const Clips clips = read_clips(options, *world, frames);
  if (!options.out.empty()) AtomicFile(options.out);  // shows now, not after minutes, that it cannot be written

  Evaluation evaluation(options, clips);
  evaluation.add_repeat_last_frame();
  const bool has_base = world->base() != nullptr;
  if (has_base) {
    evaluation.add("base", *world->base(), world->schedule(), {});
    evaluation.table().compare("base", Evaluation::kRepeat);
  }
  const std::string name = !options.name.empty()   ? options.name
                           : has_base              ? "adapter"
                           : world->uses_actions() ? "model"
                                                   : "base";
  add_model(evaluation, options, name, *world, clips, has_base);
  Json sources{{name, world->sources()}};
  for (const std::string& text : options.more_adapters) {
    const auto [other, file] = named_file(text);
    check<UsageError>(
        !sources.contains(other), "evaluate: --also: the name '{}' is taken | write --also NAME=FILE", other);
    const std::unique_ptr<WorldModel> more = world->with_adapter(file);
    check<ConfigError>(
        more->num_actions() == world->num_actions(), "{}: expected {} actions as in the first model, got {}", file,
        world->num_actions(), more->num_actions());
    add_model(evaluation, options, other, *more, clips, true);
    sources[other] = more->sources();
  }

  Json report;
  report["n_clips"] = options.clips;
  report["frames"] = frames;
  report["t_cond"] = world->cond_frames();
  report["height"] = clips.real_u8.dim(2);
  report["width"] = clips.real_u8.dim(3);
  report["data"] = options.data;
  report["sampler"] = {
      {"kind", name_of(sampler.kind)},
      {"steps", diffusion::sampling_times(world->schedule(), sampler).size()},
      {"eta", sampler.eta},
      {"seed", options.sampling.seed}};
  report["switches"] = {{"quantise", "trunc"}, {"ssim.crop", "full"}, {"resets", options.resets}};
  report["program"] = std::string("avid ") + AVID_VERSION;
  report["device"] = world->device().describe();
  report["sources"] = sources;
  report.update(evaluation.table().json());
  report["mask_mean_per_step"] = evaluation.masks();
  const std::string json = report.dump(2, ' ', false, Json::error_handler_t::replace);
  // Printed first: a full disk costs the file only.
  if (options.json)
    std::printf("%s\n", json.c_str());
  else
    print_table(options, report, evaluation.table());
  if (!options.out.empty()) write_text_atomic(options.out, json + "\n");
}

const CommandRegistrar registrar(
    "evaluate", "score a model, its base and 'repeat the last frame' on held-out clips", [](CLI::App* command) {
      auto options = std::make_shared<Options>();
      add_model_options(command, options->files);
      command->add_option("--data", options->data, "held-out episodes: files, folders or patterns")
          ->type_name("HELDOUT")
          ->required();
      command->add_option("--clips", options->clips, "how many clips")->capture_default_str();
      add_sampling_options(command, options->sampling);
      command->add_option("--also", options->more_adapters, "another adapter on the same base; may be repeated")
          ->type_name("[NAME=]F");
      command->add_option("--name", options->name, "the model's name in the table (default: adapter, model or base)");
      command->add_flag(
          "--shuffle-actions", options->shuffle_actions, "score every model also with the actions of other clips");
      command->add_option("--frames", options->frames, "generated frames (default: as trained, else 8)")
          ->check(CLI::PositiveNumber);
      command->add_option("--size", options->size, "height and width (default: as trained, else as stored)")
          ->check(CLI::PositiveNumber);
      command->add_option("--resets", options->resets, "exclude or allow windows over a restart")
          ->capture_default_str();
      command->add_option("--out", options->out, "write the JSON report here as well")->type_name("FILE");
      command->add_flag("--json", options->json, "print the report as JSON");
      set_example(
          command,
          "avid evaluate --run runs/demo --data data/samples/coinrun32-heldout.h5 --clips 64 --shuffle-actions --out "
          "scores.json");
      command->callback([options] { evaluate(*options); });
    });

}  // namespace
}  // namespace avid::cli
