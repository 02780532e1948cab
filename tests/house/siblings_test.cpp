// tests/house/siblings_test.cpp -- one op, one stem: every op in tensor/ops has its kernel, its gradient and its test
#include <fstream>
#include <map>
#include <set>

#include "tests/doctest.h"
#include "tests/support.h"

namespace fs = std::filesystem;

namespace {

// No op of their own: what several ops share.
const std::set<std::string> kShared = {"attention_block", "conv3d_size", "emulated_bf16",
                                       "library_route",   "on_device",   "operands"};
// Two other ops in one, on devices only.
const std::set<std::string> kDevicesOnly = {"conv3d_norm_film_silu", "norm_film_silu_conv3d"};
// Never differentiated: data in and out, fixed codes, the optimiser, diffusion steps. They have a kernel and a test in
// tests/tensor.
const std::set<std::string> kNoGradient = {"adam", "clip_mix", "frames", "moments", "timestep_code"};
// Gradients of what Tensor does itself (Tensor::to).
const std::set<std::string> kOfTensor = {"cast"};
// Small ops whose gradients are checked in one file together.
const std::map<std::string, std::string> kTestedIn = {
    {"cross_entropy", "losses"},        {"weighted_mse", "losses"},     {"embedding", "conditioning"},
    {"film_condition", "conditioning"}, {"unet_input", "conditioning"},
};

std::vector<std::string> missing_siblings(const fs::path& root) {
  std::set<std::string> stems;
  for (const auto& entry : fs::directory_iterator(root / "tensor/ops")) {
    const auto extension = entry.path().extension();
    if (extension == ".h" || extension == ".cpp") stems.insert(entry.path().stem().string());
  }
  std::vector<std::string> missing;
  for (const std::string& stem : stems) {
    if (kShared.contains(stem)) continue;
    std::vector<std::string> wanted = {
        "tensor/ops/" + stem + ".h", "tensor/ops/" + stem + ".cpp", "kernels/" + stem + ".h",
        "kernels/" + stem + (kDevicesOnly.contains(stem) ? ".cu" : "_cpu.cpp")};
    if (kNoGradient.contains(stem)) {
      wanted.push_back("tests/tensor/" + stem + "_test.cpp");
    } else {
      const auto together = kTestedIn.find(stem);
      wanted.push_back("autograd/ops/" + stem + ".h");
      wanted.push_back("autograd/ops/" + stem + ".cpp");
      wanted.push_back("tests/autograd/" + (together != kTestedIn.end() ? together->second : stem) + "_test.cpp");
    }
    for (const std::string& file : wanted)
      if (!fs::is_regular_file(root / file)) missing.push_back(file);
  }
  return missing;
}

}  // namespace

TEST_CASE("siblings/ops/every op has kernel, gradient and test") {
  for (const std::string& file : missing_siblings(AVID_SOURCE_DIR)) FAIL_CHECK("missing: " << file);
}

TEST_CASE("siblings/ops/every gradient belongs to an op") {
  for (const auto& entry : fs::directory_iterator(fs::path(AVID_SOURCE_DIR) / "autograd/ops")) {
    if (entry.path().extension() != ".h" || kOfTensor.contains(entry.path().stem().string())) continue;
    CAPTURE(entry.path().filename().string());
    CHECK(fs::exists(fs::path(AVID_SOURCE_DIR) / "tensor/ops" / entry.path().filename()));
  }
}

TEST_CASE("siblings/ops/grouped tests mention the op") {
  for (const auto& [stem, file] : kTestedIn) {
    CAPTURE(stem);
    std::ifstream in(fs::path(AVID_SOURCE_DIR) / "tests/autograd" / (file + "_test.cpp"));
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    CHECK(text.find("#include \"autograd/ops/" + stem + ".h\"") != std::string::npos);
    CHECK(text.find("TEST_CASE(\"" + stem + "/") != std::string::npos);
  }
}

TEST_CASE("siblings/ops/a planted gap is named") {
  const avid::test::TempDir dir;
  const auto put = [&](const std::string& file) {
    fs::create_directories((dir / file).parent_path());
    std::ofstream(dir / file) << "\n";
  };
  for (const char* file :
       {"tensor/ops/swish.h", "tensor/ops/swish.cpp", "tensor/ops/operands.h", "kernels/swish.h",
        "autograd/ops/swish.h", "autograd/ops/swish.cpp", "tests/autograd/swish_test.cpp"})
    put(file);
  CHECK(missing_siblings(dir.path()) == std::vector<std::string>{"kernels/swish_cpu.cpp"});
  put("kernels/swish_cpu.cpp");
  CHECK(missing_siblings(dir.path()).empty());
}
