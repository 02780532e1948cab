// train/cli/cmd_sensitivity.cpp -- avid sensitivity: what metrics answer to known damage of real clips
#include <cmath>
#include <cstdio>
#include <memory>
#include <set>

#include "data/loader.h"
#include "eval/clip_list.h"
#include "eval/corruptions.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"
#include "train/cli/metric_options.h"
#include "train/version.h"

namespace avid::cli {
namespace {

struct Options {
  std::vector<std::string> data, other;
  std::int64_t clips = 256, frames = 10, size = 0;
  std::uint64_t seed = 0;
  MetricFlags metrics{.metrics = {"fid_procgen", "fvd_procgen"}, .set = {}, .weights = {}, .frechet_resamples = 0};
  bool json = false;
};

constexpr const char* kSame = "other real windows";

struct Clips {
  Tensor frames;  // [N,T,H,W,3] u8
  std::string dataset;
};

Clips read_clips(const Options& options, const std::vector<std::string>& places, std::uint64_t seed) {
  auto store = std::make_shared<const data::EpisodeStore>(places);
  const data::Loader loader(
      store,
      {.batch = 1, .context = 1, .targets = options.frames - 1, .size = options.size, .seed = seed, .workers = 0});
  return {
      loader.read_windows(loader.sampler().draw_evaluation(seed, options.clips)).frames, eval::dataset_digest(*store)};
}

/// Values of all chosen metrics, and the damage they answer to.
class Sensitivity {
 public:
  Sensitivity(const MetricChoice& choice, const Tensor& real)
      : choice_(choice), real_(real), scorer_(choice.network, choice.options) {
    scorer_.set_real(real, {});
    if (!scorer_.unavailable().empty() && !choice.all) fail<Error>("{}", scorer_.unavailable().begin()->second);
    print_warnings(scorer_.warnings());
  }

  void add(const std::string& damage, double strength, const Tensor& clips) {
    Json scores = Json::object();
    if (!choice_.pixel.empty()) {
      const eval::PixelScores pixel = eval::score_frames(
          clips, real_, choice_.has(eval::PixelMetric::ssim) ? choice_.border : eval::SsimBorder::none);
      for (const eval::PixelMetric m : choice_.pixel)
        scores[eval::name_of(m)] = eval::overall(eval::values_of(pixel, m));
    }
    const eval::NetworkScores networks = scorer_.score(clips);
    if (!networks.lpips.empty()) scores["lpips"] = eval::overall(networks.lpips);
    for (const auto& [key, value] : networks.distances)
      if (key.find('.') == std::string::npos) scores[key] = value;
    rows_.push_back({{"damage", damage}, {"strength", strength}, {"scores", scores}});
  }

  /// Per damage and metric: whether the value moves away from perfect with every step of strength.
  Json verdicts() const {
    Json out = Json::object();
    for (const Json& row : rows_) {
      const std::string damage = row["damage"];
      if (damage == kSame || out.contains(damage)) continue;
      for (const auto& [key, value] : row["scores"].items()) out[damage][key] = verdict(damage, key);
    }
    return out;
  }
  const Json& rows() const { return rows_; }
  const eval::NetworkScorer& scorer() const { return scorer_; }

 private:
  std::string verdict(const std::string& damage, const std::string& key) const {
    const double sign = key == "psnr" || key == "ssim" ? -1 : 1;
    bool rises = true, moves = false;
    // Distances start at 0; PSNR and SSIM at their best values.
    double last = key == "psnr" ? -100 : key == "ssim" ? -1 : 0;
    const double start = last;
    for (const Json& row : rows_) {
      if (row["damage"] != damage) continue;
      const double value = sign * row["scores"][key].get<double>();
      rises = rises && value > last;
      moves = moves || std::abs(value - start) > 1e-6;
      last = value;
    }
    return !moves ? "unmoved" : rises ? "rises" : "does not rise";
  }

  const MetricChoice& choice_;
  const Tensor& real_;
  eval::NetworkScorer scorer_;
  Json rows_ = Json::array();
};

void add_damage(Sensitivity& result, const Options& options, const Tensor& real, const Tensor& other) {
  for (const double sigma : {0.5, 1.0, 2.0}) result.add("blur, pixels", sigma, eval::blurred(real, sigma));
  for (const double levels : {4.0, 8.0, 16.0, 32.0})
    result.add("noise, levels", levels, eval::with_noise(real, levels, options.seed));
  const std::int64_t T = options.frames;
  for (const std::int64_t count : {T / 5, 2 * T / 5, 4 * T / 5})
    if (count > 0) result.add("frozen, frames", static_cast<double>(count), eval::frozen(real, count));
  for (const std::int64_t block : std::set{std::int64_t{2}, T / 2, T})  // short clips: not the same twice
    if (block >= 2 && block <= T)
      result.add("shuffled, frames", static_cast<double>(block), eval::shuffled_in_time(real, block, options.seed));
  if (!other.defined()) return;
  for (const double share : {0.1, 0.3, 1.0})
    result.add("other clips, share", share, eval::partly_replaced(real, other, share));
}

void print_table(const Json& report) {
  std::printf(
      "%lld real clips of %lld frames, %lldx%lld, seed %llu\n%-28s", report["n_clips"].get<long long>(),
      report["frames"].get<long long>(), report["height"].get<long long>(), report["width"].get<long long>(),
      report["seed"].get<unsigned long long>(), "damage");
  const Json& rows = report["rows"];
  for (const auto& [key, value] : rows[0]["scores"].items()) std::printf(" %12s", key.c_str());
  std::printf("\n");
  for (const Json& row : rows) {
    const std::string name = row["damage"];
    std::printf(
        "%-28s", name == kSame ? name.c_str() : fmt::format("{} {:g}", name, row["strength"].get<double>()).c_str());
    for (const auto& [key, value] : row["scores"].items()) std::printf(" %12.4f", value.get<double>());
    std::printf("\n");
  }
  for (const auto& [damage, metrics] : report["verdicts"].items())
    for (const auto& [key, verdict] : metrics.items())
      std::printf("%s: %s %s\n", damage.c_str(), key.c_str(), verdict.get<std::string>().c_str());
  for (const Json& note : report["notes"]) std::printf("%s\n", note.get<std::string>().c_str());
}

void sensitivity(const Options& options) {
  const MetricChoice choice = choose_metrics(options.metrics);
  refuse_switches_of_files(choice, "sensitivity");
  check<UsageError>(!choice.aer || choice.all, "sensitivity: aer is no metric of clips alone | leave it out");
  check<UsageError>(options.frames >= 2, "sensitivity: --frames: expected at least 2, got {}", options.frames);
  const Clips real = read_clips(options, options.data, options.seed),
              same = read_clips(options, options.data, options.seed + 1);
  Tensor other;
  if (!options.other.empty()) {
    other = read_clips(options, options.other, options.seed).frames;
    check<ConfigError>(
        other.shape() == real.frames.shape(), "sensitivity: --other: expected clips of {} as in --data, got {}",
        real.frames.shape(), other.shape());
  }
  Sensitivity result(choice, real.frames);
  result.add(kSame, 0, same.frames);
  add_damage(result, options, real.frames, other);

  Json report;
  report["n_clips"] = real.frames.dim(0);
  report["frames"] = real.frames.dim(1);
  report["height"] = real.frames.dim(2);
  report["width"] = real.frames.dim(3);
  report["seed"] = options.seed;
  report["data"] = options.data;
  report["dataset_sha256"] = real.dataset;
  report["other"] = options.other;
  report["rows"] = result.rows();
  report["verdicts"] = result.verdicts();
  report["switches"] = result.scorer().switches();
  report["weights"] = result.scorer().weights_record();
  report["warnings"] = result.scorer().warnings();
  report["notes"] = result.scorer().notes();
  report["unavailable"] = result.scorer().unavailable();
  report["program"] = "avid " + train::program_version();
  report["commit"] = train::program_commit();
  if (options.json)
    print_json(report, 2);
  else
    print_table(report);
}

const CommandRegistrar registrar(
    "sensitivity", "what metrics answer to known damage of real clips: blur, noise, frozen and shuffled frames",
    [](Command* command) {
      auto options = std::make_shared<Options>();
      command->add_option("--data", options->data, "real episodes: files, folders or patterns")
          ->type_name("HELDOUT")
          ->required();
      command->add_option("--other", options->other, "episodes of something else, mixed in at rising shares")
          ->type_name("DATA");
      command->add_option("--clips", options->clips, "how many clips")->range(1, 100'000)->capture_default_str();
      command->add_option("--frames", options->frames, "frames of a clip")->capture_default_str();
      command->add_option("--size", options->size, "height and width (default: as stored)")->positive();
      command->add_option("--seed", options->seed, "which clips, and the damage to them")->capture_default_str();
      add_metric_options(command, options->metrics);
      command->add_flag("--json", options->json, "print one JSON value");
      set_example(command, "avid sensitivity --data data/samples/coinrun32-heldout.h5 --clips 128");
      command->callback([options] { sensitivity(*options); });
    });

}  // namespace
}  // namespace avid::cli
