// kernels/vendor/cudnn_graph.cpp -- cuDNN's functions, descriptors, and plans out of a graph
#include "kernels/vendor/cudnn_plan.h"

#if AVID_HAVE_CUDA && AVID_HAVE_CUDNN

#include <iterator>
#include <map>
#include <mutex>

#include "kernels/vendor/cudnn_cache.h"
#include "kernels/vendor/cudnn_graph.h"
#include "kernels/vendor/shared_library.h"

namespace avid::kernels::vendor {
namespace {

constexpr int kOldest = 90800;  // the first version with device properties

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

  explicit Api(Family family) {
    const SharedLibrary library(family, "libcudnn.so." + std::to_string(CUDNN_MAJOR));
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
    const std::string name = name_of(family);
    if (static_cast<int>(version()) < kOldest)
      throw LibraryError(
          name + ": expected cuDNN 9.8 or newer, found version " + std::to_string(version()) + " | use --" + name +
          " native");
  }
};

/// Loaded once; a load that failed is tried again at the next call.
const Api& api(Family family = Family::conv) {
  static const Api loaded(family);
  return loaded;
}

void check_cudnn(cudnnStatus_t status, const char* step) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char detail[256] = "";
  api().last_error(detail, sizeof(detail));
  std::string text = std::string(step) + ": " + api().error_string(status);
  if (detail[0] != '\0') text += std::string(" (") + detail + ")";
  throw CudnnRefusal(text);
}

/// One handle per device, made at its first use.
cudnnHandle_t handle_of_current_device() {
  static std::map<int, cudnnHandle_t> handles;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  cudnnHandle_t& handle = handles[current_cuda_device()];
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

Descriptor pointwise(cudnnPointwiseMode_t mode) {
  Descriptor d(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_POINTWISE_MODE, mode).set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT).finalize("pointwise");
  return d;
}

Descriptor reduction(cudnnReduceTensorOp_t how) {
  Descriptor d(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  d.set(CUDNN_ATTR_REDUCTION_OPERATOR, how).set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT).finalize("reduction");
  return d;
}

cudnnPointwiseMode_t pointwise_mode(Step step) {
  switch (step) {
    case Step::multiply: return CUDNN_POINTWISE_MUL;
    case Step::subtract: return CUDNN_POINTWISE_SUB;
    case Step::add: return CUDNN_POINTWISE_ADD;
    case Step::divide: return CUDNN_POINTWISE_DIV;
    case Step::exp: return CUDNN_POINTWISE_EXP;
    default: return CUDNN_POINTWISE_LOG;
  }
}

/// `b` is null where the step has none.
Descriptor operation_of(Step step, const Descriptor& a, const Descriptor* b, const Descriptor& out) {
  if (step == Step::product) {
    Descriptor product(CUDNN_BACKEND_MATMUL_DESCRIPTOR), d(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finalize("product");
    d.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, product)
        .set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a)
        .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, *b)
        .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
    return d;
  }
  if (step == Step::maximum || step == Step::sum) {
    Descriptor d(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    d.set(
         CUDNN_ATTR_OPERATION_REDUCTION_DESC,
         reduction(step == Step::sum ? CUDNN_REDUCE_TENSOR_ADD : CUDNN_REDUCE_TENSOR_MAX))
        .set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, a)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out);
    return d;
  }
  if (step == Step::turned) {
    Descriptor d(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    d.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, a).set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, out);
    return d;
  }
  Descriptor d(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise(pointwise_mode(step)))
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
  if (b != nullptr) d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
  return d;
}

}  // namespace

void load_cudnn(Family family) { api(family); }

Descriptor::Descriptor(cudnnBackendDescriptorType_t kind) {
  cudnnBackendDescriptor_t raw = nullptr;
  check_cudnn(api().create_descriptor(kind, &raw), "cudnnBackendCreateDescriptor");
  raw_ = std::shared_ptr<void>(raw, [](void* p) { api().destroy_descriptor(p); });
}

Descriptor& Descriptor::set_raw(
    cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
  check_cudnn(api().set(raw(), name, type, count, values), "cudnnBackendSetAttribute");
  return *this;
}

Descriptor& Descriptor::set_all(cudnnBackendAttributeName_t name, std::span<const Descriptor> others) {
  std::vector<cudnnBackendDescriptor_t> pointers;
  for (const Descriptor& other : others) {
    pointers.push_back(other.raw());
    parts_.push_back(other);
  }
  return set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<std::int64_t>(pointers.size()), pointers.data());
}

Descriptor& Descriptor::finalize(const char* what) {
  check_cudnn(api().finalize(raw()), what);
  return *this;
}

bool Descriptor::try_finalize() { return api().finalize(raw()) == CUDNN_STATUS_SUCCESS; }

std::int64_t Descriptor::number(cudnnBackendAttributeName_t name) const {
  std::int64_t value = 0, count = 0;
  check_cudnn(api().get(raw(), name, CUDNN_TYPE_INT64, 1, &count, &value), "cudnnBackendGetAttribute");
  return value;
}

Descriptor tensor_descriptor(
    std::int64_t index, std::span<const std::int64_t> dims, std::span<const std::int64_t> strides, cudnnDataType_t type,
    Place place) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, index + 1)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16})
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims.data(), static_cast<std::int64_t>(dims.size()))
      .set(CUDNN_ATTR_TENSOR_STRIDES, strides.data(), static_cast<std::int64_t>(strides.size()));
  if (place == Place::between) d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  if (place == Place::host) d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  d.finalize("tensor");
  return d;
}

std::vector<Descriptor> operations_of(const GraphDescription& graph) {
  std::map<int, Descriptor> tensors;  // those that a step uses
  const auto tensor = [&](int index) -> const Descriptor& {
    const auto found = tensors.find(index);
    if (found != tensors.end()) return found->second;
    const GraphTensor& t = graph.tensors[static_cast<std::size_t>(index)];
    const cudnnDataType_t type = t.bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    return tensors.emplace(index, tensor_descriptor(index, t.dims, t.strides, type, t.place)).first->second;
  };
  std::vector<Descriptor> out;
  for (const GraphStep& s : graph.steps) {
    out.push_back(operation_of(s.step, tensor(s.a), s.b < 0 ? nullptr : &tensor(s.b), tensor(s.out)));
    out.back().finalize("operation");
  }
  return out;
}

std::vector<CudnnPlan> plans_of(
    Family family, std::span<const Descriptor> operations, ElementType type, std::size_t most,
    const std::string& device_json) {
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set_all(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations).finalize("graph");
  const Descriptor device = device_properties(device_json);
  std::vector<CudnnPlan> plans;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    for (const Descriptor& configuration : proposals(graph, device, mode)) {
      if (plans.size() == most) return plans;
      const auto [engine, notes] = engine_of(configuration);
      if (!engine_allowed(notes, type)) continue;
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration)
          .set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
      if (!plan.try_finalize()) continue;  // what it proposes may still not fit
      const std::int64_t bytes = plan.number(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
      if (bytes > kLibraryWorkspaceBytes) continue;
      plans.emplace_back(family, std::make_shared<Descriptor>(plan), CudnnPlan::Properties{bytes, engine, notes});
    }
  }
  if (plans.empty())
    throw CudnnRefusal("no engine for this that is deterministic, exact enough, and content with 256 MiB of workspace");
  return plans;
}

void CudnnPlan::run(const Stream& stream, std::initializer_list<const void*> tensors, void* workspace) const {
  std::vector<std::int64_t> names;
  std::vector<void*> pointers;
  std::int64_t name = 0;
  for (const void* tensor : tensors) {
    ++name;
    if (tensor == nullptr) continue;
    names.push_back(name);
    pointers.push_back(const_cast<void*>(tensor));
  }
  in_words_of(family_, [&] {
    Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, names.data(), static_cast<std::int64_t>(names.size()))
        .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers.data(), static_cast<std::int64_t>(pointers.size()))
        .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace)
        .finalize("variant pack");
    const cudnnHandle_t handle = handle_of_current_device();
    check_cudnn(api().set_stream(handle, static_cast<cudaStream_t>(stream.handle)), "cudnnSetStream");
    check_cudnn(
        api().execute(handle, static_cast<const Descriptor*>(plan_.get())->raw(), pack.raw()), "cudnnBackendExecute");
  });
}

}  // namespace avid::kernels::vendor

#elif AVID_HAVE_CUDA

namespace avid::kernels::vendor {

// There are no plans without cuDNN's headers.
void CudnnPlan::run(const Stream&, std::initializer_list<const void*>, void*) const {}

}  // namespace avid::kernels::vendor

#endif
