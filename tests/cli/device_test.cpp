// tests/cli/device_test.cpp -- the program on a device: the same results, resumable elsewhere, one line where it cannot
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "tensor/io/atomic_file.h"
#include "tensor/io/tensor_file.h"
#include "tests/cli/server.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

using Json = nlohmann::json;

const Device kDevice = test::device_under_test();

test::ProgramResult avid(std::vector<std::string> words) {
  words.insert(words.begin(), AVID_PROGRAM);
  return test::run_program(words);
}

std::string golden_file(const std::string& name) {
  return test::golden("pixel/mixed/" + name + ".safetensors").string();
}

// prediction of the base of the smallest reference case.
Tensor prediction(const std::filesystem::path& out, const std::string& device, const std::string& dtype) {
  const test::ProgramResult result = avid(
      {"forward", "--base", golden_file("base"), "--input", golden_file("input"), "--output", out.string(), "--device",
       device, "--dtype", dtype, "--json"});
  CHECK(result.err == "");
  REQUIRE(result.exit_code == 0);
  CHECK(Json::parse(result.out)["device"].get<std::string>().starts_with(device.substr(0, 3)));
  return open_tensor_file(out)->load("prediction");
}

// A run of seconds: one level, frames of 8x8.
std::vector<std::string> tiny_run(const std::string& folder, const std::string& device) {
  std::vector<std::string> words{"train", "--config",  std::string(AVID_SOURCE_DIR) + "/configs/tiny/base.toml",
                                 "--run", folder,      "--device",
                                 device,  "--threads", "1",
                                 "--json"};
  for (const char* set :
       {"train.updates=2", "train.batch=1", "train.accumulate=2", "data.size=8", "data.frames=2", "validation.every=2",
        "validation.clips=1", "checkpoint.every=2", "log.tensorboard=false"})
    words.insert(words.end(), {"--set", set});
  return words;
}

}  // namespace

TEST_CASE("device/forward/as on the CPU, in f32 and bf16") {
  const test::TempDir dir;
  const std::string device = kDevice.to_string();
  const Tensor cpu = prediction(dir / "a", "cpu", "f32"), there = prediction(dir / "b", device, "f32");
  CHECK(test::rel_l2(there, cpu) < 1e-5);
  const Tensor cpu_bf16 = prediction(dir / "c", "cpu", "bf16"), there_bf16 = prediction(dir / "d", device, "bf16");
  CHECK(cpu_bf16.dtype() == DType::f32);
  const double cost = test::rel_l2(cpu_bf16, cpu);
  CHECK(cost < 2e-2);
  CHECK(cost > 1e-4);  // it is bf16
  CHECK(test::rel_l2(there_bf16, cpu_bf16) < 2e-2);
}

TEST_CASE("device/train/a run goes on on another device") {
  const test::TempDir dir;
  const std::string device = kDevice.to_string();
  double loss[2];
  for (const std::string& where : {std::string("cpu"), device}) {
    const std::string run = (dir / ("run-" + where)).string();
    const test::ProgramResult start = avid(tiny_run(run, where));
    REQUIRE(start.exit_code == 0);
    CHECK(start.err.find("device " + where) != std::string::npos);
    loss[where != "cpu"] = Json::parse(start.out)["val_loss"].get<double>();
    const Json info = Json::parse(read_text(run + "/run.json"));
    CHECK(info["device"].get<std::string>().starts_with(where));
    // Without --device where it was; elsewhere only when told so, and then with a word about the bits.
    const test::ProgramResult same = avid({"train", "--resume", run});
    CHECK(same.exit_code == 0);
    CHECK(same.err.find("device " + where) != std::string::npos);
    CHECK(same.err.find("this run started on") == std::string::npos);
    const test::ProgramResult more = avid(
        {"train", "--resume", run, "--device", where == "cpu" ? device : "cpu", "--set", "train.updates=3", "--json"});
    REQUIRE(more.exit_code == 0);
    CHECK(Json::parse(more.out)["update"] == 3);
    CHECK(more.err.find("this run started on " + where) != std::string::npos);
  }
  CHECK(std::abs(loss[1] - loss[0]) < 1e-4 * loss[0]);
}

TEST_CASE("device/evaluate/scores and masks as on the CPU") {
  const test::TempDir dir;
  const auto report = [&](const std::string& where, std::vector<std::string> more) {
    std::vector<std::string> words{
        "evaluate",
        "--base",
        test::golden("pixel/ddpm/base.safetensors").string(),
        "--data",
        std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5",
        "--clips",
        "2",
        "--frames",
        "2",
        "--size",
        "8",
        "--timesteps",
        "6",
        "--device",
        where,
        "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const test::ProgramResult result = avid(words);
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return Json::parse(result.out);
  };
  const std::string adapter = test::golden("pixel/ddpm/adapter.safetensors").string(), device = kDevice.to_string();
  for (const std::vector<std::string>& method : std::vector<std::vector<std::string>>{
           {"--adapter", adapter, "--steps", "2", "--keep-clips", dir / "kept"},
           {"--adapter", adapter, "--steps", "2", "--set", "quantise=round"},
           {"--sampler", "ddpm"}}) {
    const Json here = report("cpu", method), there = report(device, method);
    CHECK(there["device"].get<std::string>().starts_with(device.substr(0, 3)));
    CHECK_FALSE(there.contains("kept_clips"));  // clips of another device are others
    REQUIRE(here["rows"].size() == there["rows"].size());
    for (std::size_t i = 0; i < here["rows"].size(); ++i)
      CHECK(
          there["rows"][i]["psnr"]["mean"].get<double>() ==
          doctest::Approx(here["rows"][i]["psnr"]["mean"].get<double>()).epsilon(1e-4));
    if (method[0] == "--adapter")
      CHECK(
          there["mask_mean_per_step"]["adapter"][1]["mean"].get<double>() ==
          doctest::Approx(here["mask_mean_per_step"]["adapter"][1]["mean"].get<double>()).epsilon(1e-4));
  }
}

TEST_CASE("device/served/either side may be on a device") {
  const test::TempDir dir;
  const std::string held_out = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5",
                    device = kDevice.to_string();
  const auto mse = [&](const std::string& base, const std::string& where) {
    const test::ProgramResult result = avid(
        {"evaluate", "--base", base, "--data", held_out, "--clips", "1", "--frames", "2", "--size", "8", "--timesteps",
         "6", "--steps", "2", "--device", where, "--json"});
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return Json::parse(result.out)["rows"].back()["mse"]["mean"].get<double>();
  };
  const std::string run = (dir / "base").string();
  auto base_run = tiny_run(run, "cpu");
  base_run.insert(base_run.end(), {"--set", "diffusion.timesteps=6", "--set", "samples.steps=5"});
  REQUIRE(avid(base_run).exit_code == 0);
  const double here = mse(run, "cpu");
  const test::Server there(run, 0, device);
  CHECK(there.card["device"].get<std::string>().starts_with(device.substr(0, 3)));
  CHECK(mse(there.url(), "cpu") == doctest::Approx(here).epsilon(1e-3));
  CHECK(mse(there.url(), device) == doctest::Approx(here).epsilon(1e-3));

  // An adapter trained on the device beside a base in another process.
  const auto loss = [&](const std::string& base, const std::string& name) {
    auto words = tiny_run((dir / name).string(), device);
    for (const char* set : {"diffusion.timesteps=6", "samples.steps=5"}) words.insert(words.end(), {"--set", set});
    words[2] = std::string(AVID_SOURCE_DIR) + "/configs/tiny/avid.toml";
    words.insert(words.end(), {"--set", "base.checkpoint=" + base});
    const test::ProgramResult result = avid(words);
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return Json::parse(result.out)["val_loss"].get<double>();
  };
  CHECK(loss(there.url(), "served") == doctest::Approx(loss(run, "own")).epsilon(1e-4));
}

TEST_CASE("device/errors/one line each") {
  const test::TempDir dir;
  const std::string out = (dir / "out.safetensors").string();
  const auto error = [&](const std::vector<std::string>& options, int exit_code = 1) {
    std::vector<std::string> words{"forward",  "--base", golden_file("base"), "--input", golden_file("input"),
                                   "--output", out};
    words.insert(words.end(), options.begin(), options.end());
    const test::ProgramResult result = avid(words);
    CHECK(result.exit_code == exit_code);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK_FALSE(std::filesystem::exists(out));
    return result.err;
  };
  CHECK(error({"--device", "gpu"}, 2).find("expected cpu, cuda, cuda:N or sim, got 'gpu'") != std::string::npos);
  CHECK(error({"--device", kDevice.to_string(), "--dtype", "f64"}, 2).find("f64") != std::string::npos);
  CHECK(error({"--device", "cuda:99"}).find("cuda") != std::string::npos);
  if (kDevice.kind != DeviceKind::sim) return;
  setenv("AVID_SIM_MEMORY_MIB", "1", 1);
  const std::string memory = error({"--device", "sim"});
  unsetenv("AVID_SIM_MEMORY_MIB");
  CHECK(memory.find("could not get") != std::string::npos);
  CHECK(memory.find("weights and batches") != std::string::npos);
}

TEST_CASE("device/info/lists what can be used and why not") {
  const Json info = Json::parse(avid({"info", "--json"}).out);
  CHECK(info["devices"][0] == "cpu");
  bool found = false;
  for (const Json& device : info["device_details"])
    found = found || device["name"].get<std::string>().starts_with(kDevice.to_string());
  CHECK(found);
}

TEST_CASE("device/info/says that kernels are left out") {
  const auto info = [](const char* setting) {
    return test::run_program({"/usr/bin/env", setting, AVID_PROGRAM, "info"});
  };
  const std::string off = ", AVID_WGMMA=off";
  CHECK(info("AVID_WGMMA=off").out.find(kDevice.describe() + off) != std::string::npos);
  CHECK(info("AVID_WGMMA=on").out.find(off) == std::string::npos);
  const test::ProgramResult wrong = info("AVID_WGMMA=0");
  CHECK(wrong.exit_code == 1);
  CHECK(wrong.err.find("AVID_WGMMA: expected on or off, got '0'") != std::string::npos);
}

}  // namespace avid
