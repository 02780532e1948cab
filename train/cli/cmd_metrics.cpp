// train/cli/cmd_metrics.cpp -- avid metrics: scores generated videos, or compares two sets of features
#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "eval/metrics/frechet.h"
#include "eval/score_table.h"
#include "tensor/io/tensor_file.h"
#include "train/cli/command.h"

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

/// FILE or FILE:TENSOR. A colon that belongs to an existing file's name is part of the name.
Tensor load_named(const std::string& place, const char* default_tensor) {
  std::string file = place, name = default_tensor;
  if (const auto colon = place.rfind(':'); colon != std::string::npos && !std::filesystem::exists(place)) {
    file = place.substr(0, colon);
    name = place.substr(colon + 1);
  }
  return open_tensor_file(file)->load(name);
}

/// u8 [N,T,3,H,W] or [N,T,H,W,3] -> [N,T,H,W,3]
Tensor load_video(const std::string& place) {
  const Tensor video = load_named(place, "frames");
  check<DTypeError>(video.dtype() == DType::u8, "metrics: {}: expected u8 frames 0..255, got {}", place, name_of(video.dtype()));
  check<ShapeError>(video.rank() == 5 && (video.dim(4) == 3 || video.dim(2) == 3), "metrics: {}: expected [N,T,3,H,W] or [N,T,H,W,3], got {}",
                    place, video.shape());
  if (video.dim(4) == 3) return video;
  const std::int64_t n = video.dim(0), frames = video.dim(1), height = video.dim(3), width = video.dim(4), plane = height * width;
  Tensor out = Tensor::empty({n, frames, height, width, 3}, DType::u8);
  const std::uint8_t* source = video.data<std::uint8_t>();
  std::uint8_t* target = out.data<std::uint8_t>();
  for (std::int64_t image = 0; image < n * frames; ++image)
    for (std::int64_t c = 0; c < 3; ++c)
      for (std::int64_t i = 0; i < plane; ++i) target[(image * plane + i) * 3 + c] = *source++;
  return out;
}

void print(const Options& options, const Json& result) {
  if (options.json) {
    std::printf("%s\n", result.dump().c_str());
    return;
  }
  for (const auto& [key, value] : result.items())
    if (value.is_number()) std::printf("%-18s %.9g\n", key.c_str(), value.get<double>());
}

void compare_features(const Options& options) {
  const Tensor real = load_named(options.real, "features"), generated = load_named(options.generated, "features");
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
  const Tensor real = load_video(options.real), generated = load_video(options.generated);
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
  result["switches"] = {{"ssim.crop", options.ssim_crop}, {"psnr.per_video", options.per_video}, {"bootstrap.seed", options.bootstrap.seed},
                        {"bootstrap.resamples", options.bootstrap.resamples}, {"bootstrap.level", options.bootstrap.level}};
  print(options, result);
}

const CommandRegistrar registrar("metrics", "score generated videos against real ones, or compare two sets of features", [](CLI::App* command) {
  auto options = std::make_shared<Options>();
  command->add_option("--real", options->real, "u8 videos [N,T,3,H,W] or [N,T,H,W,3] in safetensors or npz (tensor frames)")
      ->type_name("F[:TENSOR]")->required();
  command->add_option("--generated", options->generated, "the same clips, generated")->type_name("F[:TENSOR]")->required();
  command->add_option("--metrics", options->metrics, "comma-separated: mse, psnr, ssim")->delimiter(',')->capture_default_str();
  command->add_option("--ssim-crop", options->ssim_crop, "full, or valid to leave out 5 pixels at every border")->capture_default_str();
  command->add_flag("--psnr-per-video", options->per_video, "pool the MSE over a clip before taking decibels");
  command->add_option("--seed", options->bootstrap.seed, "of the bootstrap over clips")->capture_default_str();
  command->add_flag("--features", options->features, "compare feature matrices [N,D] by their Frechet distance instead");
  command->add_flag("--json", options->json, "print one JSON value");
  set_example(command, "avid metrics --real real.npz:frames --generated samples.safetensors:generated --metrics mse,psnr,ssim --json");
  command->callback([options] { options->features ? compare_features(*options) : score_videos(*options); });
});

}  // namespace
}  // namespace avid::cli
