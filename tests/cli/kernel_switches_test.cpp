// tests/cli/kernel_switches_test.cpp -- AVID_WGMMA and AVID_TMA leave kernels out, and the device's name says so
#include "tests/doctest.h"
#include "tests/support.h"

#if AVID_HAVE_SIM
namespace avid::test {
namespace {

ProgramResult info_with(const std::string& setting) {
  return run_program({"/usr/bin/env", "-u", "AVID_WGMMA", "-u", "AVID_TMA", setting, AVID_PROGRAM, "info"});
}

}  // namespace

TEST_CASE("kernel_switches/off/the name of the device says so") {
  const auto device = [](const std::string& setting) {
    const std::string out = info_with(setting).out;
    const std::size_t begin = out.find("sim (");
    REQUIRE(begin != std::string::npos);
    return out.substr(begin, out.find('\n', begin) - begin);
  };
  CHECK(device("AVID_TMA=on") == "sim (kernel simulator on the host)");
  CHECK(device("AVID_TMA=off") == "sim (kernel simulator on the host), AVID_TMA=off");
  CHECK(device("AVID_WGMMA=off") == "sim (kernel simulator on the host), AVID_WGMMA=off");
}

TEST_CASE("kernel_switches/another value/one line") {
  for (const std::string name : {"AVID_WGMMA", "AVID_TMA"}) {
    const ProgramResult result = info_with(name + "=maybe");
    CAPTURE(result.err);
    CHECK(result.exit_code != 0);
    CHECK(result.err.find("error: " + name + ": expected on or off, got 'maybe'\n") != std::string::npos);
  }
}

}  // namespace avid::test
#endif
