// train/bench_step.cpp -- the step that a bench times is the step that training runs: Learner::update
#include "train/bench_step.h"

#include <dnnl.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "kernels/dispatch_stats.h"
#include "models/checkpoint.h"
#include "models/cost.h"
#include "models/video_layout.h"
#include "tensor/io/tensor_file.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"
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

}  // namespace

BenchResult bench_step(const BenchRequest& request) {
  check<UsageError>(
      request.kind == "avid" || request.kind == "base" || request.kind == "sample",
      "bench: --kind: expected avid, base or sample, got {}", request.kind);
  check<UsageError>(
      request.kind == "base" || !request.adapter.empty(), "bench: --kind {} needs --adapter", request.kind);

  const auto file = open_tensor_file(request.input);
  TrainBatch batch;
  batch.x0 = to_channels_last(file->load("x0"));
  batch.noise = to_channels_last(file->load("noise"));
  batch.cond = to_channels_last(file->load("cond"));
  batch.t = file->load("t");
  const Shape video = batch.x0.shape();
  const VideoSize size{video[0], video[1], video[2], video[3]};

  const nn::TensorMap base_tensors = read_network(request.base, NetworkKind::unet).tensors;
  const Unet3dConfig base_config = infer_unet3d_config(base_tensors, request.base.string());
  Unet3dConfig trained_config = base_config;
  nn::TensorMap trained_tensors = base_tensors;
  if (request.kind != "base") {
    batch.actions = file->load("actions");
    trained_tensors = read_network(request.adapter, NetworkKind::avid).tensors;
    trained_config = infer_avid_config(trained_tensors, request.adapter.string(), base_config.cond_frames).adapter;
  }
  const auto trainee = make_trainee(config_of(request, trained_config, video));
  trainee->module().import_tensors(
      trained_tensors, request.kind == "base" ? request.base.string() : request.adapter.string());
  trainee->module().set_trainable(true);
  trainee->place(request.device, request.activations);
  // A step is over when the device has done it.
  const auto wait = [&] {
    if (!request.device.is_gpu()) return;
    on_device(request.device, "bench", []<class Backend>(const kernels::Stream& stream) {
      kernels::device_synchronise<Backend>(stream);
    });
  };
  Learner learner(*trainee, {});

  BenchResult result;
  const double trained_flops = static_cast<double>(forward_cost(trained_config, size).total);
  const double frozen_flops = request.kind == "base" ? 0 : static_cast<double>(forward_cost(base_config, size).total);
  result.flops_per_step = frozen_flops + (request.kind == "sample" ? 1 : 3) * trained_flops;

  std::int64_t step = 0;
  const auto run = [&] {
    if (request.kind == "sample") return learner.evaluate(batch).loss;
    return learner.update(step++, [&](std::int64_t) { return batch; }).loss;
  };
  for (std::int64_t i = 0; i < std::max<std::int64_t>(request.warmup, 1); ++i) {
    const double loss = run();
    if (i == 0) result.loss = loss;
  }
  wait();
  reset_host_pool_peak();
  if (request.device.is_gpu()) reset_device_pool_peak(request.device);
  kernels::reset_slow_path_counts();
  if (request.per_op) kernels::set_op_timing(true, wait);
  for (std::int64_t i = 0; i < request.steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    wait();
    result.seconds.push_back(seconds_since(start));
  }
  if (request.per_op) {
    result.ops = kernels::op_times();
    kernels::set_op_timing(false);
  }
  result.slow_paths = kernels::slow_path_counts();
  result.peak_pool_bytes =
      (request.device.is_gpu() ? device_pool_stats(request.device) : host_pool_stats()).peak_in_use_bytes;
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
