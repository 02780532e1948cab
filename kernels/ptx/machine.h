// kernels/ptx/machine.h -- runs the PTX that nvcc made of a kernel, on a CPU
//
// The simulator (kernels/sim) runs a kernel's text as the host's compiler reads it. This machine runs what nvcc made of
// the same text, instruction by instruction, after the PTX manual (version 9.0): inline assembly, nvcc's own reading of
// templates and its address arithmetic, the layout of parameters. Only the instructions that our kernels have are
// known; any other is an error. README.md says what is modelled and what is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace avid::kernels::ptx {

/// One line: kernel, block, thread, line of the source and of the PTX, what was wrong.
struct PtxError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Extent {
  std::uint32_t x = 1, y = 1, z = 1;
};

/// A kernel's parameter in the buffer that a launch hands over.
struct Parameter {
  std::size_t offset = 0, bytes = 0, alignment = 1;
};

struct Code;  // code.h

/// An entry of a module. Its body is translated at the first launch.
struct Kernel {
  std::string name;  // mangled
  std::vector<Parameter> parameters;
  std::size_t parameter_bytes = 0;
  std::size_t static_shared_bytes = 0;
  std::uint32_t most_threads = 1024;  // of a block: .maxntid
  std::shared_ptr<const Code> code;
};

/// A text of PTX.
class Module {
 public:
  /// Finds the entries and the variables outside of them. Throws PtxError.
  static std::unique_ptr<Module> load(std::string_view text);
  ~Module();
  /// The entry of this mangled name, translated; nullptr when there is none. Throws PtxError for what this machine does
  /// not know. May be called by several threads.
  const Kernel* find(std::string_view name) const;
  /// What the text was made for: "sm_80", "sm_90a".
  const std::string& target() const { return target_; }

 private:
  struct Contents;
  Module();
  std::string target_;
  std::unique_ptr<Contents> contents_;
};

struct Machine {
  int threads = 1;  // of the host, each runs whole blocks
  /// Whether all these bytes belong to one allocation of device memory. Without it every address is taken.
  bool (*in_device_memory)(const void* begin, std::size_t bytes) = nullptr;
};

/// Runs every block to its end. `parameters` has kernel.parameter_bytes bytes; addresses of device memory are those of
/// the host. Throws PtxError: an access misaligned or outside of shared, local or device memory, a trap, threads that
/// wait for each other, a collective that lanes of its mask left out.
void run(
    const Machine& machine, const Kernel& kernel, Extent grid, Extent block, std::size_t dynamic_shared_bytes,
    const std::byte* parameters);

}  // namespace avid::kernels::ptx
