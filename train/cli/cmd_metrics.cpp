// train/cli/cmd_metrics.cpp -- avid metrics: scores generated videos, or compares two sets of features
#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>

#include "eval/metrics/frechet.h"
#include "eval/score_table.h"
#include "train/cli/command.h"
#include "train/cli/video_file.h"

namespace avid::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string real, generated;
  std::vector<std::string> metrics{"mse", "psnr", "ssim"};
  std::string ssim_crop = "full";
  eval::BootstrapOptions bootstrap;
  bool features = false, per_video = false, json = false;
};

void print(const Options& options, const Json& result) {
  if (options.json) {
    std::printf("%s\n", result.dump().c_str());
    return;
  }
  for (const auto& [key, value] : result.items())
    if (value.is_number()) std::printf("%-18s %.9g\n", key.c_str(), value.get<double>());
}

void compare_features(const Options& options) {
  const Tensor real = load_named_tensor(options.real, "features"),
               generated = load_named_tensor(options.generated, "features");
  Json result;
  result["frechet_unbiased"] = eval::frechet_distance(real, generated, eval::Covariance::unbiased);
  result["frechet_biased"] = eval::frechet_distance(real, generated, eval::Covariance::biased);
  result["n_real"] = real.dim(0);
  result["n_generated"] = generated.dim(0);
  result["dimensions"] = real.dim(1);
  print(options, result);
}

void score_videos(const Options& options) {
  std::vector<eval::PixelMetric> metrics;
  for (const std::string& word : options.metrics) metrics.push_back(eval::parse_pixel_metric(word));
  if (options.ssim_crop != "full" && options.ssim_crop != "valid")
    fail<UsageError>("metrics: --ssim-crop: expected full or valid, got '{}'", options.ssim_crop);
  const Tensor real = load_videos(options.real), generated = load_videos(options.generated);
  const auto border = options.ssim_crop == "valid" ? eval::SsimBorder::valid : eval::SsimBorder::full;
  const eval::PixelScores scores = eval::score_frames(generated, real, border);
  Json result, curves, intervals;
  for (const eval::PixelMetric m : metrics) {
    const std::vector<double>& values = eval::values_of(scores, m);
    const eval::Interval interval = eval::interval_of(scores, m, options.bootstrap);
    const bool pooled = m == eval::PixelMetric::psnr && options.per_video;
    result[eval::name_of(m)] = pooled ? eval::overall(eval::psnr_per_video(scores)) : eval::overall(values);
    curves[eval::name_of(m)] = eval::curve(scores, values);
    if (!pooled) intervals[eval::name_of(m)] = {interval.low, interval.high};
  }
  result["n_clips"] = scores.num_clips;
  result["frames"] = scores.num_frames;
  result["height"] = real.dim(2);
  result["width"] = real.dim(3);
  result["curves"] = curves;
  result["intervals"] = intervals;
  result["switches"] = {
      {"ssim.crop", options.ssim_crop},
      {"psnr.per_video", options.per_video},
      {"bootstrap.seed", options.bootstrap.seed},
      {"bootstrap.resamples", options.bootstrap.resamples},
      {"bootstrap.level", options.bootstrap.level}};
  print(options, result);
}

const CommandRegistrar registrar(
    "metrics", "score generated videos against real ones, or compare two sets of features", [](CLI::App* command) {
      auto options = std::make_shared<Options>();
      command
          ->add_option(
              "--real", options->real, "u8 videos [N,T,3,H,W] or [N,T,H,W,3] in safetensors or npz (tensor frames)")
          ->type_name("F[:TENSOR]")
          ->required();
      command->add_option("--generated", options->generated, "the same clips, generated")
          ->type_name("F[:TENSOR]")
          ->required();
      command->add_option("--metrics", options->metrics, "comma-separated: mse, psnr, ssim")
          ->delimiter(',')
          ->capture_default_str();
      command->add_option("--ssim-crop", options->ssim_crop, "full, or valid to leave out 5 pixels at every border")
          ->capture_default_str();
      command->add_flag("--psnr-per-video", options->per_video, "pool the MSE over a clip before taking decibels");
      command->add_option("--seed", options->bootstrap.seed, "of the bootstrap over clips")->capture_default_str();
      command->add_flag(
          "--features", options->features, "compare feature matrices [N,D] by their Frechet distance instead");
      command->add_flag("--json", options->json, "print one JSON value");
      set_example(
          command,
          "avid metrics --real real.npz:frames --generated samples.safetensors:generated --metrics mse,psnr,ssim "
          "--json");
      command->callback([options] { options->features ? compare_features(*options) : score_videos(*options); });
    });

}  // namespace
}  // namespace avid::cli
