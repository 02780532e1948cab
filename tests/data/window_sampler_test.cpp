// tests/data/window_sampler_test.cpp -- counts, contents and draws of windows
#include "data/window_sampler.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tensor/error.h"
#include "tests/doctest.h"

using namespace avid;
using namespace avid::data;

namespace {

/// Runs of these lengths, one after the other, with resets at these global frames.
struct Tables {
  Tables(const std::vector<std::int64_t>& lengths, const std::set<std::int64_t>& resets) {
    std::int64_t begin = 0;
    for (const std::int64_t length : lengths) {
      const auto run = static_cast<std::int64_t>(runs.size());
      runs.push_back({static_cast<std::int32_t>(run), 0, begin, length});
      for (std::int64_t f = begin; f < begin + length; ++f) {
        first.push_back(f == begin || resets.contains(f));
        if (first.back()) segments.push_back({f, 0, run});
        ++segments.back().length;
      }
      begin += length;
    }
  }
  WindowSampler sampler(const WindowOptions& options) const { return {runs, segments, true, options}; }

  std::vector<Run> runs;
  std::vector<Segment> segments;
  std::vector<char> first;
};

/// The definition, spelled out: every start that the rules allow.
std::vector<std::int64_t> expected_starts(const Tables& tables, const WindowOptions& o) {
  std::vector<std::int64_t> starts;
  for (const Run& run : tables.runs)
    for (std::int64_t s = 0; s < run.length; ++s) {
      bool valid = s + o.num_frames <= run.length;
      if (o.windows == WindowSet::reference) {
        const std::int64_t file = s / 50, steps = std::min<std::int64_t>(50, run.length - 50 * file);
        valid = s - 50 * file < steps - 12;
      }
      for (std::int64_t t = s + 1; t < s + o.num_frames && valid && o.resets == ResetPolicy::exclude; ++t)
        valid = !tables.first[static_cast<std::size_t>(run.begin + t)];
      if (valid) starts.push_back(run.begin + s);
    }
  return starts;
}

}  // namespace

TEST_CASE("window_sampler/count/one_run_of_1000") {
  const Tables plain({1000}, {}), one_reset({1000}, {500});
  CHECK(plain.sampler({.num_frames = 10}).num_windows() == 991);
  CHECK(one_reset.sampler({.num_frames = 10}).num_windows() == 982);
  CHECK(one_reset.sampler({.num_frames = 10, .resets = ResetPolicy::allow}).num_windows() == 991);
  CHECK(one_reset.sampler({.num_frames = 10}).excluded_fraction() == doctest::Approx(9.0 / 991.0));
  CHECK(plain.sampler({.num_frames = 10}).excluded_fraction() == 0.0);
  CHECK(plain.sampler({.num_frames = 1000}).num_windows() == 1);
}

TEST_CASE("window_sampler/reference/property_43_window_counts") {
  const WindowOptions reference{.num_frames = 10, .resets = ResetPolicy::allow, .windows = WindowSet::reference};
  CHECK(Tables({50}, {}).sampler(reference).num_windows() == 38);
  const WindowSampler level = Tables({1000}, {}).sampler(reference);
  CHECK(level.num_windows() == 760);
  for (std::int64_t i = 0; i < 760; ++i) CHECK(level.start(i) == 50 * (i / 38) + i % 38);
}

TEST_CASE("window_sampler/starts/are_the_definition_for_random_runs_and_resets") {
  std::mt19937 engine(7);
  const auto below = [&](int n) { return static_cast<std::int64_t>(engine() % static_cast<unsigned>(n)); };
  int compared = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<std::int64_t> lengths;
    std::int64_t total = 0;
    for (std::int64_t r = below(4) + 1; r > 0; --r) total += lengths.emplace_back(below(160) + 1);
    std::set<std::int64_t> resets;
    for (std::int64_t n = below(8); n > 0; --n) resets.insert(below(static_cast<int>(total)));
    const Tables tables(lengths, resets);
    for (const ResetPolicy policy : {ResetPolicy::exclude, ResetPolicy::allow})
      for (const WindowSet set : {WindowSet::full, WindowSet::reference}) {
        const WindowOptions options{.num_frames = below(12) + 1, .resets = policy, .windows = set};
        const auto expected = expected_starts(tables, options);
        if (expected.empty()) {
          CHECK_THROWS_AS(tables.sampler(options), ConfigError);
          continue;
        }
        const WindowSampler sampler = tables.sampler(options);
        REQUIRE(sampler.num_windows() == static_cast<std::int64_t>(expected.size()));
        for (std::size_t i = 0; i < expected.size(); ++i)
          REQUIRE(sampler.start(static_cast<std::int64_t>(i)) == expected[i]);
        ++compared;
      }
  }
  CHECK(compared > 500);
}

TEST_CASE("window_sampler/draw/is_uniform_and_depends_only_on_its_arguments") {
  const WindowSampler sampler = Tables({30, 25}, {20}).sampler({.num_frames = 10});
  CHECK(sampler.num_windows() == 11 + 1 + 16);
  std::map<std::int64_t, int> count;
  constexpr int kDraws = 28000;
  for (int i = 0; i < kDraws; ++i)
    ++count[sampler.draw(5, static_cast<std::uint64_t>(i / 8), static_cast<std::uint64_t>(i % 8))];
  CHECK(count.size() == 28);
  for (const auto& [start, n] : count) CHECK(std::abs(n - 1000) < 160);  // five standard deviations
  CHECK(sampler.draw(5, 3, 2) == sampler.draw(5, 3, 2));
  int same = 0;
  for (std::uint64_t i = 0; i < 100; ++i) same += sampler.draw(5, 3, i) == sampler.draw(6, 3, i);
  CHECK(same < 20);
}

TEST_CASE("window_sampler/draw_evaluation/runs_are_equally_likely_whatever_their_length") {
  const WindowSampler sampler = Tables({12, 5, 400}, {}).sampler({.num_frames = 10});  // 3, 0 and 391 windows
  int in_first = 0;
  const auto starts = sampler.draw_evaluation(2, 4000);
  for (const std::int64_t s : starts) {
    CHECK((s <= 2 || (s >= 17 && s <= 407)));
    in_first += s <= 2;
  }
  CHECK(std::abs(in_first - 2000) < 160);
  const auto fewer = sampler.draw_evaluation(2, 10);
  CHECK(std::equal(fewer.begin(), fewer.end(), starts.begin()));
}

TEST_CASE("window_sampler/errors/say_what_is_wrong") {
  const Tables tables({30}, {12});
  CHECK_THROWS_WITH_AS(
      tables.sampler({.num_frames = 19}),
      "data: window: expected at most 18 frames (the longest stretch without a reset), got 19 | use shorter windows or "
      "resets = allow",
      ConfigError);
  CHECK_THROWS_AS(tables.sampler({.num_frames = 31, .resets = ResetPolicy::allow}), ConfigError);
  CHECK_THROWS_AS(tables.sampler({.num_frames = 13, .windows = WindowSet::reference}), ConfigError);
  CHECK_THROWS_AS(tables.sampler({.num_frames = 0}), ShapeError);
  CHECK_THROWS_AS(WindowSampler(tables.runs, tables.segments, false, {}), ConfigError);
  CHECK(WindowSampler(tables.runs, tables.segments, false, {.resets = ResetPolicy::allow}).num_windows() == 21);
  const WindowSampler sampler = tables.sampler({});
  CHECK_THROWS_AS(sampler.start(-1), ShapeError);
  CHECK_THROWS_AS(sampler.start(sampler.num_windows()), ShapeError);
  CHECK_THROWS_AS(parse_reset_policy("ignore"), ConfigError);
  CHECK_THROWS_AS(parse_window_set("all"), ConfigError);
  CHECK(parse_reset_policy(name_of(ResetPolicy::allow)) == ResetPolicy::allow);
  CHECK(parse_window_set(name_of(WindowSet::reference)) == WindowSet::reference);
}
