// train/cli/cmd_evaluate.cpp -- avid evaluate: scores models on held-out clips against base and "repeat the last frame"
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include "data/loader.h"
#include "eval/clip_list.h"
#include "eval/metrics/action_predictor.h"
#include "eval/metrics/resize.h"
#include "eval/opponents.h"
#include "eval/score_table.h"
#include "models/checkpoint.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/sha256.h"
#include "tensor/ops/frames.h"
#include "train/batches.h"
#include "train/cli/command.h"
#include "train/cli/metric_options.h"
#include "train/cli/world_model.h"
#include "train/version.h"

namespace avid::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ModelFiles files;
  SamplingFlags sampling;
  std::vector<std::string> data, more_adapters;  // the latter NAME=FILE or FILE
  std::string name, out, resets = "exclude", clip_list;
  std::filesystem::path classifier;
  MetricFlags metrics{.metrics = {"mse", "psnr", "ssim"}, .set = {}, .weights = {}};
  std::int64_t clips = 64, frames = 0, size = 0;
  eval::BootstrapOptions bootstrap;
  bool shuffle_actions = false, json = false;
};

/// Held-out clips, the same for every model.
struct Clips {
  Tensor cond_u8, real_u8;  // [B,K,H,W,3], [B,T,H,W,3]
  Tensor cond;              // [B,K,H,W,3] in [-1,1]
  Tensor actions;           // [B,T] i64
  std::string dataset;      // digest of the frames they are from
  std::string list_name, list_hash;
};

/// The list that was given, or windows drawn now: the same as `avid clips` would store.
eval::ClipList choose_clips(
    const Options& options, const WorldModel& world, const data::EpisodeStore& store, const data::Loader& loader,
    std::int64_t frames) {
  eval::ClipList list{
      .name = "",
      .dataset = eval::dataset_digest(store),
      .context = world.cond_frames(),
      .targets = frames,
      .resets = options.resets,
      .seed = options.sampling.seed,
      .starts = {}};
  if (options.clip_list.empty()) {
    list.starts = loader.sampler().draw_evaluation(options.sampling.seed, options.clips);
    return list;
  }
  eval::ClipList given = eval::load_clip_list(options.clip_list);
  check<ConfigError>(
      given.dataset == list.dataset, "{}: made for other episodes than --data holds | make it again with avid clips",
      options.clip_list);
  check<ConfigError>(
      given.context == list.context && given.targets == frames,
      "{}: clips of {} + {} frames, the model needs {} + {} | make it again with avid clips --context {} --targets {}",
      options.clip_list, given.context, given.targets, list.context, frames, list.context, frames);
  if (options.clips > 0 && options.clips < static_cast<std::int64_t>(given.starts.size()))
    given.starts.resize(static_cast<std::size_t>(options.clips));
  return given;
}

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
  const eval::ClipList list = choose_clips(options, world, *store, loader, frames);
  const data::Batch batch = loader.read_windows(list.starts);
  const std::int64_t k = world.cond_frames();
  return {
      .cond_u8 = eval::take_frames(batch.frames, 0, k),
      .real_u8 = eval::take_frames(batch.frames, k, batch.frames.dim(1)),
      .cond = train::split_clips(batch.frames, k).cond.to(world.device()),
      .actions = batch.actions,
      .dataset = list.dataset,
      .list_name = list.name,
      .list_hash = list.hash()};
}

/// The evaluation classifier, checked against the clips.
std::unique_ptr<ActionClassifier> load_judge(const std::filesystem::path& place, const Clips& clips) {
  auto judge = load_action_classifier(train::base_weights_path(place), DType::f32, clips.cond_u8.dim(1));
  judge->set_trainable(false);
  const std::int64_t size = judge->config().image_size;
  check<ConfigError>(
      clips.real_u8.dim(2) == size && clips.real_u8.dim(3) == size,
      "{}: a classifier of {}x{} frames, the clips are {}x{} | use --size {}", place.string(), size, size,
      clips.real_u8.dim(2), clips.real_u8.dim(3), size);
  check<ConfigError>(
      clips.actions.dtype() == DType::i64, "{}: needs numbered actions, the data has vectors", place.string());
  return judge;
}

/// What a row has beside the frame metrics of the table.
struct MoreScores {
  eval::NetworkScores networks;
  eval::ActionScores actions;  ///< empty without a classifier
};

/// Collects rows, and for each the mean mask per diffusion step.
class Evaluation {
 public:
  /// Fails at once, not after the sampling, when a metric that was asked for cannot be computed.
  Evaluation(const Options& options, const MetricChoice& choice, const Clips& clips)
      : options_(options),
        choice_(choice),
        clips_(clips),
        table_(options.bootstrap),
        scorer_(choice.network, choice.options) {
    scorer_.set_real(clips.real_u8, clips.cond_u8);
    if (!options.classifier.empty()) {
      classifier_ = load_judge(options.classifier, clips);
      real_actions_ = eval::predict_actions(*classifier_, clips.cond_u8, clips.real_u8, clips.actions);
    }
    if (choice.aer && !classifier_)
      unavailable_["aer"] = "aer: unavailable: it needs a trained action classifier | add --classifier F";
    for (const auto& [metric, reason] : scorer_.unavailable()) unavailable_[metric] = reason;
    if (!unavailable_.empty() && !choice.all) fail<Error>("{}", unavailable_.begin()->second);
    print_warnings(scorer_.warnings());
  }

  /// `world` guides the sampler where it has guidance; null for a base alone.
  void add(
      const std::string& name, diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule,
      const Tensor& actions, const WorldModel* world) {
    diffusion::SamplerOptions sampler = sampler_options(options_.sampling, schedule);
    if (world != nullptr) world->guide(sampler);
    diffusion::MaskTrace trace;
    sampler.on_step = [&](const diffusion::StepReport& step) { trace.add(step); };
    show_sampling_progress(sampler, name);
    const auto start = std::chrono::steady_clock::now();
    const Tensor made = diffusion::sample(denoiser, schedule, clips_.cond, actions, clips_.real_u8.dim(1), sampler);
    seconds_[name] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    add_clips(name, choice_.round ? eval::quantise_rounded(made) : frames_to_u8(made), actions);
    for (const auto& point : trace.points()) masks_[name].push_back({{"t", point.t}, {"mean", point.mean}});
  }
  void add_repeat_last_frame() {
    add_clips(kRepeat, eval::repeat_last_frame(clips_.cond_u8, clips_.real_u8.dim(1)), {});
  }
  /// Adds the scores that the table does not know to its JSON: rows, paired differences, what they were made with.
  void complete(Json& report) const;
  /// Lines for people: the scores behind the table.
  std::string text() const;
  eval::ScoreTable& table() { return table_; }
  const Json& masks() const { return masks_; }
  const Json& seconds() const { return seconds_; }
  /// Per row: both accuracies, mean probability of the true action, and their ratio with its interval over clips.
  Json action_errors() const;
  /// Per row and metric one number per clip: what paired differences between reports need.
  Json per_clip() const;

  static constexpr const char* kRepeat = "repeat-last-frame";

 private:
  /// `actions`: those that the clips were generated with; the data's when undefined.
  void add_clips(const std::string& name, const Tensor& made, const Tensor& actions) {
    table_.add({name, eval::score_frames(made, clips_.real_u8, choice_.border)});
    MoreScores& more = more_[name];
    more.networks = scorer_.score(made);
    if (classifier_)
      more.actions =
          eval::predict_actions(*classifier_, clips_.cond_u8, made, actions.defined() ? actions : clips_.actions);
  }

  const Options& options_;
  const MetricChoice& choice_;
  const Clips& clips_;
  eval::ScoreTable table_;
  eval::NetworkScorer scorer_;
  std::unique_ptr<ActionClassifier> classifier_;
  eval::ActionScores real_actions_;
  std::map<std::string, MoreScores> more_;
  std::map<std::string, std::string> unavailable_;
  Json masks_ = Json::object(), seconds_ = Json::object();
};

Json interval_json(const eval::Interval& i) { return {{"mean", i.mean}, {"low", i.low}, {"high", i.high}}; }

void Evaluation::complete(Json& report) const {
  for (Json& row : report["rows"]) {
    const MoreScores& more = more_.at(row["name"].get<std::string>());
    Json scores = Json::object();
    add_network_scores(scores, more.networks, options_.bootstrap);
    if (scores.contains("lpips")) {
      const Json interval = scores["intervals"]["lpips"];
      row["lpips"] = {
          {"mean", scores["lpips"]},
          {"low", interval[0]},
          {"high", interval[1]},
          {"per_frame", scores["curves"]["lpips"]}};
    }
    for (const auto& [key, value] : more.networks.distances) row[key] = value;
    if (classifier_) {
      row["aer"] = eval::action_error_ratio(real_actions_.mean_accuracy(), more.actions.mean_accuracy());
      row["action_accuracy"] = interval_json(eval::bootstrap_mean(more.actions.accuracy, options_.bootstrap));
      row["action_probability"] = interval_json(eval::bootstrap_mean(more.actions.probability, options_.bootstrap));
    }
  }
  for (Json& difference : report["differences"]) {
    const MoreScores &a = more_.at(difference["a"].get<std::string>()),
                     &b = more_.at(difference["b"].get<std::string>());
    const auto add = [&](const char* key, const std::vector<double>& x, const std::vector<double>& y) {
      const eval::Interval i = eval::bootstrap_difference(x, y, options_.bootstrap);
      difference[key] = interval_json(i);
      difference[key]["excludes_zero"] = i.excludes_zero();
    };
    if (!a.networks.lpips.empty()) add("lpips", eval::lpips_per_clip(a.networks), eval::lpips_per_clip(b.networks));
    if (classifier_) add("action_accuracy", a.actions.accuracy, b.actions.accuracy);
  }
  report["switches"].update(scorer_.switches());
  if (Json weights = scorer_.weights_record(); !weights.empty()) report["weights"] = weights;
  if (classifier_) {
    report["weights"]["classifier"] = {
        {"file", options_.classifier.string()},
        {"sha256", sha256_of_file(train::base_weights_path(options_.classifier))}};
    report["real_action_accuracy"] = real_actions_.mean_accuracy();
    report["real_action_probability"] = real_actions_.mean_probability();
  }
  for (const std::string& warning : scorer_.warnings()) report["warnings"].push_back(warning);
  if (!unavailable_.empty()) report["unavailable"] = unavailable_;
}

Json Evaluation::action_errors() const {
  Json out = Json::object();
  for (const auto& [name, more] : more_)
    out[name] = {
        {"acc_real", real_actions_.mean_accuracy()},
        {"acc_generated", more.actions.mean_accuracy()},
        {"prob_real", real_actions_.mean_probability()},
        {"prob_generated", more.actions.mean_probability()},
        {"aer", interval_json(
                    eval::bootstrap_ratio(real_actions_.accuracy, more.actions.accuracy, 1e-9, options_.bootstrap))}};
  return out;
}

Json Evaluation::per_clip() const {
  Json out = Json::object();
  for (const eval::ScoreRow& row : table_.rows()) {
    const MoreScores& more = more_.at(row.name);
    for (const eval::PixelMetric m : eval::kPixelMetrics)
      out[row.name][name_of(m)] = eval::clip_means(row.scores, eval::values_of(row.scores, m));
    if (!more.networks.lpips.empty()) out[row.name]["lpips"] = eval::lpips_per_clip(more.networks);
    if (!classifier_) continue;
    out[row.name]["acc"] = more.actions.accuracy;
    out[row.name]["prob"] = more.actions.probability;
  }
  if (classifier_) out["real"] = {{"acc", real_actions_.accuracy}, {"prob", real_actions_.probability}};
  return out;
}

std::string Evaluation::text() const {
  std::string out;
  for (const eval::ScoreRow& row : table_.rows()) {
    const MoreScores& more = more_.at(row.name);
    std::string line;
    if (!more.networks.lpips.empty()) line += fmt::format("  LPIPS {:.4f}", eval::overall(more.networks.lpips));
    for (const auto& [key, value] : more.networks.distances)
      if (key.find('.') == std::string::npos) line += fmt::format("  {} {:.2f}", key, value);
    if (classifier_)
      line += fmt::format(
          "  AER {:.3f} (accuracy {:.3f}, real {:.3f})",
          eval::action_error_ratio(real_actions_.mean_accuracy(), more.actions.mean_accuracy()),
          more.actions.mean_accuracy(), real_actions_.mean_accuracy());
    if (!line.empty()) out += row.name + ":" + line + "\n";
  }
  return out;
}

/// Scores one model at the weights it has, and the same under other clips' actions if asked.
void add_model(
    Evaluation& evaluation, const Options& options, const std::string& name, WorldModel& world, const Clips& clips,
    bool has_base) {
  evaluation.add(name, world.denoiser(), world.schedule(), world.uses_actions() ? clips.actions : Tensor{}, &world);
  if (has_base) evaluation.table().compare(name, "base");
  evaluation.table().compare(name, Evaluation::kRepeat);
  if (!options.shuffle_actions || !world.uses_actions()) return;
  const std::string shuffled = name + ", shuffled actions";
  evaluation.add(
      shuffled, world.denoiser(), world.schedule(), eval::shuffle_actions(clips.actions, options.sampling.seed),
      &world);
  evaluation.table().compare(name, shuffled);
}

/// NAME=FILE, or FILE, whose stem is then the name.
std::pair<std::string, std::string> named_file(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || std::filesystem::exists(text))
    return {std::filesystem::path(text).stem().string(), text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

void print_table(const Options& options, const Json& report, Evaluation& evaluation) {
  std::printf(
      "device %s\n%lld held-out clips of %lld + %lld frames, %lldx%lld, %s with %zu steps, seed %llu\n",
      report["device"].get<std::string>().c_str(), report["n_clips"].get<long long>(),
      report["t_cond"].get<long long>(), report["frames"].get<long long>(), report["height"].get<long long>(),
      report["width"].get<long long>(), report["sampler"]["kind"].get<std::string>().c_str(),
      report["sampler"]["steps"].get<std::size_t>(), static_cast<unsigned long long>(options.sampling.seed));
  std::printf("%s%s", evaluation.table().text().c_str(), evaluation.text().c_str());
}

void evaluate(const Options& options) {
  check<UsageError>(
      options.clips >= (options.clip_list.empty() ? 1 : 0), "evaluate: --clips: expected at least 1, got {}",
      options.clips);
  const MetricChoice choice = choose_metrics(options.metrics);
  const std::unique_ptr<WorldModel> world = WorldModel::load(options.files);
  const std::int64_t frames = options.frames != 0            ? options.frames
                              : world->trained_frames() != 0 ? world->trained_frames()
                                                             : 8;
  const diffusion::SamplerOptions sampler = sampler_options(options.sampling, world->schedule());
  if (diffusion::SamplerOptions probe = sampler; true) world->guide(probe);  // refuses a wrong sampler now
  const Clips clips = read_clips(options, *world, frames);
  if (!options.out.empty()) AtomicFile(options.out);  // shows now, not after minutes, that it cannot be written

  Evaluation evaluation(options, choice, clips);
  evaluation.add_repeat_last_frame();
  const bool has_base = world->base() != nullptr;
  if (has_base) {
    evaluation.add("base", *world->base(), world->schedule(), {}, nullptr);
    evaluation.table().compare("base", Evaluation::kRepeat);
  }
  const std::string first = !options.name.empty() ? options.name : world->kind() == "avid" ? "adapter" : world->kind();
  Json sources = Json::object();
  const std::vector<MethodWeights> weights = sweep(options.files);
  for (const MethodWeights& w : weights) {
    world->set_weights(w);
    // A name given for a single choice stands as it is; otherwise the weights tell the rows apart.
    const bool plain = w.text().empty() || (!options.name.empty() && weights.size() == 1);
    const std::string name = plain                                             ? first
                             : options.name.empty() && world->kind() == "base" ? w.text()
                                                                               : first + ", " + w.text();
    add_model(evaluation, options, name, *world, clips, has_base);
    sources[name] = world->sources();
  }
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
  report["n_clips"] = clips.real_u8.dim(0);
  report["frames"] = frames;
  report["t_cond"] = world->cond_frames();
  report["height"] = clips.real_u8.dim(2);
  report["width"] = clips.real_u8.dim(3);
  report["data"] = options.data;
  report["dataset_sha256"] = clips.dataset;
  report["clips"] = {{"name", clips.list_name}, {"hash", clips.list_hash}};
  report["sampler"] = {
      {"kind", name_of(sampler.kind)},
      {"steps", diffusion::sampling_times(world->schedule(), sampler).size()},
      {"eta", sampler.eta},
      {"seed", options.sampling.seed}};
  report["switches"] = {
      {"quantise", choice.round ? "round" : "trunc"},
      {"ssim.crop", choice.border == eval::SsimBorder::full ? "full" : "valid"},
      {"resets", options.resets}};
  report["program"] = "avid " + train::program_version();
  report["commit"] = train::program_commit();
  report["device"] = world->device().describe();
  report["sources"] = sources;
  report.update(evaluation.table().json());
  evaluation.complete(report);
  if (!options.classifier.empty()) report["action_error"] = evaluation.action_errors();
  report["mask_mean_per_step"] = evaluation.masks();
  report["sampling_seconds"] = evaluation.seconds();
  report["per_clip"] = evaluation.per_clip();
  const std::string json = report.dump(2, ' ', false, Json::error_handler_t::replace);
  // Printed first: a full disk costs the file only.
  if (options.json)
    std::printf("%s\n", json.c_str());
  else
    print_table(options, report, evaluation);
  if (!options.out.empty()) write_text_atomic(options.out, json + "\n");
}

const CommandRegistrar registrar(
    "evaluate", "score a model, its base and 'repeat the last frame' on held-out clips", [](CLI::App* command) {
      auto options = std::make_shared<Options>();
      add_model_options(command, options->files);
      command->add_option("--data", options->data, "held-out episodes: files, folders or patterns")
          ->type_name("HELDOUT")
          ->required();
      command->add_option("--clips", options->clips, "how many clips; 0: all of --clip-list")->capture_default_str();
      command->add_option("--clip-list", options->clip_list, "score the clips of this list (avid clips)")
          ->type_name("F");
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
      add_metric_options(command, options->metrics);
      command
          ->add_option(
              "--classifier", options->classifier,
              "a trained action classifier, weights or run: adds the Action Error Ratio")
          ->type_name("F");
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
