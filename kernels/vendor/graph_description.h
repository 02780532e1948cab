// kernels/vendor/graph_description.h -- small graphs of matrix products and element-wise steps for cuDNN; plain data
//
// cuDNN has no operation that is "attention": it recognises the steps. They stand here as data, so that the same list
// is handed to cuDNN (cudnn_graph.h) and carried out by plain loops in a test.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace avid::kernels::vendor {

/// Where the numbers of a tensor are: in device memory, nowhere (a step's result that only other steps read), or one
/// f32 in host memory, read when the graph is run.
enum class Place { memory, between, host };

/// Element [i0,...,i3] lies at sum_d i_d * strides[d]. bf16, or else f32.
struct GraphTensor {
  std::array<std::int64_t, 4> dims{}, strides{};
  bool bf16 = false;
  Place place = Place::memory;
};

/// out = a b (products of the last two dimensions); a * b, a - b, a + b, a / b element by element, where a dimension of
/// b may be 1; exp, log; maximum and sum over the dimensions in which out has 1; `turned`: the same memory as a, read
/// with the last two dimensions exchanged.
enum class Step { product, multiply, subtract, add, divide, exp, log, maximum, sum, turned };

/// Tensors are named by their index.
struct GraphStep {
  Step step = Step::product;
  int a = 0, b = -1, out = 0;  ///< b: -1 for none
};

struct GraphDescription {
  std::vector<GraphTensor> tensors;
  std::vector<GraphStep> steps;  ///< in order
};

}  // namespace avid::kernels::vendor
