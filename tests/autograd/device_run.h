// tests/autograd/device_run.h -- a function of Vars on the device under test: what comes out of it, and what it took
#pragma once

#include <map>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "kernels/op_timer.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {

struct DeviceRun {
  Tensor out;
  std::vector<Tensor> grads;  ///< undefined where nobody asked
  std::map<std::string, kernels::OpTime> times;
};

/// Forward, and backward from a fixed gradient where something asks for one; back on the CPU. Undefined operands are
/// absent.
template <class F>
DeviceRun run(F&& f, const std::vector<Tensor>& operands, const std::vector<bool>& requires_grad) {
  std::vector<Var> in;
  bool any = false;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    in.push_back(operands[i].defined() ? Var(operands[i], requires_grad[i]) : Var());
    any = any || (operands[i].defined() && requires_grad[i]);
  }
  kernels::set_op_timing(kernels::Collect::sums);
  const Var out = f(in);
  CHECK(out.requires_grad() == any);
  DeviceRun result;
  result.out = out.value().to(Device{});
  if (any) out.backward(random_tensor(out.shape(), DType::f32, 11).to(out.dtype()).to(device_under_test()));
  result.times = kernels::op_times();
  kernels::set_op_timing(kernels::Collect::nothing);
  for (const Var& v : in) result.grads.push_back(v.defined() && v.grad().defined() ? v.grad().to(Device{}) : Tensor());
  return result;
}

}  // namespace avid::test
