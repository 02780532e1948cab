// tests/train/device_test.cpp -- updates recorded once and repeated, on the simulator or a GPU
//
// The oracle is the same training without a graph. The simulator repeats launches with the arguments they were recorded
// with, and makes all memory of the recorded work NaN before every repetition: a rate, step count, time or random key
// that reaches a kernel by value, or anything kept from the update before, gives other bits here.
//
// On the simulator at the quick level: networks of one U-Net level, each property in one of the types. Otherwise two
// levels, both types, and every case of memory.
#include <cmath>
#include <limits>
#include <map>

#include "models/unet3d.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "train/batches.h"
#include "train/dry_run.h"
#include "train/learner.h"
#include "train/trainer.h"

using namespace avid;
using namespace avid::train;

namespace {

const Device kDevice = test::device_under_test();
const bool kThorough = test::full_level() || kDevice.kind != DeviceKind::sim;  // a GPU is quick

std::unique_ptr<Trainee> small_avid(DType activations) {
  Unet3dConfig c;
  c.dim = 4;
  c.dim_mults = {1};
  if (kThorough) c.dim_mults = {1, 2};
  c.heads = 1;
  c.head_dim = 8;
  auto base = std::make_unique<Unet3d>(c);
  base->initialize(3);
  auto avid = std::make_unique<Avid>(make_avid_config(AvidVariant::mask, c));
  avid->initialize(4);
  auto trainee = make_avid_trainee(std::move(base), std::move(avid), diffusion::Objective::pred_x0);
  trainee->place(kDevice, activations);
  return trainee;
}

TrainBatch random_batch(std::int64_t b, std::uint64_t seed) {
  TrainBatch batch;
  batch.x0 = test::random_tensor({b, 2, 2, 2, 3}, DType::f32, seed);
  batch.cond = test::random_tensor({b, 2, 2, 2, 3}, DType::f32, seed + 1);
  batch.noise = test::random_tensor({b, 2, 2, 2, 3}, DType::f32, seed + 2, 1.7);
  batch.t = Tensor::zeros({b}, DType::i64);
  batch.actions = Tensor::zeros({b, 2}, DType::i64);
  batch.drop = Tensor::zeros({b}, DType::i64);
  for (std::int64_t i = 0; i < b; ++i) {
    const std::uint64_t n = seed * 31 + static_cast<std::uint64_t>(i) * 47;
    batch.t.data<std::int64_t>()[i] = static_cast<std::int64_t>(n % 190 + 5);
    batch.drop.data<std::int64_t>()[i] = n % 3 == 0;
    for (std::int64_t f = 0; f < 2; ++f)
      batch.actions.data<std::int64_t>()[2 * i + f] =
          static_cast<std::int64_t>(n + 7 * static_cast<std::uint64_t>(f)) % 15;
  }
  return batch;
}

LearnerOptions options_with(UseGraph graph, std::int64_t accumulate = 2) {
  LearnerOptions options;
  options.accumulate = kThorough ? 2 : accumulate;
  options.lr = 1e-2;
  options.warmup = 5;  // every update has another rate
  options.ema = {.update_every = 1, .update_after = 2};
  options.graph = graph;
  return options;
}

struct Outcome {
  std::vector<UpdateReport> reports;
  std::vector<double> validation;
  NamedTensors weights, average, moments;
};

using BatchAt = std::function<TrainBatch(std::int64_t k, std::int64_t i)>;

/// `between` sees the network before every update.
Outcome trained(
    const LearnerOptions& options, DType activations, int updates, const BatchAt& batch_at,
    const std::function<void(nn::Module&)>& between = {}) {
  const auto trainee = small_avid(activations);
  Learner learner(*trainee, options);
  Outcome outcome;
  for (std::int64_t k = 0; k < updates; ++k) {
    if (between) between(trainee->module());
    outcome.reports.push_back(learner.update(k, [&](std::int64_t i) { return batch_at(k, i); }));
    // Between updates other work uses the device, the averaged weights and their copies in bf16.
    const Ema::Swapped averaged(learner.ema());
    outcome.validation.push_back(learner.evaluate(random_batch(1, 900)).loss());
  }
  outcome.weights = trainee->module().export_tensors();
  outcome.moments = learner.adam().export_moments();
  const Ema::Swapped averaged(learner.ema());
  outcome.average = trainee->module().export_tensors();
  return outcome;
}

bool same(const NamedTensors& a, const NamedTensors& b) {
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i)
    if (!test::same_bits(a[i].second, b[i].second)) return false;
  return a.size() == b.size();
}

void check_same(const Outcome& a, const Outcome& b) {
  CHECK(same(a.weights, b.weights));
  CHECK(same(a.average, b.average));
  CHECK(same(a.moments, b.moments));
  CHECK(a.validation == b.validation);
  REQUIRE(a.reports.size() == b.reports.size());
  for (std::size_t k = 0; k < a.reports.size(); ++k) {
    const UpdateReport &x = a.reports[k], &y = b.reports[k];
    CAPTURE(k);
    CHECK(x.applied == y.applied);
    CHECK(x.problem == y.problem);
    if (!x.applied) continue;
    CHECK(x.loss == y.loss);
    CHECK(x.micro_losses == y.micro_losses);
    CHECK(x.grad_norm == y.grad_norm);
    CHECK(x.clip_scale == y.clip_scale);
    REQUIRE(x.mask.has_value());
    REQUIRE(y.mask.has_value());
    CHECK(x.mask->mean == y.mask->mean);
    CHECK(x.mask->std == y.mask->std);
    CHECK(x.mask->max == y.mask->max);
  }
}

std::uint64_t seed_of(std::int64_t k, std::int64_t i) { return static_cast<std::uint64_t>(100 * k + 10 * i + 1); }

TrainBatch one_clip(std::int64_t k, std::int64_t i) { return random_batch(1, seed_of(k, i)); }

void check_repeated(const Outcome& outcome, const std::vector<bool>& repeated) {
  REQUIRE(outcome.reports.size() == repeated.size());
  for (std::size_t k = 0; k < repeated.size(); ++k) CHECK(outcome.reports[k].repeated == repeated[k]);
}

}  // namespace

// In f32 at the quick level, too: "a repeated update with a bad batch".
TEST_CASE("device/graph/updates have the same bits with and without, and with copies that are made anew") {
  const auto anew = [](nn::Module& module) {
    for (const nn::NamedParameter& p : module.parameters()) Var(p.var()).mutable_value();
  };
  const Outcome with = trained(options_with(UseGraph::on), DType::bf16, 3, one_clip),
                converted = trained(options_with(UseGraph::off), DType::bf16, 3, one_clip, anew);
  check_same(with, converted);
  check_repeated(with, {false, true, true});
  check_repeated(converted, {false, false, false});
  CHECK(with.reports[1].loss != with.reports[2].loss);
  CHECK_FALSE(same(with.weights, with.average));
  if (!kThorough) return;
  check_same(with, trained(options_with(UseGraph::off), DType::bf16, 3, one_clip));
  check_same(
      trained(options_with(UseGraph::on), DType::f32, 3, one_clip),
      trained(options_with(UseGraph::off), DType::f32, 3, one_clip));
}

TEST_CASE("device/copies/bf16 weights leave Adam's pass with the bits of a conversion, which nobody does again") {
  // Some weights are frozen: their gradient counts as zeros.
  const auto frozen = [](const std::string& name) { return name.find("downs.0") != std::string::npos; };
  const BatchAt batch_at = [](std::int64_t k, std::int64_t i) {
    TrainBatch batch = random_batch(1, seed_of(k, i));
    if (k == 2) batch.x0.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();  // no step is taken
    return batch;
  };
  std::vector<UseGraph> graphs{UseGraph::on};
  if (kThorough) graphs.push_back(UseGraph::off);
  for (const UseGraph graph : graphs) {
    CAPTURE(static_cast<int>(graph));
    const auto trainee = small_avid(DType::bf16);
    for (const nn::NamedParameter& p : trainee->module().parameters())
      if (frozen(p.name)) Var(p.var()).set_requires_grad(false);
    Learner learner(*trainee, options_with(graph, 1));
    {
      const Ema::Swapped averaged(learner.ema());  // the first copies are those of other weights
      learner.evaluate(random_batch(1, 900));
    }
    std::size_t num_copies = 0;
    std::map<std::string, Tensor> before;
    for (std::int64_t k = 0; k < 4; ++k) {
      const UpdateReport report = learner.update(k, [&](std::int64_t i) { return batch_at(k, i); });
      CHECK(report.applied == (k != 2));
      CHECK(report.repeated == (graph == UseGraph::on && k > 0));
      std::size_t copies = 0, changed = 0;
      for (const nn::NamedParameter& p : trainee->module().parameters()) {
        CAPTURE(p.name);
        const Tensor now = p.var().value().to(Device());
        const bool same_as_before = before.contains(p.name) && test::same_bits(before[p.name], now);
        if (k > 0 && (frozen(p.name) || k == 2)) CHECK(same_as_before);
        before[p.name] = now;
        const Tensor copy = p.var().current_copy();
        if (!copy.defined()) continue;
        ++copies;
        changed += !same_as_before;
        CHECK(test::same_bits(copy.to(Device()), now.to(DType::bf16)));
        CHECK(test::gaps_are_zero(copy.to(Device())));
        const std::uint64_t version = copy.version();
        CHECK(p.var().value_in(DType::bf16).version() == version);
      }
      if (k == 0) num_copies = copies;
      CHECK(copies == num_copies);
      CHECK((changed > 0) == (k != 2));
      const Ema::Swapped averaged(learner.ema());
      learner.evaluate(random_batch(1, 900));
    }
    // Every weight that a network reads in bf16 has one.
    std::size_t read = 0;
    for (const nn::NamedParameter& p : trainee->module().parameters()) read += p.var().current_copy().defined();
    CHECK(read == 0);  // they are the averages', which are not in the weights' place now
    learner.evaluate(random_batch(1, 900));
    for (const nn::NamedParameter& p : trainee->module().parameters()) read += p.var().current_copy().defined();
    CHECK(read == num_copies);
    CHECK(num_copies > 10);
  }
}

TEST_CASE("device/graph/clips of another shape are recorded anew") {
  const BatchAt batch_at = [](std::int64_t k, std::int64_t i) { return random_batch(k < 2 ? 1 : 2, seed_of(k, i)); };
  const Outcome with = trained(options_with(UseGraph::on, 1), DType::f32, 4, batch_at);
  check_same(with, trained(options_with(UseGraph::off, 1), DType::f32, 4, batch_at));
  check_repeated(with, {false, true, false, true});
}

TEST_CASE("device/graph/a repeated update with a bad batch takes no step and says why") {
  const BatchAt batch_at = [](std::int64_t k, std::int64_t i) {
    TrainBatch batch = random_batch(1, seed_of(k, i));
    if (k == 1 && i == 1) batch.x0.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
    return batch;
  };
  const Outcome with = trained(options_with(UseGraph::on), DType::f32, 3, batch_at);
  check_same(with, trained(options_with(UseGraph::off), DType::f32, 3, batch_at));
  check_repeated(with, {false, true, true});
  CHECK_FALSE(with.reports[1].applied);
  CHECK(with.reports[1].problem == "the training clips hold values that are not finite");
  CHECK(with.reports[2].applied);
}

TEST_CASE("device/graph/loaded weights are noticed") {
  const auto trainee = small_avid(DType::f32);
  Learner learner(*trainee, options_with(UseGraph::on, 1));
  const auto update = [&](std::int64_t k) {
    return learner.update(k, [&](std::int64_t i) { return random_batch(1, seed_of(7, i)); });
  };
  const NamedTensors start = trainee->module().export_tensors();
  const double first = update(0).loss;
  CHECK(update(1).repeated);
  trainee->module().import_tensors(nn::TensorMap(start.begin(), start.end()), "start");
  const UpdateReport again = update(2);  // the parameters lie elsewhere now
  CHECK_FALSE(again.repeated);
  CHECK(again.loss == first);
  CHECK(update(3).repeated);
}

TEST_CASE("device/graph/refused where there is nothing to record") {
  const auto trainee = small_avid(DType::f32);
  trainee->place(Device(), DType::f32);
  CHECK_THROWS_WITH_AS(
      Learner(*trainee, options_with(UseGraph::on)), doctest::Contains("train.graph: expected auto or off, got on"),
      ConfigError);
  Learner learner(*trainee, options_with(UseGraph::automatic));
  CHECK_FALSE(learner.update(0, [](std::int64_t i) { return random_batch(1, seed_of(0, i)); }).repeated);
}

TEST_CASE("device/batches/clips that travel beside the work are those of the host") {
  const TrainConfig config = TrainConfig::load(
      std::filesystem::path(AVID_SOURCE_DIR) / "configs/tiny/scratch.toml", {"train.batch=2", "train.accumulate=2"});
  TrainingBatches there(config, kDevice), here(config);
  there.start(3);
  const auto check = [&](std::int64_t update, std::int64_t i) {
    const TrainBatch a = there.micro_batch(update, i), b = here.micro_batch(update, i);
    CAPTURE(update);
    CHECK(a.x0.device() == kDevice);
    CHECK(test::same_bits(a.x0.to(Device()), b.x0));
    CHECK(test::same_bits(a.cond.to(Device()), b.cond));
    CHECK(test::same_bits(a.actions, b.actions));
    CHECK(test::same_bits(a.t, b.t));
  };
  for (std::int64_t update = 3; update < 6; ++update) {
    check(update, 0);
    if (update != 4) there.send_ahead(update + 1);
    there.send_ahead(update + 1);  // it is under way already
    check(update, 1);
  }
  there.send_ahead(20);  // never asked for
  check(9, 1);
  check(0, 0);
  check(20, 0);
}

TEST_CASE("device/graph/a run that is stopped and resumed ends as one without a graph") {
  // The program does so at the quick level: resume/signal/while_a_device_repeats_a_recorded_update.
  if (!kThorough) return;
  const test::TempDir dir;
  const auto run = [&](const std::string& name, const std::string& graph, std::int64_t stop_after) {
    const TrainConfig config = TrainConfig::load(
        std::filesystem::path(AVID_SOURCE_DIR) / "configs/tiny/scratch.toml",
        {"train.updates=3", "train.precision=bf16", "validation.every=2", "validation.clips=1", "samples.every=0",
         "train.batch=1", "data.size=4", "data.frames=2", "train.action_drop=0.5", "ema.update_after=1",
         "ema.update_every=1", "train.accumulate=1", "train.graph=" + graph});
    for (;;) {
      const bool first = !std::filesystem::exists(dir / name);
      RunInfo info = current_run_info();
      info.seed = config.seed;
      info.threads = 1;
      info.inputs = input_digests(config);
      RunFolder folder = first ? RunFolder::create(dir / name, config, info) : RunFolder::open(dir / name);
      std::int64_t seen = 0;
      Trainer trainer(
          folder,
          {.should_stop = [&] { return first && seen == stop_after; },
           .progress = [&](const TrainProgress& p) { seen = p.update; },
           .say = {}},
          kDevice);
      if (trainer.run() != TrainEnd::stopped) {
        CHECK(trainer.state().update == 3);
        return CheckpointStore::load(*folder.checkpoints().latest());
      }
      CHECK(trainer.learner().graph().defined());  // stopped between two repetitions
    }
  };
  const Checkpoint with = run("with", "on", 2), without = run("without", "off", -1);
  CHECK(same(with.weights, without.weights));
  CHECK(same(with.ema, without.ema));
  CHECK(same(with.optimizer, without.optimizer));
  CHECK(with.state.optimizer_steps == 3);
}

TEST_CASE("device/evaluate/no way into batches changes a bit") {
  std::vector<DType> types{DType::bf16};
  if (kThorough) types.push_back(DType::f32);
  for (const DType activations : types) {
    CAPTURE(name_of(activations));
    const auto trainee = small_avid(activations);
    Learner learner(*trainee, options_with(UseGraph::off, 1));
    learner.update(0, [](std::int64_t i) { return random_batch(1, seed_of(0, i)); });  // a fresh mask is even
    const TrainBatch both = random_batch(2, 900);
    ClipLosses one_by_one;
    for (std::int64_t i = 0; i < 2; ++i)
      one_by_one.add(learner.evaluate(
          {both.x0.slice(i, i + 1), both.cond.slice(i, i + 1), both.actions.slice(i, i + 1), both.noise.slice(i, i + 1),
           both.t.slice(i, i + 1), both.drop.slice(i, i + 1)}));
    const ClipLosses at_once = learner.evaluate(both);
    CHECK(std::isfinite(at_once.loss()));
    CHECK(one_by_one.loss() == at_once.loss());
    REQUIRE(at_once.mask().has_value());
    CHECK(one_by_one.mask()->mean == at_once.mask()->mean);
    CHECK(one_by_one.mask()->std == at_once.mask()->std);
  }
}

TEST_CASE("device/dry_run/validation and samples of fewer clips at once take less") {
  const auto bytes = [](std::vector<std::string> set, const std::string& batch) {
    set.insert(
        set.end(), {"train.batch=4", "train.accumulate=1", "train.updates=2", "data.size=8", "data.frames=2",
                    "train.graph=on", "validation.batch=" + batch, "samples.batch=" + batch});
    const std::filesystem::path scratch = std::filesystem::path(AVID_SOURCE_DIR) / "configs/tiny/scratch.toml";
    return dry_run(TrainConfig::load(scratch, set), kDevice, 1).memory_bytes;
  };
  for (const auto& only :
       {std::vector<std::string>{"validation.every=2", "validation.clips=4", "samples.every=0"},
        {"validation.every=0", "samples.every=2", "samples.clips=4"}}) {
    CAPTURE(only[0]);
    const double alone = bytes({"validation.every=0", "samples.every=0"}, "0"), all = bytes(only, "0"),
                 one = bytes(only, "1");
    CHECK(all > 1.05 * alone);
    CHECK(one - alone < 0.5 * (all - alone));
  }
}

TEST_CASE("device/dry_run/predicts the memory of a run within a tenth") {
  const test::TempDir dir;
  const std::filesystem::path tiny = std::filesystem::path(AVID_SOURCE_DIR) / "configs/tiny";
  const auto run_of = [&](const TrainConfig& config, const std::string& name) {
    RunInfo info = current_run_info();
    info.seed = config.seed;
    info.threads = 1;
    info.inputs = input_digests(config);
    return RunFolder::create(dir / name, config, info);
  };
  std::vector<std::string> small{"validation.clips=2", "validation.batch=1", "samples.clips=1", "samples.steps=2",
                                 "data.size=4",        "data.frames=2",      "train.batch=2",   "train.updates=2"};
  if (!kThorough) small.push_back("train.accumulate=1");
  {
    std::vector<std::string> set = small;
    set.insert(set.end(), {"train.updates=1", "train.batch=1", "validation.every=0", "samples.every=0"});
    const TrainConfig config = TrainConfig::load(tiny / "base.toml", set);
    RunFolder folder = run_of(config, "base");
    Trainer(folder, {}).run();
  }
  struct Case {
    Device device;
    std::string graph, precision, recompute;
    int every;  // updates from one validation, and set of samples, to the next
  };
  const Device cpu;
  std::vector<Case> cases{{cpu, "auto", "f32", "none", 0}, {kDevice, "on", "bf16", "blocks", 2}};
  if (kThorough) {
    cases.clear();
    for (const std::string recompute : {"none", "blocks", "levels"}) {
      cases.push_back({cpu, "auto", "f32", recompute, 0});
      for (const std::string graph : {"off", "on"})
        for (const std::string precision : {"f32", "bf16"})
          for (const int every : {0, 1, 2}) cases.push_back({kDevice, graph, precision, recompute, every});
    }
  }
  std::map<std::string, double> taken_by;
  for (const auto& [device, graph, precision, recompute, every] : cases) {
    const std::string name =
        fmt::format("{} {} {} {} {}", device.is_gpu() ? "device" : "cpu", graph, precision, recompute, every);
    CAPTURE(name);
    std::vector<std::string> set = small;
    set.insert(
        set.end(), {"base.checkpoint=" + (dir / "base").string(), "train.graph=" + graph,
                    "train.precision=" + precision, "train.recompute=" + recompute,
                    fmt::format("validation.every={}", every), fmt::format("samples.every={}", every)});
    if (!device.is_gpu()) set.insert(set.end(), {"train.batch=16", "data.size=8", "data.frames=8", "train.updates=2"});
    const TrainConfig config = TrainConfig::load(tiny / "avid.toml", set);
    const DryRun predicted = dry_run(config, device, 1);  // one FLOP: from as few clips as there can be
    CHECK(predicted.memory_counted == (kDevice.is_gpu() && device.is_gpu()));
    CHECK((predicted.graph_bytes > 0) == (graph == "on"));
    trim_host_pool();
    const auto pool = [&] { return device.is_gpu() ? device_pool_stats(device) : host_pool_stats(); };
    const auto before = static_cast<double>(pool().in_use_bytes);
    RunFolder folder = run_of(config, name);
    Trainer trainer(folder, {}, device);
    trainer.run();
    const double taken = trainer.peak_memory_mib() * 1048576.0 - before;
    CHECK(std::abs(predicted.memory_bytes - taken) < 0.1 * taken);
    taken_by[name] = taken;
  }
  for (const std::string recompute : {"blocks", "levels"})
    if (kThorough) CHECK(taken_by.at("device off f32 " + recompute + " 0") < taken_by.at("device off f32 none 0"));
}
