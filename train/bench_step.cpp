// train/bench_step.cpp -- the steps that a bench times are those of training and sampling: Learner::update,
// diffusion::sample
#include "train/bench_step.h"

#include <dnnl.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "diffusion/sampler.h"
#include "kernels/dispatch_stats.h"
#include "models/checkpoint.h"
#include "models/cost.h"
#include "models/video_layout.h"
#include "tensor/io/tensor_file.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"
#include "train/config.h"
#include "train/learner.h"

namespace avid::train {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TrainConfig config_of(const BenchRequest& request, const Unet3dConfig& net, const Shape& video) {
  TrainConfig config;
  config.model.kind = request.kind == "base" ? "base" : "avid";
  config.model.width = net.dim;
  config.model.multipliers = net.dim_mults;
  config.model.heads = net.heads;
  config.model.head_dim = net.head_dim;
  config.model.actions = net.num_actions;
  config.base.checkpoint = request.kind == "base" ? "" : request.base.string();
  config.data.cond_frames = net.cond_frames;
  config.data.frames = video[1];
  config.data.size = video[2];
  return config;
}

/// A network to step with, its batch, and what a forward pass costs.
struct Prepared {
  std::unique_ptr<Trainee> trainee;
  TrainBatch batch;
  UseGraph graph = UseGraph::automatic;
  double trained_flops = 0, frozen_flops = 0;
};

Prepared from_files(const BenchRequest& request) {
  check<UsageError>(
      request.kind == "base" || !request.adapter.empty(), "bench: --kind {} needs --adapter", request.kind);
  Prepared out;
  const auto file = open_tensor_file(request.input);
  out.batch.x0 = to_channels_last(file->load("x0"));
  out.batch.noise = to_channels_last(file->load("noise"));
  out.batch.cond = to_channels_last(file->load("cond"));
  out.batch.t = file->load("t");
  const Shape video = out.batch.x0.shape();
  const VideoSize size{video[0], video[1], video[2], video[3]};

  const nn::TensorMap base_tensors = read_network(request.base, NetworkKind::unet).tensors;
  const Unet3dConfig base_config = infer_unet3d_config(base_tensors, request.base.string());
  Unet3dConfig trained_config = base_config;
  nn::TensorMap trained_tensors = base_tensors;
  if (request.kind != "base") {
    out.batch.actions = file->load("actions");
    trained_tensors = read_network(request.adapter, NetworkKind::avid).tensors;
    trained_config = infer_avid_config(trained_tensors, request.adapter.string(), base_config.cond_frames).adapter;
  }
  out.trainee = make_trainee(config_of(request, trained_config, video));
  out.trainee->module().import_tensors(
      trained_tensors, request.kind == "base" ? request.base.string() : request.adapter.string());
  out.trainee->module().set_trainable(true);
  out.trained_flops = static_cast<double>(forward_cost(trained_config, size).total);
  if (request.kind != "base") out.frozen_flops = static_cast<double>(forward_cost(base_config, size).total);
  return out;
}

Prepared made_up(const BenchRequest& request) {
  // Its base is made up, too; a configuration may leave open which one it stands on.
  const std::vector<std::string> set =
      request.base_config.empty() ? std::vector<std::string>{} : std::vector<std::string>{"base.checkpoint=made-up"};
  const TrainConfig config = TrainConfig::load(request.config, set, TrainConfig::Files::may_miss);
  Prepared out;
  if (config.is_avid()) {
    check<UsageError>(
        !request.base_config.empty(), "bench: {} stands on a frozen base | give its sizes with --base-config",
        request.config.string());
    const TrainConfig base = TrainConfig::load(request.base_config, {}, TrainConfig::Files::may_miss);
    auto unet = std::make_unique<Unet3d>(unet_config(base));
    unet->initialize(1);
    auto avid = std::make_unique<Avid>(make_avid_config(AvidVariant::mask, unet_config(config)));
    avid->initialize(2);
    out.trainee =
        make_avid_trainee(std::move(unet), std::move(avid), diffusion::parse_objective(config.diffusion.objective));
  } else {
    check<UsageError>(
        config.base.checkpoint.empty() && !config.is_encoder() && (!config.is_classifier() || request.kind != "sample"),
        "bench: --config {}: expected a U-Net without a base, AVID, or for updates a classifier, got model.kind = "
        "\"{}\"",
        request.config.string(), config.model.kind);
    out.trainee = make_trainee(config);
  }
  out.trainee->set_recompute(nn::parse_recompute(config.train.recompute, "bench: train.recompute"));
  if (request.kind != "sample") out.graph = parse_use_graph(config.train.graph, "bench: train.graph");
  const std::int64_t clips = request.clips > 0 ? request.clips : config.train.batch, size = config.data.size;
  out.batch.x0 = Tensor::empty({clips, config.data.frames, size, size, 3});
  out.batch.cond = Tensor::empty({clips, config.data.cond_frames, size, size, 3});
  out.batch.noise = Tensor::empty(out.batch.x0.shape());
  fill_uniform(out.batch.x0, {1, RngPurpose::test, 0}, -1, 1);
  fill_uniform(out.batch.cond, {1, RngPurpose::test, 1}, -1, 1);
  fill_normal(out.batch.noise, {1, RngPurpose::test, 2});
  out.batch.t = Tensor::full({clips}, static_cast<double>(config.diffusion.timesteps / 2), DType::i64);
  if (config.uses_actions()) out.batch.actions = Tensor::zeros({clips, config.data.frames}, DType::i64);
  const Trainee::Cost cost = out.trainee->forward_flops({clips, config.data.frames, size, size});
  out.trained_flops = cost.trained;
  out.frozen_flops = cost.frozen;
  return out;
}

bool records(UseGraph graph, Device device) { return graph != UseGraph::off && device.is_gpu(); }

/// Times steps and collects what they do, between the warm-up and the last.
class StepTimer {
 public:
  StepTimer(const BenchRequest& request, kernels::Collect collect, std::int64_t warmup)
      : device_(request.device),
        collect_(collect),
        warmup_(warmup),
        steps_(request.steps),
        around_first_(request.around_first_timed) {}

  std::int64_t warmup() const { return warmup_; }
  std::int64_t steps() const { return steps_; }
  BenchResult& result() { return result_; }

  void begin() {
    if (done_ == warmup_) {
      reset_host_pool_peak();
      if (device_.is_gpu()) reset_device_pool_peak(device_);
      kernels::reset_slow_path_counts();
      if (collect_ != kernels::Collect::nothing) kernels::set_op_timing(collect_, [this] { wait(); });
      if (around_first_) around_first_(true);
    }
    clock_ = kernels::op_clock();
    start_ = std::chrono::steady_clock::now();
  }
  /// The device has all of its work; what the host does behind it is not the step's.
  void queued() {
    if (done_ == warmup_ && around_first_) around_first_(false);
  }
  void end() {
    wait();
    if (done_ >= warmup_ && done_ < warmup_ + steps_) {
      result_.seconds.push_back(seconds_since(start_));
      result_.step_starts.push_back(clock_);
    }
    ++result_.num_run;
    if (++done_ == warmup_ + steps_) finish();
  }

 private:
  // A step is over when the device has done it.
  void wait() const {
    if (!device_.is_gpu()) return;
    on_device(device_, "bench", []<class Backend>(const kernels::Stream& stream) {
      kernels::device_synchronise<Backend>(stream);
    });
  }
  void finish() {
    if (collect_ != kernels::Collect::nothing) {
      result_.ops = kernels::op_times();
      result_.events = kernels::op_events();
      kernels::set_op_timing(kernels::Collect::nothing);
    }
    result_.slow_paths = kernels::slow_path_counts();
    result_.peak_pool_bytes = (device_.is_gpu() ? device_pool_stats(device_) : host_pool_stats()).peak_in_use_bytes;
  }

  Device device_;
  kernels::Collect collect_;
  std::int64_t warmup_, steps_, done_ = 0;
  std::function<void(bool)> around_first_;
  double clock_ = 0;
  std::chrono::steady_clock::time_point start_;
  BenchResult result_;
};

void run_updates(const Prepared& prepared, UseGraph graph, StepTimer& timer) {
  LearnerOptions options;
  options.graph = graph;
  Learner learner(*prepared.trainee, options);
  for (std::int64_t k = 0; k < timer.warmup() + timer.steps(); ++k) {
    timer.begin();
    const UpdateReport report = learner.update(
        k, [&](std::int64_t) { return prepared.batch; }, [&] { timer.queued(); });
    timer.end();
    if (k == 0) timer.result().loss = report.loss;
    if (!report.note.empty()) timer.result().graph_note = report.note;
  }
  timer.result().graph_steps = learner.graph().num_steps();
}

void run_sampling(const Prepared& prepared, UseGraph graph, StepTimer& timer) {
  const TrainBatch& batch = prepared.batch;
  const Tensor cond = batch.cond.to(prepared.trainee->module().device());
  diffusion::SamplerOptions options;
  options.num_steps = timer.warmup() + timer.steps() + (records(graph, cond.device()) ? 1 : 0);  // never the last one
  options.graph = graph;
  options.say = [&](const std::string& note) { timer.result().graph_note = note; };
  options.on_step = [&](const diffusion::StepReport& report) {
    timer.queued();
    timer.end();
    timer.result().graph_steps = std::max(timer.result().graph_steps, report.graph_steps);
    timer.begin();
  };
  const diffusion::Schedule schedule(
      LearnerOptions().schedule, std::max(LearnerOptions().timesteps, options.num_steps));
  timer.begin();
  diffusion::sample(prepared.trainee->denoiser(), schedule, cond, batch.actions, batch.x0.dim(1), options);
}

}  // namespace

BenchResult bench_step(const BenchRequest& request) {
  check<UsageError>(
      request.kind == "avid" || request.kind == "base" || request.kind == "sample",
      "bench: --kind: expected avid, base or sample, got {}", request.kind);
  check<UsageError>(
      !request.config.empty() || (!request.base.empty() && !request.input.empty()),
      "bench: expected --base and --input, or --config");
  check<UsageError>(
      request.config.empty() || (request.base.empty() && request.adapter.empty() && request.input.empty()),
      "bench: --config makes up weights and clips | leave out --base, --adapter and --input, or --config");
  const Prepared prepared = request.config.empty() ? from_files(request) : made_up(request);
  prepared.trainee->place(request.device, request.activations);
  const UseGraph graph = request.graph.value_or(prepared.graph);
  const bool samples = request.kind == "sample";
  // Of a sampler, the step that gives the loss is the first of the warm-up.
  const std::int64_t warmup = std::max<std::int64_t>(request.warmup, 1) - (samples ? 1 : 0);
  const double sampling_loss = samples ? Learner(*prepared.trainee, {}).evaluate(prepared.batch).loss() : 0;
  const auto run = [&](UseGraph use, kernels::Collect collect) {
    StepTimer timer(request, collect, std::max<std::int64_t>(warmup, records(use, request.device) ? 2 : 0));
    samples ? run_sampling(prepared, use, timer) : run_updates(prepared, use, timer);
    if (timer.result().graph_steps > 0) timer.result().repeated_seconds = timer.result().seconds;
    return std::move(timer.result());
  };

  BenchResult result;
  if (request.collect == kernels::Collect::nothing) {
    result = run(graph, request.collect);
  } else {
    // Ops that are waited for one by one are not those of a repeated step: that one is timed before.
    BenchResult repeated;
    if (graph == UseGraph::on || records(graph, request.device)) repeated = run(graph, kernels::Collect::nothing);
    result = run(UseGraph::off, request.collect);
    result.repeated_seconds = std::move(repeated.repeated_seconds);
    result.graph_steps = repeated.graph_steps;
    result.graph_note = std::move(repeated.graph_note);
  }
  if (samples) {
    result.loss = sampling_loss;
    ++result.num_run;
  }
  if (!request.device.is_gpu()) result.graph_note = "the CPU queues nothing";
  if (request.device.is_gpu() && graph == UseGraph::off) result.graph_note = "off";
  result.clips = prepared.batch.x0.dim(0);
  result.flops_per_step = prepared.frozen_flops + (samples ? 1 : 3) * prepared.trained_flops;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  result.peak_process_mib = static_cast<double>(usage.ru_maxrss) / 1024.0;
  return result;
}

double measure_gemm_flops_per_second(std::int64_t n) {
  Tensor a = Tensor::empty({n, n}), b = Tensor::empty({n, n}), c = Tensor::empty({n, n});
  fill_normal(a, {.seed = 1});
  fill_normal(b, {.seed = 2});
  double best_seconds = 1e30;
  for (int i = 0; i < 6; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const dnnl_status_t status = dnnl_sgemm(
        'N', 'N', n, n, n, 1.0f, a.data<float>(), a.pitch(), b.data<float>(), b.pitch(), 0.0f, c.data<float>(),
        c.pitch());
    check(status == dnnl_success, "bench: oneDNN's matrix product failed with status {}", static_cast<int>(status));
    best_seconds = std::min(best_seconds, seconds_since(start));
  }
  return 2.0 * static_cast<double>(n * n * n) / best_seconds;
}

}  // namespace avid::train
