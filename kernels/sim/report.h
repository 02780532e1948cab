// kernels/sim/report.h -- names for reports: kernel, thread, source line
#pragma once

#include <cstdint>
#include <string>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

/// "mask_mix.cu:34"; empty for a Site that names nothing.
std::string text_of(const Site& site);
/// The name of the function at an address, without namespaces and parameters; "?" in a stripped program.
std::string function_name(const void* address);
/// A Site as a number that source_line() understands: race reports and traffic counts keep 32 bits per place.
std::uintptr_t place_of(const Site& site);
inline constexpr std::uintptr_t kPlaceIsSite = std::uintptr_t{1} << 63;
/// The line that the instruction before `pc` belongs to, by way of addr2line: "conv3d.cu:120", and where an inlined
/// helper was called from. The function's name where addr2line or the debug information is missing.
std::string source_line(std::uintptr_t pc);
/// "kernel simulator: conv3d_fwd_kernel<float>: block (0,0,0) thread (5,0,0)" of the running thread.
std::string place_of_failure();

}  // namespace avid::kernels::simulator
