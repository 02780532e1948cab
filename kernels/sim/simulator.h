// kernels/sim/simulator.h -- the machine that runs kernels on the CPU: options, errors, and what the device language
// calls
//
// Kernels see kernels/device/gpu_sim.h; tests and programs see Options and SimError here. One OS thread runs one
// block at a time; each CUDA thread is a fiber of it. docs/simulator.md tells how it works and what it does not model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "kernels/device/backend.h"
#include "kernels/device/tensor_map.h"
#include "kernels/sim/vector_types.h"

namespace avid::kernels::simulator {

/// Where in a kernel something happened.
using Site = std::source_location;

/// What went wrong, for tests; the message has the details.
enum class ErrorKind {
  divergent_barrier,  ///< threads of a block at different __syncthreads
  early_exit,         ///< a thread finished and others waited for it at a barrier
  divergent_warp,     ///< lanes of a warp in different collectives, or a lane outside its own mask
  dead_lane,          ///< a collective needs lanes that finished or do not exist
  deadlock,           ///< nobody can continue
  misaligned,         ///< an address without the alignment that the instruction needs, or not in shared memory
  cp_async,           ///< an asynchronous copy's destination touched too early, or a copy nobody waited for
  shared_size,        ///< more shared memory than launched with, or than exists
  overrun,            ///< a write behind a shared array
  race,               ///< two threads, one shared byte, no barrier between, one of them writes
  uninitialised,      ///< a read of shared memory that nobody wrote
  bad_operand,        ///< an operand that the instruction does not take
  bad_launch,         ///< a grid or block that no GPU takes, or an instruction that the simulated device lacks
  mbarrier,           ///< an mbarrier that nobody initialised, or used as none may be, or bytes nobody announced
  wgmma,              ///< registers or shared memory of a wgmma touched before its wait, or a wait or fence missing
  proxy_fence,        ///< wgmma or a tensor copy meets what was written without a fence_proxy_async behind it
};

/// One line (a table of who waits where may follow): kernel, block, thread, file and line, what happened.
class SimError : public GpuError {
 public:
  SimError(ErrorKind k, const std::string& message) : GpuError(message), kind(k) {}
  ErrorKind kind;
};

/// In which order ready threads and blocks are run.
enum class Order { forward, reverse, random };

/// Process-wide settings; AVID_SIM_ORDER (forward, reverse, random), AVID_SIM_SEED, AVID_SIM_THREADS and AVID_SIM_ARCH
/// (80, 90) set them first.
struct Options {
  Order order = Order::forward;
  std::uint64_t seed = 1;
  int os_threads = 0;        ///< 0: as many as OpenMP has, at most 16
  int arch = 80;             ///< compute capability: which instructions there are, how much shared memory
  bool detect_races = true;  ///< only in builds with race hooks
  bool profile = false;      ///< count memory traffic of the first block; only in builds with race hooks
};
Options& options();

// ---- called by the device language ----

/// One static shared array; its address is its identity.
struct SharedKey {
  const char* name;
};
void* shared_static(const SharedKey& key, std::size_t bytes, std::size_t align);
void* shared_take(std::size_t bytes, std::size_t align, const char* name, std::size_t* cursor, std::size_t* used);
std::uint32_t shared_offset(const void* p, Site site);
void* shared_pointer(std::uint32_t offset);

enum class Reduce { count, all, any };
void sync_block(Site site);
int sync_block_reduce(Reduce op, int predicate, Site site);

/// Something that lanes of a warp do together; its address is its identity. `run` gets the arguments of the lanes in
/// `mask`.
struct Collective {
  const char* name;
  void (*run)(void* const* lane, std::uint32_t mask);
  bool whole_warp;  ///< undefined unless all 32 lanes take part
};
/// Waits for the lanes of `mask`; the last to arrive runs the collective for all.
void warp_collective(const Collective& what, std::uint32_t mask, void* argument, Site site);

void cp_async(void* dst, const void* src, unsigned bytes, bool valid, Site site);
void cp_async_commit();
void cp_async_wait(int keep, Site site);

void mbarrier_init(std::uint32_t address, std::uint32_t arrivals, Site site);
/// `bytes`: also announces so many, which tensor copies begun after this will bring.
void mbarrier_arrive(std::uint32_t address, std::uint32_t bytes, Site site);
void mbarrier_wait(std::uint32_t address, std::uint32_t parity, Site site);
/// Begins to copy the tile at (column, row) to shared memory (tensor_copy.h); its bytes count at the mbarrier.
void copy_tile(std::uint32_t to, const MatrixTiles& map, int column, int row, std::uint32_t barrier, Site site);
/// Orders this thread's writes to shared memory before later reads of them by wgmma, and tensor copies over them.
void fence_proxy_async(Site site);
/// Fails unless the simulated device has what sm_`arch` has.
void require_arch(int arch, const char* what, Site site);

[[noreturn]] void fail(ErrorKind kind, const std::string& message, Site site);

/// Runs call(context) once per thread of the grid, with threadIdx and the others set. `kernel` only names it in
/// reports.
void run_grid(
    const void* kernel, sim::dim3 grid, sim::dim3 block, std::size_t shared_bytes, void (*call)(void*), void* context,
    std::size_t context_bytes);

struct MmaOperands {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
  const float* c;
};
struct MatrixLoad {
  std::uint32_t* r;
  const void* row;
  Site site;
};
struct WgmmaWait {
  std::uint32_t keep;
  Site site;
};
extern const Collective mma_bf16_k16, mma_bf16_k8, mma_tf32_k8;
extern const Collective wgmma_issue, wgmma_fence, wgmma_commit, wgmma_wait;  // warpgroup.h: WgmmaOperands, WgmmaWait
extern const Collective load_x1, load_x1_trans, load_x2, load_x2_trans, load_x4, load_x4_trans, move_matrix;

}  // namespace avid::kernels::simulator
