// kernels/device/cuda_errors.h -- what messages about a GPU say beside CUDA's own text: the cause, and what to do
//
// Plain C++ without CUDA's headers, so that every build tests it (tests/kernels/cuda_errors_test.cpp).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace avid::kernels {

/// What to do about an error of CUDA's runtime (a cudaError_t), as the end of a message: " | ...", or nothing.
std::string cuda_advice(int error);

/// Why code compiled for `archs` ("80,90"; CMake's CUDA_ARCHITECTURES, with -real, -virtual, a) does not run on compute
/// capability major.minor, in one line; empty when it does. Machine code runs on later minor versions of its major
/// one, what is kept as PTX (all but -real and a) on everything later; "90a" on 9.0 alone, which is not enough by
/// itself, because it holds the kernels on wgmma only.
std::string arch_problem(std::string_view archs, int major, int minor);

/// ", the device has 0.3 of 79.2 GiB left", and, where much is neither free nor `ours`, who has it: ", other processes
/// hold about 60.1 GiB (nvidia-smi lists them)". Bytes; MiB of small devices. Nothing where there is no known total.
std::string memory_left(std::size_t total, std::size_t free, std::size_t ours);

}  // namespace avid::kernels
