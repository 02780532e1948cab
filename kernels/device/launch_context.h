// kernels/device/launch_context.h -- which op launches a kernel, and on which tensors: for the message when it fails
//
// A launch knows its kernel and grid, not what was asked for. Tensors say so when an op takes their device pointers;
// the last few of the running op are kept, in the order in which they were taken.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace avid::kernels {

/// The op that runs on this thread takes the device pointer of a tensor. `dtype` lives as long as the process.
void note_device_tensor(const char* dtype, std::span<const std::int64_t> extents);

/// "conv3d in adapter.downs.0.1"; "conv3d" outside of modules; "" outside of ops.
std::string running_op();
/// "bf16 [8,8,64,64,90], f32 [90]": the last tensors of the running op, at most 8; "" outside of ops. Those that it
/// took before an op inside it are forgotten.
std::string tensors_of_running_op();

/// The op that runs on this thread launches a kernel (op_timer.cpp). Calls of NVIDIA's libraries count none.
void note_launch();

/// How many ops have begun on this thread (op_timer.cpp).
std::uint64_t ops_begun();

}  // namespace avid::kernels
