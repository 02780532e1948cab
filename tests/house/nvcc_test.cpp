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

TEST_CASE("nvcc/designators/the search finds what it is for") {
  using Names = std::vector<std::string>;
  CHECK(assigned_designators("{\n  plan.size = {.P = p.rows, .O = 3};\n}") == Names{"plan.size"});
  CHECK(assigned_designators("if (x) a->b = {\n      .P = 1};") == Names{"a->b"});
  CHECK(assigned_designators("size = { .P = 1 };") == Names{"size"});
  CHECK(assigned_designators("Size size = {.P = 1};") == Names{});
  CHECK(assigned_designators("size = Size{.P = 1};\nreturn {.P = 1};\ntake({.P = 1});\nint a[] = {1, 2};") == Names{});
}
