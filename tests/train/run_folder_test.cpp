// tests/train/run_folder_test.cpp -- what run.json remembers, and what a resumed run makes of it
#include "train/run_folder.h"

#include <fstream>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/whole_run.h"

using namespace avid;
using namespace avid::train;

namespace {

const std::string kGpu = "cuda:0 (NVIDIA H100)", kSim = "sim (kernel simulator on the host)";

RunInfo started_with(const std::string& device, const std::string& conv, const std::string& gemm) {
  RunInfo info = current_run_info();
  info.device = device;
  info.threads = 3;
  info.conv = conv;
  info.gemm = gemm;
  return info;
}

TrainConfig tiny_base(const std::vector<std::string>& set) {
  return TrainConfig::load(std::filesystem::path(AVID_SOURCE_DIR) / "configs/tiny/base.toml", set);
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void replace(const std::filesystem::path& file, const std::string& from, const std::string& to) {
  std::string text = read_text(file);
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  std::ofstream(file) << text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("run_folder/continued/with what it started with") {
  const Continuation on = continued(started_with(kGpu, "cudnn", "native"), "cuda:1 (NVIDIA H100)", {});
  CHECK(on.setting.threads == 3);
  CHECK(on.setting.conv == "cudnn");
  CHECK(on.setting.gemm == "native");
  CHECK(on.notes.empty());
  const Continuation same = continued(started_with("cpu", "native", "native"), "cpu", {3, "native", ""});
  CHECK(same.setting.gemm == "native");
  CHECK(same.notes.empty());
}

TEST_CASE("run_folder/continued/what was chosen anew holds, and a line says that the bits differ") {
  const Continuation on = continued(started_with(kGpu, "cudnn", "native"), kGpu, {0, "native", "cublaslt"});
  CHECK(on.setting.conv == "native");
  CHECK(on.setting.gemm == "cublaslt");
  REQUIRE(on.notes.size() == 2);
  CHECK(on.notes[0] == "this run started with --conv cudnn: it goes on with native, but not bit for bit");
  CHECK(on.notes[1] == "this run started with --gemm native: it goes on with cublaslt, but not bit for bit");

  const Continuation threads = continued(started_with("cpu", "native", "native"), "cpu", {2, "", ""});
  CHECK(threads.setting.threads == 2);
  REQUIRE(threads.notes.size() == 1);
  CHECK(threads.notes[0] == "this run started with 3 threads: it goes on with 2, but not bit for bit");
  // Threads split no sum of a device.
  CHECK(continued(started_with(kSim, "native", "native"), kSim, {2, "", ""}).notes.empty());
}

TEST_CASE("run_folder/continued/libraries stay on cuda, and auto measures anew") {
  for (const std::string& elsewhere : {std::string("cpu"), kSim}) {
    const Continuation on = continued(started_with(kGpu, "cudnn", "auto"), elsewhere, {});
    CHECK(on.setting.conv == "native");
    CHECK(on.setting.gemm == "native");
    REQUIRE(on.notes.size() == 3);
    CHECK(on.notes[0] == "this run started on cuda:0 (NVIDIA H100): it goes on here, but not bit for bit");
    CHECK(has(on.notes[1], "--conv cudnn: it goes on with native, as that is for cuda alone"));
    CHECK(has(on.notes[2], "--gemm auto: it goes on with native, as that is for cuda alone"));
  }
  const Continuation other_gpu = continued(started_with(kGpu, "native", "native"), "cuda:0 (NVIDIA A100)", {});
  REQUIRE(other_gpu.notes.size() == 1);
  CHECK(has(other_gpu.notes[0], "started on cuda:0 (NVIDIA H100)"));

  const Continuation measured = continued(started_with(kGpu, "auto", "native"), kGpu, {});
  CHECK(measured.setting.conv == "auto");
  REQUIRE(measured.notes.size() == 1);
  CHECK(has(measured.notes[0], "--conv auto measures anew"));

  RunInfo started = started_with(kGpu, "native", "native");
  started.attention = "cudnn";
  started.norm = "cudnn";
  const Continuation half = continued(started, kGpu, {.attention = "native"});
  CHECK(half.setting.attention == "native");
  CHECK(half.setting.norm == "cudnn");
  REQUIRE(half.notes.size() == 1);
  CHECK(half.notes[0] == "this run started with --attention cudnn: it goes on with native, but not bit for bit");
  CHECK(continued(started, "cpu", {}).setting.norm == "native");
}

TEST_CASE("run_folder/run_json/remembers routes, and is read without them") {
  const test::TempDir dir;
  RunInfo started = started_with(kGpu, "cudnn", "auto");
  started.attention = "cudnn";
  started.norm = "auto";
  RunFolder::create(dir / "run", tiny_base({}), started);
  const Json json = parse_json(read_text(dir / "run/run.json"));
  CHECK(json["routes"] == Json{{"conv", "cudnn"}, {"gemm", "auto"}, {"attention", "cudnn"}, {"norm", "auto"}});
  {
    const RunFolder folder = RunFolder::open(dir / "run");
    CHECK(folder.info().conv == "cudnn");
    CHECK(folder.info().gemm == "auto");
    CHECK(folder.info().attention == "cudnn");
    CHECK(folder.info().norm == "auto");
    CHECK(folder.info().device == kGpu);
  }
  Json older = json;
  older["routes"] = {{"conv", "cudnn"}, {"gemm", "auto"}};  // before there were more
  std::ofstream(dir / "run/run.json") << older.dump();
  {
    const RunFolder folder = RunFolder::open(dir / "run");
    CHECK(folder.info().gemm == "auto");
    CHECK(folder.info().attention == "native");
    CHECK(folder.info().norm == "native");
  }
  older.erase("routes");
  std::ofstream(dir / "run/run.json") << older.dump();
  {
    const RunFolder folder = RunFolder::open(dir / "run");
    CHECK(folder.info().conv == "native");
    CHECK(folder.info().gemm == "native");
  }
  older["routes"] = {{"conv", 3}};
  std::ofstream(dir / "run/run.json") << older.dump();
  CHECK_THROWS_WITH_AS(RunFolder::open(dir / "run"), doctest::Contains("run.json: damaged"), FileError);
}

TEST_CASE("run_folder/resume/the program says what differs from the start") {
  const test::TempDir dir;
  test::run_whole(dir / "run", tiny_base({"train.updates=1", "validation.every=0"}));
  const auto resume = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {AVID_PROGRAM, "train", "--resume", (dir / "run").string()});
    return test::run_program(more);
  };
  test::ProgramResult result = resume({});
  CHECK(result.exit_code == 0);
  CHECK(has(result.err, "device cpu, 1 threads\n"));
  CHECK_FALSE(has(result.err, "bit for bit"));
  result = resume({"--threads", "2", "--conv", "native"});
  CHECK(result.exit_code == 0);
  CHECK(has(result.err, "this run started with 1 threads: it goes on with 2, but not bit for bit\n"));
  CHECK(has(result.err, "device cpu, 2 threads\n"));
  // As if it had come from a GPU.
  replace(dir / "run/run.json", "\"conv\": \"native\"", "\"conv\": \"cudnn\"");
  result = resume({});
  CHECK(result.exit_code == 0);
  CHECK(has(result.err, "this run started with --conv cudnn: it goes on with native"));
  result = resume({"--conv", "cudnn"});
  CHECK(result.exit_code == 2);
  CHECK(has(result.err, "--conv cudnn: cuDNN computes on cuda, the device is cpu"));
}
