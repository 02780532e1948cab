// kernels/vendor/cudnn_plan.cpp -- descriptors of cuDNN's graph interface
//
// tensors + convolution -> operation -> graph -> heuristics -> engine configurations -> plan. Every step is a
// descriptor whose attributes are set and which is then "finalized", where cuDNN checks it.
#include "kernels/vendor/cudnn_plan.h"

#if AVID_HAVE_CUDA && AVID_HAVE_CUDNN

#include <cuda_runtime_api.h>
#include <cudnn.h>

#include <map>
#include <mutex>
#include <type_traits>

#include "kernels/vendor/shared_library.h"

namespace avid::kernels::vendor {
namespace {

constexpr std::int64_t kX = 1, kW = 2, kY = 3;  // names of the tensors in a graph
constexpr int kOldest = 90800;                  // the first version with device properties

struct Api {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnCreate) create;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnGetErrorString) error_string;
  decltype(&cudnnGetLastErrorString) last_error;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor;
  decltype(&cudnnBackendSetAttribute) set;
  decltype(&cudnnBackendGetAttribute) get;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;

  Api() {
    const SharedLibrary library(Family::conv, "libcudnn.so." + std::to_string(CUDNN_MAJOR));
    library.find(version, "cudnnGetVersion");
    library.find(create, "cudnnCreate");
    library.find(set_stream, "cudnnSetStream");
    library.find(error_string, "cudnnGetErrorString");
    library.find(last_error, "cudnnGetLastErrorString");
    library.find(create_descriptor, "cudnnBackendCreateDescriptor");
    library.find(destroy_descriptor, "cudnnBackendDestroyDescriptor");
    library.find(set, "cudnnBackendSetAttribute");
    library.find(get, "cudnnBackendGetAttribute");
    library.find(finalize, "cudnnBackendFinalize");
    library.find(execute, "cudnnBackendExecute");
    if (static_cast<int>(version()) < kOldest)
      throw LibraryError(
          "conv: expected cuDNN 9.8 or newer, found version " + std::to_string(version()) + " | use --conv native");
  }
};

const Api& api() {
  static const Api loaded;
  return loaded;
}

void check_cudnn(cudnnStatus_t status, const char* step) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char detail[256] = "";
  api().last_error(detail, sizeof(detail));
  std::string text = std::string("conv: cuDNN: ") + step + ": " + api().error_string(status);
  if (detail[0] != '\0') text += std::string(" (") + detail + ")";
  throw LibraryError(text + " | use --conv native");
}

template <class Value>
constexpr cudnnBackendAttributeType_t type_of() {
  if constexpr (std::is_same_v<Value, std::int64_t>)
    return CUDNN_TYPE_INT64;
  else if constexpr (std::is_same_v<Value, float>)
    return CUDNN_TYPE_FLOAT;
  else if constexpr (std::is_same_v<Value, char>)
    return CUDNN_TYPE_CHAR;
  else if constexpr (std::is_same_v<Value, void*>)
    return CUDNN_TYPE_VOID_PTR;
  else if constexpr (std::is_same_v<Value, cudnnDataType_t>)
    return CUDNN_TYPE_DATA_TYPE;
  else if constexpr (std::is_same_v<Value, cudnnHandle_t>)
    return CUDNN_TYPE_HANDLE;
  else if constexpr (std::is_same_v<Value, cudnnConvolutionMode_t>)
    return CUDNN_TYPE_CONVOLUTION_MODE;
  else if constexpr (std::is_same_v<Value, cudnnBackendHeurMode_t>)
    return CUDNN_TYPE_HEUR_MODE;
  else if constexpr (std::is_same_v<Value, cudnnBackendNumericalNote_t>)
    return CUDNN_TYPE_NUMERICAL_NOTE;
}

/// One descriptor. It keeps those that it refers to.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t kind) {
    cudnnBackendDescriptor_t raw = nullptr;
    check_cudnn(api().create_descriptor(kind, &raw), "cudnnBackendCreateDescriptor");
    raw_ = std::shared_ptr<void>(raw, [](void* p) { api().destroy_descriptor(p); });
  }
  cudnnBackendDescriptor_t raw() const { return raw_.get(); }

  template <class Value>
  Descriptor& set(cudnnBackendAttributeName_t name, const Value* values, std::int64_t count) {
    check_cudnn(api().set(raw(), name, type_of<Value>(), count, values), "cudnnBackendSetAttribute");
    return *this;
  }
  template <class Value>
  Descriptor& set(cudnnBackendAttributeName_t name, const Value& value) {
    return set(name, &value, 1);
  }
  template <std::size_t kCount>
  Descriptor& set(cudnnBackendAttributeName_t name, const std::array<std::int64_t, kCount>& values) {
    return set(name, values.data(), kCount);
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    const cudnnBackendDescriptor_t pointer = other.raw();
    check_cudnn(api().set(raw(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &pointer), "cudnnBackendSetAttribute");
    parts_.push_back(other);
    return *this;
  }
  Descriptor& finalize(const char* what) {
    check_cudnn(api().finalize(raw()), what);
    return *this;
  }
  /// The same without a throw: false when cuDNN refuses.
  bool try_finalize() { return api().finalize(raw()) == CUDNN_STATUS_SUCCESS; }

  std::int64_t number(cudnnBackendAttributeName_t name) const {
    std::int64_t value = 0, count = 0;
    check_cudnn(api().get(raw(), name, CUDNN_TYPE_INT64, 1, &count, &value), "cudnnBackendGetAttribute");
    return value;
  }
  void adopt(const Descriptor& other) { parts_.push_back(other); }

 private:
  std::shared_ptr<void> raw_;
  std::vector<Descriptor> parts_;
};

Descriptor tensor(std::int64_t name, const Layout& layout, ElementType type) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, name)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type == ElementType::f32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16})
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, layout.dims)
      .set(CUDNN_ATTR_TENSOR_STRIDES, layout.strides)
      .finalize("tensor");
  return d;
}

Descriptor operation(const ConvProblem& p) {
  Descriptor convolution(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  convolution.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION)
      .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{3})
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, std::array<std::int64_t, 3>{1, 1, 1})
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, p.stride)
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, p.padding)
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, p.padding)
      .finalize("convolution");
  struct Names {
    cudnnBackendDescriptorType_t kind;
    cudnnBackendAttributeName_t alpha, beta, convolution, w, x, y;
  };
  constexpr Names kNames[] = {
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}};
  const Names& names = kNames[static_cast<std::size_t>(p.pass)];
  Descriptor d(names.kind);
  d.set(names.alpha, 1.0f)
      .set(names.beta, 0.0f)
      .set(names.convolution, convolution)
      .set(names.w, tensor(kW, p.w, p.type))
      .set(names.x, tensor(kX, p.x, p.type))
      .set(names.y, tensor(kY, p.y, p.type))
      .finalize("operation");
  return d;
}

/// One handle per device, made at its first use.
cudnnHandle_t handle_of_current_device() {
  static std::map<int, cudnnHandle_t> handles;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  int device = 0;
  cudaGetDevice(&device);
  cudnnHandle_t& handle = handles[device];
  if (handle == nullptr) check_cudnn(api().create(&handle), "cudnnCreate");
  return handle;
}

Descriptor device_properties(const std::string& json) {
  Descriptor d(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  if (json.empty())
    d.set(CUDNN_ATTR_DEVICEPROP_HANDLE, handle_of_current_device());
  else
    d.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, json.c_str(), static_cast<std::int64_t>(json.size()));
  d.finalize("device properties");
  return d;
}

/// What the heuristics of one mode propose, the most promising first.
std::vector<Descriptor> proposals(const Descriptor& graph, const Descriptor& device, cudnnBackendHeurMode_t mode) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
      .set(CUDNN_ATTR_ENGINEHEUR_MODE, mode)
      .set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
  if (!heuristics.try_finalize()) return {};
  const auto get = [&](std::int64_t room, void* values) {
    std::int64_t count = 0;
    check_cudnn(
        api().get(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, room, &count, values),
        "heuristics");
    return count;
  };
  std::vector<Descriptor> out;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = get(0, nullptr); i > 0; --i) {
    out.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    out.back().adopt(graph);
    raw.push_back(out.back().raw());
  }
  const std::int64_t count = get(static_cast<std::int64_t>(raw.size()), raw.data());
  out.erase(out.begin() + count, out.end());
  return out;
}

/// Number and notes of the engine behind a configuration.
std::pair<std::int64_t, EngineNotes> engine_of(const Descriptor& configuration) {
  const Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.raw();
  std::int64_t count = 0;
  check_cudnn(
      api().get(configuration.raw(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &raw),
      "engine");
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  check_cudnn(
      api().get(
          engine.raw(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, std::size(notes), &count, notes),
      "engine");
  EngineNotes out;
  for (std::int64_t i = 0; i < count; ++i) {
    out.tensor_core |= notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    out.down_convert |= notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
    out.reduced_reduction |= notes[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION;
    out.fft |= notes[i] == CUDNN_NUMERICAL_NOTE_FFT;
    out.nondeterministic |= notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    out.winograd |= notes[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD || notes[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4 ||
                    notes[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 ||
                    notes[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13;
  }
  return {engine.number(CUDNN_ATTR_ENGINE_GLOBAL_INDEX), out};
}

}  // namespace

std::vector<CudnnPlan> cudnn_plans(const ConvProblem& problem, std::size_t most, const std::string& device_json) {
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation(problem)).finalize("graph");
  const Descriptor device = device_properties(device_json);
  std::vector<CudnnPlan> plans;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    for (const Descriptor& configuration : proposals(graph, device, mode)) {
      if (plans.size() == most) return plans;
      const auto [engine, notes] = engine_of(configuration);
      if (!engine_allowed(notes, problem.type)) continue;
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration)
          .set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
      if (!plan.try_finalize()) continue;  // what it proposes may still not fit
      CudnnPlan out;
      out.workspace_bytes_ = plan.number(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
      if (out.workspace_bytes_ > kLibraryWorkspaceBytes) continue;
      out.engine_ = engine;
      out.notes_ = notes;
      out.plan_ = std::make_shared<Descriptor>(plan);
      plans.push_back(std::move(out));
    }
  }
  if (plans.empty())
    throw LibraryError("conv: cuDNN has no engine that is deterministic and exact enough for this | use --conv native");
  return plans;
}

void CudnnPlan::run(const Stream& stream, void* x, void* w, void* y, void* workspace) const {
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  void* const pointers[] = {x, w, y};
  constexpr std::int64_t kNames[] = {kX, kW, kY};
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, kNames, 3)
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers, 3)
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace)
      .finalize("variant pack");
  const cudnnHandle_t handle = handle_of_current_device();
  check_cudnn(api().set_stream(handle, static_cast<cudaStream_t>(stream.handle)), "cudnnSetStream");
  check_cudnn(
      api().execute(handle, static_cast<const Descriptor*>(plan_.get())->raw(), pack.raw()), "cudnnBackendExecute");
}

}  // namespace avid::kernels::vendor

#elif AVID_HAVE_CUDA

namespace avid::kernels::vendor {

std::vector<CudnnPlan> cudnn_plans(const ConvProblem&, std::size_t, const std::string&) {
  throw LibraryError("conv: this build lacks cuDNN: its headers were not found | use --conv native");
}
void CudnnPlan::run(const Stream&, void*, void*, void*, void*) const {}  // there are no plans

}  // namespace avid::kernels::vendor

#endif
