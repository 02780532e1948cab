// tests/cli/scripts_test.cpp -- scripts/*.sh explain themselves, and begin nothing for words that they do not know
#include <filesystem>

#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;

/// All but what another script sources.
std::vector<fs::path> scripts() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(fs::path(AVID_SOURCE_DIR) / "scripts"))
    if (entry.path().extension() == ".sh" && entry.path().stem() != "gpu_stages") found.push_back(entry.path());
  return found;
}

}  // namespace

TEST_CASE("scripts/help/each says what it does and how it is called") {
  const std::vector<fs::path> all = scripts();
  CHECK(all.size() >= 12);
  for (const fs::path& script : all) {
    CAPTURE(script.string());
    for (const char* option : {"--help", "-h"}) {
      const ProgramResult result = run_program({"/bin/bash", script.string(), option});
      CAPTURE(result.out);
      CHECK(result.exit_code == 0);
      CHECK(result.err == "");
      const std::size_t usage = result.out.find("Usage: ");
      REQUIRE(usage != std::string::npos);
      CHECK(result.out.find(script.filename().string(), usage) != std::string::npos);
      CHECK(result.out.find("#") == std::string::npos);  // no line is cut wrongly
      CHECK(result.out.find("set -") == std::string::npos);
    }
  }
}

TEST_CASE("scripts/errors/an option that there is none") {
  for (const fs::path& script : scripts()) {
    const std::string name = script.stem().string();
    if (name == "clean_room") continue;  // what it does not know is a command for the clean room
    CAPTURE(name);
    const ProgramResult result = run_program({"/bin/bash", script.string(), "--nonsense"});
    CAPTURE(result.err);
    CHECK(result.exit_code != 0);  // 2, but where Python is missing that is said first
    CHECK(result.out == "");
    CHECK(result.err != "");
  }
  CHECK_FALSE(fs::exists(fs::path(AVID_SOURCE_DIR) / "--nonsense"));
}

TEST_CASE("scripts/mutate_kernels/a folder without a build is said, and left as it is") {
  if (run_program({"/usr/bin/env", "python3", "-c", ""}).exit_code != 0) return;
  const TempDir dir;
  const ProgramResult result = run_program(
      {"/bin/bash", (fs::path(AVID_SOURCE_DIR) / "scripts/mutate_kernels.sh").string(), "--file", "mask_mix", "--build",
       dir.path().string()});
  CHECK(result.exit_code == 1);
  CHECK(result.err.starts_with("mutate_kernels: --build: no build for Ninja in " + dir.path().string()));
  CHECK(fs::is_empty(dir.path()));
}

}  // namespace avid::test
