// kernels/ptx/runtime/fatbin.h -- the PTX texts inside a fat binary, as nvcc embeds them in an object file
//
// Plain C++. An object of nvcc holds a wrapper {magic, version, data, name}; its data is a header and entries, each of
// a kind (1 PTX, 2 machine code), an architecture and a payload, one behind the other. NVIDIA does not describe the
// format; what stands here was read off files that nvcc 13 made, and anything that looks otherwise is refused.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace avid::kernels::ptx {

/// One text. It points into the fat binary, which lives as long as the program.
struct FatbinText {
  int arch = 0;                 ///< 80, 90 ...: the compute capability it was compiled for
  bool only_this_arch = false;  ///< "90a": it runs on that one and on no later one
  bool compressed = false;      ///< `text` cannot be read then
  std::string_view text;
};

/// The texts of a wrapper, in its order. Throws std::runtime_error, one line, for what is no fat binary of nvcc's.
std::vector<FatbinText> fatbin_texts(const void* wrapper);

/// The text that a device of this compute capability runs: the newest of those that may, as a driver would take it.
/// Null when there is none.
const FatbinText* text_for(const std::vector<FatbinText>& texts, int arch);

/// "80, 90a": for messages.
std::string archs_of(const std::vector<FatbinText>& texts);

}  // namespace avid::kernels::ptx
