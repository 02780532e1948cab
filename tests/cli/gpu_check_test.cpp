// tests/cli/gpu_check_test.cpp -- scripts/gpu_check.sh where programs fail, hang, or find no device: results all the
// same
//
// The script runs as in a bundle, in a folder with programs that only pretend. How they behave is told by empty files
// beside them.
#include <nlohmann/json.hpp>

#include <filesystem>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kAvid = R"sh(#!/bin/bash
here=$(dirname "$0")
echo "wgmma ${AVID_WGMMA:-on} tma ${AVID_TMA:-on}: $*" >>"$here/calls"
case "$1" in
  info)
    [ ! -e "$here/device-hangs" ] || sleep 1000
    if [ -e "$here/no-device" ]; then
      printf '{\n "devices": [\n  "cpu"\n ],\n "device_details": [\n  {\n   "name": "cpu"\n  },\n'
      printf '  {\n   "name": "cuda:0",\n   "problem": "cuda: no NVIDIA driver | get one"\n  }\n ]\n}\n'
    else
      printf '{\n "devices": [\n  "cpu",\n  "cuda:0 (NVIDIA Test)"\n ],\n "device_details": [\n'
      printf '  {\n   "name": "cpu"\n  },\n  {\n   "free_gib": 1.5,\n   "name": "cuda:0 (NVIDIA Test)"\n  }\n ]\n}\n'
    fi ;;
  forward) printf '{\n "loss": 0.5\n}\n' ;;
  bench)
    if [ -e "$here/wgmma-traps" ] && [ "${AVID_WGMMA:-on}" = on ]; then
      echo "error: unspecified launch failure" >&2
      exit 1
    fi
    printf '{\n "median_s": 0.25,\n "share_of_gemm": 0.4,\n "library_ms": 1\n}\n' ;;
  train) printf '{\n "train_seconds": 1.5\n}\n' ;;
  inspect) echo "abc base" ;;
esac
)sh";
constexpr const char* kKernelTests = R"sh(#!/bin/bash
here=$(dirname "$0")
case "$1" in
  --list-test-cases)
    echo '[doctest] listing'
    printf '%s\n' fill/a 'adam/b c' gather_gemm_wgmma/c tensor_copy/t fill/d layouts/x ;;
  -tc=gather_gemm_wgmma*)
    [ ! -e "$here/wgmma-hangs" ] || sleep 1000
    [ ! -e "$here/tma-hangs" ] || [ "${AVID_TMA:-on}" = off ] || sleep 1000 ;;
  -tc=tensor_copy*) [ ! -e "$here/tma-fails" ] || { echo "ERROR: CHECK( 1 == 2 ) is NOT correct!"; exit 1; } ;;
  -tc=fill*) [ ! -e "$here/fill-fails" ] || { echo "ERROR: CHECK( 1 == 2 ) is NOT correct!"; exit 1; } ;;
esac
)sh";

constexpr const char* kTests = R"sh(#!/bin/bash
here=$(dirname "$0")
echo "wgmma ${AVID_WGMMA:-on} tma ${AVID_TMA:-on}: tests" >>"$here/calls"
[ ! -e "$here/tma-traps" ] || [ "${AVID_TMA:-on}" = off ] || exit 1
[ ! -e "$here/no-cudnn" ] || echo "skipped: device: no cuDNN: libcudnn.so.9 cannot be loaded"
[ ! -e "$here/finds-no-device" ] || echo "skipped: device: cuda:0: no NVIDIA driver"
)sh";

// A bundle of pretending programs; `behaviour`: names of the empty files.
class Bundle {
 public:
  explicit Bundle(const std::vector<std::string>& behaviour = {}) {
    for (const char* script : {"gpu_check.sh", "gpu_stages.sh"})
      fs::copy_file(fs::path(AVID_SOURCE_DIR) / "scripts" / script, dir_ / script);
    fs::create_directories(dir_ / "bin");
    fs::create_directories(dir_ / "data/samples");
    write_text_atomic(dir_ / "data/samples/x-train.h5", "");
    fs::create_directories(dir_ / "configs");
    write_text_atomic(dir_ / "configs/base.toml", "[data]\ntrain = []\n");
    fs::create_directories(dir_ / "configs/tiny");
    write_text_atomic(dir_ / "configs/tiny/base.toml", "[data]\ntrain = []\nsize = 16\n\n[train]\nbatch = 2\n");
    program("avid", kAvid);
    program("test_gpu", kKernelTests);
    for (const char* name : {"test_tensor", "test_autograd", "test_models", "test_train"}) program(name, kTests);
    for (const std::string& name : behaviour) write_text_atomic(dir_ / ("bin/" + name), "");
  }

  // Commands are given a second each. `python` is there, and has PyTorch, if it says yes to everything.
  ProgramResult check(const std::vector<std::string>& words, const std::string& python = "false") const {
    std::vector<std::string> command{
        "/usr/bin/env",
        "-u",
        "AVID_WGMMA",
        "-u",
        "AVID_TMA",
        "AVID_GPU_CHECK_LIMITS=1",
        "AVID_PEER_PYTHON=" + python,
        "/bin/bash",
        dir_ / "gpu_check.sh",
        "--out",
        out()};
    command.insert(command.end(), words.begin(), words.end());
    return run_program(command);
  }
  Json report(const std::string& in = "") const {
    return Json::parse(read_text(fs::path(out()) / in / "gpu_check.json"));
  }
  std::string stage(const std::string& name) const { return report().at("stages").at(name).get<std::string>(); }
  std::string calls() const { return read_text(fs::path(dir_ / "bin/calls")); }
  std::string out() const { return dir_ / "out"; }
  /// bench/peers/run.sh that pretends.
  void peers(const std::string& text) {
    fs::create_directories(dir_ / "bench/peers");
    write_text_atomic(dir_ / "bench/peers/run.sh", text);
    fs::permissions(dir_ / "bench/peers/run.sh", fs::perms::owner_all);
  }
  static std::string read_text(const fs::path& path) { return avid::read_text(path); }

 private:
  void program(const std::string& name, const std::string& text) {
    write_text_atomic(dir_ / ("bin/" + name), text);
    fs::permissions(dir_ / ("bin/" + name), fs::perms::owner_all);
  }
  TempDir dir_;
};

}  // namespace

TEST_CASE("gpu_check/everything_passes_and_is_not_run_again") {
  const Bundle bundle;
  const std::vector<std::string> stages{"info", "parity", "step", "graphs", "train"};
  const ProgramResult first = bundle.check(stages);
  CAPTURE(first.out);
  CAPTURE(first.err);
  CHECK(first.exit_code == 0);
  for (const std::string& name : stages) CHECK(bundle.stage(name).starts_with("passed "));
  CHECK(first.out.find("avid71m, 64 clips, update ") != std::string::npos);
  bool found = false;
  const Json report = bundle.report();
  CHECK_FALSE(report.contains("rehearsal"));
  for (const Json& row : report.at("results"))
    if (row.at("what") == "base97m, 32 clips, sampling step") found = row.at("value") == 0.25 && row.at("unit") == "s";
  CHECK(found);
  CHECK(report.at("device_name") == "cuda:0 (NVIDIA Test)");
  CHECK(bundle.check({"step", "train"}).exit_code == 0);
  CHECK(bundle.stage("step") == "passed-before");
}

TEST_CASE("gpu_check/scaling/times_are_divided_by_what_there_is_more_of") {
  const Bundle bundle;
  CHECK(bundle.check({"scaling"}).exit_code == 0);
  const Json report = bundle.report();
  const auto value = [&](const std::string& what) {
    for (const Json& row : report.at("results"))
      if (row.at("what") == what) return row.at("value").get<double>();
    return -1.0;
  };
  // The program that pretends takes the same time whatever it is asked for.
  CHECK(value("base97m, 8 clips, twice the frames") == 0.5);
  CHECK(value("base97m, 8 clips, four times the pixels") == 0.25);
  const std::string config = Bundle::read_text(fs::path(bundle.out()) / "scaling-pixels.toml");
  CHECK(config.find("[data]\nframes = 8\nsize = 128\ntrain") != std::string::npos);
}

TEST_CASE("gpu_check/tests/a_library_that_is_not_there_is_no_failure_and_a_device_is_one") {
  const Bundle without_cudnn({"no-cudnn"});
  CHECK(without_cudnn.check({"tests"}).exit_code == 0);
  CHECK(without_cudnn.stage("tests").starts_with("passed "));
  const Bundle without_device({"no-cudnn", "finds-no-device"});
  CHECK(without_device.check({"tests"}).exit_code == 1);
  CHECK(without_device.stage("tests").starts_with("failed "));
}

TEST_CASE("gpu_check/rehearse/tiny_networks_in_the_place_of_the_papers") {
  const Bundle bundle;
  const ProgramResult result = bundle.check({"--rehearse", "step", "graphs", "profile", "scaling", "train"});
  CAPTURE(result.err);
  CHECK(result.exit_code == 0);
  CHECK(result.out.starts_with("a rehearsal with tiny networks: no number here means anything\n"));
  const std::string calls = bundle.calls();
  CHECK(calls.find("configs/tiny/avid.toml --clips 1 --base-config ") != std::string::npos);
  for (const char* of_the_paper : {"configs/avid_", "configs/base.toml", "configs/demo_base.toml", "--steps 5"})
    CHECK(calls.find(of_the_paper) == std::string::npos);
  CHECK(
      Bundle::read_text(fs::path(bundle.out()) / "rehearsal/scaling-pixels.toml") ==
      "[data]\nframes = 2\nsize = 32\ntrain = []\n\n[train]\nbatch = 2\n");
  const Json report = bundle.report("rehearsal");
  CHECK(report.at("rehearsal") == true);
  std::map<std::string, double> found;
  for (const Json& row : report.at("results"))
    if (row.at("value").is_number()) found[row.at("what").get<std::string>()] = row.at("value").get<double>();
  CHECK(found.at("tiny-base, 1 clips, four times the pixels") == 0.25);
  CHECK(found.at("3 updates, graph on") == 1.5);
  CHECK(found.at("2 updates of tiny-base") == 1.5);
  CHECK_FALSE(fs::exists(fs::path(bundle.out()) / "train.passed"));  // on a GPU nothing has passed yet
}

TEST_CASE("gpu_check/ops/ratios_of_both_families") {
  Bundle bundle;
  CHECK(bundle.check({"ops"}).exit_code == 0);
  CHECK(bundle.stage("ops").starts_with("skipped"));  // no PyTorch
  bundle.peers(R"sh(#!/bin/bash
[ "$1" = ops ] || exit 1
while [ $# -gt 1 ]; do
  case $1 in --only) only=$2 ;; --modes) modes=$2 ;; --json) json=$2 ;; esac
  shift
done
[ $only = conv ] && value=1.25 || value=3.5
[ $modes != compile ] || value=2
printf '{\n "%s_ratio": %s,\n "slowest_ratio": 0.5\n}\n' $only $value >"$json"
)sh");
  const ProgramResult result = bundle.check({"ops"}, "true");
  CAPTURE(result.out);
  CHECK(result.exit_code == 0);
  std::map<std::string, double> found;
  const Json report = bundle.report();
  for (const Json& row : report.at("results"))
    if (row.at("stage") == "ops") found[row.at("what").get<std::string>()] = row.at("value").get<double>();
  CHECK(
      found == std::map<std::string, double>{
                   {"avid71m, 8 clips, conv: PyTorch's time / ours, eager", 1.25},
                   {"avid71m, 8 clips, conv: the slowest of them, eager", 0.5},
                   {"avid71m, 8 clips, attention: PyTorch's time / ours, eager,sdpa", 3.5},
                   {"avid71m, 8 clips, attention: the slowest of them, eager,sdpa", 0.5},
                   {"avid71m, 8 clips, attention: PyTorch's time / ours, compile", 2},
                   {"avid71m, 8 clips, attention: the slowest of them, compile", 0.5}});
  bundle.peers("#!/bin/bash\nexit 1\n");
  CHECK(bundle.check({"--again", "ops"}, "true").exit_code == 1);
  CHECK(bundle.stage("ops").starts_with("failed"));
}

TEST_CASE("gpu_check/no_device/every_stage_says_so_in_one_line_and_nothing_runs") {
  const Bundle bundle({"no-device"});
  const ProgramResult result = bundle.check({});
  CHECK(result.exit_code == 1);
  const Json stages = bundle.report().at("stages");
  CHECK(stages.size() == 12);
  for (const auto& [name, text] : stages.items())
    CHECK(text.get<std::string>().starts_with(name == "info" ? "failed " : "failed: cuda: no NVIDIA driver"));
  CHECK(result.out.find("train        failed: cuda: no NVIDIA driver | get one") != std::string::npos);
  CHECK(bundle.calls().find("bench") == std::string::npos);
}

TEST_CASE("gpu_check/wgmma/a_kernel_that_hangs_costs_its_time_and_the_rest_goes_on_without") {
  const Bundle bundle({"wgmma-hangs", "fill-fails"});
  const ProgramResult result = bundle.check({"parity", "tests"});
  CHECK(result.exit_code == 1);
  CHECK(bundle.stage("parity").starts_with("failed "));
  CHECK(bundle.stage("tests").starts_with("passed "));
  CHECK(bundle.report().at("without_wgmma").get<std::string>().starts_with("gather_gemm_wgmma hangs, killed"));
  CHECK(result.out.starts_with("AVID_WGMMA=off: gather_gemm_wgmma hangs"));
  const std::string log = Bundle::read_text(fs::path(bundle.out()) / "parity.log");
  CHECK(log.find("failed: fill gather_gemm_wgmma") != std::string::npos);
  CHECK(log.find("CHECK( 1 == 2 ) is NOT correct") != std::string::npos);
  CHECK(log.find("adam                             passed") != std::string::npos);
  CHECK(bundle.calls().find("wgmma on tma on: tests") == std::string::npos);
  CHECK(bundle.report().at("without_tma") == "");
}

TEST_CASE("gpu_check/wgmma/a_stage_that_fails_is_tried_without") {
  const Bundle bundle({"wgmma-traps"});
  CHECK(bundle.check({"step"}).exit_code == 1);
  CHECK(bundle.stage("step").starts_with("passed "));
  CHECK(bundle.stage("step").find(" without wgmma, failed ") != std::string::npos);
  CHECK(bundle.check({"profile"}).exit_code == 1);
  CHECK(bundle.calls().find("wgmma on tma on: profile") == std::string::npos);
  CHECK(bundle.calls().find("wgmma off tma on: profile") != std::string::npos);
}

TEST_CASE("gpu_check/tma/where_the_rest_of_wgmma_works_only_tensor_copies_are_left_out") {
  {
    const Bundle bundle({"tma-hangs"});
    const ProgramResult result = bundle.check({"parity", "tests"});
    CHECK(result.exit_code == 1);
    CHECK(result.out.starts_with("AVID_TMA=off: gather_gemm_wgmma hangs, killed with tma and passed without"));
    CHECK(bundle.report().at("without_tma").get<std::string>().starts_with("gather_gemm_wgmma hangs"));
    CHECK(bundle.report().at("without_wgmma") == "");
    CHECK(bundle.calls().find("wgmma on tma off: tests") != std::string::npos);
    CHECK(bundle.calls().find("wgmma on tma on: tests") == std::string::npos);
  }
  const Bundle bundle({"tma-fails"});
  CHECK(bundle.check({"parity"}).exit_code == 1);
  CHECK(bundle.report().at("without_tma").get<std::string>().starts_with("tensor_copy failed (code 1)"));
  CHECK(bundle.report().at("without_wgmma") == "");
}

TEST_CASE("gpu_check/tma/a_stage_that_fails_is_tried_without") {
  const Bundle bundle({"tma-traps"});
  CHECK(bundle.check({"tests"}).exit_code == 1);
  CHECK(bundle.stage("tests").starts_with("passed "));
  CHECK(bundle.stage("tests").find(" without tma, failed ") != std::string::npos);
  CHECK(bundle.report().at("without_tma").get<std::string>().starts_with("tests failed "));
  CHECK(bundle.check({"profile"}).exit_code == 1);
  CHECK(bundle.calls().find("wgmma on tma off: profile") != std::string::npos);
}

TEST_CASE("gpu_check/hang/a_device_that_no_longer_answers_ends_the_rest_at_once") {
  if (!full_level()) return;  // seconds
  const Bundle bundle({"device-hangs"});
  CHECK(bundle.check({"step", "train"}).exit_code == 1);
  for (const char* name : {"step", "train"})
    CHECK(bundle.stage(name) == "failed: the device does not answer: avid info hangs");
}

TEST_CASE("gpu_check/copy/what_there_is_lies_in_three_files") {
  const Bundle bundle;
  const TempDir copies;
  CHECK(bundle.check({"--copy", copies / "c", "train"}).exit_code == 0);
  CHECK(Json::parse(Bundle::read_text(copies / "c/gpu_check.json")).at("stages").contains("train"));
  CHECK(Bundle::read_text(copies / "c/gpu_check.txt").find("train        passed") != std::string::npos);
  CHECK(fs::file_size(copies / "c/gpu_check.tar.gz") > 0);
}

TEST_CASE("gpu_check/errors/one_line_each") {
  const Bundle bundle;
  const auto says = [&](const std::vector<std::string>& words, const char* text) {
    const ProgramResult result = bundle.check(words);
    CHECK(result.exit_code == 2);
    CHECK(result.err.find(text) != std::string::npos);
  };
  says({"speed"}, "unknown argument speed | see --help");
  says({"--minutes", "soon"}, "--minutes: expected a whole number, got soon");
  says({"--device"}, "--device needs a value");
}

}  // namespace avid::test
