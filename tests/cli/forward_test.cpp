// tests/cli/forward_test.cpp -- `avid forward`: options, outputs, exit codes and messages
#include <nlohmann/json.hpp>

#include <map>

#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

std::string file(const std::string& name) { return test::golden("pixel/" + name + ".safetensors").string(); }

test::ProgramResult forward(std::vector<std::string> options) {
  std::vector<std::string> command{AVID_PROGRAM, "forward"};
  command.insert(command.end(), options.begin(), options.end());
  return test::run_program(command);
}

// Runs a case that must succeed and compares every tensor of the reference file.
std::string differences(const std::string& name, std::vector<std::string> options, double tolerance) {
  const test::TempDir dir;
  const std::string out = (dir / "out.safetensors").string();
  for (const std::string& option : {std::string("--input"), file(name + "/input"), std::string("--output"), out})
    options.push_back(option);
  const test::ProgramResult result = forward(options);
  if (result.exit_code != 0) return result.err;
  if (!result.err.empty()) return "printed to stderr: " + result.err;
  const auto outputs = open_tensor_file(out), expected = open_tensor_file(file(name + "/expected"));
  std::string report;
  for (const std::string& tensor : expected->names()) {
    if (tensor == "guidance_shift") continue;  // needs a weight, which the program is not given
    if (!outputs->contains(tensor)) {
      report += tensor + " is missing\n";
    } else if (!(test::rel_l2(outputs->load(tensor).to(DType::f64), expected->load(tensor).to(DType::f64)) <=
                 tolerance)) {
      report += tensor + " differs\n";
    }
  }
  return report;
}

// A file with some tensors of another one.
void copy_without(const std::string& from, const std::string& to, const std::string& left_out) {
  NamedTensors kept;
  for (const auto& [name, tensor] : open_tensor_file(from)->load_all())
    if (name != left_out) kept.emplace_back(name, tensor);
  save_safetensors(to, kept);
}

}  // namespace

TEST_CASE("forward/golden/every_method") {
  CHECK(
      differences(
          "avid_mask", {"--base", file("avid_mask/base"), "--adapter", file("avid_mask/adapter"), "--grads"}, 3e-5) ==
      "");
  CHECK(
      differences(
          "avid_mask",
          {"--base", file("avid_mask/base"), "--adapter", file("avid_mask/adapter"), "--grads", "--dtype", "f64"},
          6e-8) == "");
  CHECK(
      differences(
          "controlnet_small",
          {"--base", file("controlnet_small/base"), "--controlnet", file("controlnet_small/controlnet"), "--grads"},
          3e-5) == "");
  CHECK(differences("classifier", {"--classifier", file("classifier/classifier"), "--grads"}, 3e-5) == "");
  CHECK(
      differences(
          "mixed",
          {"--base", file("mixed/base"), "--action-model", file("mixed/action_model"), "--poe", "0.4", "--action-cfg",
           "3"},
          5e-6) == "");
}

TEST_CASE("forward/controlnet/the_order_of_the_middle_outputs_is_a_choice") {
  const test::TempDir dir;
  const auto outputs = [&](std::vector<std::string> options) {
    const std::string out = dir / "out.safetensors";
    options.insert(
        options.begin(), {"--base", file("controlnet_small/base"), "--controlnet", file("controlnet_small/controlnet"),
                          "--input", file("controlnet_small/input"), "--output", out});
    REQUIRE(forward(options).exit_code == 0);
    const auto opened = open_tensor_file(out);
    return std::pair(opened->load("prediction"), opened->load("control.3"));
  };
  const auto plain = outputs({}), reversed = outputs({"--control-order", "reversed"}),
             natural = outputs({"--control-order", "natural"});
  CHECK(test::same_bits(plain.first, reversed.first));
  CHECK(test::rel_l2(natural.first, plain.first) > 1e-3);
  CHECK(test::same_bits(natural.second, plain.second));  // what leaves the ControlNet is the same
}

TEST_CASE("forward/json/one_value") {
  const test::TempDir dir;
  const test::ProgramResult result = forward(
      {"--base", file("mixed/base"), "--input", file("mixed/input"), "--output", (dir / "o.safetensors").string(),
       "--objective", "pred_v", "--schedule", "cosine", "--json"});
  REQUIRE(result.exit_code == 0);
  const auto report = nlohmann::json::parse(result.out);
  CHECK(report["tensors"]["prediction"] == std::vector<int>{2, 3, 4, 16, 16});
  CHECK(report["tensors"].contains("prediction_no_action"));
  CHECK(report["tensors"]["loss"] == report["tensors"]["loss_pred_v"]);
  CHECK(report["tensors"]["loss"] != report["tensors"]["loss_pred_x0"]);
  const auto outputs = open_tensor_file(dir / "o.safetensors");
  CHECK(outputs->metadata().at("objective") == "pred_v");
  for (const std::string& name : outputs->names()) CHECK_FALSE(name.starts_with("grad."));
}

TEST_CASE("forward/input/x_t_is_made_when_absent") {
  const test::TempDir dir;
  copy_without(file("mixed/input"), (dir / "input.safetensors").string(), "x_t");
  const std::string a = (dir / "a.safetensors").string(), b = (dir / "b.safetensors").string();
  REQUIRE(
      forward({"--base", file("mixed/base"), "--input", (dir / "input.safetensors").string(), "--output", a})
          .exit_code == 0);
  REQUIRE(forward({"--base", file("mixed/base"), "--input", file("mixed/input"), "--output", b}).exit_code == 0);
  CHECK(test::rel_l2(open_tensor_file(a)->load("prediction"), open_tensor_file(b)->load("prediction")) < 1e-5);
}

TEST_CASE("forward/usage/exit_2") {
  const std::string in = file("mixed/input"), base = file("mixed/base");
  const auto exit_code = [&](std::vector<std::string> options) {
    for (const std::string& option : {std::string("--input"), in, std::string("--output"), std::string("/dev/null/x")})
      options.push_back(option);
    return forward(options).exit_code;
  };
  CHECK(exit_code({}) == 2);                                                         // no network
  CHECK(exit_code({"--base", base, "--adapter", base, "--controlnet", base}) == 2);  // two methods
  CHECK(exit_code({"--base", base, "--action-model", base}) == 2);                   // no weight
  CHECK(exit_code({"--base", base, "--poe", "0.5"}) == 2);                           // no action model
  for (const char* weight : {"nan", "inf", "-inf"})
    CHECK(exit_code({"--base", base, "--action-model", base, "--poe", weight}) == 2);
  CHECK(exit_code({"--base", base, "--objective", "pred_y"}) == 2);
  CHECK(exit_code({"--base", base, "--dtype", "f13"}) == 2);
  CHECK(exit_code({"--base", base, "--timesteps", "0"}) == 2);
  CHECK(exit_code({"--base", base, "--control-order", "natural"}) == 2);  // no ControlNet
  CHECK(forward({"--base", base}).exit_code == 2);                        // no input, no output
  CHECK(forward({"--help"}).exit_code == 0);
  CHECK(forward({"--help"}).out.find("Example:") != std::string::npos);
}

TEST_CASE("forward/failures/exit_1_and_one_line") {
  const test::TempDir dir;
  const std::string out = (dir / "out.safetensors").string(), input = (dir / "input.safetensors").string();
  const auto error = [&](std::vector<std::string> options) {
    const test::ProgramResult result = forward(options);
    CHECK(result.exit_code == 1);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK_FALSE(std::filesystem::exists(out));
    return result.err;
  };
  const std::string base = file("avid_mask/base"), adapter = file("avid_mask/adapter"), in = file("avid_mask/input");
  CHECK(error({"--base", base, "--input", in, "--output", out, "--device", "cuda"}).starts_with("error: "));
  CHECK(error({"--base", (dir / "none").string(), "--input", in, "--output", out}).find("none") != std::string::npos);
  CHECK(
      error({"--base", base, "--adapter", base, "--input", in, "--output", out}).find("expected an AVID adapter") !=
      std::string::npos);
  CHECK(
      error({"--base", base, "--input", in, "--output", out, "--timesteps", "100"}).find("150") !=
      std::string::npos);  // t = 150 is outside
  CHECK(
      error({"--base", base, "--controlnet", file("controlnet_small/controlnet"), "--input", in, "--output", out})
          .find("expected a ControlNet for a base of width 16 with 2 levels and 2 conditioning frames, got 14, 2 and "
                "2") != std::string::npos);
  copy_without(in, input, "cond");
  CHECK(error({"--base", base, "--input", input, "--output", out}).find("tensor cond is missing") != std::string::npos);
  copy_without(in, input, "actions");
  CHECK(
      error({"--base", base, "--adapter", adapter, "--input", input, "--output", out})
          .find("tensor actions is missing") != std::string::npos);
  copy_without(in, input, "noise");
  CHECK(
      error({"--base", base, "--input", input, "--output", out, "--grads"}).find("--grads needs x0 and noise") !=
      std::string::npos);
  CHECK(
      error({"--base", base, "--input", in, "--output", "/proc/none/out.safetensors"}).find("/proc/none") !=
      std::string::npos);
}

}  // namespace avid
