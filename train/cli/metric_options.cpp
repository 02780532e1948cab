// train/cli/metric_options.cpp -- metric words and switches of the command line
#include "train/cli/metric_options.h"

#include <algorithm>
#include <cstdio>

#include "eval/metrics/frechet_bootstrap.h"
#include "eval/metrics/weight_files.h"
#include "tensor/error.h"
#include "train/config.h"

namespace avid::cli {
namespace {

const std::vector<std::string> kWords{"mse",     "psnr",       "ssim",        "lpips",       "fid", "fid_ref",
                                      "fvd_i3d", "fvd_i3d_tf", "fid_procgen", "fvd_procgen", "aer"};

template <class T>
void add_once(std::vector<T>& list, T value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

struct Switches {
  bool fid_batch = false, fvd_trained_eps = false;
};

/// One `key=value`. The first value of each list is the default.
void apply_switch(const std::string& text, MetricChoice& choice, Switches& switches) {
  const auto equals = text.find('=');
  const std::string key = text.substr(0, equals), value = equals == std::string::npos ? "" : text.substr(equals + 1);
  const auto is = [&](const char* name, std::initializer_list<const char*> values, std::size_t& which) {
    if (key != name) return false;
    for (which = 0; which < values.size(); ++which)
      if (value == *(values.begin() + which)) return true;
    fail<UsageError>(
        "metrics: --set {}: expected {}, got '{}'", key,
        fmt::join(std::vector<std::string>(values.begin(), values.end()), " or "), value);
  };
  std::size_t which = 0;
  if (is("ssim.crop", {"full", "valid"}, which))
    choice.border = which == 0 ? eval::SsimBorder::full : eval::SsimBorder::valid;
  else if (is("psnr.per_video", {"false", "true"}, which))
    choice.psnr_per_video = which == 1;
  else if (is("quantise", {"trunc", "round"}, which))
    choice.round = which == 1;
  else if (is("rt1.skip_first_frame", {"false", "true"}, which))
    choice.skip_first_frame = which == 1;
  else if (is("lpips.norm", {"torchmetrics", "original"}, which))
    choice.options.lpips_norm = which == 0 ? LpipsNorm::torchmetrics : LpipsNorm::original;
  else if (is("fid.bn", {"eval", "batch"}, which))
    switches.fid_batch = which == 1;
  else if (is("fvd.bn_eps", {"1e-5", "1e-3"}, which))
    switches.fvd_trained_eps = which == 1;
  else if (is("fvd.cov", {"biased", "unbiased"}, which))
    choice.options.fvd_covariance = which == 0 ? eval::Covariance::biased : eval::Covariance::unbiased;
  else if (is("frechet.method", {"features", "moments"}, which))
    choice.by_moments = which == 1;
  else if (key == "procgen.encoder")
    choice.options.procgen_encoder = value;
  else if (key == "fvd.backbone")
    check<UsageError>(
        value == "i3d",
        "metrics: --set fvd.backbone: expected i3d, got '{}' (VideoMAE is not built in; no number of the "
        "paper uses it)",
        value);
  else
    fail<UsageError>(
        "metrics: --set: expected one of ssim.crop, psnr.per_video, quantise, rt1.skip_first_frame, lpips.norm, "
        "fid.bn, fvd.bn_eps, fvd.cov, fvd.backbone, frechet.method, procgen.encoder, got '{}'",
        text);
}

}  // namespace

bool MetricChoice::has(eval::PixelMetric metric) const {
  return std::find(pixel.begin(), pixel.end(), metric) != pixel.end();
}

void add_metric_options(Command* command, MetricFlags& flags) {
  command
      ->add_option(
          "--metrics", flags.metrics,
          "comma-separated: mse, psnr, ssim, lpips, fid, fid_ref, fvd_i3d, fvd_i3d_tf, fid_procgen, fvd_procgen, aer, "
          "or all; lpips, fid* and fvd_i3d* need weights, see avid weights; *_procgen are this project's own")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option(
          "--set", flags.set,
          "a switch of the protocol: ssim.crop=valid, psnr.per_video=true, quantise=round, rt1.skip_first_frame=true, "
          "lpips.norm=original, fid.bn=batch, fvd.bn_eps=1e-3, fvd.cov=unbiased, frechet.method=moments (with "
          "--features), "
          "procgen.encoder=F (repeatable)")
      ->type_name("KEY=VALUE");
  command->add_option("--weights", flags.weights, "folder of converted weights (default: $AVID_WEIGHTS, else weights)")
      ->type_name("DIR");
  command->add_flag(
      "--allow-unofficial", flags.allow_unofficial,
      "use weights that were not converted from the official files; the record says so");
  command
      ->add_option(
          "--frechet-resamples", flags.frechet_resamples,
          "resample the clips so often for intervals of FID and FVD; 0: none (default: 200 where they are cheap)")
      ->range(0, 100000)
      ->type_name("N");
}

MetricChoice choose_metrics(const MetricFlags& flags) {
  MetricChoice choice;
  Switches switches;
  choice.options.weights = eval::weights_folder(flags.weights);
  choice.options.allow_unofficial = flags.allow_unofficial;
  choice.options.bootstrap.resamples = flags.frechet_resamples;
  for (const std::string& text : flags.set) apply_switch(text, choice, switches);
  std::vector<std::string> words = flags.metrics;
  if (std::find(words.begin(), words.end(), "all") != words.end()) {
    choice.all = true;
    words = kWords;
  }
  for (std::string word : words) {
    if (word == "fid" && switches.fid_batch) word = "fid_ref";
    if (word == "fvd") word = "fvd_i3d";
    if (word == "fvd_i3d" && switches.fvd_trained_eps) word = "fvd_i3d_tf";
    if (word == "aer") {
      choice.aer = true;
    } else if (const auto network = eval::find_network_metric(word)) {
      add_once(choice.network, *network);
    } else {
      const auto pixel = eval::find_pixel_metric(word);
      if (!pixel) {
        const std::string nearest = train::nearest_name(word, kWords);
        fail<UsageError>(
            "metrics: expected {} or all, got '{}'{}", fmt::join(kWords, ", "), word,
            nearest.empty() ? "" : fmt::format(", did you mean {}?", nearest));
      }
      add_once(choice.pixel, *pixel);
    }
  }
  return choice;
}

void refuse_switches_of_files(const MetricChoice& choice, const char* command) {
  const std::pair<const char*, bool> switches[] = {
      {"psnr.per_video", choice.psnr_per_video},
      {"rt1.skip_first_frame", choice.skip_first_frame},
      {"frechet.method=moments", choice.by_moments}};
  for (const auto& [name, on] : switches)
    check<UsageError>(!on, "{}: --set {}: a switch of avid metrics alone | leave it out", command, name);
}

void add_network_scores(Json& result, const eval::NetworkScores& scores, const eval::BootstrapOptions& bootstrap) {
  if (!scores.lpips.empty()) {
    eval::PixelScores frames;  // for its means over clips and frames
    frames.num_clips = scores.num_clips;
    frames.num_frames = scores.num_frames;
    const eval::Interval interval = eval::bootstrap_mean(eval::lpips_per_clip(scores), bootstrap);
    result["lpips"] = eval::overall(scores.lpips);
    result["curves"]["lpips"] = eval::curve(frames, scores.lpips);
    result["intervals"]["lpips"] = {interval.low, interval.high};
  }
  for (const auto& [name, value] : scores.distances)
    (name.find('.') == std::string::npos ? result[name] : result["details"][name]) = value;
  for (const auto& [name, resamples] : scores.resamples) {
    const eval::Interval interval = eval::frechet_interval({scores.distances.at(name), resamples}, bootstrap.level);
    result["intervals"][name] = {interval.low, interval.high};
  }
}

void print_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& text : warnings) std::fprintf(stderr, "warning: %s\n", text.c_str());
}

}  // namespace avid::cli
