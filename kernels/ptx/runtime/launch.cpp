// kernels/ptx/runtime/launch.cpp -- the CUDA runtime's fat binaries, kernels and launches, on the machine
//
// Objects of nvcc register their fat binary and the host addresses of their kernels before main(). A text is parsed at
// the first launch of one of its kernels, as CUDA loads lazily: there are many, of megabytes.
// What is not seen: registers (a PTX text has no limit of them), so that a block may be launched here which has more
// threads than a GPU has registers for.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "kernels/ptx/machine.h"
#include "kernels/ptx/runtime/device_memory.h"
#include "kernels/ptx/runtime/fatbin.h"
#include "kernels/ptx/runtime/streams.h"

namespace avid::kernels::ptx {
namespace {

constexpr std::size_t kUsualShared = 48 << 10;  // without cudaFuncAttributeMaxDynamicSharedMemorySize
constexpr unsigned kMostGridYZ = 65535, kMostGridX = 0x7fffffff, kMostThreads = 1024, kMostThreadsZ = 64;

/// One object's fat binary, and the text in it that the device runs, once somebody needs it.
struct Binary {
  const void* wrapper;
  std::unique_ptr<Module> module = {};
};

}  // namespace
}  // namespace avid::kernels::ptx

using namespace avid::kernels::ptx;

/// A kernel that some object registered.
struct CUkern_st {
  Binary* binary;
  std::string name;  // in the PTX
  const Kernel* kernel = nullptr;
  std::size_t allowed_dynamic_bytes = 0;  // by cudaFuncSetAttribute
};

namespace avid::kernels::ptx {
namespace {

/// By the address of the host's function. Never destroyed: static objects may launch at the end of the program.
std::map<const void*, CUkern_st>& kernels() {
  static auto* all = new std::map<const void*, CUkern_st>;
  return *all;
}

/// The configuration of a <<<...>>> that is on its way to the kernel's host function.
struct Configuration {
  dim3 grid, block;
  std::size_t shared_bytes;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

std::unique_ptr<Module> load(const void* wrapper) {
  try {
    const std::vector<FatbinText> texts = fatbin_texts(wrapper);
    const FatbinText* text = text_for(texts, settings().arch);
    if (text == nullptr)
      refuse(
          cudaErrorNoKernelImageForDevice,
          "the fat binary has PTX for " + archs_of(texts) + ", and the device is " + std::to_string(settings().arch));
    if (text->compressed)
      refuse(cudaErrorInvalidKernelImage, "the PTX is compressed: compile with --compress-mode=none");
    return Module::load(text->text);
  } catch (const PtxError& error) {
    refuse(cudaErrorInvalidPtx, error.what());
  } catch (const std::runtime_error& error) {
    refuse(cudaErrorInvalidKernelImage, error.what());
  }
}

CUkern_st& registered(const void* function) {
  const auto found = kernels().find(function);
  if (found != kernels().end()) return found->second;
  for (auto& [host, kernel] : kernels())  // CUDA takes its own handle in the place of a function, too
    if (&kernel == function) return kernel;
  refuse(cudaErrorInvalidDeviceFunction, "no object registered a kernel at this address");
}

CUkern_st& loaded(const void* function) {
  CUkern_st& kernel = registered(function);
  if (kernel.kernel != nullptr) return kernel;
  if (kernel.binary->module == nullptr) kernel.binary->module = load(kernel.binary->wrapper);
  try {
    kernel.kernel = kernel.binary->module->find(kernel.name);
  } catch (const PtxError& error) {
    refuse(cudaErrorInvalidPtx, error.what());
  }
  if (kernel.kernel == nullptr) refuse(cudaErrorInvalidDeviceFunction, "the PTX has no kernel " + kernel.name);
  return kernel;
}

std::size_t most_shared_bytes() { return static_cast<std::size_t>(settings().arch == 90 ? 227 : 163) << 10; }

void check_shape(const Kernel& kernel, dim3 grid, dim3 block) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0)
    refuse(cudaErrorInvalidConfiguration, "the grid or the block is empty");
  if (grid.x > kMostGridX || grid.y > kMostGridYZ || grid.z > kMostGridYZ)
    refuse(cudaErrorInvalidConfiguration, "the grid is above 2^31-1 x 65535 x 65535");
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (block.x > kMostThreads || block.y > kMostThreads || block.z > kMostThreadsZ || threads > kMostThreads)
    refuse(cudaErrorInvalidConfiguration, "the block is above 1024 threads, or 1024 x 1024 x 64");
  if (threads > kernel.most_threads)
    refuse(
        cudaErrorLaunchOutOfResources, "a block of " + std::to_string(threads) + " threads, and the kernel promised " +
                                           std::to_string(kernel.most_threads));
}

/// Without cudaFuncSetAttribute, 48 KiB less what is static; with it, what it allowed.
std::size_t most_dynamic_bytes(const CUkern_st& kernel) {
  const std::size_t own = kernel.kernel->static_shared_bytes;
  return std::max(kernel.allowed_dynamic_bytes, kUsualShared - std::min(own, kUsualShared));
}

void launch(
    const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared_bytes, cudaStream_t stream) {
  CUstream_st& queued_on = stream_of(stream);
  const CUkern_st& registered = loaded(function);
  const Kernel& kernel = *registered.kernel;
  check_shape(kernel, grid, block);
  if (const std::size_t most = most_dynamic_bytes(registered); shared_bytes > most)
    refuse(
        cudaErrorInvalidValue,
        std::to_string(shared_bytes) + " B of dynamic shared memory, and " + std::to_string(most) + " B were allowed");
  std::vector<std::byte> parameters(kernel.parameter_bytes);
  if (arguments == nullptr && !kernel.parameters.empty()) refuse(cudaErrorInvalidValue, "the arguments are missing");
  for (std::size_t i = 0; i < kernel.parameters.size(); ++i)
    std::memcpy(parameters.data() + kernel.parameters[i].offset, arguments[i], kernel.parameters[i].bytes);
  queue_work(stream, [&kernel, grid, block, shared_bytes, parameters = std::move(parameters)] {
    try {
      open_device_memory();
      run({.threads = omp_get_max_threads(), .in_device_memory = &in_device_memory}, kernel, {grid.x, grid.y, grid.z},
          {block.x, block.y, block.z}, shared_bytes, parameters.data());
    } catch (const PtxError& error) {
      break_device(cudaErrorLaunchFailure, error.what());
    }
  });
  if (settings().launch_blocking && queued_on.capture == nullptr) finish(*queued_on.queue, queued_on.queue->queued);
}

}  // namespace
}  // namespace avid::kernels::ptx

extern "C" {

// ---- what nvcc's host code calls; declared by no header that a C++ compiler may include ----

void** CUDARTAPI __cudaRegisterFatBinary(void* wrapper) { return reinterpret_cast<void**>(new Binary{wrapper}); }
void CUDARTAPI __cudaRegisterFatBinaryEnd(void**) {}
void CUDARTAPI __cudaUnregisterFatBinary(void**) {}  // the program ends

void CUDARTAPI __cudaRegisterFunction(
    void** binary, const char* host_function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  // An instance of a template that several objects have is registered by each of them.
  kernels().try_emplace(host_function, CUkern_st{reinterpret_cast<Binary*>(binary), name});
}

cudaError_t CUDARTAPI __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  return call(__func__, [&] { *kernel = &registered(function); });
}

unsigned CUDARTAPI __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared_bytes, CUstream_st* stream) {
  configurations.push_back({grid, block, shared_bytes, stream});
  return 0;
}

cudaError_t CUDARTAPI __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared_bytes, void* stream) {
  return call(__func__, [&] {
    if (configurations.empty()) refuse(cudaErrorMissingConfiguration, "a kernel's host function was called as it is");
    const Configuration last = configurations.back();
    configurations.pop_back();
    *grid = last.grid, *block = last.block, *shared_bytes = last.shared_bytes;
    *static_cast<cudaStream_t*>(stream) = last.stream;
  });
}

cudaError_t CUDARTAPI __cudaLaunchKernel(
    cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared_bytes, cudaStream_t stream) {
  return queueing_call(__func__, [&] { launch(kernel, grid, block, arguments, shared_bytes, stream); });
}

// ---- kernels ----

cudaError_t CUDARTAPI
cudaLaunchKernelExC(const cudaLaunchConfig_t* configuration, const void* function, void** arguments) {
  return queueing_call(__func__, [&] {
    if (configuration == nullptr) refuse(cudaErrorInvalidValue, "no configuration");
    if (configuration->numAttrs != 0) refuse(cudaErrorNotSupported, "attributes of launches are not modelled");
    launch(
        function, configuration->gridDim, configuration->blockDim, arguments, configuration->dynamicSmemBytes,
        configuration->stream);
  });
}

cudaError_t CUDARTAPI cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return call(__func__, [&] {
    CUkern_st& kernel = loaded(function);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
      refuse(cudaErrorNotSupported, "this attribute is not modelled");
    const std::size_t most = most_shared_bytes() - kernel.kernel->static_shared_bytes;
    if (value < 0 || static_cast<std::size_t>(value) > most)
      refuse(
          cudaErrorInvalidValue, std::to_string(value) + " B of shared memory, and a block gets " +
                                     std::to_string(most) + " B beside its own");
    kernel.allowed_dynamic_bytes = static_cast<std::size_t>(value);
  });
}

cudaError_t CUDARTAPI cudaFuncGetName(const char** name, const void* function) {
  return call(__func__, [&] {
    if (name == nullptr) refuse(cudaErrorInvalidValue, "no place for the name");
    *name = registered(function).name.c_str();
  });
}

}  // extern "C"
