// kernels/device/gpu.h -- the device language: what a .cu file may use, on a GPU and in the simulator
//
// The only header beside its contract that a kernels/<op>.cu includes. nvcc gets real CUDA (gpu_cuda.h); a C++ compiler
// gets the simulator (gpu_sim.h, no CUDA header needed). Everything device-side lives in namespace
// avid::kernels::AVID_GPU (cuda or sim), so that both can be linked into one program. docs/simulator.md has the rules.
//
//   AVID_GPU, Gpu              name of the device namespace; the backend tag (Cuda or Sim) of this compilation
//   AVID_DEVICE                an inlined device function
//   AVID_SHARED(T, s, [4][8])  a static shared array; never write __shared__ (it would be per thread on a CPU)
//   SharedArena                carves up dynamic shared memory: a = arena.take<float>(n, "a")
//   launch(kernel, grid, block, shared_bytes, stream, args...)
//   mma_bf16_16x8x16, mma_bf16_16x8x8, mma_tf32_16x8x8, to_tf32     tensor cores, D = A B + C
//   ldmatrix_x1/_x2/_x4 (and _trans), movmatrix                     8x8 blocks of 16-bit elements
//   cp_async_16, cp_async_8, cp_async_4, cp_async_commit, cp_async_wait<N>   copies global -> shared behind the math
//   shared_address             a 32-bit address of shared memory for lean loops; checked by the simulator
//   bf16, to_float, to_bf16, pack_bf16x2, unpack_bf16x2             two-byte floats (the host's BFloat16)
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/dtype.h"

#if defined(__CUDACC__)
#define AVID_GPU cuda
#include "kernels/device/gpu_cuda.h"
namespace avid::kernels {
using Gpu = Cuda;
}
#else
#define AVID_GPU sim
#include "kernels/device/gpu_sim.h"
namespace avid::kernels {
using Gpu = Sim;
}
#endif
