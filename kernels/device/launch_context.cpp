// kernels/device/launch_context.cpp -- see launch_context.h
#include "kernels/device/launch_context.h"

#include <algorithm>
#include <array>

#include "kernels/op_timer.h"

namespace avid::kernels {
namespace {

constexpr std::size_t kKept = 8, kMaxRank = 8;

struct NotedTensor {
  const char* dtype = nullptr;
  std::array<std::int64_t, kMaxRank> extents{};
  std::size_t rank = 0;
};

/// Of the op that took a pointer last.
struct Noted {
  std::uint64_t op = 0;  // as ops_begun() counts them
  std::array<NotedTensor, kKept> tensors;
  std::size_t count = 0;  // of all; the last kKept are kept
};

thread_local Noted noted;

std::string text_of(const NotedTensor& tensor) {
  std::string text = std::string(tensor.dtype) + " [";
  for (std::size_t d = 0; d < tensor.rank; ++d) {
    if (d > 0) text += ',';
    text += std::to_string(tensor.extents[d]);
  }
  return text + "]";
}

}  // namespace

void note_device_tensor(const char* dtype, std::span<const std::int64_t> extents) {
  if (current_op() == nullptr) return;
  if (const std::uint64_t op = ops_begun(); op != noted.op) noted.op = op, noted.count = 0;
  NotedTensor& tensor = noted.tensors[noted.count++ % kKept];
  tensor.dtype = dtype;
  tensor.rank = std::min(extents.size(), kMaxRank);
  std::copy_n(extents.begin(), tensor.rank, tensor.extents.begin());
}

std::string running_op() {
  const char* op = current_op();
  if (op == nullptr) return "";
  const std::string& module = current_module();
  return module.empty() ? op : std::string(op) + " in " + module;
}

std::string tensors_of_running_op() {
  if (current_op() == nullptr || noted.op != ops_begun()) return "";
  std::string text;
  for (std::size_t i = noted.count > kKept ? noted.count - kKept : 0; i < noted.count; ++i)
    text += (text.empty() ? "" : ", ") + text_of(noted.tensors[i % kKept]);
  return text;
}

}  // namespace avid::kernels
