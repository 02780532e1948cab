// tests/train/batches_test.cpp -- which clips, noise and times an update sees
#include "train/batches.h"

#include <cmath>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::train;

namespace {

TrainConfig tiny(const std::vector<std::string>& set = {}) {
  return TrainConfig::load(std::filesystem::path(AVID_SOURCE_DIR) / "configs/tiny/scratch.toml", set);
}

}  // namespace

TEST_CASE("batches/accumulate/property_41_the_same_clips_and_noise") {
  TrainingBatches halves(tiny({"train.batch=3", "train.accumulate=2"})),
      whole(tiny({"train.batch=6", "train.accumulate=1"}));
  for (const std::int64_t update : {0, 5}) {
    const TrainBatch all = whole.micro_batch(update, 0);
    for (std::int64_t i = 0; i < 2; ++i) {
      const TrainBatch half = halves.micro_batch(update, i);
      CHECK(test::same_bits(half.x0, all.x0.slice(3 * i, 3 * i + 3)));
      CHECK(test::same_bits(half.cond, all.cond.slice(3 * i, 3 * i + 3)));
      CHECK(test::same_bits(half.noise, all.noise.slice(3 * i, 3 * i + 3)));
      CHECK(test::same_bits(half.actions, all.actions.slice(3 * i, 3 * i + 3)));
      CHECK(test::same_bits(half.t, all.t.slice(3 * i, 3 * i + 3)));
    }
  }
}

TEST_CASE("batches/order/read_ahead_or_asked_for") {
  TrainingBatches ahead(tiny()), direct(tiny());
  ahead.start(4);
  for (std::int64_t update = 4; update < 9; ++update) {
    const TrainBatch a = ahead.micro_batch(update, 1), b = direct.micro_batch(update, 1);
    CHECK(test::same_bits(a.x0, b.x0));
    CHECK(test::same_bits(a.noise, b.noise));
  }
  CHECK_FALSE(test::same_bits(direct.micro_batch(0, 0).noise, direct.micro_batch(1, 0).noise));
  CHECK_FALSE(test::same_bits(direct.micro_batch(0, 0).noise, direct.micro_batch(0, 1).noise));
}

TEST_CASE("batches/values/ranges") {
  TrainingBatches batches(tiny({"train.batch=64"}));
  const TrainBatch b = batches.micro_batch(0, 0);
  CHECK(b.x0.shape() == Shape{64, 8, 16, 16, 3});
  CHECK(b.cond.shape() == Shape{64, 2, 16, 16, 3});
  double low = 1, high = -1, sum = 0, square = 0;
  for (const double v : b.x0.to_doubles()) low = std::min(low, v), high = std::max(high, v);
  CHECK(low >= -1);
  CHECK(high <= 1);
  CHECK(high - low > 1);
  for (const double v : b.noise.to_doubles()) sum += v, square += v * v;
  const auto n = static_cast<double>(b.noise.numel());
  CHECK(std::abs(sum / n) < 4 / std::sqrt(n));
  CHECK(std::abs(square / n - 1) < 6 / std::sqrt(n));
  for (const std::int64_t t : b.t.to_values<std::int64_t>()) CHECK((t >= 0 && t < 200));
  CHECK_FALSE(b.drop.defined());
}

TEST_CASE("batches/drop/property_42_a_fifth_of_the_clips") {
  TrainingBatches batches(tiny({"train.batch=50", "train.action_drop=0.2", "data.frames=1"}));
  std::int64_t dropped = 0, total = 0;
  for (std::int64_t update = 0; update < 40; ++update) {
    const TrainBatch b = batches.micro_batch(update, 0);
    CHECK(b.drop.shape() == Shape{50});  // one decision per clip
    for (const std::int64_t d : b.drop.to_values<std::int64_t>()) dropped += d, ++total;
  }
  const double fraction = static_cast<double>(dropped) / static_cast<double>(total);
  CHECK(std::abs(fraction - 0.2) < 4 * std::sqrt(0.2 * 0.8 / static_cast<double>(total)));
}

TEST_CASE("batches/validation/fixed_and_spread_over_the_schedule") {
  const ValidationBatches a(tiny({"validation.clips=5"})), b(tiny({"validation.clips=5"}));
  REQUIRE(a.num_batches() == 3);
  std::vector<std::int64_t> times;
  for (std::int64_t i = 0; i < 3; ++i) {
    CHECK(test::same_bits(a.batch(i).x0, b.batch(i).x0));
    CHECK(test::same_bits(a.batch(i).noise, b.batch(i).noise));
    for (const std::int64_t t : a.batch(i).t.to_values<std::int64_t>()) times.push_back(t);
  }
  CHECK(times == std::vector<std::int64_t>{20, 60, 100, 140, 180});
}

TEST_CASE("batches/errors/data_that_does_not_fit") {
  CHECK_THROWS_AS(TrainingBatches(tiny({"model.actions=3"})), ConfigError);
  CHECK_THROWS_AS(TrainingBatches(tiny({"data.size=12"})), Error);
  CHECK_THROWS_AS(TrainingBatches(tiny({"data.frames=200"})), Error);
  CHECK_THROWS_AS(TrainingBatches(tiny({"data.train=CMakeLists.txt"})), Error);
}
