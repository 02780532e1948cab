// train/cli/bench_predict.cpp -- see bench_predict.h
#include "train/cli/bench_predict.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#if AVID_HAVE_SIM
#include "kernels/sim/race_detector.h"
#endif
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "train/predict.h"

namespace avid::cli {
namespace {

Json json_of(const train::PredictedLine& line) {
  Json out = {
      {"part", line.part},
      {"line", line.what},
      {"tflop", line.useful_flops * 1e-12},
      {"issued_tflop", line.issued_flops * 1e-12},
      {"dram_gbyte", line.memory_bytes * 1e-9},
      {"l2_gbyte", line.cache_bytes * 1e-9},
      {"launches", line.launches},
      {"floor_ms", line.floor_seconds * 1e3},
      {"predicted_ms", line.seconds * 1e3},
      {"bound", line.bound()}};
  for (const auto& [bound, seconds] : line.bound_seconds) out["ms_by_bound"][bound] = seconds * 1e3;
  return out;
}

Json json_of(const train::PredictedKernel& kernel) {
  Json out = json_of(kernel.line);
  out.erase("tflop");
  out.erase("floor_ms");
  out["kernel"] = kernel.kernel;
  out["blocks"] = {kernel.fewest_blocks, kernel.most_blocks};
  out["shared_bytes"] = kernel.most_shared_bytes;
  out["resident_blocks"] = kernel.sum.resident;
  out["parts_ms"] = {{"tensor", kernel.sum.tensor * 1e3}, {"issue", kernel.sum.issue * 1e3},
                     {"shared", kernel.sum.shared * 1e3}, {"l2", kernel.sum.cache * 1e3},
                     {"dram", kernel.sum.memory * 1e3},   {"latency", kernel.sum.latency * 1e3},
                     {"launch", kernel.sum.launch * 1e3}};
  return out;
}

Json json_of(const train::Prediction& p, const BenchOptions& options) {
  Json lines = Json::array(), kernels = Json::array();
  for (const auto& line : p.lines) lines.push_back(json_of(line));
  for (const auto& kernel : p.kernels) kernels.push_back(json_of(kernel));
  return {
      {"note", "predicted, not measured"},
      {"gpu", p.gpu.full_name},
      {"kind", p.kind},
      {"config", options.request.config.filename().string()},
      {"clips", p.clips},
      {"dtype", options.dtype},
      {"tflop_per_step", p.flops_per_step * 1e-12},
      {"predicted_ms", p.total.seconds * 1e3},
      {"gemm_tflop_per_s", p.gpu.gemm_flops * 1e-12},
      {"share_of_gemm", p.share_of_gemm()},
      {"model",
       {{"multiprocessors", p.gpu.multiprocessors},
        {"clock_ghz", p.gpu.clock_hz * 1e-9},
        {"mma_tflop_per_s", p.gpu.mma_flops * 1e-12},
        {"wgmma_tflop_per_s", p.gpu.wgmma_flops * 1e-12},
        {"copy_tbyte_per_s", p.gpu.copy_bytes * 1e-12},
        {"l2_tbyte_per_s", p.gpu.cache_bytes * 1e-12},
        {"launch_us", p.gpu.launch_seconds * 1e6}}},
      {"lines", lines},
      {"kernels", kernels},
      {"kernels_not_in_resources", p.unknown_kernels}};
}

void print_line(const train::PredictedLine& line, const std::string& name) {
  std::printf(
      "%-34s %9.3f %9.3f %9.2f %9lld %9.2f %9.2f  %s\n", name.c_str(), line.useful_flops * 1e-12,
      line.issued_flops * 1e-12, line.memory_bytes * 1e-9, static_cast<long long>(line.launches),
      line.floor_seconds * 1e3, line.seconds * 1e3, line.bound().c_str());
}

void print_kernels(const train::Prediction& p) {
  std::printf(
      "\n%-62s %-30s %5s %9s %6s %4s %9s %7s %7s %8s | %7s %7s %7s %7s %7s %7s\n", "kernel", "line", "calls", "blocks",
      "KB", "res.", "TFLOP", "L2 GB", "GB", "ms", "tensor", "issue", "shared", "L2", "DRAM", "latency");
  for (const auto& k : p.kernels)
    std::printf(
        "%-62.62s %-30.30s %5lld %9.0f %6.1f %4.0f %9.3f %7.2f %7.2f %8.3f | %7.2f %7.2f %7.2f %7.2f %7.2f %7.2f\n",
        k.kernel.c_str(), (k.line.part + ": " + k.line.what).c_str(), static_cast<long long>(k.line.launches),
        k.most_blocks, k.most_shared_bytes / 1024, k.sum.resident, k.line.issued_flops * 1e-12,
        k.line.cache_bytes * 1e-9, k.line.memory_bytes * 1e-9, k.line.seconds * 1e3, k.sum.tensor * 1e3,
        k.sum.issue * 1e3, k.sum.shared * 1e3, k.sum.cache * 1e3, k.sum.memory * 1e3, k.sum.latency * 1e3);
}

void print_table(const train::Prediction& p, const BenchOptions& options) {
  std::printf(
      "Predicted, not measured: one %s step of %s, %lld clips, %s, on %s\n\n%-34s %9s %9s %9s %9s %9s %9s  %s\n",
      p.kind.c_str(), options.request.config.filename().c_str(), static_cast<long long>(p.clips), options.dtype.c_str(),
      p.gpu.full_name.c_str(), "line", "TFLOP", "issued", "GB", "launches", "floor ms", "ms", "bound");
  for (const auto& line : p.lines) print_line(line, line.part + ": " + line.what);
  print_line(p.total, "total");
  std::printf(
      "\n%.2f TFLOP in %.1f ms: %.0f TFLOP/s, %.1f%% of the %.0f that a matrix product was measured to reach\n",
      p.flops_per_step * 1e-12, p.total.seconds * 1e3, p.flops_per_step / p.total.seconds * 1e-12,
      100 * p.share_of_gemm(), p.gpu.gemm_flops * 1e-12);
  for (const std::string& name : p.unknown_kernels)
    std::printf("not in kernels/resources.tsv, 128 registers assumed: %s\n", name.c_str());
  if (options.with_kernels) print_kernels(p);
}

}  // namespace

void continue_in_traffic_program(const char* command) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  const auto program = self.parent_path() / "avid_traffic";
  check<UsageError>(
      self.filename() != program.filename() && std::filesystem::exists(program),
      "{}: needs {}, which is built with the tests | cmake --build BUILD --target avid_traffic", command,
      program.string());
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::fflush(nullptr);
  execv(program.c_str(), arguments.data());
  fail<UsageError>("{}: {} does not start", command, program.string());
}

void run_prediction(BenchOptions& options) {
  const train::GpuModel& gpu = train::gpu_model(options.predict);
  check<UsageError>(
      !options.request.config.empty(), "bench step: --predict needs --config: sizes are all that it looks at");
  check<UsageError>(
      options.device == "cpu" && options.graph.empty(),
      "bench step: --predict needs no device and predicts recorded steps: --device and --graph go without it");
  check<UsageError>(
      options.dtype == "f32" || options.dtype == "bf16", "bench: --dtype: expected f32 or bf16, got {}", options.dtype);
  options.request.activations = options.dtype == "bf16" ? DType::bf16 : DType::f32;
#if AVID_HAVE_SIM
  if (!kernels::simulator::have_race_hooks()) continue_in_traffic_program("bench step --predict");
#endif
  const train::Prediction prediction = train::predict_step(
      options.request, gpu, [](const std::string& what) { std::fprintf(stderr, "predict: %s\n", what.c_str()); });
  if (options.json)
    print_json(json_of(prediction, options), 1);
  else
    print_table(prediction, options);
}

}  // namespace avid::cli
