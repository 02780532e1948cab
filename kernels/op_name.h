// kernels/op_name.h -- the op that runs, with more words than current_op() (op_timer.h): for who writes down launches
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

namespace avid::kernels {

/// Which of its kinds an op is, where that decides what it costs.
struct OpVariant {
  const char* pass = "";  ///< of a convolution: "fwd", "data" or "weights"
  std::array<std::int64_t, 3> kernel{};

  /// "3x3 weights", "1x1 fwd": extents over time only where there are any; empty without a variant.
  std::string text() const;
};

/// Said by the op that runs, before its note_flops(); holds until it is over or says otherwise.
void note_variant(const OpVariant& variant);

/// "conv3d_bwd": the op begun last on this thread that is not over; empty outside of all.
std::string current_op_name();
/// What that op said of itself; an empty one if nothing.
OpVariant current_variant();

/// Called with everything that ops say by note_flops() while they run. Empty: nobody listens. Not while ops run.
void set_flops_listener(std::function<void(double flops)> listener);

}  // namespace avid::kernels
