// train/cli/cmd_train.cpp -- `avid train`: start a run, go on with one, or say what it would cost
#include <signal.h>

#include <cmath>
#include <cstdio>

#include "kernels/threads.h"
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"
#include "train/cli/route_options.h"
#include "train/dry_run.h"
#include "train/progress.h"
#include "train/stop_signal.h"
#include "train/trainer.h"

namespace avid::cli {
namespace {

using namespace avid::train;

struct Options {
  std::string config, run, resume, device;
  std::vector<std::string> set;
  bool dry_run = false, json = false;
  int threads = 0;
  std::shared_ptr<RouteOptions> routes;
};

Device device_or(const Options& options, const std::string& otherwise) {
  return Device::parse(options.device.empty() ? otherwise : options.device);
}

// Never gives up a device silently: says what is used.
void say_device(Device device, int threads, const RouteOptions& routes) {
  std::string libraries;
  for (const kernels::vendor::Family family : kernels::vendor::kFamilies)
    if (const std::string& route = routes.of(family); !route.empty() && route != "native")
      libraries += fmt::format(", --{} {}", kernels::vendor::name_of(family), route);
  std::fprintf(stderr, "device %s, %d threads%s\n", device.describe().c_str(), threads, libraries.c_str());
}

std::string size_text(double bytes) {
  return bytes < 1073741824.0 ? fmt::format("{:.0f} MiB", bytes / 1048576.0)
                              : fmt::format("{:.1f} GiB", bytes / 1073741824.0);
}

void print_dry_run(const Options& options) {
  check<UsageError>(!options.config.empty(), "train: --dry-run needs --config FILE");
  const TrainConfig config = TrainConfig::load(options.config, options.set, TrainConfig::Files::may_miss);
  if (options.threads > 0) kernels::set_num_threads(options.threads);
  const Device device = device_or(options, "cpu");
  use_routes(*options.routes, device);
  say_device(device, kernels::num_threads(), *options.routes);
  const DryRun d = dry_run(config, device);
  if (options.json) {
    const Json json = {
        {"description", d.description},
        {"trained_parameters", d.trained_parameters},
        {"frozen_parameters", d.frozen_parameters},
        {"flops_per_update", d.flops_per_update},
        {"measured_gflop_s", d.measured_gflop_s},
        {"measured_clips", d.measured_clips},
        {"seconds_per_update", d.seconds_per_update},
        {"updates", config.train.updates},
        {"total_seconds", d.total_seconds},
        {"timed", d.timed},
        {"memory_bytes", d.memory_bytes},
        {"memory_counted", d.memory_counted},
        {"graph_bytes", d.graph_bytes}};
    print_json(json, 1);
    return;
  }
  std::printf("%s\n", d.description.c_str());
  std::printf(
      "parameters   %lld trained, %lld frozen\n", static_cast<long long>(d.trained_parameters),
      static_cast<long long>(d.frozen_parameters));
  std::printf(
      "per update   %lld clips, %.1f GFLOP\n", static_cast<long long>(config.train.batch * config.train.accumulate),
      d.flops_per_update / 1e9);
  std::printf(
      "memory       %s of tensors, %s\n", size_text(d.memory_bytes).c_str(),
      d.memory_counted ? "counted in an update of all clips that computes nothing" : "predicted from smaller updates");
  if (d.graph_bytes > 0)
    std::printf("             %s of it for the recorded update (train.graph)\n", size_text(d.graph_bytes).c_str());
  if (!d.timed) {
    std::printf("time         not measured: the simulator's says nothing about a GPU's\n");
    return;
  }
  std::printf(
      "rate         %.1f GFLOP/s, measured here on an update of %lld made-up clips\n", d.measured_gflop_s,
      static_cast<long long>(d.measured_clips));
  std::printf(
      "time         %.2f s per update, %s for %lld updates\n", d.seconds_per_update,
      duration_text(d.total_seconds).c_str(), static_cast<long long>(config.train.updates));
}

/// A new run that cannot start leaves no folder behind.
std::unique_ptr<Trainer> start(RunFolder& folder, const TrainHooks& hooks, Device device) {
  try {
    return std::make_unique<Trainer>(folder, hooks, device);
  } catch (...) {
    folder.take_back();
    throw;
  }
}

void train(const Options& options) {
  if (options.dry_run) return print_dry_run(options);
  check<UsageError>(
      options.resume.empty() != options.config.empty(), "train: expected --config FILE --run DIR, or --resume DIR");
  check<UsageError>(options.config.empty() == options.run.empty(), "train: --config and --run go together");
  signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error of write(), which we report
  const StopSignal stop;
  const bool resuming = !options.resume.empty();
  Device device;
  if (!resuming) {  // a mistake in these leaves no folder behind
    device = device_or(options, "cpu");
    use_routes(*options.routes, device);
  }

  int threads = options.threads > 0 ? options.threads : kernels::num_threads();
  RunInfo info = current_run_info();
  TrainConfig config;
  if (!resuming) {
    config = TrainConfig::load(options.config, options.set);
    info.seed = config.seed;
    info.threads = threads;
    info.device = device.describe();
    if (!options.routes->conv.empty()) info.conv = options.routes->conv;
    if (!options.routes->gemm.empty()) info.gemm = options.routes->gemm;
    if (!options.routes->attention.empty()) info.attention = options.routes->attention;
    if (!options.routes->norm.empty()) info.norm = options.routes->norm;
    info.inputs = input_digests(config);
  }
  RunFolder folder =
      resuming ? RunFolder::open(options.resume, options.set) : RunFolder::create(options.run, config, info);
  if (resuming) {
    device = device_or(options, folder.info().device.substr(0, folder.info().device.find(' ')));
    RouteOptions& routes = *options.routes;
    const auto [setting, notes] = continued(
        folder.info(), device.describe(), {options.threads, routes.conv, routes.gemm, routes.attention, routes.norm});
    threads = setting.threads;
    routes = {setting.conv, setting.gemm, setting.attention, setting.norm};
    use_routes(routes, device);
    for (const std::string& note : notes) std::fprintf(stderr, "%s\n", note.c_str());
  }
  kernels::set_num_threads(threads);
  say_device(device, threads, *options.routes);

  ProgressLine line;
  TrainProgress last;
  TrainHooks hooks;
  hooks.should_stop = [&] { return stop.received() != 0; };
  hooks.say = [&](const std::string& text) { line.say(text); };
  hooks.progress = [&](const TrainProgress& p) {
    last = p;
    ProgressNumbers n{p.update, p.num_updates, p.report.loss, {}, p.clips_per_s, p.memory_mib, p.seconds_left};
    if (p.report.mask) n.mask_mean = p.report.mask->mean;
    line.show(n, p.update == p.num_updates);
  };
  const std::unique_ptr<Trainer> started = start(folder, hooks, device);
  Trainer& trainer = *started;
  line.say(trainer.trainee().description());
  const data::WindowSampler& windows = trainer.windows();
  line.say(fmt::format(
      "{} windows of {} frames; {:.2g} % of all were left out for a restart in them", windows.num_windows(),
      folder.config().data.cond_frames + folder.config().data.frames, 100 * windows.excluded_fraction()));
  line.say(fmt::format(
      "{} update {} of {}, run folder {}", trainer.state().update > 0 ? "going on after" : "starting at",
      trainer.state().update, folder.config().train.updates, folder.path().string()));
  const TrainEnd end = trainer.run();

  const std::string go_on = fmt::format("avid train --resume {}", folder.path().string());
  if (end == TrainEnd::stopped) {
    throw Interrupted(
        fmt::format(
            "stopped by signal {} after update {}; everything is saved | go on with: {}", stop.received(),
            trainer.state().update, go_on),
        stop.received());
  }
  const RunState& state = trainer.state();
  line.say(fmt::format(
      "{} after update {}, {} of training; report: {}", end == TrainEnd::time_limit ? "time limit reached" : "done",
      state.update, duration_text(state.train_seconds), (folder.path() / "report.html").string()));
  if (!options.json) return;
  const auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(nullptr); };
  const Json json = {
      {"run", folder.path().string()},
      {"update", state.update},
      {"end", end == TrainEnd::time_limit ? "time_limit" : "finished"},
      {"train_loss", number(trainer.last_logged("train/loss"))},
      {"val_loss", number(trainer.last_logged("val/loss"))},
      {"best_val_loss", number(state.best_loss)},
      {"best_update", state.best_update},
      {"train_seconds", state.train_seconds},
      {"clips_per_s", number(trainer.last_logged("clips_per_s"))},
      {"peak_memory_mib", trainer.peak_memory_mib()},
      {"checkpoint", folder.checkpoints().latest() ? folder.checkpoints().latest()->string() : ""}};
  print_json(json, 1);
}

const CommandRegistrar registrar("train", "train a base, an AVID adapter or a baseline", [](Command* command) {
  auto options = std::make_shared<Options>();
  command->add_option("--config", options->config, "what to train: a TOML file, see configs/");
  command->add_option("--run", options->run, "folder for checkpoints, logs, samples and the report of a new run");
  command->add_option("--resume", options->resume, "go on with the run in this folder");
  command->add_option("--set", options->set, "change one key of the configuration: train.lr=2e-5 (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--dry-run", options->dry_run, "print parameters, FLOPs, predicted memory and time; write nothing");
  command
      ->add_option(
          "--device", options->device,
          "cpu, cuda, cuda:N or sim, the kernel simulator (default: cpu, or the one the run started on)")
      ->device_name();
  command->add_option("--threads", options->threads, "CPU threads (default: all, or those the run started with)")
      ->range(1, 4096);
  options->routes = add_route_options(command, "native, or what the run started with");
  command->add_flag("--json", options->json, "print the outcome as JSON");
  set_example(
      command,
      "avid train --config configs/demo_adapter.toml --run runs/demo --set train.updates=200\n  avid train --resume "
      "runs/demo");
  command->callback([options] { train(*options); });
});

}  // namespace
}  // namespace avid::cli
