// tests/sim/adam_test.cpp -- the optimiser's kernels in the simulator against f64
#include "kernels/adam.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// A set of parameters: flat buffers of some lengths, one without a gradient, one without average and shadow.
struct Parameters {
  std::vector<Pitched<float>> param, grad, m, v, average;
  std::vector<Pitched<BFloat16>> shadow;
  std::vector<kernels::AdamSegment> table;
  kernels::AdamSegments segments;
  std::vector<double> workspace;
  kernels::AdamRecord record;

  explicit Parameters(const std::vector<std::int64_t>& lengths) {
    unsigned seed = 1;
    for (const std::int64_t n : lengths) {
      param.push_back(random_rows<float>(1, n, seed++));
      grad.push_back(random_rows<float>(1, n, seed++, 0.125));
      m.push_back(random_rows<float>(1, n, seed++, 0.0625));
      v.push_back(random_rows<float>(1, n, seed++, 0.03125));
      for (float& x : v.back().values) x *= x;
      average.push_back(random_rows<float>(1, n, seed++));
      shadow.push_back(poisoned_rows<BFloat16>(1, n));
    }
    std::int64_t chunk = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      table.push_back(
          {.param = param[i].values.data(),
           .grad = i == 1 ? nullptr : grad[i].values.data(),
           .m = m[i].values.data(),
           .v = v[i].values.data(),
           .average = i == 2 ? nullptr : average[i].values.data(),
           .shadow = i == 2 ? nullptr : shadow[i].values.data(),
           .n = lengths[i],
           .first_chunk = chunk});
      chunk += kernels::adam_chunks(lengths[i]);
    }
    segments = {.segments = table.data(), .count = static_cast<std::int64_t>(table.size()), .num_chunks = chunk};
    workspace.assign(static_cast<std::size_t>(chunk), kNan);
  }

  void update(
      const kernels::AdamStep& step, double max_norm, const std::vector<double>& shares,
      const std::vector<float>& losses = {}) {
    const double lr = step.lr;
    const kernels::AdamNumbers numbers{
        .lr = &lr,
        .shares = shares.data(),
        .num_shares = static_cast<std::int64_t>(shares.size()),
        .losses = losses.data(),
        .num_losses = static_cast<std::int64_t>(losses.size())};
    kernels::AdamStep without_rate = step;
    without_rate.lr = kNan;  // it comes from the device
    kernels::adam_measure<Sim>(Stream{}, segments, without_rate, numbers, max_norm, &record, workspace.data());
    kernels::adam_apply<Sim>(Stream{}, segments, without_rate, numbers, &record);
  }
};

const kernels::AdamStep kStep{.lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};

/// The same update in f64, from the definition.
void check_update(
    const Parameters& before, const Parameters& after, double max_norm, const std::vector<double>& shares,
    double steps) {
  double sum = 0;
  for (std::size_t i = 0; i < before.table.size(); ++i)
    for (std::int64_t e = 0; e < before.table[i].n; ++e)
      if (before.table[i].grad != nullptr) sum += before.grad[i](0, e) * before.grad[i](0, e);
  const double norm = std::sqrt(sum), scale = std::min(1.0, max_norm / (norm + 1e-6));
  CHECK(std::abs(after.record.norm - norm) <= 1e-12 * norm);
  CHECK(after.record.clip_scale == doctest::Approx(scale).epsilon(1e-12));
  CHECK(after.record.first_non_finite == -1);
  CHECK(after.record.num_steps == static_cast<std::int64_t>(steps));
  for (std::size_t i = 0; i < before.table.size(); ++i) {
    const kernels::AdamSegment& s = before.table[i];
    Pitched<double> param(1, s.n), m(1, s.n), v(1, s.n), average(1, s.n);
    for (std::int64_t e = 0; e < s.n; ++e) {
      const double g = s.grad == nullptr ? 0 : scale * before.grad[i](0, e);
      m.at(0, e) = 0.9 * before.m[i](0, e) + 0.1 * g;
      v.at(0, e) = 0.999 * before.v[i](0, e) + 0.001 * g * g;
      param.at(0, e) =
          before.param[i](0, e) * (1 - kStep.lr * kStep.weight_decay) -
          kStep.lr * m(0, e) / (1 - std::pow(0.9, steps)) / (std::sqrt(v(0, e) / (1 - std::pow(0.999, steps))) + 1e-8);
      average.at(0, e) = before.average[i](0, e);
      for (const double share : shares) average.at(0, e) += share * (before.param[i](0, e) - average(0, e));
    }
    CHECK(rel_l2(after.param[i], param) <= 1e-6);
    CHECK(rel_l2(after.m[i], m) <= 1e-6);
    CHECK(rel_l2(after.v[i], v) <= 1e-6);
    if (s.average != nullptr) CHECK(rel_l2(after.average[i], average) <= 1e-6);
    if (s.shadow == nullptr) continue;
    for (std::int64_t e = 0; e < s.n; ++e)
      REQUIRE(
          after.shadow[i](0, e) ==
          static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(after.param[i](0, e))))));
  }
}

}  // namespace

TEST_CASE("adam/sim/update_equals_the_definition") {
  for_each_order([] {
    for (const double max_norm : {1e9, 0.25}) {
      // Segments of one element, of nothing, and of more than a chunk.
      const std::vector<std::int64_t> lengths{1, 40, 7, 0, kernels::kAdamChunk + 1, 300};
      const Parameters before(lengths);
      Parameters after(lengths);
      after.record.num_steps = 2;
      const std::vector<double> shares = max_norm > 1 ? std::vector<double>{0.05} : std::vector<double>{0, 0.5, 0.25};
      after.update(kStep, max_norm, shares, {1.5f, -3e38f});
      check_update(before, after, max_norm, shares, 3);
    }
  });
}

TEST_CASE("adam/sim/shadows_have_rows_of_their_own_pitch") {
  struct Extents {
    std::int64_t rows, cols;
  };
  // f32 rows are multiples of 4 elements, bf16 rows of 8. Chunks that end inside a row; rows longer than what a block
  // does at a time; a scalar.
  const Extents shapes[] = {{1, 1}, {3, 5}, {700, 1}, {2000, 50}, {5, 90}, {3, 1030}, {2, 2100}, {4, 8}};
  const auto nearest_even = [](float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  };
  for_each_order([&] {
    for (const auto& [rows, cols] : shapes) {
      CAPTURE(rows);
      CAPTURE(cols);
      kernels::AdamRecord records[2];
      std::vector<Pitched<float>> without, with;
      Pitched<BFloat16> shadow(rows, cols);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) shadow.at(r, c) = BFloat16(std::numeric_limits<float>::quiet_NaN());
      for (const bool shadowed : {false, true}) {
        std::vector<Pitched<float>> t;  // param, grad, m, v, average
        for (unsigned i = 0; i < 5; ++i) t.push_back(random_rows<float>(rows, cols, i + 1, i == 1 ? 0.125 : 1));
        for (float& x : t[3].values) x *= x;
        const std::int64_t n = rows * t[0].pitch;
        const kernels::AdamSegment segment{
            .param = t[0].values.data(),
            .grad = t[1].values.data(),
            .m = t[2].values.data(),
            .v = t[3].values.data(),
            .average = t[4].values.data(),
            .shadow = shadowed ? shadow.values.data() : nullptr,
            .n = n,
            .pitch = t[0].pitch,
            .shadow_pitch = shadow.pitch};
        const kernels::AdamSegments segments{&segment, 1, kernels::adam_chunks(n)};
        std::vector<double> workspace(static_cast<std::size_t>(segments.num_chunks));
        const double share = 0.25, lr = kStep.lr;
        const kernels::AdamNumbers numbers{.lr = &lr, .shares = &share, .num_shares = 1};
        kernels::adam_measure<Sim>(Stream{}, segments, kStep, numbers, 1, &records[shadowed], workspace.data());
        kernels::adam_apply<Sim>(Stream{}, segments, kStep, numbers, &records[shadowed]);
        (shadowed ? with : without) = t;
      }
      for (std::size_t i = 0; i < 5; ++i) CHECK(same_bits(with[i], without[i]));
      bool equal = true;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < shadow.pitch; ++c)
          equal &= std::bit_cast<std::uint16_t>(shadow.at(r, c)) == (c < cols ? nearest_even(with[0].at(r, c)) : 0);
      CHECK(equal);  // gaps are zero
    }
  });
}

TEST_CASE("adam/sim/the_first_gradient_that_is_not_finite_is_found_in_any_lane_of_any_warp") {
  const std::vector<std::int64_t> lengths(300, 3);  // a chunk each: 256 threads look at one or two
  for (const std::size_t bad : {0, 15, 16, 20, 31, 32, 63, 255, 256, 280}) {
    Parameters p(lengths);
    p.grad[bad].at(0, 1) = std::numeric_limits<float>::infinity();
    p.grad[290].at(0, 1) = std::numeric_limits<float>::infinity();
    p.grad[7].at(0, 3) = static_cast<float>(kNan);  // behind its end: not looked at
    p.update(kStep, 1.0, {0.0});
    CHECK(p.record.first_non_finite == static_cast<std::int64_t>(bad));
  }
}

TEST_CASE("adam/sim/a_gradient_that_is_not_finite_changes_nothing") {
  const std::vector<std::int64_t> lengths{5, 9, 33, 0, 1200, 3};
  for (const std::size_t bad : {std::size_t{0}, std::size_t{4}, std::size_t{5}}) {
    for (const double value : {std::numeric_limits<double>::infinity(), kNan}) {
      Parameters p(lengths);
      p.grad[bad].at(0, lengths[bad] - 1) = static_cast<float>(value);  // the last element
      p.grad[5].at(0, 0) = static_cast<float>(value);                   // and a later one
      const Parameters before = p;
      p.record.num_steps = 4;
      p.update(kStep, 1.0, {0.0});
      CHECK(p.record.first_non_finite == static_cast<std::int64_t>(bad));
      CHECK(p.record.num_steps == 4);
      CHECK(!std::isfinite(p.record.norm));
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        CHECK(same_bits(p.param[i], before.param[i]));
        CHECK(same_bits(p.m[i], before.m[i]));
        CHECK(same_bits(p.average[i], before.average[i]));
        CHECK(same_bits(p.shadow[i], before.shadow[i]));
      }
      // The next update with good gradients goes on as if nothing had happened.
      for (std::size_t i = 0; i < lengths.size(); ++i) p.grad[i].values = Parameters(lengths).grad[i].values;
      for (std::size_t i = 0; i < lengths.size(); ++i) p.table[i].grad = i == 1 ? nullptr : p.grad[i].values.data();
      p.update(kStep, 1.0, {0.05});
      CHECK(p.record.num_steps == 5);
      CHECK(p.record.first_non_finite == -1);
    }
  }
}

TEST_CASE("adam/sim/a_loss_that_is_not_finite_stops_the_step_and_not_the_average") {
  for_each_order([] {
    const std::vector<std::int64_t> lengths{5, 9, 33, 0, 1200, 3};
    for (const float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Parameters p(lengths);
      const Parameters before = p;
      p.update(kStep, 1.0, {0.0, 1.0}, {1.0f, value, 2.0f});
      CHECK(p.record.first_non_finite == 6);  // none of the parameters
      CHECK(p.record.num_steps == 0);
      CHECK(std::isfinite(p.record.norm));
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        CHECK(same_bits(p.param[i], before.param[i]));
        CHECK(same_bits(p.v[i], before.v[i]));
        CHECK(same_bits(p.average[i], i == 2 ? before.average[i] : before.param[i]));  // a share of 1 copies
      }
    }
  });
}

TEST_CASE("adam/sim/huge_gradients_are_clipped_not_overflowing") {
  Parameters p({100});
  for (float& g : p.grad[0].values) g = 3e38f;
  p.update(kStep, 1.0, {});
  CHECK(p.record.first_non_finite == -1);
  CHECK(p.record.norm == doctest::Approx(static_cast<double>(3e38f) * 10).epsilon(1e-12));
  for (std::int64_t e = 0; e < 100; ++e) REQUIRE(std::isfinite(p.param[0](0, e)));
}

TEST_CASE("adam/sim/no_parameters") {
  Parameters p({});
  p.update(kStep, 1.0, {0.05});
  CHECK(p.record.norm == 0);
  CHECK(p.record.num_steps == 1);
}

TEST_CASE("adam/sim/single_buffers_equal_the_cpu") {
  for_each_order([] {
    for (const std::int64_t n : {1, 7, 1000}) {
      kernels::AdamStep step = kStep;
      step.correction1 = 0.19, step.correction2 = 0.002, step.grad_scale = 0.5;
      Parameters p({n}), want({n});
      for (const bool has_grad : {true, false}) {
        kernels::adam_step<Sim>(
            Stream{}, step, p.param[0].values.data(), has_grad ? p.grad[0].values.data() : nullptr,
            p.m[0].values.data(), p.v[0].values.data(), n);
        kernels::adam_step<float>(
            step, want.param[0].values.data(), has_grad ? want.grad[0].values.data() : nullptr, want.m[0].values.data(),
            want.v[0].values.data(), n);
        CHECK(rel_l2(p.param[0], want.param[0]) <= 1e-6);
        CHECK(rel_l2(p.m[0], want.m[0]) <= 1e-6);
        CHECK(rel_l2(p.v[0], want.v[0]) <= 1e-6);
      }
      kernels::lerp_towards<Sim>(Stream{}, p.average[0].values.data(), want.param[0].values.data(), 0.005, n);
      kernels::lerp_towards<float>(want.average[0].values.data(), want.param[0].values.data(), 0.005, n);
      CHECK(same_bits(p.average[0], want.average[0]));  // one rounding of an f64 step
    }
  });
}
