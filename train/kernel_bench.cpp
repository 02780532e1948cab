// train/kernel_bench.cpp -- calls become rows, rows become tables
#include "train/kernel_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <tuple>

#include "kernels/threads.h"
#include "tensor/ops/on_device.h"
#if AVID_HAVE_CUDA
#include "kernels/vendor/cuda_stopwatch.h"
#endif

namespace avid::train {
namespace {

using kernels::Spread;
using kernels::vendor::Choice;

/// The host's clock. Before every start it reads 64 MiB, which leaves little of the operands in most caches; what a
/// large last-level cache keeps shows as more than a copy's rate.
class HostClock final : public kernels::OpClock {
 public:
  void begin() override {
    constexpr std::int64_t kPiece = 1 << 20;
    std::vector<std::int64_t> sums(other_.size() / kPiece);
    kernels::parallel_for(static_cast<std::int64_t>(sums.size()), [&](std::int64_t i, int) {
      const auto first = other_.begin() + i * kPiece;
      sums[static_cast<std::size_t>(i)] = std::accumulate(first, first + kPiece, std::int64_t{0});
    });
    read_ += std::accumulate(sums.begin(), sums.end(), std::int64_t{0});
    start_ = std::chrono::steady_clock::now();
  }
  double end() override {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() + (read_ < 0 ? 1 : 0);
  }

 private:
  std::vector<std::int64_t> other_ = std::vector<std::int64_t>(8 << 20, 1);  // 64 MiB
  std::int64_t read_ = 0;  // used, so that nobody leaves the reading out
  std::chrono::steady_clock::time_point start_;
};

std::unique_ptr<kernels::OpClock> make_clock(Device device) {
#if AVID_HAVE_CUDA
  if (device.kind == DeviceKind::cuda)
    return kernels::vendor::cuda_op_clock(kernels::device_stream<kernels::Cuda>(device.index));
#endif
  check<UsageError>(device.kind == DeviceKind::cpu, "bench kernels: expected cpu or cuda, got {}", device.to_string());
  return std::make_unique<HostClock>();
}

double milliseconds_per_step(const Choice& c, double steps) {
  return c.native_ms.median * static_cast<double>(c.calls) / steps;
}

/// Those that cost most first, and the sums where both compute.
struct Opponents {
  std::vector<Choice> rows;
  double ours_ms = 0, theirs_ms = 0;
};
Opponents by_cost(const KernelBench& bench) {
  Opponents out{.rows = bench.opponents};
  std::stable_sort(out.rows.begin(), out.rows.end(), [&](const Choice& a, const Choice& b) {
    return milliseconds_per_step(a, 1) > milliseconds_per_step(b, 1);
  });
  for (const Choice& c : out.rows) {
    if (!c.library_ms) continue;
    const double calls = static_cast<double>(c.calls) / bench.opponent_steps;
    out.ours_ms += calls * c.native_ms.median;
    out.theirs_ms += calls * c.library_ms->median;
  }
  return out;
}

std::string range_text(const Spread& s, int digits, double factor = 1) {
  return fmt::format("{:.{}f}-{:.{}f}", factor * s.low, digits, factor * s.high, digits);
}

Json range_json(const Spread& s, double factor = 1) { return Json::array({factor * s.low, factor * s.high}); }

/// The rows of a map from keys to a row and its times, those that take longest in a step first.
template <class Found>
auto rows_of(Found found, std::int64_t steps) {
  std::vector<typename Found::mapped_type::first_type> rows;
  for (auto& [key, entry] : found) {
    auto& [row, seconds] = entry;
    row.calls = static_cast<double>(seconds.size()) / static_cast<double>(steps);
    row.seconds = kernels::spread_of(std::move(seconds));
    rows.push_back(std::move(row));
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return a.calls * a.seconds.median > b.calls * b.seconds.median;
  });
  return rows;
}

/// Of the time in all memory-bound rows, what a copy of their bytes would take.
double whole_copy_share(const std::vector<MemoryRow>& rows, const DevicePeaks& peaks) {
  double seconds = 0, copy_seconds = 0;
  for (const MemoryRow& row : rows) {
    seconds += row.calls * row.seconds.median;
    copy_seconds += row.calls * row.bytes / peaks.bytes_per_s;
  }
  return seconds > 0 ? copy_seconds / seconds : 0;
}

std::string opponent_table(const KernelBench& bench) {
  const Opponents found = by_cost(bench);
  std::string out = fmt::format(
      "{:<72} {:>6} {:>10} {:>15} {:>10} {:>15} {:>8}\n", "op and shape", "calls", "ours ms", "quartiles", "library ms",
      "quartiles", "ratio");
  for (const Choice& c : found.rows) {
    out += fmt::format(
        "{:<72} {:>6.0f} {:>10.4f} {:>15} ", c.what, static_cast<double>(c.calls) / bench.opponent_steps,
        c.native_ms.median, range_text(c.native_ms, 4));
    if (c.library_ms)
      out += fmt::format(
          "{:>10.4f} {:>15} {:>8.2f}\n", c.library_ms->median, range_text(*c.library_ms, 4),
          c.library_ms->median / c.native_ms.median);
    else
      out += fmt::format("{:>10}  {}\n", "-", c.refusal);
  }
  return out + fmt::format(
                   "Per {} step, where both compute: ours {:.3f} ms, libraries {:.3f} ms: ratio {:.2f} (above 1 ours "
                   "are faster).\nMedians and quartiles of 5, each with a second-level cache that holds other "
                   "memory.\n",
                   bench.kind, found.ours_ms, found.theirs_ms, found.ours_ms > 0 ? found.theirs_ms / found.ours_ms : 0);
}

/// "64x8x64x64x100 to 90, 3x3 fwd" of a convolution, "64x8x64x64x100, 8 heads of 64" of attention.
std::string sizes_text(const std::map<std::string, std::int64_t>& sizes) {
  const auto size = [&sizes](const char* name) {
    const auto found = sizes.find(name);
    return found == sizes.end() ? std::int64_t{0} : found->second;
  };
  std::string text =
      fmt::format("{}x{}x{}x{}x{}", size("clips"), size("frames"), size("height"), size("width"), size("channels"));
  if (size("channels2") > 0) text += fmt::format("+{}", size("channels2"));
  if (size("heads") > 0) return text + fmt::format(", {} heads of {}", size("heads"), size("head_dim"));
  text += fmt::format(" to {}, ", size("outputs"));
  if (size("kernel_frames") != 1) text += fmt::format("{}x", size("kernel_frames"));
  text += fmt::format("{}x{}", size("kernel_height"), size("kernel_width"));
  if (size("stride_height") != 1) text += fmt::format("/{}", size("stride_height"));
  for (const char* word : {"fwd", "data", "weights", "film", "residual"})
    if (size(word) > 0) text += fmt::format(" {}", word);
  return text;
}

std::string product_table(const KernelBench& bench) {
  if (bench.products.empty()) return {};
  std::string out = fmt::format(
      "{:<26} {:<44} {:>6} {:>10} {:>17} {:>8}{}\n", "convolution, attention", "size", "calls", "ms", "quartiles",
      "TFLOP/s", bench.peaks ? "  of product" : "");
  for (const ProductRow& row : bench.products) {
    out += fmt::format(
        "{:<26} {:<44} {:>6.4g} {:>10.4f} {:>17} {:>8.2f}", row.op, sizes_text(row.sizes), row.calls,
        1e3 * row.seconds.median, range_text(row.seconds, 4, 1e3), 1e-12 * row.flops_per_s());
    out += bench.peaks ? fmt::format(" {:>10.0f}%\n", 100 * row.flops_per_s() / bench.peaks->flops_per_s) : "\n";
  }
  return out + fmt::format(
                   "Convolutions and attention of a {} step, each call with a cache that holds other memory.\n\n",
                   bench.kind);
}

std::string memory_table(const KernelBench& bench) {
  std::string out = fmt::format(
      "{:<26} {:<28} {:>9} {:>6} {:>10} {:>17} {:>8}{}\n", "op", "first in module", "MB", "calls", "us", "quartiles",
      "GB/s", bench.peaks ? "  of copy" : "");
  for (const MemoryRow& row : bench.memory) {
    out += fmt::format(
        "{:<26} {:<28.28} {:>9.3f} {:>6.4g} {:>10.1f} {:>17} {:>8.1f}", row.op, row.module.empty() ? "-" : row.module,
        row.bytes * 1e-6, row.calls, row.seconds.median * 1e6, range_text(row.seconds, 1, 1e6),
        row.bytes_per_s() * 1e-9);
    out += bench.peaks ? fmt::format(" {:>7.0f}%\n", 100 * row.copy_share(*bench.peaks)) : "\n";
  }
  out += fmt::format("Ops without products of a {} step, each call with a cache that holds other memory.", bench.kind);
  if (bench.peaks)
    out += fmt::format(
        "\nA large copy moves {:.1f} GB/s; together they move their bytes at {:.0f}% of that.",
        bench.peaks->bytes_per_s * 1e-9, 100 * whole_copy_share(bench.memory, *bench.peaks));
  return out + "\n";
}

}  // namespace

std::vector<MemoryRow> memory_rows(const std::vector<kernels::WatchedCall>& calls, std::int64_t steps) {
  std::map<std::tuple<std::string, std::int64_t, double>, std::pair<MemoryRow, std::vector<double>>> found;
  for (const kernels::WatchedCall& call : calls) {
    if (call.bytes == 0 || call.flops != 0 || call.holds_ops) continue;  // a view; products; not all of it
    auto& [row, seconds] = found[{call.op, call.elements, call.bytes}];
    if (seconds.empty())
      row = {
          .op = call.op,
          .module = call.module,
          .elements = call.elements,
          .bytes = call.bytes,
          .calls = 0,
          .seconds = {}};
    seconds.push_back(call.seconds);
  }
  return rows_of(std::move(found), steps);
}

std::vector<ProductRow> product_rows(const std::vector<kernels::WatchedCall>& calls, std::int64_t steps) {
  std::map<std::pair<std::string, std::map<std::string, std::int64_t>>, std::pair<ProductRow, std::vector<double>>>
      found;
  for (const kernels::WatchedCall& call : calls) {
    if (call.sizes.empty() || call.flops == 0) continue;
    auto& [row, seconds] = found[{call.op, call.sizes}];
    if (seconds.empty())
      row = {.op = call.op, .module = call.module, .sizes = call.sizes, .flops = call.flops, .calls = 0, .seconds = {}};
    seconds.push_back(call.seconds);
  }
  return rows_of(std::move(found), steps);
}

std::vector<kernels::WatchedCall> time_ops(BenchRequest request) {
  const auto clock = make_clock(request.device);
  std::vector<kernels::WatchedCall> calls;
  request.collect = kernels::Collect::sums;
  request.graph = UseGraph::off;
  struct Watch {
    Watch(kernels::OpClock* clock, std::vector<kernels::WatchedCall>& calls) {
      kernels::set_op_watch(clock, [&calls](const kernels::WatchedCall& call) { calls.push_back(call); });
    }
    ~Watch() { kernels::set_op_watch(nullptr); }
  } const watch(clock.get(), calls);
  bench_step(request);
  return calls;
}

std::string kernel_table(const KernelBench& bench) {
  return (bench.opponents.empty() ? std::string() : opponent_table(bench) + "\n") + product_table(bench) +
         memory_table(bench);
}

Json kernel_json(const KernelBench& bench) {
  Json out = {{"device", bench.device}, {"dtype", bench.dtype}, {"kind", bench.kind}};
  const Opponents found = by_cost(bench);
  out["kernels"] = Json::array();
  for (const Choice& c : found.rows) {
    Json row = {
        {"op", c.what},
        {"calls", static_cast<double>(c.calls) / bench.opponent_steps},
        {"ours_ms", c.native_ms.median},
        {"ours_quartiles_ms", range_json(c.native_ms)}};
    if (c.library_ms) {
      row["library_ms"] = c.library_ms->median;
      row["library_quartiles_ms"] = range_json(*c.library_ms);
    } else {
      row["refusal"] = c.refusal;
    }
    out["kernels"].push_back(std::move(row));
  }
  out["ours_ms_per_step"] = found.ours_ms;
  out["library_ms_per_step"] = found.theirs_ms;
  out["products"] = Json::array();
  for (const ProductRow& row : bench.products) {
    out["products"].push_back(
        {{"op", row.op},
         {"module", row.module},
         {"sizes", row.sizes},
         {"size", sizes_text(row.sizes)},
         {"calls", row.calls},
         {"ms", 1e3 * row.seconds.median},
         {"quartiles_ms", range_json(row.seconds, 1e3)},
         {"gflop", 1e-9 * row.flops},
         {"tflop_per_s", 1e-12 * row.flops_per_s()}});
    if (bench.peaks) out["products"].back()["share_of_product"] = row.flops_per_s() / bench.peaks->flops_per_s;
  }
  out["memory_bound"] = Json::array();
  for (const MemoryRow& row : bench.memory) {
    Json entry = {
        {"op", row.op},
        {"module", row.module},
        {"elements", row.elements},
        {"mbyte", row.bytes * 1e-6},
        {"calls", row.calls},
        {"us", row.seconds.median * 1e6},
        {"quartiles_us", range_json(row.seconds, 1e6)},
        {"gbyte_per_s", row.bytes_per_s() * 1e-9}};
    if (bench.peaks) entry["share_of_copy"] = row.copy_share(*bench.peaks);
    out["memory_bound"].push_back(std::move(entry));
  }
  if (bench.peaks) {
    out["copy_gbyte_per_s"] = bench.peaks->bytes_per_s * 1e-9;
    out["memory_bound_share_of_copy"] = whole_copy_share(bench.memory, *bench.peaks);
  }
  return out;
}

}  // namespace avid::train
