// tests/sim/flat_offsets_test.cpp -- runs of more than 2^32 elements: kernels that take all of a buffer as one, or walk
// whole pitches, give at its end the bits that they give on that end alone
//
// Nobody can walk so much here. The buffers are addresses whose pages come when they are touched and read as zeros, and
// of every launch the last four blocks are run, whose element numbers fit neither 31 nor 32 bits: a number cut to
// either points elsewhere, and the end stays as it was. Rows that lie far apart are in offsets_test.cpp.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/accumulate.h"
#include "kernels/adam.h"
#include "kernels/bias_rows.h"
#include "kernels/clip_mix.h"
#include "kernels/device/sim_recorder.h"
#include "kernels/elementwise.h"
#include "kernels/sim/engine.h"
#include "tests/doctest.h"
#include "tests/sim/pitched.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;

// The elements that are looked at, no whole number of packs, and those before them.
constexpr std::int64_t kTail = 963, kBefore = std::int64_t{1} << 32;

/// While it lives, launches run their last four blocks only: the end, one element per thread.
class LastBlocks final : public kernels::simulator::LaunchNotes {
 public:
  LastBlocks() {
    kernels::simulator::options().detect_races = false;
    kernels::simulator::pretend_and_note(this);
  }
  ~LastBlocks() override {
    kernels::simulator::pretend_and_note(nullptr);
    kernels::simulator::options().detect_races = races_;
  }
  void launched(const kernels::simulator::Launch& launch) override {
    auto& engine = kernels::simulator::own_engine();
    engine.begin_launch(launch);
    const std::uint64_t total = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    for (std::uint64_t b = total - std::min<std::uint64_t>(total, 4); b < total; ++b) engine.run_block(b);
  }
  void copied(std::size_t) override {}
  void filled(std::size_t) override {}

 private:
  bool races_ = kernels::simulator::options().detect_races;
};

/// `before` zeros and then `tail` random elements, of which nothing but the end takes memory.
template <class Elem>
class Run {
 public:
  Run(std::int64_t before, std::int64_t tail, unsigned seed)
      : before_(before),
        tail_(tail),
        bytes_(static_cast<std::size_t>(before + tail) * sizeof(Elem)),
        data_(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    REQUIRE(data_ != MAP_FAILED);
    const Pitched<Elem> values = random_rows<Elem>(1, tail, seed);
    for (std::int64_t i = 0; i < tail; ++i) data()[before + i] = values.values[static_cast<std::size_t>(i)];
  }
  ~Run() { munmap(data_, bytes_); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  Elem* data() const { return static_cast<Elem*>(data_); }
  std::int64_t size() const { return before_ + tail_; }
  void add_end_to(std::vector<double>& all) const {
    for (std::int64_t i = before_; i < size(); ++i) all.push_back(static_cast<double>(static_cast<float>(data()[i])));
  }

 private:
  std::int64_t before_, tail_;
  std::size_t bytes_;
  void* data_;
};

using Numbers = std::vector<double>;

/// f(n) does its work on runs with n elements before the end and returns their ends: the same for any n.
void check_same_end(const std::function<Numbers(std::int64_t before)>& f) {
  const Numbers alone = f(0);
  const LastBlocks only;
  const Numbers behind = f(kBefore);
  REQUIRE_FALSE(alone.empty());
  CHECK(alone == behind);
}

template <class Elem>
Numbers out_of(
    std::int64_t before, const std::function<void(const Elem* x, const Elem* y, Elem* out, std::int64_t)>& f) {
  const Run<Elem> x(before, kTail, 1), y(before, kTail, 2), out(before, kTail, 3);
  f(x.data(), y.data(), out.data(), x.size());
  Numbers all;
  out.add_end_to(all);
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("flat_offsets/elementwise/every op", Elem, float, bf16) {
  using Op = std::function<void(const Elem* x, const Elem* y, Elem* out, std::int64_t n)>;
  const std::map<std::string, Op> ops = {
      {"accumulate", [](auto* x, auto*, auto* out, auto n) { kernels::accumulate<Sim, Elem>(Stream{}, out, x, n); }},
      {"add", [](auto* x, auto* y, auto* out, auto n) { kernels::add_fwd<Sim, Elem>(Stream{}, x, y, out, n); }},
      {"scale", [](auto* x, auto*, auto* out, auto n) { kernels::scale_fwd<Sim, Elem>(Stream{}, x, 0.7f, out, n); }},
      {"silu", [](auto* x, auto*, auto* out, auto n) { kernels::silu_fwd<Sim, Elem>(Stream{}, x, out, n); }},
      {"silu_bwd", [](auto* x, auto* y, auto* out, auto n) { kernels::silu_bwd<Sim, Elem>(Stream{}, x, y, out, n); }},
      {"gelu", [](auto* x, auto*, auto* out, auto n) { kernels::gelu_fwd<Sim, Elem>(Stream{}, x, out, n); }},
      {"gelu_bwd", [](auto* x, auto* y, auto* out, auto n) { kernels::gelu_bwd<Sim, Elem>(Stream{}, x, y, out, n); }},
      {"clamp_unit",
       [](auto*, auto*, auto* out, auto n) {
         for (std::int64_t i = n - kTail; i < n; ++i) out[i] = Elem(static_cast<float>((n - i) % 5) - 2.0f);
         kernels::clamp_unit<Sim, Elem>(Stream{}, out, n);
       }},
  };
  const Numbers untouched = out_of<Elem>(0, [](auto*, auto*, auto*, auto) {});
  for (const auto& [name, op] : ops) {
    CAPTURE(name);
    check_same_end([&](std::int64_t before) { return out_of<Elem>(before, op); });
    CHECK(out_of<Elem>(0, op) != untouched);
  }
  for (const bool bad : {false, true})
    check_same_end([&](std::int64_t before) {
      const Run<Elem> x(before, kTail, 1);
      std::int32_t found = 0;
      if (bad) x.data()[x.size() - 1] = Elem(INFINITY);
      kernels::find_non_finite<Sim, Elem>(Stream{}, x.data(), x.size(), &found);
      CHECK(found == bad);
      return Numbers{static_cast<double>(found)};
    });
}

TEST_CASE("flat_offsets/adam/one parameter, and the whole update") {
  const kernels::AdamStep step{.lr = 0.01, .weight_decay = 0.1, .correction1 = 0.1, .correction2 = 0.001};
  check_same_end([&](std::int64_t before) {
    const Run<float> param(before, kTail, 1), grad(before, kTail, 2), m(before, kTail, 3), v(before, kTail, 4);
    for (std::int64_t i = before; i < v.size(); ++i) v.data()[i] = std::abs(v.data()[i]);
    kernels::adam_step<Sim>(Stream{}, step, param.data(), grad.data(), m.data(), v.data(), param.size());
    kernels::lerp_towards<Sim>(Stream{}, grad.data(), param.data(), 0.3, param.size());
    Numbers all;
    for (const auto* run : {&param, &grad, &m, &v}) run->add_end_to(all);
    return all;
  });
  check_same_end([&](std::int64_t before) {
    const Run<float> param(before, kTail, 1), grad(before, kTail, 2), m(before, kTail, 3), v(before, kTail, 4),
        average(before, kTail, 5);
    for (std::int64_t i = before; i < v.size(); ++i) v.data()[i] = std::abs(v.data()[i]);
    const Run<bf16> shadow(before, kTail, 6);
    const kernels::AdamSegment segment{
        .param = param.data(),
        .grad = grad.data(),
        .m = m.data(),
        .v = v.data(),
        .average = average.data(),
        .shadow = shadow.data(),
        .n = param.size()};
    const kernels::AdamSegments segments{&segment, 1, kernels::adam_chunks(segment.n)};
    const double numbers[2] = {0.01, 0.25};
    const kernels::AdamNumbers changing{.lr = numbers, .shares = numbers + 1, .num_shares = 1};
    kernels::AdamRecord record;
    Numbers sums(static_cast<std::size_t>(segments.num_chunks));  // zeros: only the last chunks are added up
    kernels::adam_measure<Sim>(Stream{}, segments, step, changing, 1.0, &record, sums.data());
    kernels::adam_apply<Sim>(Stream{}, segments, step, changing, &record);
    CHECK(record.num_steps == 1);
    CHECK(record.norm > 10);  // about the root of a third of the elements
    Numbers all{record.norm, record.clip_scale};
    for (const auto* run : {&param, &m, &v, &average}) run->add_end_to(all);
    shadow.add_end_to(all);
    return all;
  });
}

TEST_CASE_TEMPLATE("flat_offsets/rows/bias and the mix of clips", Elem, float, bf16) {
  constexpr std::int64_t kPitch = 24, C = 21, kRows = 5;
  const auto rows = [](const Run<Elem>& run) { return kernels::Rows<Elem>{run.data(), kPitch}; };
  // More rows in front: the first multiple of the pitch behind kBefore.
  const auto rows_before = [](std::int64_t before) { return (before + kPitch - 1) / kPitch; };
  check_same_end([&](std::int64_t before) {
    const std::int64_t P = rows_before(before);
    const Run<Elem> x(P * kPitch, kRows * kPitch, 1);
    const Pitched<float> bias = random_rows<float>(1, C, 2);
    kernels::add_bias_rows<Sim, Elem>(Stream{}, {.P = P + kRows, .C = C, .bias = bias.values.data(), .rows = rows(x)});
    Numbers all;
    x.add_end_to(all);
    CHECK(all[C] == 0);  // the gap
    return all;
  });
  check_same_end([&](std::int64_t before) {
    // Two clips; the end is that of the second.
    const std::int64_t per_clip = rows_before(before) / 2 + kRows, P = 2 * per_clip;
    const Run<Elem> x((P - kRows) * kPitch, kRows * kPitch, 1), y((P - kRows) * kPitch, kRows * kPitch, 2),
        out((P - kRows) * kPitch, kRows * kPitch, 3);
    const float table[3] = {0.5f, 0.25f, 3.0f};
    const std::int64_t t[2] = {0, 2};
    kernels::clip_mix_fwd<Sim, Elem>(
        Stream{}, {.size = {.B = 2, .rows_per_clip = per_clip, .C = C},
                   .x = {x.data(), kPitch},
                   .y = {y.data(), kPitch},
                   .of_x = {.table = table},
                   .of_y = {.value = -0.75f},
                   .divisor = {.table = table},
                   .t = t,
                   .num_times = 3,
                   .out = rows(out)});
    Numbers all;
    out.add_end_to(all);
    CHECK(all[C] == 0);
    CHECK(all[0] != 0);
    return all;
  });
}

}  // namespace avid::test
