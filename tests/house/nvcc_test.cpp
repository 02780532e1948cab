// tests/house/nvcc_test.cpp -- C++ that nvcc translates wrongly does not stand in what it compiles
#include <fstream>
#include <regex>
#include <sstream>

#include "tests/doctest.h"
#include "tests/support.h"

namespace fs = std::filesystem;

namespace {

/// Assignments of braced lists with designators, as "plan.size = {.rows = n}". cudafe++ of CUDA 13 drops the
/// designators where a value depends on a template parameter, so that members before a skipped one keep their values
/// and those behind it move forward. Declarations, arguments and return values come out right, and so does a list
/// with its type before it.
std::vector<std::string> assigned_designators(const std::string& text) {
  static const std::regex assignment(
      R"((?:^|[;:{}(),]|\n)\s*([A-Za-z_][\w.\[\]]*(?:->[\w.\[\]]+)*)\s*=\s*\{\s*\.\s*[a-zA-Z_])");
  std::vector<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), assignment), end; it != end; ++it) found.push_back((*it)[1]);
  return found;
}

/// Instructions of a whole warp that stand in an asm without `volatile`: the compiler may move those, and into a branch
/// that only some lanes take if nothing else uses the result.
std::vector<std::string> movable_warp_instructions(const std::string& text) {
  static const std::regex assembly(R"(\basm\s*\(\s*"([^"]*))");
  std::vector<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), assembly), end; it != end; ++it)
    if (const std::string code = (*it)[1]; code.find(".sync") != std::string::npos)
      found.push_back(code.substr(0, code.find(' ')));
  return found;
}

std::string read(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("nvcc/designators/are not assigned without their type in what nvcc reads") {
  const fs::path kernels = fs::path(AVID_SOURCE_DIR) / "kernels";
  std::size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kernels)) {
    const fs::path path = entry.path();
    if (path.extension() != ".cu" && path.extension() != ".h") continue;
    if (path.string().find("/kernels/sim/") != std::string::npos) continue;  // never seen by nvcc
    ++files;
    for (const std::string& target : assigned_designators(read(path)))
      FAIL_CHECK(path.string() << ": " << target << " = {.x = ...}: nvcc drops the designators | name the type first");
  }
  CHECK(files > 80);
}

TEST_CASE("nvcc/assembly/instructions of a whole warp are volatile") {
  const fs::path device = fs::path(AVID_SOURCE_DIR) / "kernels/device";
  for (const char* name : {"gpu_cuda.h", "warpgroup_cuda.h"}) {
    const std::string text = read(device / name);
    CHECK(text.find("asm volatile(") != std::string::npos);
    for (const std::string& code : movable_warp_instructions(text))
      FAIL_CHECK(name << ": " << code << " may be moved into a branch | asm volatile");
  }
  using Names = std::vector<std::string>;
  CHECK(
      movable_warp_instructions("asm(\n    \"mma.sync.aligned.m16n8k8 {%0}\" :") == Names{"mma.sync.aligned.m16n8k8"});
  CHECK(movable_warp_instructions("asm volatile(\"mma.sync.aligned %0\"); asm(\"cvt.rna %0\");") == Names{});
}

TEST_CASE("nvcc/designators/the search finds what it is for") {
  using Names = std::vector<std::string>;
  CHECK(assigned_designators("{\n  plan.size = {.P = p.rows, .O = 3};\n}") == Names{"plan.size"});
  CHECK(assigned_designators("if (x) a->b = {\n      .P = 1};") == Names{"a->b"});
  CHECK(assigned_designators("size = { .P = 1 };") == Names{"size"});
  CHECK(assigned_designators("Size size = {.P = 1};") == Names{});
  CHECK(assigned_designators("size = Size{.P = 1};\nreturn {.P = 1};\ntake({.P = 1});\nint a[] = {1, 2};") == Names{});
}
