// train/cli/cmd_metrics.cpp -- avid metrics: scores generated videos, or compares two sets of features
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>

#include "eval/metrics/action_predictor.h"
#include "eval/metrics/frechet_moments.h"
#include "eval/metrics/normalised_score.h"
#include "eval/metrics/resize.h"
#include "eval/opponents.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"
#include "tensor/io/tensor_file.h"
#include "tensor/ops/frames.h"
#include "train/calibration.h"
#include "train/cli/classifier_file.h"
#include "train/cli/command.h"
#include "train/cli/metric_options.h"
#include "train/cli/video_file.h"
#include "train/frozen_base.h"
#include "train/version.h"

namespace avid::cli {
namespace {

struct Options {
  std::string real, generated, cond, actions, score, dataset;
  std::filesystem::path classifier;
  std::int64_t cond_frames = 0;
  MetricFlags flags{.metrics = {"mse", "psnr", "ssim"}, .set = {}, .weights = {}};
  eval::BootstrapOptions bootstrap;
  bool features = false, json = false;
};

void print(const Options& options, const Json& result) {
  if (options.json) {
    print_json(result);
    return;
  }
  for (const auto& [key, value] : result.items())
    if (value.is_number()) std::printf("%-18s %.9g\n", key.c_str(), value.get<double>());
  if (result.contains("notes"))
    for (const Json& note : result["notes"]) std::printf("%s\n", note.get<std::string>().c_str());
}

/// Statistics as pytorch-fid and its kin publish them: a file with mu [D] and sigma [D,D], named without a tensor.
std::optional<eval::FeatureMoments> load_moments(const std::string& place) {
  const auto [path, name] = split_place(place, "");
  if (!name.empty()) return {};
  const auto file = open_tensor_file(path);
  if (!file->contains("mu") || !file->contains("sigma")) return {};
  return eval::FeatureMoments::from(file->load("mu"), file->load("sigma"), path);
}

/// One side or both are moments: their own divisor, N - 1 for the other side.
void compare_moments(
    const Options& options, std::optional<eval::FeatureMoments> real, std::optional<eval::FeatureMoments> generated) {
  Json result;
  const auto side = [&](std::optional<eval::FeatureMoments>& moments, const std::string& place, const char* name) {
    if (moments) return;
    const Tensor features = load_named_tensor(place, "features");
    moments = eval::FeatureMoments::of(features, eval::Covariance::unbiased, name);
    result[std::string("n_") + name] = features.dim(0);
  };
  side(real, options.real, "real");
  side(generated, options.generated, "generated");
  result["frechet"] = eval::frechet_distance(*real, *generated);
  result["dimensions"] = real->num_features();
  result["switches"] = {{"frechet.method", "moments"}};
  print(options, result);
}

/// What was said of videos would be left undone without a word.
void check_only_features(const Options& o) {
  const Options untouched{};
  const MetricFlags &f = o.flags, &g = untouched.flags;
  const std::pair<const char*, bool> given[] = {
      {"--metrics", f.metrics != g.metrics},
      {"--weights", !f.weights.empty()},
      {"--allow-unofficial", f.allow_unofficial},
      {"--frechet-resamples", f.frechet_resamples != g.frechet_resamples},
      {"--cond", !o.cond.empty()},
      {"--cond-frames", o.cond_frames != 0},
      {"--classifier", !o.classifier.empty()},
      {"--actions", !o.actions.empty()},
      {"--score", !o.score.empty()},
      {"--dataset", !o.dataset.empty()}};
  for (const auto& [option, is] : given)
    check<UsageError>(
        !is, "metrics: {}: it is about videos, --features compares matrices | leave one of them out", option);
  for (const std::string& text : f.set)
    check<UsageError>(
        text.starts_with("frechet.method="), "metrics: --set {}: with --features only frechet.method can be set", text);
}

void compare_features(const Options& options) {
  check_only_features(options);
  const MetricChoice choice = choose_metrics(options.flags);
  auto real_moments = load_moments(options.real), generated_moments = load_moments(options.generated);
  if (real_moments || generated_moments)
    return compare_moments(options, std::move(real_moments), std::move(generated_moments));
  const Tensor real = load_named_tensor(options.real, "features"),
               generated = load_named_tensor(options.generated, "features");
  const auto distance = [&](eval::Covariance c) {
    if (!choice.by_moments) return eval::frechet_distance(real, generated, c);
    return eval::frechet_distance(
        eval::FeatureMoments::of(real, c, "real"), eval::FeatureMoments::of(generated, c, "generated"));
  };
  Json result;
  result["frechet_unbiased"] = distance(eval::Covariance::unbiased);
  result["frechet_biased"] = distance(eval::Covariance::biased);
  result["n_real"] = real.dim(0);
  result["n_generated"] = generated.dim(0);
  result["dimensions"] = real.dim(1);
  result["switches"] = {{"frechet.method", choice.by_moments ? "moments" : "features"}};
  if (std::min(real.dim(0), generated.dim(0)) <= real.dim(1))
    print_warnings({fmt::format(
        "features: {} and {} samples of {} features: biased upwards, comparable only with values of exactly as many",
        real.dim(0), generated.dim(0), real.dim(1))});
  print(options, result);
}

/// The clips, u8 [N,T,H,W,3].
struct Clips {
  Tensor real, generated;  // the frames that were to be generated
  Tensor cond;             // before them, the same for both; or undefined
};

/// Model output in [-1,1] is quantised, bytes stay.
Tensor load_u8_videos(const std::string& place, const char* tensor, bool round) {
  const Tensor video = load_named_tensor(place, tensor);
  if (!is_float(video.dtype())) return load_videos(place, tensor);
  double largest = 0;
  for (std::int64_t clip = 0; video.rank() > 0 && clip < video.dim(0); ++clip)
    for (const double v : video.select(clip).to_doubles())
      if (!(std::abs(v) <= largest)) largest = std::isnan(v) ? INFINITY : std::abs(v);
  // Quantising would turn the one into 0 and the other into black and white without a word.
  check<Error>(
      std::isfinite(largest), "metrics: {}: some values are not finite | score what the model really made", place);
  check<Error>(
      largest <= 2, "metrics: {}: floats are read as [-1,1], got values up to {:g} | store frames of 0..255 as u8",
      place, largest);
  const Tensor f32 = video.dtype() == DType::f32 ? video : video.to(DType::f32);
  return videos_channels_last(round ? eval::quantise_rounded(f32) : frames_to_u8(f32), place);
}

Clips load_clips(const Options& options, const MetricChoice& choice) {
  Clips clips{
      load_u8_videos(options.real, "frames", choice.round),
      load_u8_videos(options.generated, "frames", choice.round),
      {}};
  check<ShapeError>(
      clips.real.shape() == clips.generated.shape(),
      "metrics: --generated: expected {} as --real, got {} | give the same clips in the same order, generated",
      clips.real.shape(), clips.generated.shape());
  check<ShapeError>(
      clips.real.numel() > 0, "metrics: expected at least one clip, got {} | see what the file holds: avid inspect",
      clips.real.shape());
  check<UsageError>(
      options.cond.empty() || options.cond_frames == 0, "metrics: --cond and --cond-frames say the same: give one");
  if (!options.cond.empty()) {
    clips.cond = load_u8_videos(options.cond, "cond", choice.round);
    check<ShapeError>(
        clips.cond.dim(0) == clips.real.dim(0),
        "metrics: --cond: expected {} clips as in --real, got {} | give the frames "
        "before the same clips, in the same order",
        clips.real.dim(0), clips.cond.dim(0));
  }
  if (options.cond_frames > 0) {
    const std::int64_t frames = clips.real.dim(1);
    check<UsageError>(
        options.cond_frames < frames, "metrics: --cond-frames: expected fewer than the {} frames of a clip, got {}",
        frames, options.cond_frames);
    clips.cond = eval::take_frames(clips.real, 0, options.cond_frames);
    clips.real = eval::take_frames(clips.real, options.cond_frames, frames);
    clips.generated = eval::take_frames(clips.generated, options.cond_frames, frames);
  }
  return clips;
}

/// Returns why SSIM is not among them, or nothing.
std::string add_pixel_metrics(Json& result, const Options& options, const MetricChoice& choice, const Clips& clips) {
  if (choice.pixel.empty()) return {};
  const bool ssim = choice.has(eval::PixelMetric::ssim);
  const std::string small =
      ssim ? eval::why_no_ssim(clips.real.dim(2), clips.real.dim(3), choice.border) : std::string();
  const eval::PixelScores scores =
      eval::score_frames(clips.generated, clips.real, ssim && small.empty() ? choice.border : eval::SsimBorder::none);
  for (const eval::PixelMetric m : choice.pixel) {
    if (m == eval::PixelMetric::ssim && !small.empty()) continue;
    const std::vector<double>& values = eval::values_of(scores, m);
    const eval::Interval interval = eval::interval_of(scores, m, options.bootstrap);
    const bool pooled = m == eval::PixelMetric::psnr && choice.psnr_per_video;
    result[eval::name_of(m)] = pooled ? eval::overall(eval::psnr_per_video(scores)) : eval::overall(values);
    result["curves"][eval::name_of(m)] = eval::curve(scores, values);
    if (!pooled) result["intervals"][eval::name_of(m)] = {interval.low, interval.high};
  }
  return small;
}

/// Ratio, both accuracies and both mean probabilities of the true action. Returns why not, or nothing.
std::string add_action_error(Json& result, Json& weights, Json& data, const Options& options, const Clips& clips) {
  if (options.classifier.empty() || options.actions.empty() || !clips.cond.defined())
    return "aer: unavailable: it needs a trained classifier, the actions and the conditioning frames | add "
           "--classifier F --actions F:TENSOR and --cond F:TENSOR or --cond-frames K";
  const std::filesystem::path file = train::base_weights_path(options.classifier);
  const auto classifier = load_judge(file, clips.cond.dim(1));
  const Tensor given = load_named_tensor(options.actions, "actions");
  check<DTypeError>(
      !is_float(given.dtype()), "{}: expected the numbers of actions as integers, got {}", options.actions,
      name_of(given.dtype()));
  const Tensor actions = given.to(DType::i64);
  const Shape expected{clips.real.dim(0), clips.real.dim(1)};
  check<ShapeError>(
      actions.shape() == expected,
      "metrics: --actions: expected {}, one for each generated frame, got {} | give the actions that led to the frames "
      "of --real",
      expected, actions.shape());
  const eval::ActionScores real = eval::predict_actions(*classifier, clips.cond, clips.real, actions),
                           generated = eval::predict_actions(*classifier, clips.cond, clips.generated, actions);
  result["aer"] = eval::action_error_ratio(real.mean_accuracy(), generated.mean_accuracy());
  result["details"]["aer.accuracy_real"] = real.mean_accuracy();
  result["details"]["aer.accuracy_generated"] = generated.mean_accuracy();
  result["details"]["aer.probability_real"] = real.mean_probability();
  result["details"]["aer.probability_generated"] = generated.mean_probability();
  weights["classifier"] = {
      {"file", options.classifier.string()},
      {"sha256", sha256_of_file(file)},
      {"calibration", train::calibration_summary(options.classifier)}};
  data["actions"] = {{"from", options.actions}, {"sha256", sha256_hex(actions.to_dense_bytes())}};
  if (const std::string blind = eval::why_aer_is_blind(real, actions, options.bootstrap); !blind.empty()) {
    print_warnings({blind});
    result["warnings"].push_back(blind);
  }
  return {};
}

void add_normalised_score(Json& result, const Options& options) {
  if (options.score.empty()) return;
  std::vector<std::string> missing;
  for (const char* key : {"aer", "fvd_i3d", "fid_ref", "ssim", "lpips", "psnr"})
    if (!result.contains(key)) missing.push_back(key);
  if (!missing.empty()) {
    result["unavailable"]["normalised_score"] = fmt::format(
        "normalised_score: unavailable: {} missing | ask for all six metrics with --metrics", fmt::join(missing, ", "));
    return;
  }
  const eval::NormalisedScore score = eval::normalised_score(
      {result["aer"], result["fvd_i3d"], result["fid_ref"], result["ssim"], result["lpips"], result["psnr"]},
      options.score);
  result["normalised_score"] = score.score;
  result["details"]["normalised"] = score.parts;
}

void score_videos(const Options& options) {
  MetricChoice choice = choose_metrics(options.flags);
  check<UsageError>(
      !choice.by_moments,
      "metrics: --set frechet.method=moments: expected --features with it; FID and FVD here have "
      "their features, and use them");
  check<UsageError>(
      choice.aer || (options.classifier.empty() && options.actions.empty()),
      "metrics: --classifier, --actions: they are for aer | add it to --metrics, or leave them out");
  choice.options.bootstrap.seed = options.bootstrap.seed;
  if (!options.score.empty()) eval::normalised_score({1, 1, 1, 1, 1, 1}, options.score);  // a wrong name shows now
  Clips clips = load_clips(options, choice);
  Json result, weights = Json::object(), switches;
  const auto digest = [](const std::string& from, const Tensor& video) {
    return Json{{"from", from}, {"sha256", sha256_hex(video.to_dense_bytes())}};
  };
  Json data{
      {"dataset", options.dataset},
      {"real", digest(options.real, clips.real)},
      {"generated", digest(options.generated, clips.generated)}};
  if (clips.cond.defined()) data["cond"] = digest(options.cond.empty() ? options.real : options.cond, clips.cond);

  // Frame metrics may leave out a frame that FVD keeps, so they are scored apart.
  Clips frames = clips;
  if (choice.skip_first_frame) {
    check<ShapeError>(clips.real.dim(1) >= 2, "metrics: rt1.skip_first_frame: expected clips of 2 frames or more");
    frames.real = eval::take_frames(clips.real, 1, clips.real.dim(1));
    frames.generated = eval::take_frames(clips.generated, 1, clips.real.dim(1));
  }
  // Of the process, all threads: what the scoring itself took, without reading and hashing the videos.
  const auto cpu_seconds = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  const double scoring_began = cpu_seconds();
  Json unavailable = Json::object();
  // First what can be given wrongly: a mistake shows before the long part, FID and FVD.
  if (choice.aer)
    if (const std::string reason = add_action_error(result, weights, data, options, clips); !reason.empty())
      unavailable["aer"] = reason;
  if (const std::string reason = add_pixel_metrics(result, options, choice, frames); !reason.empty())
    unavailable["ssim"] = reason;
  std::vector<eval::NetworkMetric> of_frames, of_clips;
  for (const eval::NetworkMetric m : choice.network) (eval::sees_clips(m) ? of_clips : of_frames).push_back(m);
  for (const auto& [metrics, sets] : {std::pair{of_frames, frames}, std::pair{of_clips, clips}}) {
    eval::NetworkScorer scorer(metrics, choice.options);
    scorer.set_real(sets.real, sets.cond);
    add_network_scores(result, scorer.score(sets.generated), options.bootstrap);
    print_warnings(scorer.warnings());
    for (const std::string& text : scorer.warnings()) result["warnings"].push_back(text);
    for (const std::string& text : scorer.notes()) result["notes"].push_back(text);
    for (const auto& [name, reason] : scorer.unavailable()) unavailable[name] = reason;
    weights.update(scorer.weights_record());
    switches.update(scorer.switches());
  }
  const double scoring_took = cpu_seconds() - scoring_began;
  if (!unavailable.empty()) result["unavailable"] = unavailable;
  add_normalised_score(result, options);

  result["n_clips"] = frames.real.dim(0);
  result["frames"] = frames.real.dim(1);
  result["t_cond"] = clips.cond.defined() ? clips.cond.dim(1) : 0;
  result["height"] = clips.real.dim(2);
  result["width"] = clips.real.dim(3);
  if (result.contains("ssim")) switches["ssim.crop"] = choice.border == eval::SsimBorder::full ? "full" : "valid";
  if (choice.has(eval::PixelMetric::psnr)) switches["psnr.per_video"] = choice.psnr_per_video;
  switches["quantise"] = choice.round ? "round" : "trunc";
  switches["rt1.skip_first_frame"] = choice.skip_first_frame;
  switches["bootstrap.seed"] = options.bootstrap.seed;
  switches["bootstrap.resamples"] = options.bootstrap.resamples;
  switches["bootstrap.level"] = options.bootstrap.level;
  result["switches"] = switches;
  if (!weights.empty()) result["weights"] = weights;
  result["data"] = data;
  result["seed"] = options.bootstrap.seed;
  result["program"] = "avid " + train::program_version();
  result["commit"] = train::program_commit();
  result["device"] = "cpu";
  result["scoring_cpu_seconds"] = scoring_took;
  print(options, result);
  if (!result.contains("unavailable")) return;
  if (choice.all) {  // no error, but nobody should have to miss a number to learn why it is not there
    if (!options.json)
      for (const auto& [name, reason] : result["unavailable"].items())
        std::printf("%s\n", reason.get<std::string>().c_str());
    return;
  }
  // What could be computed has been printed; the command as asked for has failed all the same.
  std::fflush(stdout);
  std::vector<std::string> reasons;
  for (const auto& [name, reason] : result["unavailable"].items()) reasons.push_back(reason);
  for (std::size_t i = 0; i + 1 < reasons.size(); ++i) std::fprintf(stderr, "error: %s\n", reasons[i].c_str());
  fail<Error>("{}", reasons.back());
}

const CommandRegistrar registrar(
    "metrics", "score generated videos against real ones, or compare two sets of features", [](Command* command) {
      auto options = std::make_shared<Options>();
      command
          ->add_option(
              "--real", options->real,
              "videos [N,T,3,H,W] or [N,T,H,W,3] in safetensors or npz (tensor frames): u8, or floats in [-1,1]")
          ->type_name("F[:TENSOR]")
          ->required();
      command->add_option("--generated", options->generated, "the same clips, generated")
          ->type_name("F[:TENSOR]")
          ->required();
      add_metric_options(command, options->flags);
      command
          ->add_option(
              "--cond", options->cond, "the real frames before the clips (tensor cond): FVD and AER see them first")
          ->type_name("F[:TENSOR]");
      command
          ->add_option(
              "--cond-frames", options->cond_frames,
              "the first K frames of both files are conditioning frames: only FVD and AER see them, those of --real")
          ->type_name("K")
          ->non_negative();
      command->add_option("--classifier", options->classifier, "aer: a trained action classifier, weights or run")
          ->type_name("F");
      command->add_option("--actions", options->actions, "aer: the actions that led to each frame, [N,T]")
          ->type_name("F[:TENSOR]");
      command
          ->add_option("--score", options->score, "add the paper's normalised score with the ranges of coinrun or rt1")
          ->type_name("DATASET");
      command->add_option("--dataset", options->dataset, "a name for the real clips, for the record");
      command->add_option("--seed", options->bootstrap.seed, "of the bootstrap over clips")->capture_default_str();
      command->add_flag(
          "--features", options->features,
          "compare feature matrices [N,D], or files of mu [D] and sigma [D,D], by their Frechet distance instead");
      command->add_option(
          "--ssim-crop", [options](const std::string& v) { options->flags.set.push_back("ssim.crop=" + v); },
          "the same as --set ssim.crop=full or valid");
      command->add_flag(
          "--psnr-per-video", [options] { options->flags.set.push_back("psnr.per_video=true"); },
          "the same as --set psnr.per_video=true");
      command->add_flag("--json", options->json, "print one JSON value");
      set_example(
          command,
          "avid metrics --real real.npz:frames --generated samples.safetensors:generated --metrics mse,psnr,ssim "
          "--json\n  avid metrics --real clips.npz:real --generated clips.npz:generated --cond clips.npz:cond "
          "--metrics "
          "lpips,fid,fvd_i3d");
      command->callback([options] { options->features ? compare_features(*options) : score_videos(*options); });
    });

}  // namespace
}  // namespace avid::cli
