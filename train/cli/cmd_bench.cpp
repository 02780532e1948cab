// train/cli/cmd_bench.cpp -- avid bench, avid profile: whole steps, where their time goes, what the kernels' lines move
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>

#if AVID_HAVE_SIM
#include "kernels/sim/race_detector.h"
#include "kernels/sim/traffic.h"
#endif
#include "kernels/threads.h"
#include "tensor/error.h"
#include "train/bench_step.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

struct Options {
  train::BenchRequest request;
  std::string dtype = "f32", device = "cpu";
  int threads = 0;
  bool json = false;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print_ops(const train::BenchResult& result, double steps) {
  std::vector<std::pair<std::string, kernels::OpTime>> ops(result.ops.begin(), result.ops.end());
  std::sort(ops.begin(), ops.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0, step_total = 0;
  for (const auto& [name, time] : ops) total += time.seconds;
  for (const double s : result.seconds) step_total += s;
  std::printf("\n%-34s %8s %10s %7s\n", "op", "calls", "ms", "share");
  for (const auto& [name, time] : ops)
    std::printf(
        "%-34s %8.0f %10.2f %6.1f%%\n", name.c_str(), static_cast<double>(time.calls) / steps,
        time.seconds / steps * 1e3, 100 * time.seconds / step_total);
  std::printf(
      "%-34s %8s %10.2f %6.1f%%\n", "outside ops", "", (step_total - total) / steps * 1e3,
      100 * (1 - total / step_total));
  for (const auto& [reason, count] : result.slow_paths)
    std::printf("slow path  %s: %lld calls\n", reason.c_str(), static_cast<long long>(count));
}

void run(Options& options, bool per_op) {
  check<UsageError>(
      options.dtype == "f32" || options.dtype == "bf16", "bench: --dtype: expected f32 or bf16, got {}", options.dtype);
  options.request.device = Device::parse(options.device);
  options.request.activations = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  if (options.threads > 0) kernels::set_num_threads(options.threads);
  options.request.per_op = per_op;
  const train::BenchResult result = train::bench_step(options.request);
  const double gemm = train::measure_gemm_flops_per_second(), seconds = median(result.seconds);
  const double rate = result.flops_per_step / seconds;
  if (options.json) {
    nlohmann::ordered_json out = {
        {"kind", options.request.kind},
        {"device", options.request.device.describe()},
        {"threads", kernels::num_threads()},
        {"dtype", options.dtype},
        {"seconds", result.seconds},
        {"median_s", seconds},
        {"loss", result.loss},
        {"gflop_per_step", result.flops_per_step * 1e-9},
        {"gflop_per_s", rate * 1e-9},
        {"gemm_gflop_per_s", gemm * 1e-9},
        {"share_of_gemm", rate / gemm},
        {"peak_mib", result.peak_process_mib},
        {"peak_tensor_mib", static_cast<double>(result.peak_pool_bytes) / 1048576.0}};
    for (const auto& [name, time] : result.ops) out["ops"][name] = {{"calls", time.calls}, {"seconds", time.seconds}};
    for (const auto& [reason, count] : result.slow_paths) out["slow_paths"][reason] = count;
    std::printf("%s\n", out.dump(1).c_str());
    return;
  }
  std::printf(
      "%s step on %s, %d threads: median %.4f s of %zu, %.1f GFLOP, %.1f GFLOP/s = %.0f%% of the CPU's f32 GEMM (%.0f "
      "GFLOP/s)\n",
      options.request.kind.c_str(), options.request.device.describe().c_str(), kernels::num_threads(), seconds,
      result.seconds.size(), result.flops_per_step * 1e-9, rate * 1e-9, 100 * rate / gemm, gemm * 1e-9);
  std::printf(
      "loss %.8g, tensors peak %.0f MiB, process peak %.0f MiB\n", result.loss,
      static_cast<double>(result.peak_pool_bytes) / 1048576.0, result.peak_process_mib);
  if (per_op) print_ops(result, static_cast<double>(result.seconds.size()));
}

#if AVID_HAVE_SIM
/// Starts the same command line again in avid_traffic, the program whose kernels tell the simulator of every access.
void continue_in_traffic_program() {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  const auto program = self.parent_path() / "avid_traffic";
  check<UsageError>(
      self.filename() != program.filename() && std::filesystem::exists(program),
      "bench kernels: needs {}, which is built with the tests | cmake --build BUILD --target avid_traffic",
      program.string());
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::fflush(nullptr);
  execv(program.c_str(), arguments.data());
  fail<UsageError>("bench kernels: {} does not start", program.string());
}

/// One step on the simulator; of every launch the first block is recorded.
void run_traffic(Options& options) {
  namespace simulator = kernels::simulator;
  if (!simulator::have_race_hooks()) continue_in_traffic_program();
  options.request.device = Device::parse("sim");
  options.request.activations = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  options.request.steps = 1;
  options.request.warmup = 0;
  simulator::options().profile = true;
  simulator::options().detect_races = false;
  train::bench_step(options.request);
  const auto lines = simulator::take_traffic_lines();
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
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
    std::printf("%s\n", out.dump(1).c_str());
  } else {
    std::printf(
        "First block of every launch, over two %s steps. A request is what a warp asks for at once; it takes so many "
        "32-byte\n"
        "sectors of global memory, or passes through the banks of shared memory, and would take the least if packed.\n",
        options.request.kind.c_str());
  }
}
#endif

/// What every subcommand runs on.
void add_inputs(CLI::App* command, const std::shared_ptr<Options>& options) {
  train::BenchRequest& request = options->request;
  command
      ->add_option("--kind", request.kind, "avid (adapter update), base (base update) or sample (one denoising step)")
      ->capture_default_str();
  command->add_option("--base", request.base, "Weights of the base U-Net")->required();
  command->add_option("--adapter", request.adapter, "Weights of the adapter (avid, sample)");
  command->add_option("--input", request.input, "Clips: x0, noise, t, cond, actions as for 'avid forward'")->required();
  command->add_option("--dtype", options->dtype, "Type of the activations: f32 or bf16")->capture_default_str();
  command->add_flag("--json", options->json, "Print one JSON value");
}

void add_options(CLI::App* command, bool per_op) {
  auto options = std::make_shared<Options>();
  train::BenchRequest& request = options->request;
  add_inputs(command, options);
  command->add_option("--steps", request.steps, "Timed steps")->check(CLI::Range(1, 10000))->capture_default_str();
  command->add_option("--warmup", request.warmup, "Steps before timing")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--device", options->device, "cpu, cuda, cuda:N or sim (the kernel simulator)")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads (0: all)")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->callback([options, per_op] { run(*options, per_op); });
}

void setup(CLI::App* command) {
  command->require_subcommand(1);
  add_options(command->add_subcommand("step", "Time whole training updates or sampling steps"), false);
  add_options(
      command->add_subcommand("ops", "The same, with a table of where the time goes and which slow paths were taken"),
      true);
#if AVID_HAVE_SIM
  CLI::App* kernels =
      command->add_subcommand("kernels", "Memory traffic of every kernel's lines, counted by the simulator");
  auto options = std::make_shared<Options>();
  add_inputs(kernels, options);
  auto sim = std::make_shared<bool>(false);
  kernels->add_flag("--sim", *sim, "Count in the simulator; nothing is timed")->required();
  kernels->callback([options, sim] { run_traffic(*options); });
#endif
  set_example(
      command,
      "avid bench ops --kind avid --base base.safetensors --adapter adapter.safetensors --input clips.safetensors");
}

void setup_profile(CLI::App* command) {
  add_options(command, true);
  set_example(
      command,
      "avid profile --device cuda --dtype bf16 --base base.safetensors --adapter adapter.safetensors --input "
      "clips.safetensors");
}

const CommandRegistrar kProfile(
    "profile", "Where the time of a training or sampling step goes, op by op; on a device each op is waited for",
    setup_profile);
const CommandRegistrar kRegistrar("bench", "Time training and sampling steps on this machine", setup);

}  // namespace
}  // namespace avid::cli
