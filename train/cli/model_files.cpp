// train/cli/model_files.cpp -- options of the networks and the method, and what of them goes together
#include "train/cli/model_files.h"

#include <algorithm>
#include <cmath>

#include "diffusion/served/client.h"
#include "tensor/error.h"

namespace avid::cli {
namespace {

void check_sweep(const char* option, std::vector<double> weights) {
  for (const double w : weights) check<UsageError>(std::isfinite(w), "{}: expected a number, got {:g}", option, w);
  std::sort(weights.begin(), weights.end());
  const auto twice = std::adjacent_find(weights.begin(), weights.end());
  check<UsageError>(
      twice == weights.end(), "{}: {:g} stands there twice | give every weight of a sweep once", option,
      twice == weights.end() ? 0 : *twice);
}

}  // namespace

void check_model_files(const ModelFiles& f) {
  check<UsageError>(
      !f.run.empty() || !f.base.empty() || !f.model.empty(),
      "no model given | use --run DIR, or --adapter F --base F, or --base F, or --model F");
  const bool mixes = !f.poe.empty() || !f.action_cfg.empty();
  check<UsageError>(f.action_model.empty() || mixes, "--action-model: needs a weight | give --poe W or --action-cfg W");
  check<UsageError>(
      !f.action_model.empty() || !mixes, "--poe, --action-cfg: they mix with a second network | give --action-model F");
  // A server answers without actions and shows no weights, so it can be nothing but the base.
  const std::pair<const char*, const std::filesystem::path&> unserved[] = {
      {"--model", f.model},
      {"--adapter", f.adapter},
      {"--controlnet", f.controlnet},
      {"--action-model", f.action_model},
      {"the guiding classifier", f.guidance_classifier}};
  for (const auto& [option, place] : unserved)
    check<UsageError>(
        !diffusion::is_served(place.string()), "{}: {} is a server, which offers a base alone | give a file or run",
        option, place.string());
  check_sweep("--poe", f.poe);
  check_sweep("--action-cfg", f.action_cfg);
  check_sweep("--guidance", f.guidance);
  check<UsageError>(
      f.guidance.empty() == f.guidance_classifier.empty(),
      "--guidance and --guidance-classifier go together | give both or none");
  check<UsageError>(
      f.first_t == 0 || mixes || !f.guidance.empty(),
      "--method-first-t: nothing is mixed or guided here | it goes with --poe, --action-cfg or --guidance");
}

void add_model_options(Command* command, ModelFiles& files, const std::string& guidance_names) {
  Option* run = command->add_option("--run", files.run, "a folder made by avid train")->type_name("DIR");
  Option* adapter =
      command->add_option("--adapter", files.adapter, "AVID adapter, weights or run; needs --base")->type_name("F");
  Option* control =
      command->add_option("--controlnet", files.controlnet, "ControlNet, weights or run; needs --base")->type_name("F");
  Option* base = command->add_option("--base", files.base, "base model: weights, its run folder, or http://host:port")
                     ->type_name("F");
  Option* model =
      command->add_option("--model", files.model, "weights of a U-Net that takes actions itself")->type_name("F");
  adapter->needs(base)->excludes(control);
  control->needs(base);
  run->excludes(adapter)->excludes(base)->excludes(model)->excludes(control);
  model->excludes(adapter)->excludes(base)->excludes(control);
  command
      ->add_option("--control-order", files.control_order, "reversed or natural (default: as trained, else reversed)")
      ->one_of({"reversed", "natural"});
  command
      ->add_option("--action-model", files.action_model, "action-conditioned U-Net to mix with, weights or run folder")
      ->type_name("F");
  command->add_option("--poe", files.poe, "product of experts with the action model: its weight; several are a sweep")
      ->type_name("W")
      ->expected(1, 100)
      ->allow_extra_args();
  command
      ->add_option(
          "--action-cfg", files.action_cfg, "action guidance by the action model: its weight; several are a sweep")
      ->type_name("W")
      ->expected(1, 100)
      ->allow_extra_args();
  command
      ->add_option(
          guidance_names, files.guidance_classifier, "noisy action classifier that guides DDPM, weights or run")
      ->type_name("F");
  command->add_option("--guidance", files.guidance, "weight of the classifier's gradient; several are a sweep")
      ->type_name("W")
      ->expected(1, 100)
      ->allow_extra_args();
  command->add_option("--method-first-t", files.first_t, "mixtures and guidance are off for diffusion times below this")
      ->non_negative()
      ->capture_default_str();
  command->add_flag(
      "--base-sees-actions", files.base_sees_actions,
      "give the base the actions too, as the original does under classifier guidance");
  command->add_option("--schedule", files.schedule, "linear, cosine or sigmoid (default: as trained, else sigmoid)")
      ->one_of({"linear", "cosine", "sigmoid"});
  command->add_option("--timesteps", files.timesteps, "diffusion steps N (default: as trained, else 200)")
      ->range(1, 1'000'000);
  command
      ->add_option("--objective", files.objective, "pred_noise, pred_x0 or pred_v (default: as trained, else pred_x0)")
      ->one_of({"pred_noise", "pred_x0", "pred_v"});
  command->add_option("--device", files.device, "cpu, cuda, cuda:N or sim (the kernel simulator)")
      ->device_name()
      ->capture_default_str();
  files.routes = add_route_options(command);
  command->add_option("--dtype", files.dtype, "of activations: f32 or bf16 (weights are f32)")
      ->one_of({"f32", "bf16"})
      ->capture_default_str();
}

std::string MethodWeights::text() const {
  std::string out;
  const auto add = [&](const char* name, const std::optional<double>& weight) {
    if (weight) out += fmt::format("{}{} {:g}", out.empty() ? "" : ", ", name, *weight);
  };
  add("poe", poe);
  add("action-cfg", action_cfg);
  add("guidance", guidance);
  return out;
}

std::vector<MethodWeights> sweep(const ModelFiles& files) {
  std::vector<MethodWeights> all = {{}};
  const auto cross = [&](const std::vector<double>& weights, std::optional<double> MethodWeights::*member) {
    if (weights.empty()) return;
    std::vector<MethodWeights> more;
    for (const MethodWeights& w : all)
      for (const double value : weights) {
        more.push_back(w);
        more.back().*member = value;
      }
    all = std::move(more);
  };
  cross(files.poe, &MethodWeights::poe);
  cross(files.action_cfg, &MethodWeights::action_cfg);
  cross(files.guidance, &MethodWeights::guidance);
  return all;
}

}  // namespace avid::cli
