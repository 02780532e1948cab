// diffusion/sampler.cpp -- DDPM and DDIM: from noise and conditioning frames to a video
#include "diffusion/sampler.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "diffusion/parameterisation.h"
#include "tensor/error.h"
#include "tensor/memory_watch.h"
#include "tensor/ops/elementwise.h"
#include "tensor/rng.h"

namespace avid::diffusion {
namespace {

/// x + scale * z in place; `scale` may be a table, looked up at `row`.
void add_scaled(Tensor& x, const ClipFactor& scale, const Tensor& z, const Tensor& row = {}) {
  check_shape(z, x.shape(), "sampler", "z");
  check_dtype(z, x.dtype(), "sampler", "z");
  clip_mix_into(x, {}, z, scale, row);
}

Tensor every_clip(std::int64_t value, std::int64_t num_clips, Device device) {
  return Tensor::full({num_clips}, static_cast<double>(value), DType::i64, device);
}

class Sampling {
 public:
  Sampling(Denoiser& denoiser, const Schedule& schedule, const SamplerOptions& options, std::int64_t num_clips)
      : denoiser_(denoiser),
        schedule_(schedule),
        options_(options),
        pairs_(sampling_times(schedule, options)),
        num_clips_(num_clips),
        graph_use_(options.graph) {
    std::vector<double> next_root, direction, ddim, ddpm;
    for (const TimePair pair : pairs_) {
      const DdimFactors factors = ddim_factors(schedule, pair, options.eta);
      next_root.push_back(factors.next_root.value);
      direction.push_back(factors.direction.value);
      ddim.push_back(factors.sigma.value);
      ddpm.push_back(ddpm_sigma(schedule, pair.t));
    }
    next_root_ = TimeTable(std::move(next_root));
    direction_ = TimeTable(std::move(direction));
    sigma_ = TimeTable(options.kind == SamplerKind::ddim ? std::move(ddim) : std::move(ddpm));
  }

  /// One batch; `first_clip` counts from the start of this call.
  Tensor run(const Tensor& cond, const Tensor& actions, std::int64_t num_frames, std::int64_t first_clip) {
    const Shape shape{cond.dim(0), num_frames, cond.dim(2), cond.dim(3), cond.dim(4)};
    const Device device = cond.device();
    choose_graph(device);
    State s = graph_use_ == UseGraph::off ? State{} : std::move(slots_);
    if (s.cond.defined() && (s.x.shape() != shape || s.cond.shape() != cond.shape())) {
      s = {};
      graph_ = {};
    }
    put(s.x, draw(0, shape, cond.dtype(), device, first_clip));
    put(s.cond, cond);
    s.actions = actions;
    bad_ = device.is_gpu() ? kept(std::move(bad_), Tensor::zeros({1}, DType::i32, device)) : Tensor();
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const TimePair pair = pairs_[i];
      put(s.t, every_clip(pair.t, shape[0], device));
      put(s.row, every_clip(static_cast<std::int64_t>(i), shape[0], device));
      const bool last = pair.next < 0;
      const bool random = !last && (options_.kind == SamplerKind::ddpm || options_.eta > 0);
      if (random) put(s.z, draw(static_cast<std::int64_t>(i) + 1, shape, cond.dtype(), device, first_clip));
      const bool repeats = graph_use_ != UseGraph::off && i > 0 && !last;
      const Result made = repeats ? repeat(s) : watched(device, [&] { return step(s, last, random); });
      put(s.x, made.x);
      if (!last && guided(pair.t))
        add_scaled(
            s.x, {.value = options_.guidance.weight * variance(pair.t)},
            options_.guidance.gradient({made.before, s.t, s.cond, s.actions}));
      if (!device.is_gpu() || guided(pair.t)) check_finite(all_finite(s.x), pair.t);
      if (options_.on_step)
        options_.on_step(
            {.index = static_cast<std::int64_t>(i),
             .num_steps = static_cast<std::int64_t>(pairs_.size()),
             .t = pair.t,
             .first_clip = first_clip,
             .num_clips = num_clips_,
             .x = s.x,
             .x0_hat = made.x0_hat,
             .mask = made.mask,
             .graph_steps = repeats && graph_use_ != UseGraph::off ? graph_.num_steps() : 0});
    }
    check<Error>(
        !bad_.defined() || bad_.item() == 0,
        "sampler: the network's output was not finite in one of the steps | check the weights and the conditioning "
        "frames");
    const Tensor out = s.x;
    if (graph_use_ != UseGraph::off) slots_ = std::move(s);
    return out;
  }

 private:
  /// What a step reads. When steps are recorded these stay at their places, and put() fills them.
  struct State {
    Tensor x, t, row, z, cond;
    Tensor actions;        // as the caller gave them
    Tensor actions_there;  // on the device, for recorded steps
  };
  struct Result {
    Tensor before, x, x0_hat, mask;
  };

  void choose_graph(Device device) {
    const char* reason = why_no_graph(options_, device);
    check<ConfigError>(
        reason == nullptr || graph_use_ != UseGraph::on,
        "sampler: graph: expected auto or off, got on | {}, so there is nothing to record", reason);
    if (reason != nullptr) graph_use_ = UseGraph::off;
  }

  /// A new tensor, or the values of it in the old place.
  static Tensor kept(Tensor place, const Tensor& values) {
    if (!place.defined()) return values;
    place.copy_from(values);
    return place;
  }
  void put(Tensor& place, const Tensor& values) const {
    if (graph_use_ == UseGraph::off)
      place = values;
    else if (!place.defined())
      place = values.clone();
    else if (!place.shares_storage_with(values))
      place.copy_from(values);
  }

  /// Queues one step: no number of it comes from the host, unless it is the last.
  Result step(const State& s, bool last, bool random) {
    const DenoiserInput input{s.x, s.t, s.cond, s.actions};
    const Tensor output = denoiser_.predict(input);
    check_shape(output, s.x.shape(), "sampler", "network output");
    // A copy: with pred_x0 the estimate is the network's own output tensor.
    Tensor x0_hat = x0_from_output(schedule_, denoiser_.objective(), output, s.x, s.t).clone();
    clamp_to_unit(x0_hat);
    const Tensor z = random ? s.z : Tensor();
    const Device device = s.x.device();
    Tensor x;
    if (options_.kind == SamplerKind::ddpm) {
      x = ddpm_step(schedule_, {.table = sigma_.on(device)}, x0_hat, s.x, s.t, z, s.row);
    } else if (last) {
      x = x0_hat.clone();
    } else {
      x = ddim_step(
          schedule_,
          {.next_root = {.table = next_root_.on(device)},
           .direction = {.table = direction_.on(device)},
           .sigma = {.table = sigma_.on(device)}},
          x0_hat, s.x, s.t, z, s.row);
    }
    if (bad_.defined()) note_non_finite(x, bad_);
    return {s.x, x, x0_hat, denoiser_.last_mask()};
  }

  /// The first step shows the recording what memory it will need.
  template <class F>
  Result watched(Device device, F&& f) {
    if (graph_use_ == UseGraph::off || graph_.defined() || watch_) return f();
    watch_ = std::make_unique<MemoryWatch>(device);
    const Result result = f();
    watch_->end_of_work();
    return result;
  }

  Result repeat(State& s) {
    const bool random = s.z.defined();
    // A network that gets actions on the host sends them itself, which a recording would take for constants. It has
    // checked them in the first step.
    if (s.actions.defined()) put(s.actions_there, s.actions.to(s.x.device()));
    if (!graph_.defined()) {
      State there = s;
      there.actions = s.actions_there;
      try {
        const auto watch = std::move(watch_);
        graph_ = DeviceGraph::record(
            s.x.device(), [&] { recorded_ = step(there, false, random); }, watch.get());
      } catch (const Error& error) {
        if (options_.graph == UseGraph::on) throw;
        if (options_.say)
          options_.say(fmt::format("steps are not recorded as a graph, which only costs time: {}", error.what()));
        graph_use_ = UseGraph::off;
        return step(s, false, random);
      }
    }
    graph_.replay();
    return recorded_;
  }

  static void check_finite(bool finite, std::int64_t t) {
    check<Error>(
        finite,
        "sampler: step t = {}: the network's output is not finite | check the weights and the conditioning frames", t);
  }

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
  TimeTable next_root_, direction_, sigma_;  // by step
  UseGraph graph_use_;
  Tensor bad_;  // on a device: 1 once a step's result was not finite
  State slots_;
  std::unique_ptr<MemoryWatch> watch_;
  DeviceGraph graph_;
  Result recorded_;
};

}  // namespace

const char* name_of(SamplerKind kind) { return kind == SamplerKind::ddpm ? "ddpm" : "ddim"; }

SamplerKind parse_sampler(std::string_view text) {
  if (text == "ddpm") return SamplerKind::ddpm;
  if (text == "ddim") return SamplerKind::ddim;
  fail<ConfigError>("sampler: expected ddpm or ddim, got '{}'", text);
}

const char* why_no_graph(const SamplerOptions& options, Device device) {
  if (!device.is_gpu()) return "the CPU queues nothing";
  if (options.guidance.gradient) return "the host looks at the classifier's result in every step";
  return nullptr;
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

double ddpm_sigma(const Schedule& schedule, std::int64_t t) {
  return std::exp(0.5 * schedule.f32().posterior_log_variance[static_cast<std::size_t>(t)]);
}

DdimFactors ddim_factors(const Schedule& schedule, TimePair pair, double eta) {
  const double abar_next = pair.next < 0 ? 1.0 : schedule.f32().abar[static_cast<std::size_t>(pair.next)];
  const double sigma = ddim_sigma(schedule, pair, eta);
  // Rounding can push 1 - abar - sigma^2 just below zero when eta = 1 and abar_next is close to 1.
  const double direction = std::sqrt(std::max(0.0, 1 - abar_next - sigma * sigma));
  return {.next_root = {.value = std::sqrt(abar_next)}, .direction = {.value = direction}, .sigma = {.value = sigma}};
}

Tensor ddpm_step(
    const Schedule& schedule, const ClipFactor& sigma, const Tensor& x0_hat, const Tensor& x_t, const Tensor& t,
    const Tensor& z, const Tensor& row) {
  Tensor x = posterior_mean(schedule, x0_hat, x_t, t);
  if (z.defined()) add_scaled(x, sigma, z, row);
  return x;
}

Tensor ddim_step(
    const Schedule& schedule, const DdimFactors& factors, const Tensor& x0_hat, const Tensor& x_t, const Tensor& t,
    const Tensor& z, const Tensor& row) {
  const Tensor noise_hat = noise_from_x0(schedule, x0_hat, x_t, t);
  Tensor x = clip_mix(x0_hat, factors.next_root, noise_hat, factors.direction, row);
  if (z.defined()) add_scaled(x, factors.sigma, z, row);
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
  Sampling sampling(denoiser, schedule, options, num_clips);
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
