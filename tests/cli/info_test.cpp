// tests/cli/info_test.cpp -- `avid info` and the program's own options
#include <nlohmann/json.hpp>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::ProgramResult;
using test::run_program;

TEST_CASE("info/json/names_build_devices_and_every_library") {
  const ProgramResult result = run_program({AVID_PROGRAM, "info", "--json"});
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  const auto json = nlohmann::json::parse(result.out);
  CHECK(!json["version"].get<std::string>().empty());
  CHECK(json["threads"].get<int>() >= 1);
  CHECK(json["devices"][0] == "cpu");
  for (const char* library :
       {"oneDNN", "HDF5", "fmt", "libzip", "zlib", "CLI11", "cpp-httplib", "giflib", "stb_image_write", "toml++",
        "nlohmann-json"}) {
    CAPTURE(library);
    CHECK(json["libraries"][library].get<std::string>().find('.') != std::string::npos);
  }
}

TEST_CASE("info/text/says_whether_cuda_can_be_used_and_why_not") {
  const ProgramResult result = run_program({AVID_PROGRAM, "info"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("device     cpu\n") != std::string::npos);
#if AVID_HAVE_CUDA
  CHECK(result.out.find("device     cuda:0") != std::string::npos);
#else
  CHECK(result.out.find("device     cuda: this build has no CUDA kernels") != std::string::npos);
#endif
  CHECK(result.out.find("oneDNN") != std::string::npos);
}

TEST_CASE("info/program/version_help_and_usage") {
  CHECK(run_program({AVID_PROGRAM, "--version"}).out.starts_with("avid "));
  CHECK(run_program({AVID_PROGRAM, "--help"}).exit_code == 0);
  CHECK(run_program({AVID_PROGRAM}).exit_code == 2);
  CHECK(run_program({AVID_PROGRAM, "no-such-command"}).exit_code == 2);
  CHECK(run_program({AVID_PROGRAM, "info", "--wrong"}).exit_code == 2);
}
