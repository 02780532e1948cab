// tests/house/includes_test.cpp -- includes point one way (design): a wrong arrow is named with its file and line
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "tests/doctest.h"
#include "tests/support.h"

namespace fs = std::filesystem;

namespace {

// What each folder may include besides itself.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"kernels", {}},
    {"tensor", {"kernels"}},
    {"autograd", {"kernels", "tensor"}},
    {"nn", {"tensor", "kernels", "autograd"}},
    {"diffusion", {"tensor", "kernels", "autograd", "nn"}},
    {"models", {"tensor", "kernels", "autograd", "nn", "diffusion"}},
    {"data", {"tensor", "kernels"}},
    {"eval", {"tensor", "kernels", "autograd", "nn", "diffusion", "models", "data"}},
    {"train", {"tensor", "kernels", "autograd", "nn", "diffusion", "models", "data", "eval"}},
};

std::vector<std::string> wrong_arrows(const fs::path& root) {
  const std::regex include_line("^\\s*#\\s*include\\s*\"([a-z_]+)/[^\"]*\"");
  std::vector<std::string> wrong;
  for (const auto& [folder, allowed] : kAllowed) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
      std::ifstream in(entry.path());
      std::string line;
      std::smatch match;
      for (int number = 1; std::getline(in, line); ++number) {
        if (!std::regex_search(line, match, include_line)) continue;
        const std::string target = match[1];
        if (target != folder && !allowed.contains(target))
          wrong.push_back(fmt::format("{}:{} includes {}", fs::relative(entry.path(), root).string(), number, line));
      }
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("includes/arrows/every folder includes only what stands below it") {
  for (const std::string& line : wrong_arrows(AVID_SOURCE_DIR)) FAIL_CHECK(line);
}

TEST_CASE("includes/arrows/a planted wrong arrow is found") {
  const avid::test::TempDir dir;
  for (const auto& [folder, allowed] : kAllowed) fs::create_directories(dir / folder);
  std::ofstream(dir / "kernels/bad.h") << "#pragma once\n#include \"tensor/tensor.h\"\n";
  std::ofstream(dir / "tensor/good.h") << "#include \"kernels/dtype.h\"\n#include <vector>\n";
  const auto wrong = wrong_arrows(dir.path());
  REQUIRE(wrong.size() == 1);
  CHECK(wrong[0].find("kernels/bad.h:2") != std::string::npos);
}
