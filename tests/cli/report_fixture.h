// tests/cli/report_fixture.h -- a folder of made-up scores and samples for avid report
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/support.h"

namespace avid::test {

/// One file as avid evaluate writes it: a row `method`, numbers of four clips, a training record, a mask.
struct MadeUpScores {
  std::string id;  // "coinrun500k__avid_22m"
  double psnr = 20, fvd_procgen = 50, flop = 1e14;
  std::int64_t frames = 12000;
  bool mask = false;
};

inline nlohmann::ordered_json scores_json(const MadeUpScores& s) {
  nlohmann::ordered_json json;
  json["n_clips"] = 4;
  json["t_cond"] = 2;
  json["frames"] = 4;
  json["height"] = json["width"] = 16;
  json["clips"] = {{"hash", "h"}, {"name", "four"}};
  json["bootstrap"] = {{"seed", 0}};
  json["switches"] = {{"quantise", "trunc"}};
  json["weights"]["procgen-encoder"] = {{"file", "e.safetensors"}, {"sha256", std::string(64, 'e')}};
  json["notes"] = {"fvd_procgen: distances on features of this project's own encoder; not FID or FVD"};
  json["unavailable"] = {{"lpips", "lpips: unavailable: no weights <here> | convert them"}};
  json["sources"]["method"] = {{"adapter", "a.safetensors"}, {"base", "b.safetensors"}, {"sha256.adapter", "00"}};
  json["training"]["method"] = {
      {"adapter", {{"flop", s.flop}, {"clips", 8000}, {"frames", s.frames}}},
      {"base", {{"flop", 3e16}, {"clips", 1000}, {"frames", 100000}}}};
  json["rows"] = {{{"name", "base"}, {"psnr", {{"mean", 99}}}}};
  nlohmann::ordered_json row{{"name", "method"}};
  row["psnr"] = {{"mean", s.psnr}, {"low", s.psnr - 1}, {"high", s.psnr + 1}};
  row["ssim"] = {{"mean", s.psnr / 40}, {"low", s.psnr / 40 - 0.02}, {"high", s.psnr / 40 + 0.02}};
  row["fvd_procgen"] = s.fvd_procgen;
  row["intervals"]["fvd_procgen"] = {{"low", s.fvd_procgen - 3}, {"high", s.fvd_procgen + 4}};
  json["rows"].push_back(row);
  json["per_clip"]["method"]["psnr"] = {s.psnr, s.psnr + 0.5, s.psnr - 0.5, s.psnr + 0.1};
  std::vector<double> resamples;
  for (int r = 0; r < 40; ++r) resamples.push_back(s.fvd_procgen + 5 + std::sin(r) * 2);
  json["resamples"]["method"]["fvd_procgen"] = resamples;
  if (s.mask)
    for (int t = 9; t >= 0; --t)
      json["mask_mean_per_step"]["method"].push_back({{"t", t}, {"mean", 0.5 + 0.02 * (10 - t)}});
  return json;
}

inline void write_scores(const std::filesystem::path& folder, const MadeUpScores& s) {
  std::filesystem::create_directories(folder);
  write_text_atomic(folder / (s.id + ".json"), scores_json(s).dump());
}

/// What avid sample leaves: two clips of 2 + 4 frames; `seed` decides the generated frames only.
inline void write_samples(const std::filesystem::path& folder, std::uint64_t seed, bool mask) {
  std::filesystem::create_directories(folder);
  const auto frames = [](std::uint64_t s, std::int64_t count, std::int64_t channels) {
    const Tensor random = random_tensor({2, count, 16, 16, channels}, DType::f64, s, 128.0);
    std::vector<std::uint8_t> bytes;
    for (const double v : random.to_doubles()) bytes.push_back(static_cast<std::uint8_t>(v + 128));
    return Tensor::from_values(bytes, random.shape());
  };
  NamedTensors tensors{
      {"cond", frames(1, 2, 3)},
      {"real", frames(2, 4, 3)},
      {"base", frames(3, 4, 3)},
      {"generated", frames(seed, 4, 3)}};
  if (mask) tensors.emplace_back("mask", frames(seed + 1, 4, 1));
  tensors.emplace_back("actions", Tensor::from_values(std::vector<std::int64_t>{7, 7, 8, 4, 1, 1, 4, 4}, {2, 4}));
  save_safetensors(folder / "samples.safetensors", tensors, {});
}

/// Three data sets, five methods, pictures of four; `folder`/scores and `folder`/pictures.
inline void write_made_up_report_inputs(const std::filesystem::path& folder) {
  const struct {
    const char* key;
    double psnr, fvd, flop;
  } methods[] = {
      {"avid_22m", 22, 60, 2e14},
      {"avid_71m", 23.5, 48, 5e14},
      {"scratch_22m", 18, 90, 1e14},
      {"controlnet", 21, 66, 4e14},
      {"finetune", 24, 41, 8e14}};
  const struct {
    const char* name;
    double better;
    std::int64_t frames;
  } datasets[] = {{"coinrun100k", -1, 4000}, {"coinrun500k", 0, 12000}, {"coinrun2500k", 1, 20000}};
  for (const auto& d : datasets)
    for (const auto& m : methods)
      write_scores(
          folder / "scores", {.id = std::string(d.name) + "__" + m.key,
                              .psnr = m.psnr + d.better,
                              .fvd_procgen = m.fvd - 6 * d.better,
                              .flop = m.flop,
                              .frames = d.frames,
                              .mask = std::string(m.key).starts_with("avid")});
  // One method with other data than the rest, on one data set only.
  write_scores(
      folder / "scores",
      {.id = "coinrun500k__classifier_guidance", .psnr = 16, .fvd_procgen = 120, .flop = 3e14, .frames = 99000});
  for (int i = 0; i < 4; ++i)
    write_samples(
        folder / "pictures" / (std::string("coinrun500k__") + methods[i].key), 10 + 2 * static_cast<std::uint64_t>(i),
        i < 2);
}

/// avid report over such a folder, into `folder`/report.html and report.json.
inline ProgramResult run_report(const std::filesystem::path& folder, std::vector<std::string> more = {}) {
  std::filesystem::create_directories(folder / "pictures");  // no matter what is in it
  std::vector<std::string> words{AVID_PROGRAM, "report",
                                 "--scores",   folder / "scores",
                                 "--pictures", folder / "pictures",
                                 "--tables",   std::string(AVID_SOURCE_DIR) + "/configs/paper/tables.json",
                                 "--note",     "Made-up numbers: a test.",
                                 "--out",      folder / "report.html",
                                 "--json-out", folder / "report.json"};
  words.insert(words.end(), more.begin(), more.end());
  return run_program(words);
}

}  // namespace avid::test
