// data/window_sampler.cpp -- ranges of valid starts and draws from them
#include "data/window_sampler.h"

#include <algorithm>
#include <limits>

#include "tensor/error.h"
#include "tensor/rng.h"

namespace avid::data {
namespace {

/// Calls add(begin, end) for every range of starts that `windows` allows in frames [run_begin, run_end), whatever the
/// resets.
template <class Add>
void allowed_starts(const Run& run, const WindowOptions& o, Add&& add) {
  if (o.windows == WindowSet::full) {
    add(run.begin, run.begin + std::max<std::int64_t>(run.length - o.num_frames + 1, 0));
    return;
  }
  for (std::int64_t at = 0; at < run.length; at += kReferenceFileSteps) {
    const std::int64_t steps = std::min(kReferenceFileSteps, run.length - at);
    add(run.begin + at, run.begin + at + std::max<std::int64_t>(steps - kReferenceWidth, 0));
  }
}

}  // namespace

ResetPolicy parse_reset_policy(std::string_view word) {
  if (word == "exclude") return ResetPolicy::exclude;
  if (word == "allow") return ResetPolicy::allow;
  fail<ConfigError>("data: resets: expected exclude or allow, got '{}'", word);
}

WindowSet parse_window_set(std::string_view word) {
  if (word == "full") return WindowSet::full;
  if (word == "reference") return WindowSet::reference;
  fail<ConfigError>("data: windows: expected full or reference, got '{}'", word);
}

const char* name_of(ResetPolicy policy) { return policy == ResetPolicy::exclude ? "exclude" : "allow"; }
const char* name_of(WindowSet set) { return set == WindowSet::full ? "full" : "reference"; }

WindowSampler::WindowSampler(const EpisodeStore& store, const WindowOptions& options)
    : WindowSampler(store.runs(), store.segments(), store.resets_known(), options) {}

WindowSampler::WindowSampler(
    std::span<const Run> runs, std::span<const Segment> segments, bool resets_known, const WindowOptions& options)
    : options_(options) {
  const std::int64_t T = options.num_frames;
  check<ShapeError>(T >= 1, "data: window: expected at least 1 frame, got {}", T);
  check<ConfigError>(
      options.windows == WindowSet::full || T <= kReferenceWidth,
      "data: windows = reference: expected at most {} frames, got {}", kReferenceWidth, T);
  check<ConfigError>(
      resets_known || options.resets == ResetPolicy::allow,
      "data: resets = exclude: this dataset was imported without reset flags | use resets = allow");

  std::int64_t num_allowed = 0, longest = 0;
  std::size_t s = 0;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const std::size_t first_segment = s;
    while (s < segments.size() && segments[s].run == static_cast<std::int64_t>(r)) ++s;
    if (options.resets == ResetPolicy::allow) longest = std::max(longest, runs[r].length);
    for (std::size_t i = first_segment; i < s && options.resets == ResetPolicy::exclude; ++i)
      longest = std::max(longest, segments[i].length);
    std::size_t i = first_segment;
    allowed_starts(runs[r], options, [&](std::int64_t begin, std::int64_t end) {
      num_allowed += end - begin;
      if (options.resets == ResetPolicy::allow) return add(begin, end - begin, static_cast<std::int64_t>(r));
      // Both lists ascend; a segment may reach into the next range, so the last one is looked at again.
      while (i > first_segment && segments[i - 1].begin + segments[i - 1].length > begin) --i;
      for (; i < s && segments[i].begin < end; ++i) {
        const std::int64_t from = std::max(begin, segments[i].begin);
        const std::int64_t to = std::min(end, segments[i].begin + segments[i].length - T + 1);
        add(from, to - from, static_cast<std::int64_t>(r));
      }
    });
  }
  check<ConfigError>(
      num_windows_ > 0, "data: window: expected at most {} frames (the longest {}), got {} | use shorter windows{}",
      longest, options.resets == ResetPolicy::allow ? "run" : "stretch without a reset", T,
      options.resets == ResetPolicy::allow ? "" : " or resets = allow");
  check<ConfigError>(
      num_windows_ <= std::numeric_limits<std::uint32_t>::max(),
      "data: windows: expected below 2^32, got {} | split the dataset", num_windows_);
  excluded_fraction_ = 1.0 - static_cast<double>(num_windows_) / static_cast<double>(num_allowed);
}

void WindowSampler::add(std::int64_t first_start, std::int64_t count, std::int64_t run) {
  if (count <= 0) return;
  ranges_.push_back({first_start, num_windows_, run});
  num_windows_ += count;
}

std::int64_t WindowSampler::start(std::int64_t index) const {
  check<ShapeError>(
      index >= 0 && index < num_windows_, "data: window: expected 0..{}, got {}", num_windows_ - 1, index);
  const auto after = std::upper_bound(
      ranges_.begin(), ranges_.end(), index, [](std::int64_t i, const Range& r) { return i < r.first_index; });
  const Range& range = *(after - 1);
  return range.first_start + (index - range.first_index);
}

std::int64_t WindowSampler::draw(std::uint64_t seed, std::uint64_t step, std::uint64_t sample) const {
  const RngKey key{.seed = seed, .purpose = RngPurpose::data_window, .step = step};
  return start(random_below(key, sample, static_cast<std::uint32_t>(num_windows_)));
}

std::vector<std::int64_t> WindowSampler::draw_evaluation(std::uint64_t seed, std::int64_t count) const {
  // Where each run's ranges begin; one more entry closes the last.
  std::vector<std::int64_t> run_index;
  for (std::size_t i = 0; i < ranges_.size(); ++i)
    if (i == 0 || ranges_[i].run != ranges_[i - 1].run) run_index.push_back(ranges_[i].first_index);
  const auto num_runs = static_cast<std::uint32_t>(run_index.size());
  run_index.push_back(num_windows_);
  const RngKey key{.seed = seed, .purpose = RngPurpose::data_window, .step = std::uint64_t{1} << 63};
  std::vector<std::int64_t> starts;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto element = static_cast<std::uint64_t>(i) * 2;
    const std::uint32_t r = random_below(key, element, num_runs);
    const auto windows = static_cast<std::uint32_t>(run_index[r + 1] - run_index[r]);
    starts.push_back(start(run_index[r] + random_below(key, element + 1, windows)));
  }
  return starts;
}

}  // namespace avid::data
