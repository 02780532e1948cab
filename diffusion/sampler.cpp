// diffusion/sampler.cpp -- DDPM and DDIM: from noise and conditioning frames to a video
#include "diffusion/sampler.h"

#include <algorithm>
#include <cmath>

#include "diffusion/parameterisation.h"
#include "tensor/error.h"
#include "tensor/ops/clip_mix.h"
#include "tensor/rng.h"

namespace avid::diffusion {
namespace {

/// x + scale * z in place.
void add_scaled(Tensor& x, double scale, const Tensor& z) {
  check_shape(z, x.shape(), "sampler", "z");
  check_dtype(z, x.dtype(), "sampler", "z");
  clip_mix_into(x, {}, z, {.value = scale});
}

void check_finite(const Tensor& x, std::int64_t t) {
  check<Error>(
      all_finite(x),
      "sampler: step t = {}: the network's output is not finite | check the weights and the conditioning frames", t);
}

class Sampling {
 public:
  Sampling(Denoiser& denoiser, const Schedule& schedule, const SamplerOptions& options, std::int64_t num_clips)
      : denoiser_(denoiser),
        schedule_(schedule),
        options_(options),
        pairs_(sampling_times(schedule, options)),
        num_clips_(num_clips) {}

  /// One batch; `first_clip` counts from the start of this call.
  Tensor run(const Tensor& cond, const Tensor& actions, std::int64_t num_frames, std::int64_t first_clip) const {
    const Shape shape{cond.dim(0), num_frames, cond.dim(2), cond.dim(3), cond.dim(4)};
    Tensor x = draw(0, shape, cond.dtype(), cond.device(), first_clip);
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const TimePair pair = pairs_[i];
      const Tensor t = Tensor::full({shape[0]}, static_cast<double>(pair.t), DType::i64, cond.device());
      const DenoiserInput input{x, t, cond, actions};
      const Tensor output = denoiser_.predict(input);
      check_shape(output, shape, "sampler", "network output");
      // A copy: with pred_x0 the estimate is the network's own output tensor.
      Tensor x0_hat = x0_from_output(schedule_, denoiser_.objective(), output, x, input.t).clone();
      clamp_to_unit(x0_hat);
      const bool random = pair.next >= 0 && (options_.kind == SamplerKind::ddpm || options_.eta > 0);
      const Tensor z =
          random ? draw(static_cast<std::int64_t>(i) + 1, shape, cond.dtype(), cond.device(), first_clip) : Tensor{};
      if (options_.kind == SamplerKind::ddim) {
        x = ddim_step(schedule_, pair, options_.eta, x0_hat, x, z);
      } else {
        x = ddpm_step(schedule_, pair.t, x0_hat, x, z);
        if (guided(pair.t))
          add_scaled(x, options_.guidance.weight * variance(pair.t), options_.guidance.gradient(input));
      }
      check_finite(x, pair.t);
      if (options_.on_step)
        options_.on_step(
            {.index = static_cast<std::int64_t>(i),
             .num_steps = static_cast<std::int64_t>(pairs_.size()),
             .t = pair.t,
             .first_clip = first_clip,
             .num_clips = num_clips_,
             .x = x,
             .x0_hat = x0_hat,
             .mask = denoiser_.last_mask()});
    }
    return x;
  }

 private:
  bool guided(std::int64_t t) const { return options_.guidance.gradient && t >= options_.guidance.first_t && t > 0; }
  double variance(std::int64_t t) const { return schedule_.f32().posterior_variance[static_cast<std::size_t>(t)]; }

  Tensor draw(std::int64_t number, const Shape& shape, DType dtype, Device device, std::int64_t first_clip) const {
    if (options_.noise) {
      const Tensor given = options_.noise(number, shape, dtype).to(device);
      check_shape(given, shape, "sampler", "given noise");
      check_dtype(given, dtype, "sampler", "given noise");
      return given;
    }
    Tensor noise = Tensor::empty(shape, dtype, device);
    const std::int64_t per_clip = shape.numel() / std::max<std::int64_t>(shape[0], 1);
    fill_normal(
        noise, {options_.seed, RngPurpose::sample_noise, static_cast<std::uint64_t>(number)},
        static_cast<std::uint64_t>((options_.first_clip + first_clip) * per_clip));
    return noise;
  }

  Denoiser& denoiser_;
  const Schedule& schedule_;
  const SamplerOptions& options_;
  std::vector<TimePair> pairs_;
  std::int64_t num_clips_;
};

}  // namespace

const char* name_of(SamplerKind kind) { return kind == SamplerKind::ddpm ? "ddpm" : "ddim"; }

SamplerKind parse_sampler(std::string_view text) {
  if (text == "ddpm") return SamplerKind::ddpm;
  if (text == "ddim") return SamplerKind::ddim;
  fail<ConfigError>("sampler: expected ddpm or ddim, got '{}'", text);
}

std::vector<TimePair> sampling_times(const Schedule& schedule, const SamplerOptions& options) {
  const std::int64_t all = schedule.num_steps(), wanted = options.num_steps == 0 ? all : options.num_steps;
  if (options.kind == SamplerKind::ddim) return ddim_times(all, wanted);
  check<ConfigError>(
      wanted == all, "sampler: steps: ddpm takes every step of the schedule, {}, got {} | use ddim for fewer", all,
      wanted);
  std::vector<TimePair> pairs;
  for (std::int64_t t = all - 1; t >= 0; --t) pairs.push_back({t, t - 1});
  return pairs;
}

double ddim_sigma(const Schedule& schedule, TimePair pair, double eta) {
  if (pair.next < 0) return 0;
  const double abar = schedule.f32().abar[static_cast<std::size_t>(pair.t)];
  const double abar_next = schedule.f32().abar[static_cast<std::size_t>(pair.next)];
  return eta * std::sqrt((1 - abar / abar_next) * (1 - abar_next) / (1 - abar));
}

Tensor ddpm_step(const Schedule& schedule, std::int64_t t, const Tensor& x0_hat, const Tensor& x_t, const Tensor& z) {
  const Tensor times = Tensor::full({x_t.dim(0)}, static_cast<double>(t), DType::i64, x_t.device());
  Tensor x = posterior_mean(schedule, x0_hat, x_t, times);
  if (t > 0 && z.defined())
    add_scaled(x, std::exp(0.5 * schedule.f32().posterior_log_variance[static_cast<std::size_t>(t)]), z);
  return x;
}

Tensor ddim_step(
    const Schedule& schedule, TimePair pair, double eta, const Tensor& x0_hat, const Tensor& x_t, const Tensor& z) {
  if (pair.next < 0) return x0_hat.clone();
  const Tensor times = Tensor::full({x_t.dim(0)}, static_cast<double>(pair.t), DType::i64, x_t.device());
  const Tensor noise_hat = noise_from_x0(schedule, x0_hat, x_t, times);
  const double abar_next = schedule.f32().abar[static_cast<std::size_t>(pair.next)];
  const double sigma = ddim_sigma(schedule, pair, eta);
  // Rounding can push 1 - abar - sigma^2 just below zero when eta = 1 and abar_next is close to 1.
  const double direction = std::sqrt(std::max(0.0, 1 - abar_next - sigma * sigma));
  Tensor x = clip_mix(x0_hat, {.value = std::sqrt(abar_next)}, noise_hat, {.value = direction});
  if (sigma > 0 && z.defined()) add_scaled(x, sigma, z);
  return x;
}

Tensor sample(
    Denoiser& denoiser, const Schedule& schedule, const Tensor& cond, const Tensor& actions, std::int64_t num_frames,
    const SamplerOptions& options) {
  check_rank(cond, 5, "sampler", "cond");
  const std::int64_t num_clips = cond.dim(0);
  check<ConfigError>(num_frames >= 1, "sampler: frames: expected at least 1, got {}", num_frames);
  check<ConfigError>(options.eta >= 0 && options.eta <= 1, "sampler: eta: expected 0 to 1, got {}", options.eta);
  check<ConfigError>(
      !options.guidance.gradient || options.kind == SamplerKind::ddpm,
      "sampler: classifier guidance: expected the ddpm sampler, got ddim | choose --sampler ddpm");
  if (actions.defined()) {
    check_shape(actions, {num_clips, num_frames}, "sampler", "actions");
    check_dtype(actions, DType::i64, "sampler", "actions");
  }
  const Sampling sampling(denoiser, schedule, options, num_clips);
  const std::int64_t batch = options.batch_clips > 0 ? options.batch_clips : num_clips;
  if (batch >= num_clips) return sampling.run(cond, actions, num_frames, 0);
  Tensor out =
      Tensor::empty({num_clips, num_frames, cond.dim(2), cond.dim(3), cond.dim(4)}, cond.dtype(), cond.device());
  for (std::int64_t first = 0; first < num_clips; first += batch) {
    const std::int64_t end = std::min(first + batch, num_clips);
    Tensor part = out.slice(first, end);
    part.copy_from(sampling.run(
        cond.slice(first, end), actions.defined() ? actions.slice(first, end) : Tensor{}, num_frames, first));
  }
  return out;
}

void MaskTrace::add(const StepReport& report) {
  if (!report.mask.defined()) return;
  double sum = 0;
  for (const double m : report.mask.to_doubles()) sum += m;
  const auto found = std::find_if(sums_.begin(), sums_.end(), [&](const Sum& s) { return s.t == report.t; });
  if (found == sums_.end())
    sums_.push_back({report.t, sum, report.mask.numel()});
  else
    *found = {report.t, found->sum + sum, found->count + report.mask.numel()};
}

std::vector<MaskTrace::Point> MaskTrace::points() const {
  std::vector<Point> out;
  for (const Sum& s : sums_) out.push_back({s.t, s.sum / static_cast<double>(s.count)});
  std::sort(out.begin(), out.end(), [](const Point& a, const Point& b) { return a.t > b.t; });
  return out;
}

}  // namespace avid::diffusion
