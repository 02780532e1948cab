// kernels/vendor/cudnn_graph.h -- descriptors of cuDNN's graph interface; for files of builds that have its headers
//
// tensors -> operations -> graph -> heuristics -> engine configurations -> plan. Every step is a descriptor whose
// attributes are set and which is then "finalized", where cuDNN checks it.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/vendor/cudnn_plan.h"
#include "kernels/vendor/graph_description.h"

namespace avid::kernels::vendor {

/// What cuDNN said no to, and its words. Leaves this folder as a LibraryError (in_words_of).
class CudnnRefusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Loads the library at the first call. LibraryError where that fails, in terms of the family's option.
void load_cudnn(Family family);

/// f(); what cuDNN refuses becomes one line with the option that avoids it.
template <class F>
auto in_words_of(Family family, F&& f) {
  load_cudnn(family);
  try {
    return f();
  } catch (const CudnnRefusal& refusal) {
    const std::string name = name_of(family);
    throw LibraryError(name + ": cuDNN: " + refusal.what() + " | use --" + name + " native");
  }
}

template <class Value>
constexpr cudnnBackendAttributeType_t attribute_type() {
  if constexpr (std::is_same_v<Value, std::int64_t>)
    return CUDNN_TYPE_INT64;
  else if constexpr (std::is_same_v<Value, float>)
    return CUDNN_TYPE_FLOAT;
  else if constexpr (std::is_same_v<Value, bool>)
    return CUDNN_TYPE_BOOLEAN;
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
  else if constexpr (std::is_same_v<Value, cudnnPointwiseMode_t>)
    return CUDNN_TYPE_POINTWISE_MODE;
  else if constexpr (std::is_same_v<Value, cudnnReduceTensorOp_t>)
    return CUDNN_TYPE_REDUCTION_OPERATOR_TYPE;
  else if constexpr (std::is_same_v<Value, cudnnBackendNormMode_t>)
    return CUDNN_TYPE_NORM_MODE;
  else if constexpr (std::is_same_v<Value, cudnnBackendNormFwdPhase_t>)
    return CUDNN_TYPE_NORM_FWD_PHASE;
}

/// One descriptor. It keeps those that it refers to. Functions throw CudnnRefusal.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t kind);
  cudnnBackendDescriptor_t raw() const { return raw_.get(); }

  template <class Value>
  Descriptor& set(cudnnBackendAttributeName_t name, const Value* values, std::int64_t count) {
    return set_raw(name, attribute_type<Value>(), count, values);
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
    return set_all(name, std::span(&other, 1));
  }
  Descriptor& set_all(cudnnBackendAttributeName_t name, std::span<const Descriptor> others);
  /// `what` names it in a refusal.
  Descriptor& finalize(const char* what);
  /// The same without a throw: false when cuDNN refuses.
  bool try_finalize();

  std::int64_t number(cudnnBackendAttributeName_t name) const;
  void adopt(const Descriptor& other) { parts_.push_back(other); }

 private:
  Descriptor& set_raw(
      cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count, const void* values);

  std::shared_ptr<void> raw_;
  std::vector<Descriptor> parts_;
};

/// A tensor under the name `index` + 1; addresses are multiples of 16 bytes.
Descriptor tensor_descriptor(
    std::int64_t index, std::span<const std::int64_t> dims, std::span<const std::int64_t> strides, cudnnDataType_t type,
    Place place = Place::memory);

/// The steps as operations.
std::vector<Descriptor> operations_of(const GraphDescription& graph);

/// Up to `most` plans for a graph of these operations, whose engines `type` allows.
std::vector<CudnnPlan> plans_of(
    Family family, std::span<const Descriptor> operations, ElementType type, std::size_t most,
    const std::string& device_json);

}  // namespace avid::kernels::vendor
