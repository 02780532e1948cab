// train/cli/cmd_bench.cpp -- avid bench: whole steps, where their time goes, single kernels, what their lines move
#include <cstdio>
#include <memory>

#if AVID_HAVE_SIM
#include "kernels/sim/race_detector.h"
#include "kernels/sim/traffic.h"
#endif
#include "kernels/threads.h"
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "train/cli/bench_options.h"
#include "train/cli/bench_predict.h"
#include "train/kernel_bench.h"

namespace avid::cli {
namespace {

#if AVID_HAVE_SIM
/// One step on the simulator; of every launch the first block is recorded.
void run_traffic(BenchOptions& options) {
  namespace simulator = kernels::simulator;
  if (!simulator::have_race_hooks()) continue_in_traffic_program("bench kernels");
  options.request.device = Device::parse("sim");
  options.request.activations = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  options.request.steps = 1;
  options.request.warmup = 0;
  options.request.graph = UseGraph::off;
  simulator::options().profile = true;
  simulator::options().detect_races = false;
  const train::BenchResult result = train::bench_step(options.request);
  const auto lines = simulator::take_traffic_lines();
  Json out = Json::array();
  if (!options.json)
    std::printf(
        "%-40s %-42s %-6s %-5s %5s %10s %9s %7s\n", "kernel", "line", "memory", "", "bytes", "requests", "per req.",
        "least");
  for (const simulator::TrafficLine& line : lines) {
    const auto requests = static_cast<double>(line.requests);
    const double units = static_cast<double>(line.units) / requests,
                 least = static_cast<double>(line.ideal_units) / requests;
    if (options.json) {
      out.push_back(
          {{"kernel", line.kernel},
           {"line", line.line},
           {"shared", line.shared},
           {"write", line.write},
           {"bytes_per_lane", line.bytes},
           {"requests", line.requests},
           {"units", line.units},
           {"least_units", line.ideal_units}});
    } else {
      std::printf(
          "%-40.40s %-42.42s %-6s %-5s %5u %10llu %9.2f %7.2f\n", line.kernel.c_str(), line.line.c_str(),
          line.shared ? "shared" : "global", line.write ? "store" : "load", line.bytes,
          static_cast<unsigned long long>(line.requests), units, least);
    }
  }
  if (options.json) {
    print_json(out, 1);
  } else {
    std::printf(
        "First block of every launch, over %lld %s steps. A request is what a warp asks for at once; it takes so many "
        "32-byte\n"
        "sectors of global memory, or passes through the banks of shared memory, and would take the least if packed.\n",
        static_cast<long long>(result.num_run), options.request.kind.c_str());
  }
}
#endif

/// Ours against NVIDIA's libraries at every shape that a step has, once each: what --conv auto and its like measure.
void measure_opponents(const BenchOptions& options, train::KernelBench& bench) {
  namespace vendor = kernels::vendor;
  train::BenchRequest request = options.request;
  request.steps = 1;
  request.warmup = 1;
  request.graph = UseGraph::off;
  for (const vendor::Family family : vendor::kFamilies) vendor::set_route(family, vendor::Route::automatic);
  bench.opponent_steps = static_cast<double>(train::bench_step(request).num_run);
  bench.opponents = vendor::choices();
  for (const vendor::Family family : vendor::kFamilies) vendor::set_route(family, vendor::Route::native);
}

void run_kernels(BenchOptions& options) {
  options.request.device = Device::parse(options.device);
  options.request.activations = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  check<UsageError>(
      options.request.device.kind != DeviceKind::sim,
      "bench kernels: expected --device cpu or cuda, or --sim to count their memory traffic, got sim");
  check<UsageError>(
      options.dtype == "f32" || options.dtype == "bf16", "bench kernels: --dtype: expected f32 or bf16, got {}",
      options.dtype);
  options.request.warmup = 1;
  train::KernelBench bench{
      .device = options.request.device.describe(), .dtype = options.dtype, .kind = options.request.kind};
  if (options.threads > 0) kernels::set_num_threads(options.threads);
  if (options.request.device.kind == DeviceKind::cuda && !options.no_libraries) measure_opponents(options, bench);
  const std::vector<kernels::WatchedCall> calls = train::time_ops(options.request);
  bench.products = train::product_rows(calls, options.request.steps);
  bench.memory = train::memory_rows(calls, options.request.steps);
  bench.peaks = train::measure_peaks(options.request.device, options.request.activations);
  if (options.json)
    print_json(train::kernel_json(bench), 1);
  else
    std::fputs(train::kernel_table(bench).c_str(), stdout);
}

void add_timed(Command* command, kernels::Collect collect, const std::string& example) {
  auto options = std::make_shared<BenchOptions>();
  set_example(command, example);
  options->request.collect = collect;
  add_step_options(command, options);
  command->callback([options] { print_step(*options, time_step(*options)); });
}

void add_step(Command* command) {
  auto options = std::make_shared<BenchOptions>();
  set_example(command, "avid bench step --config configs/demo_adapter.toml --base-config configs/demo_base.toml");
  add_step_options(command, options);
  command
      ->add_option(
          "--predict", options->predict,
          "Times nothing: with --config, a prediction for this GPU from what every launch asks of it, counted in the "
          "simulator: a100, h100 or h200")
      ->one_of({"a100", "h100", "h200"});
  command->add_flag("--kernels", options->with_kernels, "With --predict: also a line per kernel");
  command->callback([options] {
    if (!options->predict.empty()) return run_prediction(*options);
    check<UsageError>(!options->with_kernels, "bench step: --kernels goes with --predict");
    print_step(*options, time_step(*options));
  });
}

void setup(Command* command) {
  command->require_subcommand();
  add_step(command->add_subcommand("step", "time whole training updates or sampling steps, or predict their time"));
  add_timed(
      command->add_subcommand("ops", "the same, with a table of where the time goes and which slow paths were taken"),
      kernels::Collect::sums, "avid bench ops --kind base --config configs/demo_base.toml");
  Command* each = command->add_subcommand(
      "kernels",
      "every convolution, product, attention and layer norm of a step against cuDNN and cuBLASLt, every convolution "
      "and attention by itself, all ops without products against a copy; or memory traffic, line by line");
  auto options = std::make_shared<BenchOptions>();
  add_step_inputs(each, options);
  set_example(each, "avid bench kernels --kind base --device cuda --config configs/base.toml --dtype bf16");
  each->add_option("--device", options->device, "cuda, cuda:N, or cpu (without opponents)")
      ->device_name()
      ->capture_default_str();
  each->add_option("--steps", options->request.steps, "Steps whose ops are timed, call by call")
      ->range(1, 10000)
      ->capture_default_str();
  each->add_flag("--no-libraries", options->no_libraries, "Leave out cuDNN and cuBLASLt, which take longest");
  add_threads(each, options);
  auto sim = std::make_shared<bool>(false);
#if AVID_HAVE_SIM
  each->add_flag("--sim", *sim, "Count the traffic of every kernel's lines in the simulator; nothing is timed");
#endif
  each->callback([options, sim] {
#if AVID_HAVE_SIM
    if (*sim) return run_traffic(*options);
#endif
    run_kernels(*options);
  });
  set_example(
      command,
      "avid bench ops --kind avid --base base.safetensors --adapter adapter.safetensors --input clips.safetensors");
}

const CommandRegistrar kRegistrar("bench", "time training and sampling steps on this machine", setup);

}  // namespace
}  // namespace avid::cli
