// train/cli/cmd_evaluate.cpp -- avid evaluate: scores models on held-out clips against base and "repeat the last frame"
#include <cstdio>
#include <memory>
#include <set>

#include "eval/opponents.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"
#include "train/cli/evaluation.h"
#include "train/training_record.h"
#include "train/version.h"

namespace avid::cli {
namespace {

struct Options {
  ModelFiles files;
  ClipRequest clips;
  ScoringOptions scoring;
  std::vector<std::string> more_adapters;  // NAME=FILE or FILE
  std::string name, out;
  MetricFlags metrics{.metrics = {"mse", "psnr", "ssim"}, .set = {}, .weights = {}};
  std::int64_t frames = 0;
  bool shuffle_actions = false, json = false;
};

/// Scores one model at the weights it has, and the same under other clips' actions if asked.
void add_model(
    Evaluation& evaluation, const Options& options, const std::string& name, WorldModel& world,
    const HeldOutClips& clips, bool has_base) {
  evaluation.add(
      name, world.denoiser(), world.schedule(), world.uses_actions() ? clips.actions : Tensor{}, &world,
      world.sources());
  if (has_base) evaluation.compare(name, "base");
  evaluation.compare(name, Evaluation::kRepeat);
  if (!options.shuffle_actions || !world.uses_actions()) return;
  const std::string shuffled = name + ", shuffled actions";
  evaluation.add(
      shuffled, world.denoiser(), world.schedule(), eval::shuffle_actions(clips.actions, options.scoring.sampling.seed),
      &world, world.sources());
  evaluation.compare(name, shuffled);
}

/// NAME=FILE, or FILE, whose stem is then the name.
std::pair<std::string, std::string> named_file(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || std::filesystem::exists(text))
    return {std::filesystem::path(text).stem().string(), text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

/// The adapters of --also by their rows' names, loaded before anything is sampled: mistakes cost no minutes.
std::vector<std::pair<std::string, std::unique_ptr<WorldModel>>> load_others(
    const Options& options, WorldModel& world, const std::string& first) {
  std::set<std::string> taken{Evaluation::kRepeat};
  if (world.base() != nullptr) taken.insert("base");
  check<UsageError>(taken.insert(first).second, "evaluate: --name: the name '{}' is taken | choose another", first);
  std::vector<std::pair<std::string, std::unique_ptr<WorldModel>>> others;
  for (const std::string& text : options.more_adapters) {
    const auto [name, file] = named_file(text);
    check<UsageError>(
        taken.insert(name).second, "evaluate: --also: the name '{}' is taken | write --also NAME=FILE", name);
    others.emplace_back(name, world.with_adapter(file));
    check<ConfigError>(
        others.back().second->num_actions() == world.num_actions(),
        "{}: expected {} actions as in the first model, got {}", file, world.num_actions(),
        others.back().second->num_actions());
  }
  return others;
}

/// What the networks of a row cost to train, where their files say so.
Json training_of(const std::map<std::string, std::string>& sources) {
  Json out = Json::object();
  for (const auto& [role, place] : sources) {
    if (!sources.contains("sha256." + role)) continue;  // not a file
    if (const auto record = train::read_training_record(place))
      out[role] = {{"flop", record->flop}, {"clips", record->clips}, {"frames", record->frames}};
  }
  return out;
}

void print_table(const Options& options, const Json& report, const Evaluation& evaluation) {
  std::printf(
      "device %s\n%lld held-out clips of %lld + %lld frames, %lldx%lld, %s with %zu steps, seed %llu\n",
      report["device"].get<std::string>().c_str(), report["n_clips"].get<long long>(),
      report["t_cond"].get<long long>(), report["frames"].get<long long>(), report["height"].get<long long>(),
      report["width"].get<long long>(), report["sampler"]["kind"].get<std::string>().c_str(),
      report["sampler"]["steps"].get<std::size_t>(), static_cast<unsigned long long>(options.scoring.sampling.seed));
  std::printf("%s", evaluation.text().c_str());
}

void evaluate(const Options& options) {
  const SamplingFlags& sampling = options.scoring.sampling;
  check<UsageError>(
      options.clips.clips >= (options.clips.clip_list.empty() ? 1 : 0),
      "evaluate: --clips: expected at least 1, got {}", options.clips.clips);
  MetricChoice choice = choose_metrics(options.metrics);
  refuse_switches_of_files(choice, "evaluate");
  choice.options.bootstrap.seed = options.scoring.bootstrap.seed;
  const std::unique_ptr<WorldModel> world = WorldModel::load(options.files);
  const std::int64_t frames = options.frames != 0            ? options.frames
                              : world->trained_frames() != 0 ? world->trained_frames()
                                                             : 8;
  const diffusion::SamplerOptions sampler = sampler_options(sampling, world->schedule());
  world->check_sampling(sampler);
  const std::string first = !options.name.empty() ? options.name : world->kind() == "avid" ? "adapter" : world->kind();
  const std::vector<MethodWeights> weights = sweep(options.files);
  // Of a base with mixtures the rows are called by their weights.
  const bool by_weights = options.name.empty() && world->kind() == "base" && world->base() != nullptr;
  const auto others = load_others(options, *world, by_weights ? "" : first);
  check<UsageError>(
      !options.shuffle_actions || world->uses_actions() || !others.empty(),
      "evaluate: --shuffle-actions: this model takes no actions | leave it out");
  const HeldOutClips clips = read_held_out_clips(options.clips, *world, frames, sampling.seed);
  check<UsageError>(
      !options.shuffle_actions || clips.real_u8.dim(0) >= 2,
      "evaluate: --shuffle-actions: one clip has no other's actions | score at least 2");
  if (!options.out.empty()) AtomicFile(options.out);  // shows now, not after minutes, that it cannot be written

  ScoringOptions scoring = options.scoring;
  scoring.dtype = options.files.dtype;
  Evaluation evaluation(scoring, choice, clips);
  evaluation.add_repeat_last_frame();
  const bool has_base = world->base() != nullptr;
  if (has_base) {
    const auto all = world->sources();
    evaluation.add(
        "base", *world->base(), world->schedule(), {}, nullptr,
        {{"base", all.at("base")}, {"sha256.base", all.at("sha256.base")}});
    evaluation.compare("base", Evaluation::kRepeat);
  }
  Json sources = Json::object(), training = Json::object();
  const auto add = [&](const std::string& name, WorldModel& model, bool with_base) {
    add_model(evaluation, options, name, model, clips, with_base);
    sources[name] = model.sources();
    training[name] = training_of(model.sources());
  };
  for (const MethodWeights& w : weights) {
    world->set_weights(w);
    // A name given for a single choice stands as it is; otherwise the weights tell the rows apart.
    const bool plain = w.text().empty() || (!options.name.empty() && weights.size() == 1);
    add(plain                                             ? first
        : options.name.empty() && world->kind() == "base" ? w.text()
                                                          : first + ", " + w.text(),
        *world, has_base);
  }
  for (const auto& [other, more] : others) add(other, *more, true);

  Json report;
  report["n_clips"] = clips.real_u8.dim(0);
  report["frames"] = frames;
  report["t_cond"] = world->cond_frames();
  report["height"] = clips.real_u8.dim(2);
  report["width"] = clips.real_u8.dim(3);
  report["data"] = options.clips.data;
  report["dataset_sha256"] = clips.dataset;
  report["clips"] = {{"name", clips.list_name}, {"hash", clips.list_hash}};
  report["sampler"] = {
      {"kind", name_of(sampler.kind)},
      {"steps", diffusion::sampling_times(world->schedule(), sampler).size()},
      {"eta", sampler.eta},
      {"seed", sampling.seed},
      {"schedule", name_of(world->schedule().kind())},
      {"timesteps", world->schedule().num_steps()},
      {"objective", name_of(world->denoiser().objective())},
      {"dtype", options.files.dtype}};
  report["switches"] = {
      {"quantise", choice.round ? "round" : "trunc"},
      {"ssim.crop", choice.border == eval::SsimBorder::full ? "full" : "valid"},
      {"resets", clips.resets}};
  report["program"] = "avid " + train::program_version();
  report["commit"] = train::program_commit();
  report["device"] = world->device().describe();
  report["sources"] = sources;
  report["training"] = training;
  evaluation.write(report);
  const std::string json = json_text(report, 2);
  // Printed first: a full disk costs the file only.
  if (options.json)
    std::printf("%s\n", json.c_str());
  else
    print_table(options, report, evaluation);
  if (!options.out.empty()) write_text_atomic(options.out, json + "\n");
}

const CommandRegistrar registrar(
    "evaluate", "score a model, its base and 'repeat the last frame' on held-out clips", [](Command* command) {
      auto options = std::make_shared<Options>();
      add_model_options(command, options->files);
      command->add_option("--data", options->clips.data, "held-out episodes: files, folders or patterns")
          ->type_name("HELDOUT")
          ->required();
      command->add_option("--clips", options->clips.clips, "how many clips; 0: all of --clip-list")
          ->capture_default_str();
      command->add_option("--clip-list", options->clips.clip_list, "score the clips of this list (avid clips)")
          ->type_name("F");
      add_sampling_options(command, options->scoring.sampling);
      command->add_option("--also", options->more_adapters, "another adapter on the same base; may be repeated")
          ->type_name("[NAME=]F");
      command->add_option("--name", options->name, "the model's name in the table (default: adapter, model or base)");
      command->add_flag(
          "--shuffle-actions", options->shuffle_actions, "score every model also with the actions of other clips");
      command->add_option("--frames", options->frames, "generated frames (default: as trained, else 8)")->positive();
      command->add_option("--size", options->clips.size, "height and width (default: as trained, else as stored)")
          ->positive();
      command
          ->add_option(
              "--resets", options->clips.resets,
              "exclude or allow windows over a restart (default: as in --clip-list, else exclude)")
          ->one_of({"exclude", "allow"});
      add_metric_options(command, options->metrics);
      command
          ->add_option(
              "--classifier", options->scoring.classifier,
              "a trained action classifier, weights or run: adds the Action Error Ratio")
          ->type_name("F");
      command
          ->add_option(
              "--keep-clips", options->scoring.keep_clips,
              "keep the generated clips here, and take from here what an earlier evaluation sampled alike: another "
              "metric then samples nothing")
          ->type_name("DIR");
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
