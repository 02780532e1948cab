// kernels/vendor/cudnn_plan.h -- from a described problem to an execution plan of cuDNN's graph interface
//
// A plan can also be made for a GPU that is only described (cuDNN's own JSON of a device's properties): so that
// descriptors and engines are tested where there is no GPU.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "kernels/vendor/attention_problem.h"
#include "kernels/vendor/conv_problem.h"
#include "kernels/vendor/norm_problem.h"
#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// A way to compute a problem, ready to run.
class CudnnPlan {
 public:
  struct Properties {
    std::int64_t workspace_bytes = 0, engine = 0;
    EngineNotes notes;
  };
  /// `plan` keeps everything that it was made from.
  CudnnPlan(Family family, std::shared_ptr<void> plan, const Properties& properties)
      : family_(family), plan_(std::move(plan)), properties_(properties) {}

  std::int64_t workspace_bytes() const { return properties_.workspace_bytes; }
  /// Number of the engine, and what cuDNN says of its arithmetic.
  std::int64_t engine() const { return properties_.engine; }
  const EngineNotes& notes() const { return properties_.notes; }

  /// One pointer per tensor of the problem, in its order (convolutions: x, w, y); null: the graph has no such tensor.
  /// cuDNN takes all as writable; it writes the results only.
  void run(const Stream& stream, std::initializer_list<const void*> tensors, void* workspace) const;

 private:
  Family family_;
  std::shared_ptr<void> plan_;
  Properties properties_;
};

/// Up to `most` plans that may be used (engine_allowed, workspace), in the order of cuDNN's heuristics. `device_json`
/// describes the GPU; empty: the current one. LibraryError when there is no plan, or no cuDNN.
std::vector<CudnnPlan> cudnn_plans(const ConvProblem& problem, std::size_t most, const std::string& device_json = {});
/// Tensors: attention_tensor::Name.
std::vector<CudnnPlan> cudnn_plans(
    const AttentionProblem& problem, std::size_t most, const std::string& device_json = {});
/// Tensors: norm_tensor::Name.
std::vector<CudnnPlan> cudnn_plans(const NormProblem& problem, std::size_t most, const std::string& device_json = {});

}  // namespace avid::kernels::vendor
