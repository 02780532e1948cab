// tests/models/golden_test.cpp -- the reference cases of tests/golden/pixel, made by the original modules in f64
//
// f32: the tolerances of tests/golden/pixel/README.md. f64: the files hold the original's f64 results rounded to f32,
// so ours, rounded the same way, must be the same numbers; 1e-9 leaves room for a rare number that falls beside a
// rounding border.
#include <algorithm>
#include <map>
#include <set>

#include "diffusion/schedule.h"
#include "models/audit.h"
#include "models/avid.h"
#include "models/checkpoint.h"
#include "models/video_layout.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

struct Tolerance {
  double output, gradient, scalar;
};
Tolerance tolerance_of(DType dtype) {
  return dtype == DType::f64 ? Tolerance{1e-9, 1e-9, 1e-13} : Tolerance{5e-6, 3e-5, 1e-6};
}

std::map<std::string, Tensor> by_name(const NamedTensors& tensors) { return {tensors.begin(), tensors.end()}; }

std::map<std::string, Tensor> expected_of(const std::string& name) {
  return by_name(open_tensor_file(test::golden("pixel/" + name + "/expected.safetensors"))->load_all());
}

// One line per tensor of the reference file that is absent or disagrees, and per gradient that the reference does not
// have.
std::string disagreements(
    const std::map<std::string, Tensor>& outputs, const std::map<std::string, Tensor>& expected, DType dtype) {
  const Tolerance tolerance = tolerance_of(dtype);
  std::string report;
  for (const auto& [name, reference] : expected) {
    const auto found = outputs.find(name);
    if (found == outputs.end()) {
      report += name + " is missing\n";
      continue;
    }
    const double allowed = name.starts_with("grad.")         ? tolerance.gradient
                           : reference.dtype() == DType::f64 ? tolerance.scalar
                                                             : tolerance.output;
    const Tensor as_stored = found->second.to(reference.dtype()).to(DType::f64);
    const double error = test::rel_l2(as_stored, reference.to(DType::f64));
    if (!(error <= allowed)) report += fmt::format("{}: relative error {:.3g}, allowed {:.3g}\n", name, error, allowed);
  }
  for (const auto& [name, tensor] : outputs)
    if (name.starts_with("grad.") && !expected.contains(name))
      report += name + ": the reference has no such gradient\n";
  return report;
}

AuditRequest request(const std::string& name, DType dtype) {
  AuditRequest r;
  r.input = test::golden("pixel/" + name + "/input.safetensors");
  r.dtype = dtype;
  r.grads = true;
  return r;
}

}  // namespace

TEST_CASE("golden/avid_mask") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name_of(dtype));
    AuditRequest r = request("avid_mask", dtype);
    r.base = test::golden("pixel/avid_mask/base.safetensors");
    r.adapter = test::golden("pixel/avid_mask/adapter.safetensors");
    const auto outputs = by_name(audit(r));
    CHECK(disagreements(outputs, expected_of("avid_mask"), dtype) == "");
    CHECK(outputs.contains("grad.adapter.action_emb.weight"));
  }
}

TEST_CASE("golden/controlnet_small") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name_of(dtype));
    AuditRequest r = request("controlnet_small", dtype);
    r.base = test::golden("pixel/controlnet_small/base.safetensors");
    r.controlnet = test::golden("pixel/controlnet_small/controlnet.safetensors");
    CHECK(disagreements(by_name(audit(r)), expected_of("controlnet_small"), dtype) == "");
  }
}

TEST_CASE("golden/classifier") {
  // case.json: guidance_weight 0.3; the shift of the posterior mean is weight * v_t * gradient.
  const diffusion::Schedule schedule(diffusion::ScheduleKind::sigmoid, 200);
  const std::vector<std::int64_t> t =
      open_tensor_file(test::golden("pixel/classifier/input.safetensors"))->load("t").to_values<std::int64_t>();
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name_of(dtype));
    AuditRequest r = request("classifier", dtype);
    r.classifier = test::golden("pixel/classifier/classifier.safetensors");
    const auto outputs = by_name(audit(r));
    const Tensor& gradient = outputs.at("guidance_gradient");
    std::vector<double> shift = gradient.to_doubles();
    const std::size_t per_clip = shift.size() / t.size();
    for (std::size_t i = 0; i < shift.size(); ++i)
      shift[i] *= 0.3 * schedule.f32().posterior_variance[static_cast<std::size_t>(t[i / per_clip])];
    auto expected = expected_of("classifier");
    const Tensor expected_shift = expected.extract("guidance_shift").mapped();
    // The original multiplies in f32, so this tensor has several roundings.
    CHECK(
        test::rel_l2(Tensor::from_values(shift, gradient.shape()), expected_shift.to(DType::f64)) <
        (dtype == DType::f64 ? 1e-7 : 5e-6));
    CHECK(disagreements(outputs, expected, dtype) == "");
  }
}

TEST_CASE("golden/mixed") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name_of(dtype));
    AuditRequest r = request("mixed", dtype);
    r.base = test::golden("pixel/mixed/base.safetensors");
    r.action_model = test::golden("pixel/mixed/action_model.safetensors");
    r.poe = 0.4;
    r.action_cfg = 3.0;
    r.grads = false;
    CHECK(disagreements(by_name(audit(r)), expected_of("mixed"), dtype) == "");
  }
}

TEST_CASE("golden/base_alone") {
  AuditRequest r = request("avid_mask", DType::f64);
  r.base = test::golden("pixel/avid_mask/base.safetensors");
  const auto outputs = by_name(audit(r)), expected = expected_of("avid_mask");
  CHECK(test::rel_l2(outputs.at("prediction_no_action"), expected.at("base").to(DType::f64)) < 7e-8);
  CHECK(test::rel_l2(outputs.at("prediction"), expected.at("base").to(DType::f64)) > 1e-2);  // this one has the actions
  CHECK(outputs.at("loss").item() > 0);
  CHECK(outputs.contains("grad.init_conv.weight"));
  CHECK_FALSE(outputs.contains("grad.null_action_emb"));
}

}  // namespace avid
