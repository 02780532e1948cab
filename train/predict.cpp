// train/predict.cpp -- see predict.h
#include "train/predict.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string_view>
#include <tuple>

#include "kernels/op_name.h"
#include "kernels/op_timer.h"
#include "tensor/error.h"

#if AVID_HAVE_SIM
#include "kernels/sim/launch_counter.h"
#include "kernels/sim/race_detector.h"
#endif

namespace avid::train {

#if AVID_HAVE_SIM
namespace {

using Key = std::pair<std::string, std::string>;  // part, what

bool begins_with(std::string_view text, std::string_view begin) { return text.substr(0, begin.size()) == begin; }

bool is_one_of(std::string_view text, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(), [&](const char* word) { return text == word; });
}

std::string line_of_conv(const kernels::OpVariant& variant, bool backward) {
  const std::int64_t rows = variant.kernel[1], columns = variant.kernel[2];
  if (rows == 1) return "1x1, FiLM, head";
  if (rows == 4) return "down/up 4x4";
  const std::string name = "conv " + std::to_string(rows) + "x" + std::to_string(columns);
  return !backward ? name : name + (begins_with(variant.pass, "data") ? " dgrad" : " wgrad");
}

// The line that a launch belongs to; that of its op where `kernel` is empty.
Key line_of(
    const std::string& op, const kernels::OpVariant& variant, const std::string& module, std::string_view kernel,
    bool has_base) {
  const bool backward = op.size() > 4 && op.substr(op.size() - 4) == "_bwd";
  const std::string forward = backward ? op.substr(0, op.size() - 4) : op;
  const bool base = has_base && (module == "base" || begins_with(module, "base."));
  const std::string part = backward ? "bwd" : base ? "base fwd" : "fwd";
  if (begins_with(kernel, "adam_") || begins_with(kernel, "sum_squares") || begins_with(kernel, "lerp_"))
    return {"rest", "optimiser"};
  if (begins_with(kernel, "accumulate_")) return {"bwd", "sums of gradients"};
  if (begins_with(kernel, "rms_norm") || begins_with(kernel, "group_norm") ||
      is_one_of(forward, {"rms_norm_film_silu", "group_norm_silu"}))
    return {part, "norm kernels"};
  if (variant.pass[0] != '\0') return {part, line_of_conv(variant, backward)};
  if (begins_with(forward, "conv3d_norm")) return {part, "conv 3x3"};  // before it says so
  if (forward == "conv_transpose3d") return {part, "down/up 4x4"};
  if (forward == "linear") return {part, "1x1, FiLM, head"};
  if (is_one_of(forward, {"temporal_attention", "linear_attention", "spatial_attention"}))
    return {part, forward.substr(0, forward.find('_')) + " attention"};
  if (op.empty() || is_one_of(
                        forward, {"unet_input", "embedding", "gelu", "silu", "film_condition", "cast", "mask_mix",
                                  "weighted_mse", "add", "scale", "reshape", "slice_frames"}))
    return {"rest", "input, codes, mask, loss"};
  return {part, forward};
}

int rank_of(const std::string& part) { return part == "base fwd" ? 0 : part == "fwd" ? 1 : part == "bwd" ? 2 : 3; }

LaunchDemand demand_of(const kernels::simulator::NotedLaunch& l) {
  const auto count = [](const kernels::sim::dim3& d) {
    return static_cast<double>(d.x) * static_cast<double>(d.y) * static_cast<double>(d.z);
  };
  return {
      .kernel = l.kernel,
      .blocks = count(l.grid),
      .threads = count(l.block),
      .shared_bytes = static_cast<double>(l.shared_bytes),
      .mma = l.work.mma,
      .tf32 = l.work.tf32,
      .wgmma = l.work.wgmma,
      .mma_instructions = l.work.mma_instructions,
      .passes = l.work.passes,
      .loads = l.work.loads,
      .cache_bytes = l.work.cache_read + l.work.cache_written,
      .memory_bytes = l.work.memory_read + l.work.memory_written,
      .is_kernel = l.kernel != "copy" && l.kernel != "fill"};
}

void add(PredictedLine& line, const LaunchDemand& d, const LaunchTime& time) {
  line.issued_flops += 2 * (d.mma + d.tf32 + d.wgmma);
  line.memory_bytes += d.memory_bytes;
  line.cache_bytes += d.cache_bytes;
  ++line.launches;
  line.seconds += time.seconds;
  line.bound_seconds[time.bound()] += time.seconds;
}

void add(LaunchTime& sum, const LaunchTime& time) {
  for (double LaunchTime::*part :
       {&LaunchTime::tensor, &LaunchTime::issue, &LaunchTime::shared, &LaunchTime::cache, &LaunchTime::memory,
        &LaunchTime::latency, &LaunchTime::launch, &LaunchTime::seconds, &LaunchTime::waves})
    sum.*part += time.*part;
  sum.resident = time.resident;
  sum.known = time.known;
}

}  // namespace
#endif

std::string PredictedLine::bound() const {
  std::string most;
  for (const auto& [name, seconds] : bound_seconds)
    if (most.empty() || seconds > bound_seconds.at(most)) most = name;
  return most;
}

Prediction predict_step(
    [[maybe_unused]] BenchRequest request, const GpuModel& gpu,
    [[maybe_unused]] const std::function<void(const std::string&)>& say) {
#if AVID_HAVE_SIM
  namespace simulator = kernels::simulator;
  check<UsageError>(simulator::have_race_hooks(), "predict: needs kernels with race hooks | use avid_traffic");
  check<UsageError>(!request.config.empty(), "predict: needs --config");
  request.device = Device::parse("sim");
  request.graph = UseGraph::off;
  request.collect = kernels::Collect::nothing;
  // An update or step that finds tables and converted weights; of a sampler never the last one.
  request.warmup = 2;
  request.steps = 2;
  std::set<std::string> said;
  simulator::LaunchCounter counter([&](const std::string& kernel) {
    if (say && said.insert(kernel).second) say(fmt::format("running a few blocks of {}", kernel));
  });
  const bool has_base = request.kind != "base";
  std::map<Key, double> useful;
  request.around_first_timed = [&](bool begins) {
    begins ? counter.begin() : counter.end();
    if (!begins) return kernels::set_flops_listener({});
    kernels::set_flops_listener([&](double flops) {
      useful[line_of(
          kernels::current_op_name(), kernels::current_variant(), kernels::current_module(), "", has_base)] += flops;
    });
  };
  struct Pretending {
    Pretending(simulator::LaunchNotes* notes, int arch) {
      simulator::options().arch = arch;
      simulator::options().detect_races = false;
      simulator::pretend_and_note(notes);
    }
    ~Pretending() {
      simulator::pretend_and_note(nullptr);
      kernels::set_flops_listener({});
      simulator::options() = before;
    }
    const simulator::Options before = simulator::options();
  };
  BenchResult bench;
  {
    const Pretending pretending(&counter, gpu.arch);
    bench = bench_step(request);
  }

  Prediction out;
  out.gpu = gpu;
  out.kind = request.kind;
  out.clips = bench.clips;
  out.flops_per_step = bench.flops_per_step;
  std::map<Key, std::size_t> line_numbers;
  const auto line_at = [&](const Key& key) -> PredictedLine& {
    const auto [found, is_new] = line_numbers.try_emplace(key, out.lines.size());
    if (is_new) {
      out.lines.emplace_back();
      out.lines.back().part = key.first;
      out.lines.back().what = key.second;
    }
    return out.lines[found->second];
  };
  std::map<std::tuple<std::string, std::string, std::string>, PredictedKernel> kernels;
  std::set<std::string> unknown;
  for (const simulator::NotedLaunch& launch : counter.launches()) {
    const LaunchDemand demand = demand_of(launch);
    const LaunchTime time = predict_launch(gpu, demand, KernelTable::built_in());
    const Key key = line_of(launch.op, launch.variant, launch.module, launch.kernel, has_base);
    add(line_at(key), demand, time);
    add(out.total, demand, time);
    PredictedKernel& kernel = kernels[{key.first, key.second, launch.kernel}];
    kernel.kernel = launch.kernel;
    kernel.line.part = key.first;
    kernel.line.what = key.second;
    add(kernel.line, demand, time);
    add(kernel.sum, time);
    kernel.most_blocks = std::max(kernel.most_blocks, demand.blocks);
    kernel.most_shared_bytes = std::max(kernel.most_shared_bytes, demand.shared_bytes);
    kernel.fewest_blocks = kernel.line.launches == 1 ? demand.blocks : std::min(kernel.fewest_blocks, demand.blocks);
    if (!time.known) unknown.insert(launch.kernel);
  }
  for (const auto& [key, flops] : useful) {
    line_at(key).useful_flops = flops;
    out.total.useful_flops += flops;
  }
  std::stable_sort(out.lines.begin(), out.lines.end(), [](const auto& a, const auto& b) {
    return rank_of(a.part) < rank_of(b.part);
  });
  for (PredictedLine& line : out.lines) {
    line.floor_seconds = std::max(line.useful_flops / gpu.floor_flops, line.memory_bytes / gpu.floor_bytes);
    out.total.floor_seconds += line.floor_seconds;
  }
  for (auto& [key, kernel] : kernels) out.kernels.push_back(std::move(kernel));
  std::stable_sort(out.kernels.begin(), out.kernels.end(), [](const auto& a, const auto& b) {
    return a.line.seconds > b.line.seconds;
  });
  out.unknown_kernels.assign(unknown.begin(), unknown.end());
  return out;
#else
  fail<UsageError>("predict: needs the kernel simulator, which this program was built without, for {}", gpu.name);
#endif
}

}  // namespace avid::train
