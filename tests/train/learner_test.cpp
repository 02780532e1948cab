// tests/train/learner_test.cpp -- one update after the other, against the original's and against itself
#include "train/learner.h"

#include <cmath>
#include <limits>

#include "kernels/threads.h"
#include "models/checkpoint.h"
#include "models/unet3d.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::train;

namespace {

// Networks this small gain nothing from threads, and lose much when other tests want the cores.
[[maybe_unused]] const bool g_one_thread = (kernels::set_num_threads(1), true);

// [B,C,T,H,W] of the original -> ours.
Tensor channels_last(const Tensor& t, DType dtype) {
  return nn::from_plain(t, {t.dim(0), t.dim(2), t.dim(3), t.dim(4), t.dim(1)}).to(dtype);
}

// A small AVID with random weights.
std::unique_ptr<Trainee> small_avid(DType dtype, std::uint64_t seed = 3) {
  Unet3dConfig c;
  c.dim = 4;
  c.dim_mults = {1, 2};
  c.heads = 1;
  c.head_dim = 8;
  auto base = std::make_unique<Unet3d>(c);
  base->initialize(seed, dtype);
  auto avid = std::make_unique<Avid>(make_avid_config(AvidVariant::mask, c));
  avid->initialize(seed + 1, dtype);
  return make_avid_trainee(std::move(base), std::move(avid), diffusion::Objective::pred_x0);
}

TrainBatch random_batch(std::int64_t b, DType dtype, std::uint64_t seed) {
  TrainBatch batch;
  batch.x0 = test::random_tensor({b, 3, 8, 8, 3}, dtype, seed);
  batch.cond = test::random_tensor({b, 2, 8, 8, 3}, dtype, seed + 1);
  batch.noise = test::random_tensor({b, 3, 8, 8, 3}, dtype, seed + 2, 1.7);
  batch.t = Tensor::zeros({b}, DType::i64);
  batch.actions = Tensor::zeros({b, 3}, DType::i64);
  for (std::int64_t i = 0; i < b; ++i) {
    batch.t.data<std::int64_t>()[i] =
        static_cast<std::int64_t>((seed * 31 + static_cast<std::uint64_t>(i) * 47) % 190 + 5);
    for (std::int64_t f = 0; f < 3; ++f) batch.actions.data<std::int64_t>()[3 * i + f] = (i * 3 + f) % 15;
  }
  return batch;
}

TrainBatch part_of(const TrainBatch& whole, std::int64_t begin, std::int64_t end) {
  return {whole.x0.slice(begin, end),    whole.cond.slice(begin, end),      whole.actions.slice(begin, end),
          whole.noise.slice(begin, end), whole.t.slice(begin, end).clone(), {}};
}

double largest_difference(const NamedTensors& a, const NamedTensors& b) {
  double worst = 0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, test::max_abs_diff(a[i].second, b[i].second));
  return worst;
}

bool same(const NamedTensors& a, const NamedTensors& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!test::same_bits(a[i].second, b[i].second)) return false;
  return a.size() == b.size();
}

// Weights after update k against the original's: 99.9 % within 1e-3 lr (k+1), all within 1e-2 lr (k+1), plus one f32
// ulp. For the average the ulp is that of its value `before`: it moves twice per update and is rounded each time, on
// its way to a smaller value too.
void check_weights(
    const NamedTensors& ours, const TensorFile& theirs, double lr_k, const TensorFile* before = nullptr) {
  std::int64_t total = 0, beyond = 0;
  for (const auto& [name, tensor] : ours) {
    const Tensor expected = theirs.load(name);
    REQUIRE(tensor.shape() == expected.shape());
    const auto a = tensor.to_doubles(), b = expected.to_doubles(),
               c = (before != nullptr ? *before : theirs).load(name).to_doubles();
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double ulp = std::max(std::abs(b[i]), std::abs(c[i])) * std::numeric_limits<float>::epsilon() + 1e-12,
                   d = std::abs(a[i] - b[i]);
      ++total;
      if (!(d <= 1e-3 * lr_k + ulp)) ++beyond;
      if (!(d <= 1e-2 * lr_k + ulp)) FAIL_CHECK(name << " differs by " << d);
    }
  }
  CHECK(static_cast<double>(beyond) <= 1e-3 * static_cast<double>(total));
}

void golden_train3(DType dtype, double tolerance) {
  const auto folder = test::golden("pixel/train3");
  const SafetensorsFile input(folder / "input.safetensors"), expected(folder / "expected.safetensors");
  auto trainee = make_avid_trainee(
      load_unet3d(folder / "base.safetensors", dtype), load_avid(folder / "adapter.safetensors", dtype, 2),
      diffusion::Objective::pred_x0);
  LearnerOptions options;
  options.accumulate = 2;
  options.lr = 1e-4;
  options.warmup = 2;
  options.ema = {.update_every = 1, .update_after = 100, .start_counter = 102};
  Learner learner(*trainee, options);
  {
    const Ema::Swapped averaged(learner.ema());
    const auto start = SafetensorsFile(folder / "ema_0.safetensors").load_all();
    trainee->module().import_tensors(nn::TensorMap(start.begin(), start.end()), "ema_0", dtype);
  }
  const auto losses = expected.load("loss").to_doubles(), norms = expected.load("grad_norm").to_doubles(),
             clips = expected.load("clip_coef").to_doubles(), rates = expected.load("lr").to_doubles(),
             decays = expected.load("ema_decay").to_doubles(), stats = expected.load("mask_stats").to_doubles();
  for (std::int64_t k = 0; k < 3; ++k) {
    const auto name = [&](const char* what) { return fmt::format("{}.{}", what, k); };
    const TrainBatch whole{
        channels_last(input.load(name("x0")), dtype),
        channels_last(input.load(name("cond")), dtype),
        input.load(name("actions")),
        channels_last(input.load(name("noise")), dtype),
        input.load(name("t")),
        {}};
    const UpdateReport report = learner.update(k, [&](std::int64_t i) { return part_of(whole, 2 * i, 2 * i + 2); });
    const auto u = static_cast<std::size_t>(k);
    CHECK(report.applied);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(report.micro_losses[i] == doctest::Approx(losses[2 * u + i]).epsilon(tolerance));
      CHECK(report.ema_decays[i] == doctest::Approx(decays[2 * u + i]).epsilon(1e-7));
    }
    CHECK(report.grad_norm == doctest::Approx(norms[u]).epsilon(tolerance));
    CHECK(report.clip_scale == doctest::Approx(clips[u]).epsilon(tolerance));
    CHECK(report.lr == doctest::Approx(rates[u]));
    REQUIRE(report.mask);
    CHECK(report.mask->mean == doctest::Approx((stats[8 * u] + stats[8 * u + 4]) / 2).epsilon(tolerance));
    CHECK(report.mask->std == doctest::Approx((stats[8 * u + 1] + stats[8 * u + 5]) / 2).epsilon(tolerance));
    CHECK(report.mask->min == doctest::Approx(std::min(stats[8 * u + 2], stats[8 * u + 6])).epsilon(10 * tolerance));
    CHECK(report.mask->max == doctest::Approx(std::max(stats[8 * u + 3], stats[8 * u + 7])).epsilon(10 * tolerance));
    const double lr_k = rates[u] * static_cast<double>(k + 1);
    check_weights(
        trainee->module().export_tensors(), SafetensorsFile(folder / fmt::format("adapter_{}.safetensors", k + 1)),
        lr_k);
    const SafetensorsFile before(folder / fmt::format("ema_{}.safetensors", k));
    const Ema::Swapped averaged(learner.ema());
    check_weights(
        trainee->module().export_tensors(), SafetensorsFile(folder / fmt::format("ema_{}.safetensors", k + 1)), lr_k,
        &before);
  }
}

}  // namespace

TEST_CASE("learner/golden/three_updates_f32") { golden_train3(DType::f32, 1e-6); }
TEST_CASE("learner/golden/three_updates_f64") { golden_train3(DType::f64, 1e-6); }

TEST_CASE("learner/warmup/property_33_the_first_update_moves_nothing") {
  auto trainee = small_avid(DType::f32);
  Learner learner(*trainee, {.warmup = 10});
  const auto start = trainee->module().export_tensors();
  const auto batch = [](std::int64_t) { return random_batch(2, DType::f32, 5); };
  CHECK(learner.update(0, batch).lr == 0);
  CHECK(same(trainee->module().export_tensors(), start));
  CHECK(learner.update(1, batch).lr == doctest::Approx(1e-5));
  CHECK_FALSE(same(trainee->module().export_tensors(), start));
  CHECK(learner.update(10, batch).lr == 1e-4);
  CHECK(learner.update(11, batch).lr == 1e-4);
}

TEST_CASE("learner/cooldown/the_last_updates_settle") {
  const LearnerOptions options{.lr = 1e-3, .warmup = 10, .cooldown = 20, .updates = 100};
  CHECK(learning_rate(options, 5) == doctest::Approx(5e-4));
  CHECK(learning_rate(options, 10) == 1e-3);
  CHECK(learning_rate(options, 80) == 1e-3);
  CHECK(learning_rate(options, 90) == doctest::Approx(5e-4));
  CHECK(learning_rate(options, 99) == doctest::Approx(5e-5));
  CHECK(learning_rate({.lr = 1e-3, .warmup = 0, .updates = 100}, 99) == 1e-3);
}

TEST_CASE("learner/accumulate/property_41_equals_one_large_batch") {
  auto one = small_avid(DType::f64), two = small_avid(DType::f64);
  LearnerOptions options{.warmup = 0};
  Learner whole(*one, options);
  options.accumulate = 2;
  Learner parts(*two, options);
  for (std::int64_t k = 0; k < 3; ++k) {
    const TrainBatch batch = random_batch(4, DType::f64, 100 + static_cast<std::uint64_t>(k));
    const UpdateReport a = whole.update(k, [&](std::int64_t) { return batch; });
    const UpdateReport b = parts.update(k, [&](std::int64_t i) { return part_of(batch, 2 * i, 2 * i + 2); });
    CHECK(a.loss == doctest::Approx(b.loss).epsilon(1e-12));
    CHECK(a.grad_norm == doctest::Approx(b.grad_norm).epsilon(1e-10));
  }
  // Adam divides by the root of the mean square: where a gradient is nearly 0 rounding is amplified up to lr.
  CHECK(largest_difference(one->module().export_tensors(), two->module().export_tensors()) < 1e-7);
}

TEST_CASE("learner/clip/property_41_factor") {
  for (const double clip : {1e-3, 1e9}) {
    auto trainee = small_avid(DType::f32);
    Learner learner(*trainee, {.warmup = 0, .clip = clip});
    const UpdateReport r = learner.update(0, [](std::int64_t) { return random_batch(2, DType::f32, 5); });
    CHECK(r.grad_norm > 1e-3);
    CHECK(r.clip_scale == (clip > r.grad_norm ? 1.0 : clip / (r.grad_norm + 1e-6)));
  }
}

TEST_CASE("learner/finite/bad_batch_is_skipped_and_named") {
  auto trainee = small_avid(DType::f32);
  Learner learner(*trainee, {.accumulate = 2, .warmup = 0});
  const auto start = trainee->module().export_tensors();
  const UpdateReport bad_data = learner.update(0, [](std::int64_t i) {
    TrainBatch batch = random_batch(2, DType::f32, 5);
    if (i == 1) batch.x0.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
    return batch;
  });
  CHECK_FALSE(bad_data.applied);
  CHECK(bad_data.problem == "the training clips hold values that are not finite");
  CHECK(same(trainee->module().export_tensors(), start));
  CHECK(learner.adam().num_steps() == 0);
  CHECK(learner.ema().counter() == 2);

  // Finite weights whose product overflows: the module that makes the first infinity is named.
  for (const nn::NamedParameter& p : trainee->module().parameters())
    if (p.name == "adapter.init_conv.weight") {
      Var leaf = p.var();
      leaf.mutable_value().fill(3e38);
    }
  const UpdateReport overflow = learner.update(1, [](std::int64_t) { return random_batch(2, DType::f32, 5); });
  CHECK_FALSE(overflow.applied);
  CHECK(overflow.problem.find("init") != std::string::npos);

  for (const nn::NamedParameter& p : trainee->module().parameters())
    if (p.name == "adapter.mid_block1.block1.proj.weight") {
      Var leaf = p.var();
      leaf.mutable_value().fill(std::nan(""));
    }
  const UpdateReport bad_weight = learner.update(2, [](std::int64_t) { return random_batch(2, DType::f32, 5); });
  CHECK(bad_weight.problem == "weight adapter.mid_block1.block1.proj.weight is not finite");
}

TEST_CASE("learner/base/property_34_bit_identical_after_training") {
  Unet3dConfig c;
  c.dim = 4;
  c.dim_mults = {1, 2};
  c.heads = 1;
  c.head_dim = 8;
  auto base = std::make_unique<Unet3d>(c);
  base->initialize(3);
  const Unet3d& watched = *base;
  const NamedTensors before = watched.export_tensors();
  auto avid = std::make_unique<Avid>(make_avid_config(AvidVariant::mask, c));
  avid->initialize(4);
  auto trainee = make_avid_trainee(std::move(base), std::move(avid), diffusion::Objective::pred_x0);
  Learner learner(*trainee, {.warmup = 0});
  for (std::int64_t k = 0; k < 3; ++k) learner.update(k, [](std::int64_t) { return random_batch(2, DType::f32, 5); });
  CHECK(same(watched.export_tensors(), before));
  CHECK(watched.export_gradients().empty());
}

TEST_CASE("learner/evaluate/no_way_into_batches_changes_a_bit") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name_of(dtype));
    auto trainee = small_avid(dtype);
    Learner learner(*trainee, {.lr = 1e-2, .warmup = 0});
    const TrainBatch clips = random_batch(5, dtype, 5);
    learner.update(0, [&](std::int64_t) { return clips; });  // a fresh mask is the same everywhere
    const auto parts = [&](const std::vector<std::int64_t>& sizes) {
      ClipLosses all;
      std::int64_t first = 0;
      for (const std::int64_t size : sizes) {
        all.add(learner.evaluate(part_of(clips, first, first + size)));
        first += size;
      }
      return all;
    };
    const ClipLosses whole = parts({5});
    for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{1, 1, 1, 1, 1}, {2, 3}, {4, 1}}) {
      const ClipLosses other = parts(sizes);
      CHECK(other.num_clips() == 5);
      CHECK(other.loss() == whole.loss());
      REQUIRE(other.mask());
      CHECK(other.mask()->mean == whole.mask()->mean);
      CHECK(other.mask()->std == whole.mask()->std);
      CHECK(other.mask()->min == whole.mask()->min);
      CHECK(other.mask()->max == whole.mask()->max);
    }
    // An update takes loss and mask of the whole batch at once.
    const UpdateReport at_once = learner.update(1, [&](std::int64_t) { return clips; });
    const double rounding = dtype == DType::f64 ? 1e-12 : 1e-6;
    CHECK(whole.loss() == doctest::Approx(at_once.loss).epsilon(rounding));
    REQUIRE(at_once.mask);
    CHECK(at_once.mask->std > 1e-4);
    CHECK(whole.mask()->mean == doctest::Approx(at_once.mask->mean).epsilon(rounding));
    CHECK(whole.mask()->std == doctest::Approx(at_once.mask->std).epsilon(rounding));
    CHECK(whole.mask()->max == at_once.mask->max);
  }
}

TEST_CASE("learner/evaluate/parts_count_as_their_clips_do") {
  ClipLosses all;
  all.add(3, 2.0, 0.5);
  all.add(1, 6.0, 1.0);
  CHECK(all.num_clips() == 4);
  CHECK(all.loss() == 3.0);
  REQUIRE(all.accuracy());
  CHECK(*all.accuracy() == 0.625);
  CHECK_FALSE(all.mask());
  all.add(1, 1.0, std::nan(""));
  CHECK_FALSE(all.accuracy());
  // 0, 1 and 0.5, 0.5: mean 1/2, sum of squares 1/2, of four elements.
  all.add_mask({.mean = 0.5, .std = std::sqrt(0.5), .min = 0, .max = 1}, 2);
  all.add_mask({.mean = 0.5, .std = 0, .min = 0.5, .max = 0.5}, 2);
  REQUIRE(all.mask());
  CHECK(all.mask()->mean == 0.5);
  CHECK(all.mask()->std == doctest::Approx(std::sqrt(0.5 / 3)));
  CHECK(all.mask()->min == 0);
  CHECK(all.mask()->max == 1);
}

TEST_CASE("learner/evaluate/changes_nothing") {
  auto trainee = small_avid(DType::f32);
  Learner learner(*trainee, {});
  const auto start = trainee->module().export_tensors();
  const auto first = learner.evaluate(random_batch(2, DType::f32, 5)),
             again = learner.evaluate(random_batch(2, DType::f32, 5));
  CHECK(first.loss() == again.loss());
  REQUIRE(first.mask());
  CHECK(first.mask()->mean == 0.5);  // a fresh mask
  CHECK(same(trainee->module().export_tensors(), start));
  CHECK(learner.ema().counter() == 0);
}
