// train/calibration.cpp -- see calibration.h
#include "train/calibration.h"

#include <fmt/format.h>

#include "diffusion/parameterisation.h"
#include "eval/metrics/calibration.h"
#include "models/checkpoint.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"
#include "train/frozen_base.h"
#include "train/svg_plot.h"
#include "train/trainer.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;
/// Null for a file that is absent or not JSON.
Json read_record(const fs::path& file) {
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return nullptr;
  Json record = parse_json(read_text(file));
  return record.is_discarded() ? Json(nullptr) : record;
}

std::string row(const std::string& name, const Json& v) {
  return fmt::format(
      "<tr><th>{}</th><td>{}</td><td>{:.3f}</td><td>{:.3f}</td><td>{:.3f}</td><td>{:.3f}</td><td>{:.3f}</td></tr>\n",
      name, v["count"].get<std::int64_t>(), v["accuracy"].get<double>(), v["confidence"].get<double>(),
      v["probability"].get<double>(), v["log_loss"].get<double>(), v["ece"].get<double>());
}

}  // namespace

Json calibrate(const TrainConfig& config, const fs::path& weights, const ValidationBatches& clips, Device device) {
  const auto classifier = load_action_classifier(weights, DType::f32, config.data.cond_frames);
  classifier->set_trainable(false);
  classifier->to(device);
  classifier->set_activation_dtype(activation_dtype(config));
  const bool noisy = config.model.kind == "noisy_classifier";
  const diffusion::Schedule schedule(diffusion::parse_schedule(config.diffusion.schedule), config.diffusion.timesteps);
  eval::Calibration all;
  std::vector<eval::Calibration> bands(kNoiseBands);
  const NoGrad no_grad;
  for (std::int64_t i = 0; i < clips.num_batches(); ++i) {
    const TrainBatch batch = clips.batch(i);
    const std::int64_t b = batch.x0.dim(0);
    const Tensor x0 = batch.x0.to(device), cond = batch.cond.to(device);
    const Tensor t = noisy ? batch.t : Tensor::zeros({b}, DType::i64);
    const Tensor x = noisy ? diffusion::q_sample(schedule, x0, batch.noise.to(device), t.to(device)) : x0;
    const Tensor logits =
        classifier->forward(Var(join_frames(cond, x)), t.to(device)).value().to(Device{}).to(DType::f32);
    all.add(logits, batch.actions);
    for (std::int64_t clip = 0; noisy && clip < b; ++clip) {
      const std::int64_t band = t.data<std::int64_t>()[clip] * kNoiseBands / config.diffusion.timesteps;
      bands[static_cast<std::size_t>(band)].add(logits.slice(clip, clip + 1), batch.actions.slice(clip, clip + 1));
    }
  }
  Json record{
      {"weights_sha256", sha256_of_file(weights)},
      {"clips", clips.num_clips()},
      {"data", config.data.validation},
      {"all", all.json()}};
  for (int band = 0; noisy && band < kNoiseBands; ++band) {
    if (bands[static_cast<std::size_t>(band)].count() == 0) continue;  // fewer clips than bands
    Json entry{
        {"t_from", (band * config.diffusion.timesteps + kNoiseBands - 1) / kNoiseBands},
        {"t_to", ((band + 1) * config.diffusion.timesteps + kNoiseBands - 1) / kNoiseBands}};
    entry.update(bands[static_cast<std::size_t>(band)].json());
    record["noise_bands"].push_back(std::move(entry));
  }
  return record;
}

Json find_calibration(const fs::path& place) {
  std::error_code ignored;
  const fs::path weights = fs::weakly_canonical(base_weights_path(place), ignored);
  // RUN/checkpoints/step_XXXXXXXX/weights.safetensors
  const fs::path run = fs::is_directory(place, ignored) ? place : weights.parent_path().parent_path().parent_path();
  const fs::path beside = weights.parent_path() / (weights.stem().string() + "." + kCalibrationFile);
  for (const fs::path& file : {run / kCalibrationFile, beside}) {
    Json record = read_record(file);
    if (record.is_object() && record.value("weights_sha256", "") == sha256_of_file(weights)) return record;
  }
  return nullptr;
}

Json calibration_summary(const fs::path& place) {
  Json record = find_calibration(place);
  if (record.is_null()) return nullptr;
  record["all"].erase("bins");
  return record["all"];
}

std::string calibration_text(const Json& v) {
  return fmt::format(
      "accuracy {:.3f}, mean probability of the true action {:.3f}, calibration error {:.3f} ({} predictions)",
      v["accuracy"].get<double>(), v["probability"].get<double>(), v["ece"].get<double>(),
      v["count"].get<std::int64_t>());
}

std::string calibration_html(const fs::path& run) {
  const Json record = read_record(run / kCalibrationFile);
  if (!record.is_object()) return {};
  PlotSeries reliability{"classifier", {}, {}}, perfect{"perfect", {0, 1}, {0, 1}};
  for (const Json& bin : record["all"]["bins"]) {
    if (bin["count"] == 0) continue;
    reliability.x.push_back(bin["confidence"]);
    reliability.y.push_back(bin["accuracy"]);
  }
  std::string html = fmt::format(
      "<h2>Calibration</h2>\n<p>On {} held-out clips, with the weights this run stands for.</p>\n",
      record["clips"].get<std::int64_t>());
  html +=
      "<table><tr><th></th><th>predictions</th><th>accuracy</th><th>mean confidence</th><th>mean probability of the "
      "true action</th><th>log loss</th><th>expected calibration error</th></tr>\n";
  html += row("all", record["all"]);
  if (record.contains("noise_bands"))
    for (const Json& band : record["noise_bands"])
      html +=
          row(fmt::format(
                  "diffusion time {} to {}", band["t_from"].get<std::int64_t>(), band["t_to"].get<std::int64_t>() - 1),
              band);
  html += "</table>\n";
  html += svg_line_plot(
      {.title = "Reliability", .x_label = "mean confidence of a bin", .y_label = "accuracy"}, {reliability, perfect});
  return html;
}

}  // namespace avid::train
