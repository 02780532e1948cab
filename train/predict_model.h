// train/predict_model.h -- how long a launch would take on a GPU that is not here, from what it asks of it
//
// A model, not a measurement. Per launch, with S multiprocessors at f clocks per second and G blocks, of which
// `resident` fit on one multiprocessor beside each other (registers, shared memory, threads):
//
//   load     blocks that the busiest multiprocessor gets: ceil(G / S), or whole waves of resident blocks behind the
//            first;  uneven = load * S / G
//   tensor   2 * multiply-adds / (share * ceiling of the instruction) * uneven
//   issue    instructions around the tensor cores' / (4 S f * 0.85 * 0.80) * uneven
//   shared   passes / (S f * 0.85 * 0.90) * uneven
//   cache    bytes / (second-level cache * 0.85 * 0.75)
//   memory   bytes / (measured copy * 0.92)
//   latency  waves * loads of a warp * 600 clocks / 4 under way
//   seconds  the longest, 15 % of the next, and what a launch in a graph costs
//
// The factors are those of the kernel study: 0.85 between our kernels and the best that is known, and what of each
// resource a kernel can use at once. `share` is 0.75, or what the study assumes of a family (kFamilies).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace avid::train {

/// What a GPU gives; sources in the table in predict_model.cpp.
struct GpuModel {
  std::string name, full_name;
  int arch = 80;
  double multiprocessors = 0, clock_hz = 0;
  double mma_flops = 0, wgmma_flops = 0;  ///< ceilings of the two instructions; 0: there is none
  double gemm_flops = 0;                  ///< best product measured: what shares are of
  double floor_flops = 0, floor_bytes = 0;
  double copy_bytes = 0;   ///< per second, read and written together, measured
  double cache_bytes = 0;  ///< per second out of the second-level cache
  double launch_seconds = 0;
  double shared_bytes = 0;  ///< per multiprocessor
};

/// "a100", "h100" or "h200". UsageError for others.
const GpuModel& gpu_model(std::string_view name);

/// What a launch asks for.
struct LaunchDemand {
  std::string kernel;
  double blocks = 1, threads = 32, shared_bytes = 0;   ///< threads and bytes of a block
  double mma = 0, tf32 = 0, wgmma = 0;                 ///< multiply-adds as issued
  double mma_instructions = 0, passes = 0, loads = 0;  ///< of warps
  double cache_bytes = 0, memory_bytes = 0;
  bool is_kernel = true;  ///< not a copy or fill of the driver's
};

/// What the compiler said about a kernel.
struct KernelNeeds {
  double registers = 0;
  double instructions_per_mma = 0;  ///< of its hottest loop; 0: not known
};

/// kernels/resources.tsv, as it was when the program was built.
class KernelTable {
 public:
  /// Columns are found by their names. FileError where one is missing.
  explicit KernelTable(std::string_view tsv);
  static const KernelTable& built_in();
  /// Null when the table does not have it. The names of template arguments may differ in blanks.
  const KernelNeeds* find(const std::string& kernel, int arch) const;

 private:
  std::map<std::pair<std::string, int>, KernelNeeds> kernels_;
};

struct LaunchTime {
  double tensor = 0, issue = 0, shared = 0, cache = 0, memory = 0, latency = 0, launch = 0;  ///< seconds, as above
  double seconds = 0;
  double resident = 0, waves = 0;
  bool known = true;  ///< the table has the kernel; otherwise 128 registers were taken
  /// Which of the parts is the longest: "tensor", "issue", "shared", "L2", "DRAM", "latency", "launch".
  const char* bound() const;
};

LaunchTime predict_launch(const GpuModel& gpu, const LaunchDemand& demand, const KernelTable& table);

}  // namespace avid::train
