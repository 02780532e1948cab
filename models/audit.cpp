// models/audit.cpp -- networks evaluated on tensors from a file
#include "models/audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/unet_input.h"
#include "diffusion/compose.h"
#include "diffusion/parameterisation.h"
#include "diffusion/training_loss.h"
#include "models/checkpoint.h"
#include "models/pixel_denoiser.h"
#include "models/video_layout.h"

namespace avid {
namespace {

using diffusion::LossWeight;
using diffusion::Objective;
using diffusion::Schedule;

// The input file's tensors in our layout and the computation's dtype; undefined where absent.
struct AuditInput {
  Tensor x0, noise, x_t, t, cond, actions;
};

// Whether `rounded` holds `exact` to one f32 rounding.
bool is_f32_rounding_of(const Tensor& rounded, const Tensor& exact) {
  const std::vector<double> a = rounded.to_doubles(), b = exact.to_doubles();
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= 0x1p-24 * std::abs(b[i]) + 1e-40)) return false;
  return true;
}

AuditInput read_input(const std::filesystem::path& path, const Schedule& schedule, DType dtype) {
  const std::unique_ptr<TensorFile> file = open_tensor_file(path);
  AuditInput in;
  const auto video = [&](const char* name) -> Tensor {
    if (!file->contains(name)) return {};
    const Tensor tensor = file->load(name);
    check<FileError>(
        tensor.rank() == 5 && tensor.dim(1) == 3 && is_float(tensor.dtype()) && tensor.numel() > 0,
        "{}: {}: expected a float video [B,3,T,H,W], got {}", path.string(), name, tensor.describe());
    const std::vector<double> values = tensor.to_doubles();
    const auto bad = std::find_if_not(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
    check<FileError>(
        bad == values.end(), "{}: {}: element {} is {}, not a finite number | make the file again", path.string(), name,
        bad - values.begin(), bad == values.end() ? 0 : *bad);
    return to_channels_last(tensor).to(dtype);
  };
  const auto integers = [&](const char* name, int rank) -> Tensor {
    if (!file->contains(name)) return {};
    const Tensor tensor = file->load(name);
    check<FileError>(
        tensor.rank() == rank && !is_float(tensor.dtype()), "{}: {}: expected integers of {} dimension(s), got {}",
        path.string(), name, rank, tensor.describe());
    return tensor.to(DType::i64);
  };
  in.x0 = video("x0");
  in.noise = video("noise");
  in.x_t = video("x_t");
  in.cond = video("cond");
  in.t = integers("t", 1);
  in.actions = integers("actions", 2);

  const auto need = [&](const Tensor& tensor, const char* name) {
    check<FileError>(
        tensor.defined(), "{}: tensor {} is missing | the file needs cond, t, and x_t or both x0 and noise",
        path.string(), name);
  };
  need(in.cond, "cond");
  need(in.t, "t");
  if (!in.x_t.defined()) {
    check<FileError>(
        in.x0.defined() && in.noise.defined(), "{}: expected x_t, or x0 and noise to make it from", path.string());
    in.x_t = diffusion::q_sample(schedule, in.x0, in.noise, in.t);
  }
  const Shape& shape = in.x_t.shape();
  const auto same = [&](const Tensor& tensor, const char* name) {
    check<FileError>(
        !tensor.defined() || tensor.shape() == shape,
        "{}: {}: expected the extents of x_t, got {} and {} (channels last)", path.string(), name,
        tensor.defined() ? tensor.shape() : Shape(), shape);
  };
  same(in.x0, "x0");
  same(in.noise, "noise");
  check<FileError>(
      in.cond.dim(0) == shape[0] && in.cond.dim(2) == shape[2] && in.cond.dim(3) == shape[3],
      "{}: cond: expected clips and frame size of x_t, got {} and {} (channels last)", path.string(), in.cond.shape(),
      shape);
  check<FileError>(
      !in.actions.defined() || in.actions.shape() == Shape({shape[0], shape[1]}),
      "{}: actions: expected [{},{}], got {}", path.string(), shape[0], shape[1],
      in.actions.defined() ? in.actions.shape() : Shape());
  diffusion::check_times(schedule, in.t, shape[0], "forward");
  if (dtype == DType::f64 && in.x0.defined() && in.noise.defined()) {
    // A file's x_t is f32: a rounding of what its maker went on with. In f64 that rounding would be the largest error,
    // so where x_t is the rounding of what x0 and noise give, the unrounded one is used.
    const Tensor exact = diffusion::q_sample(schedule, in.x0, in.noise, in.t);
    if (is_f32_rounding_of(in.x_t, exact)) in.x_t = exact;
  }
  return in;
}

// Where the networks are. Actions stay on the host, which looks at them.
AuditInput sent_to(Device device, AuditInput in) {
  for (Tensor* tensor : {&in.x0, &in.noise, &in.x_t, &in.t, &in.cond})
    if (tensor->defined()) *tensor = tensor->to(device);
  return in;
}

class Auditor {
 public:
  explicit Auditor(const AuditRequest& request)
      : request_(request),
        schedule_(request.schedule, request.num_steps),
        in_(sent_to(request.device, read_input(request.input, schedule_, request.dtype))) {}

  NamedTensors run() {
    if (!request_.classifier.empty()) {
      classifier();
    } else if (!request_.action_model.empty()) {
      compositions();
    } else if (!request_.adapter.empty()) {
      adapter();
    } else if (!request_.controlnet.empty()) {
      controlnet();
    } else {
      base_alone();
    }
    return std::move(outputs_);
  }

 private:
  void put(const std::string& name, const Tensor& tensor) { outputs_.emplace_back(name, tensor.to(Device())); }
  void put_video(const std::string& name, const Tensor& video) {
    put(name, to_channels_first(video.to(Device()).to(request_.dtype)));
  }

  // A network as it was read, where and in the type that the request asks for.
  template <class Network>
  std::unique_ptr<Network> placed(std::unique_ptr<Network> network) const {
    network->to(request_.device);
    if (request_.activations == DType::bf16) network->set_activation_dtype(DType::bf16);
    return network;
  }
  void put_scalar(const std::string& name, double value) { put(name, Tensor::scalar(value, DType::f64)); }

  void need_actions(const char* method) const {
    check<FileError>(
        in_.actions.defined(), "{}: tensor actions is missing | {} needs it: i64 [B,T]", request_.input.string(),
        method);
  }

  std::unique_ptr<Unet3d> load_base(bool trainable) const {
    auto base = placed(load_unet3d(request_.base, request_.dtype));
    check_cond(base->config().cond_frames, request_.base);
    base->set_trainable(trainable);
    return base;
  }

  void check_cond(std::int64_t cond_frames, const std::filesystem::path& network) const {
    check<FileError>(
        in_.cond.dim(1) == cond_frames, "{}: cond: expected {} conditioning frames ({}), got {}",
        request_.input.string(), cond_frames, network.string(), in_.cond.dim(1));
  }

  // The loss under every objective, and the gradients of the configured one.
  void losses(const Var& prediction, nn::Module& trained) {
    if (!in_.x0.defined() || !in_.noise.defined()) {
      check<FileError>(!request_.grads, "{}: --grads needs x0 and noise for the loss", request_.input.string());
      return;
    }
    for (const Objective objective : {Objective::pred_noise, Objective::pred_x0, Objective::pred_v}) {
      const Var loss =
          diffusion::training_loss(schedule_, objective, LossWeight::snr, prediction, in_.x0, in_.noise, in_.t);
      put_scalar(fmt::format("loss_{}", diffusion::name_of(objective)), loss.value().item());
      if (objective == request_.objective) put_scalar("loss", loss.value().item());
    }
    if (!request_.grads) return;
    diffusion::training_loss(schedule_, request_.objective, LossWeight::snr, prediction, in_.x0, in_.noise, in_.t)
        .backward();
    put_gradients(trained);
  }

  void put_gradients(const nn::Module& trained) {
    for (const auto& [name, gradient] : trained.export_gradients("grad.")) put(name, gradient);
  }

  void base_alone() {
    const auto base = load_base(true);
    const Var x = unet_input(in_.cond, Var(in_.x_t), {});
    {
      const NoGrad no_grad;
      put_video("prediction_no_action", base->forward(x, in_.t, {}).value());
    }
    const Var prediction = forward_recorded([&] { return base->forward(x, in_.t, in_.actions); });
    put_video("prediction", prediction.value());
    losses(prediction, *base);
  }

  void adapter() {
    need_actions("an adapter");
    const auto base = load_base(false);
    PixelDenoiser frozen(*base, request_.objective, PixelDenoiser::Actions::ignore);
    const Tensor base_output = frozen.predict({.x_t = in_.x_t, .t = in_.t, .cond = in_.cond, .actions = {}});
    put_video("base", base_output);
    const auto avid = placed(load_avid(request_.adapter, request_.dtype, base->config().cond_frames));
    AvidOutput out;
    const Var prediction = forward_recorded([&] {
      out = avid->forward(in_.x_t, in_.t, in_.cond, in_.actions, base_output);
      return out.prediction;
    });
    put_video("adapter", out.adapter.value());
    if (out.mask.defined()) {
      put_video("mask", out.mask);
      const MaskStats stats = mask_stats(out.mask);
      put("mask_stats", Tensor::from_values(std::vector<double>{stats.mean, stats.std, stats.min, stats.max}, {4}));
    }
    put_video("prediction", prediction.value());
    losses(prediction, *avid);
  }

  void controlnet() {
    need_actions("a ControlNet");
    const auto base = load_base(false);
    PixelDenoiser frozen(*base, request_.objective, PixelDenoiser::Actions::ignore);
    put_video("base", frozen.predict({.x_t = in_.x_t, .t = in_.t, .cond = in_.cond, .actions = {}}));
    const auto control = placed(load_controlnet(request_.controlnet, request_.dtype));
    check_controls(control->config(), base->config(), request_.controlnet.string());
    ControlledOutput out;
    const Var prediction = forward_recorded([&] {
      out = run_controlled(*base, *control, in_.x_t, in_.t, in_.cond, in_.actions, request_.control_order);
      return out.prediction;
    });
    for (std::size_t i = 0; i < out.controls.size(); ++i)
      put_video(fmt::format("control.{}", i), out.controls[i].value());
    put_video("prediction", prediction.value());
    losses(prediction, *control);
  }

  void classifier() {
    need_actions("a classifier");
    const auto network = placed(load_action_classifier(request_.classifier, request_.dtype, in_.cond.dim(1)));
    if (in_.x0.defined()) {
      const NoGrad no_grad;
      const Var logits = network->forward(
          Var(join_frames(in_.cond, in_.x0)), Tensor::zeros({in_.x0.dim(0)}, DType::i64, request_.device));
      put("logits_clean", logits.value());
      put_scalar("loss_clean", cross_entropy(logits, in_.actions.to(request_.device)).value().item());
    }
    Var loss;
    forward_recorded([&] {
      const Var logits = network->forward(Var(join_frames(in_.cond, in_.x_t)), in_.t);
      put("logits_noisy", logits.value());
      return loss = cross_entropy(logits, in_.actions.to(request_.device));
    });
    put_scalar("loss_noisy", loss.value().item());
    if (request_.grads) {
      loss.backward();
      put_gradients(*network);
    }
    network->set_trainable(false);
    const ClassifierGuidance guidance = classifier_guidance(*network, in_.x_t, in_.t, in_.cond, in_.actions);
    put_scalar("guidance_logprob", guidance.log_prob);
    put_video("guidance_gradient", guidance.gradient);
  }

  void compositions() {
    need_actions("an action model");
    const auto base = load_base(false);
    const auto action_model = placed(load_unet3d(request_.action_model, request_.dtype));
    check_cond(action_model->config().cond_frames, request_.action_model);
    PixelDenoiser base_denoiser(*base, request_.objective, PixelDenoiser::Actions::ignore);
    PixelDenoiser action_denoiser(*action_model, request_.objective, PixelDenoiser::Actions::use);
    const diffusion::DenoiserInput input{.x_t = in_.x_t, .t = in_.t, .cond = in_.cond, .actions = in_.actions};
    const auto put_mix = [&](const std::string& prefix, diffusion::Denoiser& mix) {
      Tensor x0 = diffusion::x0_from_output(schedule_, mix.objective(), mix.predict(input), in_.x_t, in_.t);
      put_video(prefix + "_pred_noise", diffusion::noise_from_x0(schedule_, x0, in_.x_t, in_.t));
      put_video(prefix + "_pred_x0", x0);
      Tensor clamped = x0.clone();
      diffusion::clamp_to_unit(clamped);
      put_video(prefix + "_posterior_mean", diffusion::posterior_mean(schedule_, clamped, in_.x_t, in_.t));
    };
    if (request_.poe) {
      diffusion::ProductOfExperts mix(schedule_, base_denoiser, action_denoiser, {.weight = *request_.poe});
      put_mix("poe", mix);
    }
    if (request_.action_cfg) {
      diffusion::ActionGuidance mix(schedule_, base_denoiser, action_denoiser, {.weight = *request_.action_cfg});
      put_mix("cfg", mix);
    }
  }

  // Runs `body` with recording only when gradients are wanted: they cost memory.
  template <class Body>
  Var forward_recorded(Body&& body) {
    if (request_.grads) return body();
    const NoGrad no_grad;
    return body();
  }

  const AuditRequest& request_;
  Schedule schedule_;
  AuditInput in_;
  NamedTensors outputs_;
};

}  // namespace

void check_request(const AuditRequest& r) {
  const int others = !r.adapter.empty() + !r.controlnet.empty() + !r.classifier.empty() + !r.action_model.empty();
  check<UsageError>(
      others <= 1, "forward: expected one of an adapter, a ControlNet, a classifier or an action model, got {}",
      others);
  check<UsageError>(!r.base.empty() || !r.classifier.empty(), "forward: expected --base F, or --classifier F");
  check<UsageError>(r.base.empty() || r.classifier.empty(), "forward: a classifier is evaluated alone, without a base");
  const bool mixes = r.poe || r.action_cfg;
  check<UsageError>(r.action_model.empty() || mixes, "forward: an action model needs a weight: --poe or --action-cfg");
  check<UsageError>(!r.action_model.empty() || !mixes, "forward: --poe and --action-cfg need an action model");
  check<UsageError>(
      r.action_model.empty() || !r.grads,
      "forward: --grads: mixtures of trained networks are not trained, so they have no gradients");
  for (const auto& [option, weight] : {std::pair("--poe", r.poe), std::pair("--action-cfg", r.action_cfg)})
    check<UsageError>(
        std::isfinite(weight.value_or(0)), "forward: {}: expected a number, got {:g}", option, weight.value_or(0));
}

NamedTensors audit(const AuditRequest& request) {
  check_request(request);
  return Auditor(request).run();
}

}  // namespace avid
