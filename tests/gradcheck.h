// tests/gradcheck.h -- gradients of a differentiable op against central differences in f64
//
//   CHECK(gradient_errors([&](const std::vector<Var>& in) { return linear(in[0], in[1], in[2]); },
//                         {random_tensor({2, 3, 5}, DType::f64, 1), random_tensor({4, 5}, DType::f64, 2), {}}) == "");
//
// With a random upstream gradient g (ones would hide errors that cancel) the scalar L(x) = sum g * f(x) is compared,
// for every input, along random directions of all its elements and along single coordinates:
//   sum_i (dL/dx_i) u_i  =  (L(x + h u) - L(x - h u)) / 2h
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "tests/support.h"

namespace avid::test {

struct GradCheckOptions {
  double tolerance = 1e-7;   ///< relative to the size of the directional derivative and of the input's gradient
  double step = 6e-6;        ///< h, times max(1, |x|); about the cube root of the f64 rounding unit
  int num_directions = 2;    ///< random directions per input
  int num_coordinates = 12;  ///< single coordinates per input, spread evenly; all of them when the input has no more
  std::uint64_t seed = 1;
};

using GradFunction = std::function<Var(const std::vector<Var>&)>;

namespace gradcheck_detail {

inline std::vector<Var> leaves(const std::vector<Tensor>& inputs, const std::vector<bool>& requires_grad) {
  std::vector<Var> vars;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    vars.push_back(inputs[i].defined() ? Var(inputs[i].clone(), requires_grad[i], fmt::format("input {}", i)) : Var());
  }
  return vars;
}

/// Gradients of sum g * f(inputs), dense; an empty vector for inputs that got none.
inline std::vector<std::vector<double>> gradients(
    const GradFunction& f, const std::vector<Tensor>& inputs, const std::vector<bool>& requires_grad, const Tensor& g,
    std::string& errors) {
  std::vector<Var> vars = leaves(inputs, requires_grad);
  f(vars).backward(g);
  std::vector<std::vector<double>> result(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!vars[i].defined() || !requires_grad[i] || !vars[i].grad().defined()) continue;
    const Tensor& grad = vars[i].grad();
    if (!(grad.shape() == inputs[i].shape())) {
      errors += fmt::format("input {}: gradient has shape {}, the input {}\n", i, grad.shape(), inputs[i].shape());
      continue;
    }
    if (!gaps_are_zero(grad)) errors += fmt::format("input {}: the gradient's row gaps are not zero\n", i);
    result[i] = grad.to_doubles();
  }
  return result;
}

inline double norm(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

}  // namespace gradcheck_detail

/// Checks all gradients of `f` at `inputs` (f64; undefined tensors are passed on as absent). Returns one line per
/// disagreement, so "" means that all gradients are right. Also checked: an input alone in needing a gradient gets the
/// same one, and with no input needing one nothing is recorded.
inline std::string gradient_errors(
    const GradFunction& f, const std::vector<Tensor>& inputs, const GradCheckOptions& options = {}) {
  using gradcheck_detail::gradients, gradcheck_detail::leaves, gradcheck_detail::norm;
  const std::size_t n = inputs.size();
  std::string errors;
  for (const Tensor& t : inputs) {
    if (t.defined() && t.dtype() != DType::f64) return "gradient_errors needs f64 inputs\n";
  }

  const Var plain = f(leaves(inputs, std::vector<bool>(n, false)));
  if (plain.requires_grad()) errors += "no input needs a gradient, but the output does\n";
  const std::vector<double> out = plain.value().to_doubles();
  const Tensor g = random_tensor(plain.shape(), DType::f64, options.seed * 7919 + 17);
  const std::vector<double> g_values = g.to_doubles();
  // Rounding of the outputs, carried into a difference quotient with step 1.
  double noise = 0;
  for (std::size_t k = 0; k < out.size(); ++k) noise += out[k] * g_values[k] * out[k] * g_values[k];
  noise = 32 * std::numeric_limits<double>::epsilon() * std::sqrt(noise);

  const auto all = gradients(f, inputs, std::vector<bool>(n, true), g, errors);
  for (std::size_t i = 0; i < n; ++i) {
    if (!inputs[i].defined()) continue;
    const std::vector<double> x = inputs[i].to_doubles();
    const std::vector<double> grad = all[i].empty() ? std::vector<double>(x.size(), 0.0) : all[i];
    if (x.empty()) continue;
    const double grad_norm = norm(grad), grad_rms = grad_norm / std::sqrt(static_cast<double>(x.size()));

    // L(x + h u) - L(x - h u), summed over differences of outputs so that the large common part cancels first.
    const auto difference = [&](const std::vector<double>& u, double h) {
      const auto outputs = [&](double signed_h) {
        std::vector<double> moved = x;
        for (std::size_t k = 0; k < x.size(); ++k) moved[k] += signed_h * u[k];
        std::vector<Tensor> at = inputs;
        at[i] = Tensor::from_values(moved, inputs[i].shape());
        return f(leaves(at, std::vector<bool>(n, false))).value().to_doubles();
      };
      const std::vector<double> plus = outputs(h), minus = outputs(-h);
      double sum = 0;
      for (std::size_t k = 0; k < plus.size(); ++k) sum += g_values[k] * (plus[k] - minus[k]);
      return sum;
    };
    const auto compare = [&](const std::vector<double>& u, double h, double scale, const std::string& what) {
      double analytic = 0;
      for (std::size_t k = 0; k < x.size(); ++k) analytic += grad[k] * u[k];
      const double numeric = difference(u, h) / (2 * h);
      const double allowed = options.tolerance * (std::abs(numeric) + scale) + noise / h;
      if (!(std::abs(analytic - numeric) <= allowed)) {
        errors += fmt::format(
            "input {} {}: {}: backward says {:.10g}, differences say {:.10g}, allowed {:.2g}\n", i, inputs[i].shape(),
            what, analytic, numeric, allowed);
      }
    };

    double largest = 1;
    for (double v : x) largest = std::max(largest, std::abs(v));
    for (int d = 0; d < options.num_directions; ++d) {
      const std::uint64_t seed = options.seed * 104729 + i * 31 + static_cast<std::uint64_t>(d);
      const std::vector<double> u = random_tensor({inputs[i].numel()}, DType::f64, seed).to_doubles();
      compare(u, options.step * largest, grad_norm, fmt::format("random direction {}", d));
    }
    const std::size_t count = std::min(x.size(), static_cast<std::size_t>(options.num_coordinates));
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t k = count == 1 ? 0 : c * (x.size() - 1) / (count - 1);
      std::vector<double> u(x.size(), 0.0);
      u[k] = 1;
      compare(u, options.step * std::max(1.0, std::abs(x[k])), grad_rms, fmt::format("element {}", k));
    }

    // The same input alone: rules skip what is not needed, and must not skip more.
    std::vector<bool> only(n, false);
    only[i] = true;
    const std::vector<double> alone = gradients(f, inputs, only, g, errors)[i];
    double apart = 0;
    for (std::size_t k = 0; k < std::min(alone.size(), grad.size()); ++k) {
      apart = std::max(apart, std::abs(alone[k] - grad[k]));
    }
    if ((alone.empty() && grad_norm > 0) || !(apart <= 1e-12 * (grad_norm + 1e-300))) {
      errors +=
          fmt::format("input {}: another gradient when it alone needs one (largest difference {:.3g})\n", i, apart);
    }
  }
  return errors;
}

}  // namespace avid::test
