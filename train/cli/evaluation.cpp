// train/cli/evaluation.cpp -- sampling and scoring one row after the other, and their JSON
#include "train/cli/evaluation.h"

#include <chrono>
#include <cstdio>

#include "eval/metrics/frechet_bootstrap.h"
#include "eval/metrics/resize.h"
#include "eval/opponents.h"
#include "tensor/io/sha256.h"
#include "tensor/ops/frames.h"
#include "train/calibration.h"
#include "train/cli/classifier_file.h"
#include "train/version.h"

namespace avid::cli {
namespace {

/// The evaluation classifier, checked against the clips.
std::unique_ptr<ActionClassifier> load_judge_of(const std::filesystem::path& place, const HeldOutClips& clips) {
  auto judge = load_judge(train::base_weights_path(place), clips.cond_u8.dim(1));
  const std::int64_t size = judge->config().image_size;
  check<ConfigError>(
      clips.real_u8.dim(2) == size && clips.real_u8.dim(3) == size,
      "{}: a classifier of {}x{} frames, the clips are {}x{} | use --size {}", place.string(), size, size,
      clips.real_u8.dim(2), clips.real_u8.dim(3), size);
  check<ConfigError>(
      clips.actions.dtype() == DType::i64, "{}: needs numbered actions, the data has vectors", place.string());
  return judge;
}

Json interval_json(const eval::Interval& i) { return {{"mean", i.mean}, {"low", i.low}, {"high", i.high}}; }

Json difference_json(const eval::Interval& i) {
  Json json = interval_json(i);
  json["excludes_zero"] = i.excludes_zero();
  return json;
}

}  // namespace

Evaluation::Evaluation(const ScoringOptions& options, const MetricChoice& choice, const HeldOutClips& clips)
    : options_(options),
      choice_(choice),
      clips_(clips),
      table_(options.bootstrap),
      scorer_(choice.network, choice.options),
      kept_(options.keep_clips) {
  scorer_.set_real(clips.real_u8, clips.cond_u8);
  if (!options.classifier.empty()) {
    classifier_ = load_judge_of(options.classifier, clips);
    real_actions_ = eval::predict_actions(*classifier_, clips.cond_u8, clips.real_u8, clips.actions);
  }
  if (choice.aer && !classifier_)
    unavailable_["aer"] = "aer: unavailable: it needs a trained action classifier | add --classifier F";
  for (const auto& [metric, reason] : scorer_.unavailable()) unavailable_[metric] = reason;
  if (!unavailable_.empty() && !choice.all) fail<Error>("{}", unavailable_.begin()->second);
  warnings_ = scorer_.warnings();
  if (classifier_)
    if (std::string blind = eval::why_aer_is_blind(real_actions_, clips.actions, options.bootstrap); !blind.empty())
      warnings_.push_back(std::move(blind));
  print_warnings(warnings_);
}

Json Evaluation::made_from(
    diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule, const diffusion::SamplerOptions& sampler,
    const Tensor& actions, const std::map<std::string, std::string>& sources) const {
  Json networks = Json::object();
  for (const auto& [role, what] : sources)
    if (!sources.contains("sha256." + role)) networks[role] = what;  // digests and weights, wherever the files lie
  return {
      {"format", "avid-kept-clips 1"},
      {"networks", networks},
      {"objective", name_of(denoiser.objective())},
      {"schedule", name_of(schedule.kind())},
      {"timesteps", schedule.num_steps()},
      {"sampler", name_of(sampler.kind)},
      {"steps", diffusion::sampling_times(schedule, sampler).size()},
      {"eta", sampler.eta},
      {"seed", sampler.seed},
      {"cond", sha256_hex(clips_.cond_u8.to_dense_bytes())},
      {"actions", actions.defined() ? sha256_hex(actions.to_dense_bytes()) : "none"},
      {"frames", clips_.real_u8.dim(1)},
      {"quantise", choice_.round ? "round" : "trunc"},
      {"dtype", options_.dtype},
      {"device", clips_.cond.device().to_string()}};
}

KeptClips::Clips Evaluation::sample(
    const std::string& name, diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule,
    diffusion::SamplerOptions sampler, const Tensor& actions) const {
  diffusion::MaskTrace trace;
  sampler.on_step = [&](const diffusion::StepReport& step) { trace.add(step); };
  show_sampling_progress(sampler, name);
  const auto start = std::chrono::steady_clock::now();
  const Tensor made =
      diffusion::sample(denoiser, schedule, clips_.cond, actions, clips_.real_u8.dim(1), sampler).to(Device{});
  KeptClips::Clips clips{
      .frames = choice_.round ? eval::quantise_rounded(made) : frames_to_u8(made),
      .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
      .commit = train::program_commit(),
      .device = clips_.cond.device().describe()};
  for (const auto& point : trace.points()) clips.masks.push_back({{"t", point.t}, {"mean", point.mean}});
  return clips;
}

void Evaluation::add(
    const std::string& name, diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule, const Tensor& actions,
    const WorldModel* world, const std::map<std::string, std::string>& sources) {
  diffusion::SamplerOptions sampler = sampler_options(options_.sampling, schedule);
  if (world != nullptr) world->guide(sampler);
  const Json key = made_from(denoiser, schedule, sampler, actions, sources);
  auto clips = kept_.find(key);
  if (clips) {
    std::fprintf(stderr, "%s: clips of an earlier evaluation, %s\n", name.c_str(), clips->file.c_str());
    reused_[name] = {{"file", clips->file.string()}, {"commit", clips->commit}, {"device", clips->device}};
  } else {
    clips = sample(name, denoiser, schedule, sampler, actions);
    try {
      kept_.keep(key, *clips);
    } catch (const FileError& error) {  // scores that can still be had are worth more than the copy
      std::fprintf(stderr, "warning: %s: clips not kept: %s\n", name.c_str(), error.what());
    }
  }
  seconds_[name] = clips->seconds;
  add_clips(name, clips->frames, actions);
  if (!clips->masks.empty()) masks_[name] = clips->masks;
}

void Evaluation::add_repeat_last_frame() {
  add_clips(kRepeat, eval::repeat_last_frame(clips_.cond_u8, clips_.real_u8.dim(1)), {});
}

void Evaluation::add_clips(const std::string& name, const Tensor& made, const Tensor& actions) {
  table_.add({name, eval::score_frames(made, clips_.real_u8, choice_.border)});
  MoreScores& more = more_[name];
  more.networks = scorer_.score(made);
  if (classifier_)
    more.actions =
        eval::predict_actions(*classifier_, clips_.cond_u8, made, actions.defined() ? actions : clips_.actions);
}

void Evaluation::add_scores(Json& row) const {
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
  for (const auto& [key, resamples] : more.networks.resamples)
    row["intervals"][key] = {{"low", scores["intervals"][key][0]}, {"high", scores["intervals"][key][1]}};
  if (!classifier_) return;
  row["aer"] = eval::action_error_ratio(real_actions_.mean_accuracy(), more.actions.mean_accuracy());
  row["action_accuracy"] = interval_json(eval::bootstrap_mean(more.actions.accuracy, options_.bootstrap));
  row["action_probability"] = interval_json(eval::bootstrap_mean(more.actions.probability, options_.bootstrap));
}

void Evaluation::add_difference(Json& difference) const {
  const MoreScores &a = more_.at(difference["a"].get<std::string>()), &b = more_.at(difference["b"].get<std::string>());
  const auto add = [&](const char* key, const std::vector<double>& x, const std::vector<double>& y) {
    difference[key] = difference_json(eval::bootstrap_difference(x, y, options_.bootstrap));
  };
  if (!a.networks.lpips.empty()) add("lpips", eval::lpips_per_clip(a.networks), eval::lpips_per_clip(b.networks));
  if (classifier_) add("action_accuracy", a.actions.accuracy, b.actions.accuracy);
  const auto& x = a.networks;
  const auto& y = b.networks;
  for (const auto& [key, resamples] : x.resamples)
    difference[key] = difference_json(eval::frechet_difference(
        {x.distances.at(key), resamples}, {y.distances.at(key), y.resamples.at(key)}, options_.bootstrap.level));
}

void Evaluation::write(Json& report) const {
  report.update(table_.json());
  for (Json& row : report["rows"]) add_scores(row);
  for (Json& difference : report["differences"]) add_difference(difference);
  report["switches"].update(scorer_.switches());
  if (Json weights = scorer_.weights_record(); !weights.empty()) report["weights"] = weights;
  if (classifier_) {
    report["weights"]["classifier"] = {
        {"file", options_.classifier.string()},
        {"sha256", sha256_of_file(train::base_weights_path(options_.classifier))},
        {"calibration", train::calibration_summary(options_.classifier)}};
    report["real_action_accuracy"] = real_actions_.mean_accuracy();
    report["real_action_probability"] = real_actions_.mean_probability();
  }
  for (const std::string& warning : warnings_) report["warnings"].push_back(warning);
  for (const std::string& note : scorer_.notes()) report["notes"].push_back(note);
  if (!unavailable_.empty()) report["unavailable"] = unavailable_;
  if (classifier_) report["action_error"] = action_errors();
  report["mask_mean_per_step"] = masks_;
  report["sampling_seconds"] = seconds_;
  if (!reused_.empty()) report["kept_clips"] = reused_;
  report["per_clip"] = per_clip();
  Json resamples = Json::object();
  for (const auto& [name, more] : more_)
    if (!more.networks.resamples.empty()) resamples[name] = more.networks.resamples;
  if (!resamples.empty()) report["resamples"] = resamples;
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
  std::string out = table_.text();
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
  if (classifier_)
    if (const Json calibration = train::calibration_summary(options_.classifier); !calibration.is_null())
      out += "classifier on its own held-out clips: " + train::calibration_text(calibration) + "\n";
  for (const auto& [name, reason] : unavailable_) out += reason + "\n";
  for (const std::string& note : scorer_.notes()) out += note + "\n";
  return out;
}

}  // namespace avid::cli
