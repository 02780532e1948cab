// kernels/vendor/cudnn_plan.h -- from a described convolution to an execution plan of cuDNN's graph interface
//
// A plan can also be made for a GPU that is only described (cuDNN's own JSON of a device's properties): so that
// descriptors and engines are tested where there is no GPU.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/vendor/conv_problem.h"
#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// A way to compute a problem, ready to run.
class CudnnPlan {
 public:
  std::int64_t workspace_bytes() const { return workspace_bytes_; }
  /// Number of the engine, and what cuDNN says of its arithmetic.
  std::int64_t engine() const { return engine_; }
  const EngineNotes& notes() const { return notes_; }

  /// x (d_x), w (d_w), y (d_out) as the problem describes them; the pass's result is overwritten.
  void run(const Stream& stream, void* x, void* w, void* y, void* workspace) const;

 private:
  friend std::vector<CudnnPlan> cudnn_plans(const ConvProblem&, std::size_t, const std::string&);
  std::shared_ptr<void> plan_;  // keeps everything that it was made from
  std::int64_t workspace_bytes_ = 0, engine_ = 0;
  EngineNotes notes_;
};

/// Up to `most` plans that may be used (engine_allowed, workspace), in the order of cuDNN's heuristics. `device_json`
/// describes the GPU; empty: the current one. LibraryError when there is no plan, or no cuDNN.
std::vector<CudnnPlan> cudnn_plans(const ConvProblem& problem, std::size_t most, const std::string& device_json = {});

}  // namespace avid::kernels::vendor
