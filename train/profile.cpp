// train/profile.cpp -- rows, roofs and the trace of a profile
#include "train/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "kernels/threads.h"
#if AVID_HAVE_CUDA
#include "kernels/vendor/cuda_stopwatch.h"
#endif
#include "tensor/io/json.h"
#include "tensor/ops/linear.h"
#include "tensor/ops/on_device.h"
#include "tensor/rng.h"

namespace avid::train {
namespace {

/// Seconds of the fastest of `tries` runs of f; f returns when the work is done.
template <class F>
double fastest(int tries, F&& f) {
  double best = 1e30;
  for (int i = 0; i < tries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// Copies 256 MiB, more than a last-level cache hides.
double cpu_copy_bytes_per_second() {
  constexpr std::int64_t kBytes = 256 << 20, kPiece = 1 << 20;
  std::vector<char> from(kBytes, 1), to(kBytes, 2);
  const double seconds = fastest(5, [&] {
    kernels::parallel_for(kBytes / kPiece, [&](std::int64_t i, int) {
      std::memcpy(to.data() + i * kPiece, from.data() + i * kPiece, kPiece);
    });
  });
  return 2.0 * static_cast<double>(kBytes) / seconds;
}

#if AVID_HAVE_CUDA
void wait_for(Device device) {
  on_device(device, "profile", []<class Backend>(const kernels::Stream& stream) {
    kernels::device_synchronise<Backend>(stream);
  });
}

/// Seconds that each of so many products a b^T takes; the fastest of `tries`, after one that is not timed.
double product_seconds(const Tensor& a, const Tensor& b, int products, int tries) {
  linear(a, b, {});
  wait_for(a.device());
  const double seconds = fastest(tries, [&] {
    for (int i = 0; i < products; ++i) linear(a, b, {});  // queued together, so that the wait at the end costs nothing
    wait_for(a.device());
  });
  return seconds / products;
}

/// The factor of the product that others are measured by: 8192 wide in bf16, 4096 in f32. Narrower where such a product
/// would take a tenth of a second: on what is no GPU (kernels/ptx).
Tensor product_factor(Device device, DType dtype) {
  const std::int64_t most = dtype == DType::bf16 ? 8192 : 4096;
  for (std::int64_t n = 128;; n *= 2) {
    Tensor host = Tensor::empty({n, n});
    fill_normal(host, {.seed = 1});
    const Tensor a = host.to(device).to(dtype);
    if (n == most || 8 * product_seconds(a, a, 1, 1) > 0.1) return a;
  }
}

DevicePeaks gpu_peaks(Device device, DType activations) {
  constexpr int kTogether = 10, kTries = 3;
  DevicePeaks peaks;
  namespace vendor = kernels::vendor;
  const vendor::Route asked = vendor::route(vendor::Family::gemm);
  vendor::set_route(vendor::Family::gemm, vendor::Route::native);
  const Tensor a = product_factor(device, activations), b = a.clone();
  const double flops = 2.0 * std::pow(static_cast<double>(a.dim(0)), 3);
  // The roof is the better of our product and the library's, where it can be loaded.
  for (const vendor::Route route : {vendor::Route::native, vendor::Route::library}) {
    vendor::set_route(vendor::Family::gemm, route);
    try {
      const double rate = flops / product_seconds(a, b, kTogether, kTries);
      if (rate <= peaks.flops_per_s) continue;
      peaks.flops_per_s = rate;
      peaks.gemm_by = fmt::format("{}, {}", route == vendor::Route::native ? "ours" : "cuBLASLt", name_of(activations));
    } catch (const vendor::LibraryError&) {  // not here: ours is the roof, and its name says so
    }
  }
  vendor::set_route(vendor::Family::gemm, asked);
  // Four times what empties the cache: 512 MiB on an A100 or H200.
  constexpr std::int64_t kColumns = 512;
  const auto rows = static_cast<std::int64_t>(4 * vendor::flush_bytes() / (kColumns * sizeof(float)));
  const Tensor from = Tensor::zeros({rows, kColumns}, DType::f32, device);
  Tensor to = Tensor::empty(from.shape(), DType::f32, device);
  const double seconds = fastest(kTries, [&] {
    for (int i = 0; i < kTogether; ++i) to.copy_from(from);
    wait_for(device);
  });
  peaks.bytes_per_s = kTogether * 2.0 * static_cast<double>(from.num_bytes()) / seconds;
  return peaks;
}
#endif

double microseconds(double seconds) { return seconds * 1e6; }

Json name_record(const char* what, int track, const std::string& name) {
  return {{"name", what}, {"ph", "M"}, {"pid", 1}, {"tid", track}, {"args", {{"name", name}}}};
}

Json complete_event(const std::string& name, const char* category, int track, double start, double seconds) {
  return {{"name", name}, {"cat", category}, {"ph", "X"}, {"ts", microseconds(start)}, {"dur", microseconds(seconds)},
          {"pid", 1},     {"tid", track}};
}

}  // namespace

double DevicePeaks::roof(double flops_per_byte) const { return std::min(flops_per_s, flops_per_byte * bytes_per_s); }

std::optional<DevicePeaks> measure_peaks(Device device, [[maybe_unused]] DType activations) {
  if (device.kind == DeviceKind::sim) return {};
#if AVID_HAVE_CUDA
  if (device.kind == DeviceKind::cuda) return gpu_peaks(device, activations);
#endif
  return DevicePeaks{measure_gemm_flops_per_second(), cpu_copy_bytes_per_second(), "oneDNN f32"};
}

std::vector<OpRow> op_rows(const BenchResult& result, const std::optional<DevicePeaks>& peaks) {
  const auto steps = static_cast<double>(result.seconds.size());
  double step_seconds = 0;
  for (const double s : result.seconds) step_seconds += s / steps;
  std::vector<OpRow> rows;
  for (const auto& [name, sum] : result.ops) {
    OpRow row{
        .name = name,
        .calls = static_cast<double>(sum.calls) / steps,
        .seconds = sum.seconds / steps,
        .flops = sum.flops / steps,
        .bytes = sum.bytes / steps,
        .launches = static_cast<double>(sum.launches) / steps};
    row.share = step_seconds > 0 ? row.seconds / step_seconds : 0;
    if (peaks && row.seconds > 0)
      row.roof_share = std::max(row.flops / peaks->flops_per_s, row.bytes / peaks->bytes_per_s) / row.seconds;
    rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end(), [](const OpRow& a, const OpRow& b) {
    return a.seconds != b.seconds ? a.seconds > b.seconds : a.name < b.name;
  });
  return rows;
}

std::string chrome_trace(const ProfileTitle& title, const BenchResult& result) {
  std::vector<kernels::OpEvent> events = result.events;
  // An outer event before those inside it, as viewers want them.
  std::stable_sort(events.begin(), events.end(), [](const auto& a, const auto& b) {
    return a.start != b.start ? a.start < b.start : a.seconds > b.seconds;
  });
  Json out = Json::array();
  out.push_back(name_record("process_name", 0, fmt::format("avid {} step, {}", title.kind, title.dtype)));
  int tracks = 1;
  for (const auto& event : events) tracks = std::max(tracks, event.thread + 1);
  for (int i = 0; i < tracks; ++i)
    out.push_back(
        name_record("thread_name", i + 1, i == 0 ? title.device : fmt::format("{}, thread {}", title.device, i)));
  for (std::size_t i = 0; i < result.seconds.size(); ++i)
    out.push_back(complete_event(fmt::format("step {}", i), "step", 1, result.step_starts.at(i), result.seconds[i]));
  for (const kernels::OpEvent& event : events) {
    Json record =
        complete_event(event.name, event.is_module ? "module" : "op", event.thread + 1, event.start, event.seconds);
    if (!event.is_module) {
      Json& args = record["args"];
      args["module"] = event.module;
      args["self_us"] = microseconds(event.self_seconds);
      args["gflop"] = event.flops * 1e-9;
      args["mbyte"] = event.bytes * 1e-6;
      if (event.launches > 0) args["launches"] = event.launches;
      if (title.times_mean_something && event.self_seconds > 0) {
        args["gflop_per_s"] = event.flops / event.self_seconds * 1e-9;
        args["gbyte_per_s"] = event.bytes / event.self_seconds * 1e-9;
      }
    }
    out.push_back(std::move(record));
  }
  const Json whole = {
      {"displayTimeUnit", "ms"},
      {"otherData",
       {{"device", title.device},
        {"dtype", title.dtype},
        {"kind", title.kind},
        {"times", title.times_mean_something ? "measured, every op waited for" : "of the simulator: not meaningful"}}},
      {"traceEvents", std::move(out)}};
  return json_text(whole) + "\n";
}

std::string with_prefix(double value, const std::string& unit) {
  constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  std::size_t i = 0;
  while (value >= 999.5 && i + 1 < std::size(kPrefixes)) value /= 1000, ++i;
  return fmt::format("{:.3g} {}{}", value, kPrefixes[i], unit);
}

}  // namespace avid::train
