// tests/cli/profile_test.cpp -- avid profile: counts that must come out, files that agree with the table
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

using Json = nlohmann::json;

std::string file(const char* name) {
  return test::golden("pixel/avid_mask/" + std::string(name) + ".safetensors").string();
}

std::vector<std::string> profile(const std::vector<std::string>& more) {
  std::vector<std::string> words{AVID_PROGRAM,    "profile", "--base",      file("base"), "--adapter",
                                 file("adapter"), "--input", file("input"), "--steps",    "2",
                                 "--warmup",      "1",       "--threads",   "1",          "--json"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Json read_json(const std::filesystem::path& path) {
  std::ifstream in(path);
  return Json::parse(in);
}

// Ops whose FLOPs are products, as the cost of a network counts them; others are counted per element.
double product_gflop(const Json& ops) {
  double sum = 0;
  for (const auto& [name, op] : ops.items())
    for (const char* product :
         {"conv3d", "conv_transpose3d", "linear", "linear_attention", "spatial_attention", "temporal_attention"})
      if (name == product) sum += op["gflop"].get<double>();
  return sum;
}

void check_files_against_table(const Json& table, const Json& trace) {
  std::map<std::string, double> self_us;
  std::map<std::string, std::int64_t> launches;
  bool modules = false;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    if (event["cat"] == "op") {
      self_us[event["name"]] += event["args"]["self_us"].get<double>();
      launches[event["name"]] += event["args"].value("launches", 0);
    }
    if (event["cat"] == "module" && event["name"] == "adapter.downs.0.0") modules = true;
  }
  CHECK(modules);
  REQUIRE(self_us.size() == table["ops"].size());
  for (const auto& [name, op] : table["ops"].items()) {
    CAPTURE(name);
    CHECK(self_us.at(name) == doctest::Approx(op["seconds"].get<double>() * 1e6).epsilon(1e-9));
    CHECK(launches.at(name) == op["launches"].get<std::int64_t>());
  }
}

}  // namespace

TEST_CASE("profile/sample/counted products are the network's cost") {
  const test::TempDir dir;
  const auto result = test::run_program(profile({"--kind", "sample", "--trace", (dir / "t.json").string()}));
  REQUIRE(result.exit_code == 0);
  const Json table = Json::parse(result.out);
  const double per_step = table["gflop_per_step"].get<double>();
  CHECK(std::abs(product_gflop(table["ops"]) / 2 - per_step) < 1e-9 * per_step);
  check_files_against_table(table, read_json(dir / "t.json"));
  CHECK(table["copy_gbyte_per_s"].get<double>() > 0);
}

TEST_CASE("profile/avid/a trace and a picture on the CPU and the simulator") {
  for (const char* device : {"cpu", "sim"}) {
    CAPTURE(device);
    const test::TempDir dir;
    const auto trace = dir / "t.json", picture = dir / "r.svg";
    const auto result = test::run_program(profile(
        {"--kind", "sample", "--device", device, "--graph", device == std::string("sim") ? "off" : "auto", "--trace",
         trace.string(), "--roofline", picture.string()}));
    if (result.exit_code != 0 && result.err.find("this build") != std::string::npos) continue;  // built without it
    CHECK(result.err == "wrote " + trace.string() + "\nwrote " + picture.string() + "\n");
    REQUIRE(result.exit_code == 0);
    const Json table = Json::parse(result.out);
    const Json parsed = read_json(trace);
    check_files_against_table(table, parsed);
    std::ifstream in(picture);
    const std::string svg{std::istreambuf_iterator<char>(in), {}};
    CHECK(svg.find("data-op=\"conv3d\"") != std::string::npos);
    const bool sim = std::string(device) == "sim";
    const auto& mix = table["ops"]["mask_mix"];  // one kernel each; none on the CPU
    CHECK(mix["launches"].get<std::int64_t>() == (sim ? mix["calls"].get<std::int64_t>() : 0));
    const auto& conv = table["ops"]["conv3d"];
    CHECK(conv["launches"].get<std::int64_t>() >= (sim ? conv["calls"].get<std::int64_t>() : 0));
    CHECK((svg.find("id=\"roof\"") == std::string::npos) == sim);
    CHECK(table.contains("gemm_gflop_per_s") == !sim);
    CHECK((parsed["otherData"]["times"].get<std::string>().find("not meaningful") != std::string::npos) == sim);
  }
}

TEST_CASE("profile/config/made-up weights and clips at a configuration's sizes") {
  const auto profile_of = [](const std::vector<std::string>& more) {
    std::vector<std::string> words{AVID_PROGRAM, "profile",   "--steps", "1",     "--warmup",
                                   "1",          "--threads", "1",       "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return test::run_program(words);
  };
  const std::string tiny = std::string(AVID_SOURCE_DIR) + "/configs/tiny/";
  const auto base = profile_of({"--kind", "base", "--config", tiny + "base.toml", "--clips", "1"});
  REQUIRE(base.exit_code == 0);
  const auto adapter = profile_of(
      {"--kind", "sample", "--config", tiny + "avid.toml", "--base-config", tiny + "base.toml", "--clips", "2"});
  REQUIRE(adapter.exit_code == 0);
  // A step without gradients: the products of base and adapter, each counted from its configuration alone.
  const Json table = Json::parse(adapter.out);
  CHECK(table["gflop_per_step"].get<double>() > 0);
  CHECK(product_gflop(table["ops"]) == doctest::Approx(table["gflop_per_step"].get<double>()).epsilon(1e-9));

  const auto no_base = profile_of({"--config", std::string(AVID_SOURCE_DIR) + "/configs/avid_22m.toml"});
  CHECK(no_base.exit_code == 2);
  CHECK(no_base.err.find("--base-config") != std::string::npos);
  const auto nothing = profile_of({});
  CHECK(nothing.exit_code == 2);
  CHECK(nothing.err == "error: bench: expected --base and --input, or --config\n");
  const auto both = profile_of({"--config", tiny + "base.toml", "--adapter", "adapter.safetensors"});
  CHECK(both.exit_code == 2);
  CHECK(both.err.starts_with("error: bench: --config makes up weights and clips | leave out --base"));
}

TEST_CASE("profile/graph/steps are recorded and repeated as training and sampling do it, and it says so") {
  const test::TempDir dir;
  const auto write = [&](const char* name, const char* kind) {
    std::ofstream(dir / name)
        << "model.kind = \"" << kind << "\"\nmodel.width = 4\nmodel.multipliers = [1, 2]\n"
        << "model.heads = 1\nmodel.head_dim = 8\ndata.train = [\"none.h5\"]\ndata.size = 4\n"
        << "data.frames = 2\ntrain.batch = 1\ntrain.updates = 1\ntrain.graph = \"on\"\nvalidation.every = 0\n";
    return (dir / name).string();
  };
  const std::string base = write("base.toml", "base"), adapter = write("avid.toml", "avid");
  const auto run = [&](std::vector<std::string> words, const char* device, const std::vector<std::string>& more) {
    words.insert(words.begin(), AVID_PROGRAM);
    words.insert(
        words.end(), {"--config", adapter, "--base-config", base, "--device", device, "--steps", "1", "--warmup", "1",
                      "--threads", "1"});
    words.insert(words.end(), more.begin(), more.end());
    return test::run_program(words);
  };
  const auto update = run({"bench", "step"}, "sim", {"--json"});
  if (update.exit_code != 0 && update.err.find("this build") != std::string::npos) return;  // built without it
  REQUIRE(update.exit_code == 0);
  const Json step = Json::parse(update.out);
  CHECK(step["graph"] == true);
  CHECK(step["graph_steps"].get<int>() > 100);
  CHECK(step["repeated_seconds"] == step["seconds"]);

  const auto off = run({"bench", "step"}, "sim", {"--graph", "off"});
  REQUIRE(off.exit_code == 0);
  CHECK(off.out.find("graph: none (off), every op was queued by the host") != std::string::npos);

  // The same loss whoever queues, and fewer launches where nothing goes back.
  const auto sampled = run({"profile"}, "sim", {"--kind", "sample", "--json"});
  REQUIRE(sampled.exit_code == 0);
  const Json sample = Json::parse(sampled.out);
  CHECK(sample["loss"].get<double>() == doctest::Approx(step["loss"].get<double>()).epsilon(1e-6));
  CHECK(sample["graph"] == true);
  CHECK(sample["graph_steps"].get<int>() < step["graph_steps"].get<int>());
  CHECK(sample["repeated_seconds"].size() == 1);
  CHECK(sample["repeated_seconds"] != sample["seconds"]);
  CHECK(sample["ops"]["conv3d"]["calls"].get<int>() > 0);
  CHECK_FALSE(sample["ops"].contains("conv3d_bwd"));

  const auto wrong = run({"bench", "step"}, "sim", {"--graph", "maybe"});
  CHECK(wrong.exit_code == 2);
  CHECK(wrong.err == "error: avid bench step: --graph: maybe not in {auto,on,off} | see avid bench step --help\n");
  const auto cpu = run({"bench", "step"}, "cpu", {"--graph", "on"});
  CHECK(cpu.exit_code != 0);
  CHECK(cpu.err.find("expected auto or off, got on") != std::string::npos);
}

TEST_CASE("profile/classifier/its update is timed, layer norm and all; it has no sampling step") {
  const test::TempDir dir;
  std::ofstream(dir / "classifier.toml")
      << "[data]\ntrain = [\"x.h5\"]\nsize = 16\n[model]\nkind = \"classifier\"\nwidth = 4\nmultipliers = [1, 2]\n"
         "heads = 1\nhead_dim = 8\nmlp = 8\n[train]\nupdates = 1\nbatch = 1\n";
  const auto run = [&](const char* kind) {
    return test::run_program(
        {AVID_PROGRAM, "bench", "ops", "--kind", kind, "--config", (dir / "classifier.toml").string(), "--device",
         "sim", "--steps", "1", "--json"});
  };
  const auto update = run("base");
  CAPTURE(update.err);
  REQUIRE(update.exit_code == 0);
  const Json ops = Json::parse(update.out).at("ops");
  for (const char* name : {"layer_norm", "layer_norm_bwd", "spatial_attention", "cross_entropy"}) {
    CAPTURE(name);
    CHECK(ops.contains(name));
  }
  const auto sample = run("sample");
  CHECK(sample.exit_code == 2);
  CHECK(sample.err.find("or for updates a classifier, got model.kind = \"classifier\"") != std::string::npos);
}

TEST_CASE("profile/libraries/on the CPU one line each") {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"--conv", "cudnn"}, "--conv cudnn: cuDNN computes on cuda, the device is cpu | leave --conv out"},
      {{"--gemm", "auto", "--device", "sim"}, "--gemm auto: cuBLASLt computes on cuda, the device is sim"},
      {{"--gemm", "fast"}, "--gemm: expected native, cublaslt or auto, got 'fast'"},
      {{"--attention", "cudnn"},
       "--attention cudnn: cuDNN computes on cuda, the device is cpu | leave --attention out"},
      {{"--norm", "auto"}, "--norm auto: cuDNN computes on cuda, the device is cpu | leave --norm out"},
      {{"--norm", "cublaslt"}, "--norm: expected native, cudnn or auto, got 'cublaslt'"}};
  for (const auto& [words, text] : cases) {
    const auto result = test::run_program(profile(words));
    CHECK(result.exit_code != 0);
    CHECK(result.out == "");
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CAPTURE(result.err);
    CHECK((result.err.find(text) != std::string::npos || result.err.find("this build") != std::string::npos));
  }
}

TEST_CASE("profile/errors/a file that cannot be written, before any work") {
  const test::TempDir dir;
  for (const char* option : {"--trace", "--roofline"}) {
    const auto missing = test::run_program(profile({option, "/nowhere/at/all/t.json"}));
    CHECK(missing.exit_code == 1);
    CHECK(missing.err.starts_with("error: write: /nowhere/at/all/t.json: No such file or directory"));
    CHECK(missing.out == "");
    const auto folder = test::run_program(profile({option, dir.path().string()}));
    CHECK(folder.exit_code == 1);
    CHECK(folder.err.find("choose a file name, not a folder") != std::string::npos);
    CHECK(folder.out == "");
  }
}

}  // namespace avid
