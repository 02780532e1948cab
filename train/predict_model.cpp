// train/predict_model.cpp -- see predict_model.h
#include "train/predict_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "tensor/error.h"
#include "train/kernel_table.h"

namespace avid::train {
namespace {

constexpr double kCraft =
    0.85;  // CUTLASS 2's best product on A100, 270, and a careful one, 230 TFLOP/s: CUTLASS issue 2201
constexpr double kTensorAtOnce = 0.88, kSharedAtOnce = 0.90, kCacheAtOnce = 0.75, kIssueAtOnce = 0.80;
constexpr double kCopyAtOnce = 0.92, kNextPart = 0.15;
constexpr double kLatencyClocks = 600,
                 kLoadsUnderWay = 4;  // gpu-benches: 573 and 650 clocks; loops unrolled by about 4
constexpr double kThreadsOfMultiprocessor = 2048, kRegistersOfMultiprocessor = 65536, kMostResident = 32;
constexpr double kReservedShared = 1024;  // of every block
constexpr double kUnknownRegisters = 128;

// Sources:
//   multiprocessors, shared memory, datasheet FLOP/s and bytes/s: NVIDIA's datasheets
//   clock        at which the datasheet's FLOP/s come out: 2048 (A100) and 4096 FLOP per clock and multiprocessor
//   mma          A100: datasheet; Hopper: about two thirds of the datasheet, arXiv 2402.13499
//   gemm, wgmma  MAMF table (Bekman, ML Engineering): A100 271, H100 794; one H200 on random data: 788
//   copy         gpu-benches: A100 1.38; one H200 on random data: 4.3; H100: the same 89 % of its 3.35
//   cache        gpu-benches: 5.4 up to 25 MB; Hopper about 10 up to 40 MB
//   launch       gpu-benches, dependent small kernels in a graph
const std::array<GpuModel, 3> kGpus = {{
    {.name = "a100",
     .full_name = "A100 SXM 40 GB",
     .arch = 80,
     .multiprocessors = 108,
     .clock_hz = 1.41e9,
     .mma_flops = 312e12,
     .wgmma_flops = 0,
     .gemm_flops = 271e12,
     .floor_flops = 312e12,
     .floor_bytes = 1.555e12,
     .copy_bytes = 1.38e12,
     .cache_bytes = 5.4e12,
     .launch_seconds = 1.4e-6,
     .shared_bytes = 164 * 1024},
    {.name = "h100",
     .full_name = "H100 SXM",
     .arch = 90,
     .multiprocessors = 132,
     .clock_hz = 1.83e9,
     .mma_flops = 660e12,
     .wgmma_flops = 794e12,
     .gemm_flops = 794e12,
     .floor_flops = 794e12,
     .floor_bytes = 2.98e12,
     .copy_bytes = 2.98e12,
     .cache_bytes = 10e12,
     .launch_seconds = 1.3e-6,
     .shared_bytes = 228 * 1024},
    {.name = "h200",
     .full_name = "H200 SXM",
     .arch = 90,
     .multiprocessors = 132,
     .clock_hz = 1.83e9,
     .mma_flops = 660e12,
     .wgmma_flops = 788e12,
     .gemm_flops = 788e12,
     .floor_flops = 790e12,
     .floor_bytes = 4.3e12,
     .copy_bytes = 4.3e12,
     .cache_bytes = 10e12,
     .launch_seconds = 1.3e-6,
     .shared_bytes = 228 * 1024},
}};

// What the study assumes of families whose products wait for other work: sums over rows, soft-max between products. Of
// attention it expects 35 % more from wgmma than from mma.sync: 0.47 of 788 TFLOP/s for 0.42 of 660.
struct Family {
  const char* prefix;
  double sm_80, sm_90, wgmma;
};
constexpr double kUsual = kCraft * kTensorAtOnce;
constexpr Family kFamilies[] = {{"gather_weight_grad", 0.68, 0.64, 0.62}, {"temporal_", 0.50, 0.42, 0.47},
                                {"linear_attention", 0.50, 0.42, 0.47},   {"linear_bwd", 0.50, 0.42, 0.47},
                                {"spatial_", 0.50, 0.42, 0.47},           {"attention_", 0.50, 0.42, 0.47}};

Family family_of(const std::string& kernel) {
  for (const Family& family : kFamilies)
    if (kernel.rfind(family.prefix, 0) == 0) return family;
  return {"", kUsual, kUsual, kUsual};
}

double resident_blocks(const GpuModel& gpu, const LaunchDemand& d, double registers) {
  const double warps = std::ceil(d.threads / 32);
  const double of_block = warps * std::ceil(registers * 32 / 256) * 256;
  const double by_registers = of_block > 0 ? std::floor(kRegistersOfMultiprocessor / of_block) : kMostResident;
  const double by_shared = std::floor(gpu.shared_bytes / (d.shared_bytes + kReservedShared));
  const double by_threads = std::floor(kThreadsOfMultiprocessor / (warps * 32));
  return std::max(1.0, std::min({kMostResident, by_registers, by_shared, by_threads}));
}

std::string without_blanks(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != ' ') out += c;
  for (std::size_t at; (at = out.find("BFloat16")) != std::string::npos;) out.replace(at, 8, "bf16");
  return out;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t end; (end = text.find(at)) != std::string_view::npos; text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

}  // namespace

const GpuModel& gpu_model(std::string_view name) {
  for (const GpuModel& gpu : kGpus)
    if (gpu.name == name) return gpu;
  fail<UsageError>("predict: expected a100, h100 or h200, got {}", name);
}

KernelTable::KernelTable(std::string_view tsv) {
  std::vector<std::string_view> head;
  std::size_t kernel = 0, arch = 0, registers = 0;
  std::optional<std::size_t> per_mma;
  const auto column = [&](std::string_view name) {
    const auto found = std::find(head.begin(), head.end(), name);
    check<FileError>(found != head.end(), "kernels/resources.tsv: expected a column {}, got none", name);
    return static_cast<std::size_t>(found - head.begin());
  };
  const auto number = [](std::string_view text) {
    double value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  };
  for (const std::string_view line : split(tsv, '\n')) {
    if (line.empty() || line[0] == '#') continue;
    const std::vector<std::string_view> cells = split(line, '\t');
    if (head.empty()) {
      head = cells;
      kernel = column("kernel"), arch = column("arch"), registers = column("registers");
      for (std::size_t i = 0; i < head.size(); ++i)
        if (head[i] == "loop_per_mma" || head[i] == "per_hmma") per_mma = i;
      continue;
    }
    check<FileError>(
        cells.size() == head.size(), "kernels/resources.tsv: expected {} columns, got {}: {}", head.size(),
        cells.size(), line);
    const int of_arch = static_cast<int>(number(cells[arch].substr(cells[arch].find('_') + 1)));
    // Kernels of one name in several files are helpers that each compiles for itself.
    KernelNeeds& needs = kernels_[{without_blanks(cells[kernel]), of_arch}];
    needs.registers = std::max(needs.registers, number(cells[registers]));
    if (per_mma) needs.instructions_per_mma = std::max(needs.instructions_per_mma, number(cells[*per_mma]));
  }
}

const KernelTable& KernelTable::built_in() {
  static const KernelTable table(kKernelResources);
  return table;
}

const KernelNeeds* KernelTable::find(const std::string& kernel, int arch) const {
  const auto found = kernels_.find({without_blanks(kernel), arch});
  return found == kernels_.end() ? nullptr : &found->second;
}

const char* LaunchTime::bound() const {
  const std::pair<double, const char*> parts[] = {{tensor, "tensor"}, {issue, "issue"}, {shared, "shared"},
                                                  {cache, "L2"},      {memory, "DRAM"}, {latency, "latency"},
                                                  {launch, "launch"}};
  return std::max_element(
             std::begin(parts), std::end(parts), [](const auto& a, const auto& b) { return a.first < b.first; })
      ->second;
}

LaunchTime predict_launch(const GpuModel& gpu, const LaunchDemand& d, const KernelTable& table) {
  LaunchTime out;
  out.launch = gpu.launch_seconds;
  out.memory = d.memory_bytes / (gpu.copy_bytes * kCopyAtOnce);
  out.cache = d.cache_bytes / (gpu.cache_bytes * kCraft * kCacheAtOnce);
  if (d.is_kernel) {
    const KernelNeeds* needs = table.find(d.kernel, gpu.arch);
    out.known = needs != nullptr;
    const double units = gpu.multiprocessors, clocks = units * gpu.clock_hz;
    out.resident = resident_blocks(gpu, d, needs != nullptr ? needs->registers : kUnknownRegisters);
    out.waves = std::ceil(d.blocks / (units * out.resident));
    const double load = out.waves > 1 ? out.waves * out.resident : std::ceil(d.blocks / units);
    const double uneven = load * units / d.blocks;
    const Family family = family_of(d.kernel);
    const double share = gpu.arch >= 90 ? family.sm_90 : family.sm_80;
    const double wgmma = gpu.wgmma_flops > 0 ? 2 * d.wgmma / (gpu.wgmma_flops * family.wgmma) : 0;
    out.tensor = uneven * (2 * (d.mma + 2 * d.tf32) / (gpu.mma_flops * share) + wgmma);
    out.shared = uneven * d.passes / (clocks * kCraft * kSharedAtOnce);
    if (needs != nullptr)
      out.issue = uneven * d.mma_instructions * needs->instructions_per_mma / (4 * clocks * kCraft * kIssueAtOnce);
    const double warps = std::ceil(d.threads / 32);
    out.latency = out.waves * d.loads / (d.blocks * warps) * kLatencyClocks / kLoadsUnderWay / gpu.clock_hz;
  }
  std::array parts = {out.tensor, out.issue, out.shared, out.cache, out.memory, out.latency};
  std::sort(parts.rbegin(), parts.rend());
  out.seconds = parts[0] + kNextPart * parts[1] + out.launch;
  return out;
}

}  // namespace avid::train
