// train/cli/cmd_info.cpp -- `avid info`: what was built, what it runs on, which libraries it found
#include <dnnl.h>
#include <hdf5.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <thread>

#include "diffusion/served/client.h"
#include "eval/media/gif.h"
#include "eval/media/mp4.h"
#include "eval/media/png.h"
#include "kernels/device/runtime.h"
#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "tensor/io/zip_archive.h"
#include "train/cli/command.h"
#include "train/config.h"

namespace avid::cli {
namespace {

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// The instruction sets that our kernels and oneDNN choose by.
std::vector<std::string> simd_flags() {
  std::vector<std::string> flags;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto add = [&](bool has, const char* name) {
    if (has) flags.emplace_back(name);
  };
  add(__builtin_cpu_supports("sse4.2"), "sse4.2");
  add(__builtin_cpu_supports("avx"), "avx");
  add(__builtin_cpu_supports("avx2"), "avx2");
  add(__builtin_cpu_supports("fma"), "fma");
  add(__builtin_cpu_supports("avx512f"), "avx512f");
  add(__builtin_cpu_supports("avx512bw"), "avx512bw");
  add(__builtin_cpu_supports("avx512vnni"), "avx512_vnni");
  add(__builtin_cpu_supports("avx512bf16"), "avx512_bf16");
  // The compiler's list has no name for the matrix unit: CPUID leaf 7, EDX bit 22 (AMX-BF16), 24 (AMX-TILE).
  unsigned a = 0, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  add((d >> 22 & 1) != 0, "amx_bf16");
  add((d >> 24 & 1) != 0, "amx_tile");
#endif
  return flags;
}

const char* build_type() {
#if defined(__SANITIZE_ADDRESS__)
  return "sanitized";
#elif defined(NDEBUG)
  return "release";
#else
  return "debug";
#endif
}

Json library_versions() {
  const dnnl_version_t* onednn = dnnl_version();
  unsigned major = 0, minor = 0, patch = 0;
  H5get_libversion(&major, &minor, &patch);
  return {
      {"oneDNN", fmt::format("{}.{}.{}", onednn->major, onednn->minor, onednn->patch)},
      {"HDF5", fmt::format("{}.{}.{}", major, minor, patch)},
      {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
      {"libzip", version_of_libzip()},
      {"zlib", version_of_zlib()},
      {"CLI11", cli11_version()},
      {"cpp-httplib", diffusion::httplib_version()},
      {"giflib", eval::giflib_version()},
      {"stb_image_write", eval::stb_version()},
      {"toml++", train::toml_library_version()},
      {"nlohmann-json",
       fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)}};
}

// What --device takes here, with the reason where it does not.
Json device_list() {
  Json list = Json::array({{{"name", "cpu"}}});
#if AVID_HAVE_CUDA
  const int count = kernels::device_count<kernels::Cuda>();
  for (int i = 0; i < std::max(count, 1); ++i) {
    const std::string problem = kernels::device_problem<kernels::Cuda>(i);
    Json entry{{"name", fmt::format("cuda:{}", i)}};
    if (problem.empty()) {
      const kernels::DeviceMemory memory = kernels::device_memory<kernels::Cuda>(i);
      entry["name"] = Device{DeviceKind::cuda, i}.describe();
      entry["memory_gib"] = static_cast<double>(memory.total) / (1 << 30);
      entry["free_gib"] = static_cast<double>(memory.free) / (1 << 30);
    } else {
      entry["problem"] = problem;
    }
    list.push_back(entry);
  }
#else
  list.push_back({{"name", "cuda"}, {"problem", "this build has no CUDA kernels"}});
#endif
#if AVID_HAVE_SIM
  list.push_back({{"name", Device{DeviceKind::sim, 0}.describe()}});
#endif
  return list;
}

void run_info(bool as_json) {
  Json info;
  info["version"] = AVID_VERSION;
  info["build"] = build_type();
  info["compiler"] = std::string("g++ ") + __VERSION__;
  info["cpu"] = cpu_model();
  info["simd"] = simd_flags();
  info["cores"] = std::thread::hardware_concurrency();
  info["threads"] = omp_get_max_threads();
  info["memory_gib"] =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE)) / (1 << 30);
  const Json devices = device_list();
  info["devices"] = Json::array();  // the names of those that can be used; device_details has all, with reasons
  for (const Json& device : devices)
    if (!device.contains("problem")) info["devices"].push_back(device["name"]);
  info["device_details"] = devices;
  info["cuda"] = AVID_HAVE_CUDA != 0;
  info["libraries"] = library_versions();
  info["mp4"] = {{"encoder", eval::mp4_encoder()}};  // empty: none
  if (const std::string problem = eval::mp4_problem(); !problem.empty()) info["mp4"]["problem"] = problem;
  if (as_json) {
    print_json(info, 2);
    return;
  }
  const auto line = [](const char* key, const std::string& value) { std::printf("%-10s %s\n", key, value.c_str()); };
  line(
      "avid",
      info["version"].get<std::string>() + ", " + build_type() + " build, " + info["compiler"].get<std::string>());
  line("cpu", cpu_model());
  line("simd", fmt::format("{}", fmt::join(simd_flags(), " ")));
  line(
      "threads",
      fmt::format(
          "{} (OMP_NUM_THREADS changes it) on {} cores", omp_get_max_threads(), std::thread::hardware_concurrency()));
  line("memory", fmt::format("{:.1f} GiB", info["memory_gib"].get<double>()));
  for (const Json& device : devices)
    line(
        "device", device["name"].get<std::string>() +
                      (device.contains("problem") ? ": " + device["problem"].get<std::string>() : ""));
  std::string libraries;
  for (const auto& [name, version] : info["libraries"].items())
    libraries += (libraries.empty() ? "" : ", ") + name + " " + version.get<std::string>();
  line("libraries", libraries);
  line("mp4", eval::mp4_problem().empty() ? eval::mp4_encoder() : eval::mp4_problem());
}

const CommandRegistrar info_command("info", "build, devices, threads, libraries and their versions", [](Command* app) {
  auto as_json = std::make_shared<bool>(false);
  app->add_flag("--json", *as_json, "print one JSON value");
  set_example(app, "avid info");
  app->callback([as_json] { run_info(*as_json); });
});

}  // namespace
}  // namespace avid::cli
