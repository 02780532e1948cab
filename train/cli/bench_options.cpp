// train/cli/bench_options.cpp -- options, run and print-out of a timed step
#include "train/cli/bench_options.h"

#include <algorithm>
#include <cstdio>

#include "kernels/threads.h"
#include "tensor/error.h"
#include "tensor/io/json.h"

namespace avid::cli {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print_json(const BenchOptions& options, const TimedStep& step, double seconds, double rate) {
  const train::BenchResult& result = step.result;
  Json out = {
      {"kind", options.request.kind},
      {"device", options.request.device.describe()},
      {"threads", kernels::num_threads()},
      {"dtype", options.dtype},
      {"seconds", result.seconds},
      {"median_s", seconds},
      {"loss", result.loss},
      {"gflop_per_step", result.flops_per_step * 1e-9},
      {"gflop_per_s", rate * 1e-9},
      {"graph", !result.repeated_seconds.empty()}};
  if (result.repeated_seconds.empty()) {
    out["graph_note"] = result.graph_note;
  } else {
    out["graph_steps"] = result.graph_steps;
    out["repeated_seconds"] = result.repeated_seconds;
    out["repeated_median_s"] = median(result.repeated_seconds);
  }
  if (step.peaks) {
    out["gemm_gflop_per_s"] = step.peaks->flops_per_s * 1e-9;
    out["gemm_by"] = step.peaks->gemm_by;
    out["share_of_gemm"] = rate / step.peaks->flops_per_s;
    out["copy_gbyte_per_s"] = step.peaks->bytes_per_s * 1e-9;
  }
  out["peak_mib"] = result.peak_process_mib;
  out["peak_tensor_mib"] = static_cast<double>(result.peak_pool_bytes) / 1048576.0;
  for (const auto& [name, sum] : result.ops)
    out["ops"][name] = {
        {"calls", sum.calls},
        {"seconds", sum.seconds},
        {"gflop", sum.flops * 1e-9},
        {"mbyte", sum.bytes * 1e-6},
        {"launches", sum.launches}};
  if (step.peaks)
    for (const train::OpRow& row : step.rows) out["ops"][row.name]["share_of_roof"] = row.roof_share;
  for (const auto& [reason, count] : result.slow_paths) out["slow_paths"][reason] = count;
  avid::print_json(out, 1);
}

void print_ops(const TimedStep& step) {
  double step_seconds = 0, in_ops = 0;
  for (const double s : step.result.seconds) step_seconds += s / static_cast<double>(step.result.seconds.size());
  bool launches = false;  // kernels: on a device only
  for (const train::OpRow& row : step.rows) in_ops += row.seconds, launches |= row.launches > 0;
  const bool rates = step.title.times_mean_something;
  std::printf(
      "\n%-26s %7s %10s %7s %10s %10s %9s%s%s\n", "op", "calls", "ms", "share", rates ? "GFLOP/s" : "GFLOP",
      rates ? "GB/s" : "MB", "FLOP/byte", rates ? " of roof" : "", launches ? " launches" : "");
  for (const train::OpRow& row : step.rows) {
    std::printf(
        "%-26s %7.0f %10.2f %6.1f%% %10.4g %10.4g %9.3g", row.name.c_str(), row.calls, row.seconds * 1e3,
        100 * row.share, rates ? row.flops_per_s() * 1e-9 : row.flops * 1e-9,
        rates ? row.bytes_per_s() * 1e-9 : row.bytes * 1e-6, row.intensity());
    if (rates) std::printf(" %6.0f%%", 100 * row.roof_share);
    if (launches) std::printf(" %8.0f", row.launches);
    std::printf("\n");
  }
  std::printf(
      "%-26s %7s %10.2f %6.1f%%\n", "outside ops", "", (step_seconds - in_ops) * 1e3,
      100 * (1 - in_ops / step_seconds));
  for (const auto& [reason, count] : step.result.slow_paths)
    std::printf("slow path  %s: %lld calls\n", reason.c_str(), static_cast<long long>(count));
}

/// Whether a device's steps were those that training and sampling repeat.
void print_graph(const train::BenchResult& result, bool one_by_one) {
  if (result.repeated_seconds.empty())
    std::printf("graph: none (%s), every op was queued by the host\n", result.graph_note.c_str());
  else if (one_by_one)
    std::printf(
        "graph: the same step, recorded and repeated: median %.4f s (%lld launches, copies and fills); here every op "
        "was waited for\n",
        median(result.repeated_seconds), static_cast<long long>(result.graph_steps));
  else
    std::printf(
        "graph: recorded once and repeated, %lld launches, copies and fills\n",
        static_cast<long long>(result.graph_steps));
}

}  // namespace

void add_step_inputs(Command* command, const std::shared_ptr<BenchOptions>& options) {
  train::BenchRequest& request = options->request;
  command
      ->add_option("--kind", request.kind, "avid (adapter update), base (base update) or sample (one denoising step)")
      ->capture_default_str();
  command->add_option("--base", request.base, "Weights of the base U-Net");
  command->add_option("--adapter", request.adapter, "Weights of the adapter (avid, sample)");
  command->add_option("--input", request.input, "Clips: x0, noise, t, cond, actions as for 'avid forward'");
  command->add_option("--config", request.config, "Instead: weights and clips made up at this configuration's sizes");
  command->add_option("--base-config", request.base_config, "With --config of an adapter: sizes of its frozen base");
  command->add_option("--clips", request.clips, "With --config: clips in a batch (0: its train.batch)")
      ->range(0, 100000)
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "Type of the activations: f32 or bf16")->capture_default_str();
  command->add_flag("--json", options->json, "Print one JSON value");
}

void add_threads(Command* command, const std::shared_ptr<BenchOptions>& options) {
  command->add_option("--threads", options->threads, "CPU threads (0: all)")->range(0, 4096)->capture_default_str();
}

void add_step_options(Command* command, const std::shared_ptr<BenchOptions>& options) {
  train::BenchRequest& request = options->request;
  add_step_inputs(command, options);
  command->add_option("--steps", request.steps, "Timed steps")->range(1, 10000)->capture_default_str();
  command->add_option("--warmup", request.warmup, "Steps before timing")->range(1, 1000)->capture_default_str();
  command->add_option("--device", options->device, "cpu, cuda, cuda:N or sim (the kernel simulator)")
      ->device_name()
      ->capture_default_str();
  command
      ->add_option(
          "--graph", options->graph,
          "On a device, record a step and repeat it: auto, on or off. Default: as training and sampling do it, "
          "train.graph of --config or auto")
      ->one_of({"auto", "on", "off"});
  add_threads(command, options);
  options->routes = add_route_options(command);
}

TimedStep time_step(BenchOptions& options) {
  check<UsageError>(
      options.dtype == "f32" || options.dtype == "bf16", "bench: --dtype: expected f32 or bf16, got {}", options.dtype);
  train::BenchRequest& request = options.request;
  request.device = Device::parse(options.device);
  request.activations = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  if (!options.graph.empty()) request.graph = parse_use_graph(options.graph, "bench: --graph");
  use_routes(*options.routes, request.device);
  if (options.threads > 0) kernels::set_num_threads(options.threads);
  TimedStep step;
  step.title = {
      .kind = request.config.empty() ? request.kind
                                     : request.config.stem().string() + (request.kind == "sample" ? " sampling" : ""),
      .device = request.device.is_gpu()
                    ? request.device.describe()
                    : fmt::format("cpu, {} thread{}", kernels::num_threads(), kernels::num_threads() == 1 ? "" : "s"),
      .dtype = options.dtype,
      .times_mean_something = request.device.kind != DeviceKind::sim};
  step.result = train::bench_step(request);
  step.peaks = train::measure_peaks(request.device, request.activations);
  if (request.collect != kernels::Collect::nothing) step.rows = train::op_rows(step.result, step.peaks);
  return step;
}

void print_step(const BenchOptions& options, const TimedStep& step) {
  const train::BenchResult& result = step.result;
  const double seconds = median(result.seconds), rate = result.flops_per_step / seconds;
  if (options.json) {
    print_json(options, step, seconds, rate);
    return;
  }
  std::printf(
      "%s step on %s, %d threads: median %.4f s of %zu, %.1f GFLOP", step.title.kind.c_str(),
      options.request.device.describe().c_str(), kernels::num_threads(), seconds, result.seconds.size(),
      result.flops_per_step * 1e-9);
  if (step.peaks) {
    std::printf(
        ", %.1f GFLOP/s = %.0f%% of a matrix product (%.0f GFLOP/s, %s); copies %.1f GB/s\n", rate * 1e-9,
        100 * rate / step.peaks->flops_per_s, step.peaks->flops_per_s * 1e-9, step.peaks->gemm_by.c_str(),
        step.peaks->bytes_per_s * 1e-9);
  } else {
    std::printf("; the simulator's times say nothing about any hardware\n");
  }
  std::printf(
      "loss %.8g, tensors peak %.0f MiB, process peak %.0f MiB\n", result.loss,
      static_cast<double>(result.peak_pool_bytes) / 1048576.0, result.peak_process_mib);
  if (options.request.device.is_gpu()) print_graph(result, options.request.collect != kernels::Collect::nothing);
  if (options.request.collect != kernels::Collect::nothing) print_ops(step);
}

}  // namespace avid::cli
