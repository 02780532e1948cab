// tests/train/kinds_test.cpp -- every kind of model: it trains, goes on exactly, and leaves its base alone
#include <cmath>
#include <map>

#include "diffusion/served/server.h"
#include "kernels/threads.h"
#include "models/action_classifier.h"
#include "models/checkpoint.h"
#include "models/controlnet.h"
#include "tensor/error.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/whole_run.h"
#include "train/dry_run.h"
#include "train/trainer.h"

using namespace avid;
using namespace avid::train;
namespace fs = std::filesystem;

namespace {

[[maybe_unused]] const bool g_one_thread = (kernels::set_num_threads(1), true);
const fs::path kRoot = AVID_SOURCE_DIR;
const std::string kSmallFile = "data.train=" + (kRoot / "data/samples/coinrun32-heldout.h5").string();

TrainConfig tiny(std::vector<std::string> set) { return TrainConfig::load(kRoot / "configs/tiny/scratch.toml", set); }

// A base of two updates, made once.
const fs::path& base_run() {
  static test::TempDir dir;
  static const fs::path path = dir / "base";
  if (!fs::exists(path))
    test::run_whole(
        path, TrainConfig::load(
                  kRoot / "configs/tiny/base.toml",
                  {kSmallFile, "train.updates=2", "validation.every=0", "checkpoint.every=2", "train.accumulate=1"}));
  return path;
}

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// What each kind needs beside the tiny settings.
std::vector<std::string> settings_of(const std::string& kind) {
  const std::string base = "base.checkpoint=" + base_run().string();
  if (kind == "controlnet_small") return {"model.width=4", "model.heads=1", "model.head_dim=8", base};
  if (kind == "scratch_dropping") return {"train.action_drop=0.5"};
  if (kind.ends_with("classifier")) return {"model.mlp=12"};
  return {base};
}

// The tiny file names an architecture, which kinds that take theirs from the base refuse: theirs is a file of its own.
TrainConfig config_of(const std::string& kind, const std::vector<std::string>& more) {
  std::vector<std::string> set = settings_of(kind);
  set.insert(set.end(), more.begin(), more.end());
  if (!kind.starts_with("controlnet")) {
    if (kind != "scratch_dropping") set.push_back("model.kind=" + kind);
    return tiny(set);
  }
  set.push_back("model.kind=" + kind);
  return TrainConfig::parse(
      "seed = 7\n[data]\ntrain = [\"data/samples/coinrun32-train.h5\"]\nvalidation = "
      "[\"data/samples/coinrun32-heldout.h5\"]\nsize = 16\n"
      "[train]\nupdates = 4\nbatch = 2\naccumulate = 2\nlr = 1e-3\nwarmup = 2\n[ema]\nupdate_every = 2\nupdate_after = "
      "4\n",
      (kRoot / "x.toml").string(), set);
}

}  // namespace

TEST_CASE("kinds/resume/an_interrupted_run_is_the_same_run") {
  const std::string base_before = sha256_of_file(base_weights_path(base_run()));
  for (const std::string kind :
       {"controlnet", "controlnet_small", "classifier", "noisy_classifier", "scratch_dropping"}) {
    CAPTURE(kind);
    const test::TempDir dir;
    const std::vector<std::string> common = {kSmallFile,      "data.size=8",        "data.frames=4",
                                             "train.batch=2", "train.accumulate=1", "checkpoint.every=2",
                                             "log.every=1",   "validation.every=2", "validation.clips=3"};
    const auto with_updates = [&](const char* updates) {
      auto set = common;
      set.push_back(updates);
      return config_of(kind, set);
    };
    test::run_whole(dir / "straight", with_updates("train.updates=4"));
    test::run_whole(dir / "stopped", with_updates("train.updates=2"));
    {
      RunFolder folder = RunFolder::open(dir / "stopped", {"train.updates=4"});
      Trainer trainer(folder, {});
      CHECK(trainer.state().update == 2);
      CHECK(trainer.run() == TrainEnd::finished);
      if (kind.ends_with("classifier")) {
        CHECK(std::isfinite(trainer.last_logged("val/acc")));
        CHECK(std::isfinite(trainer.last_logged("train/acc")));
      }
    }
    const RunDigests a = run_digests(dir / "straight"), b = run_digests(dir / "stopped");
    CHECK(a.weights == b.weights);
    CHECK(a.ema == b.ema);
    CHECK(a.optimizer == b.optimizer);
    // What was trained moved; a classifier's run means its weights, everything else its average.
    const auto weights = base_weights_path(dir / "straight");
    CHECK(weights.filename() == (kind.ends_with("classifier") ? "weights.safetensors" : "ema.safetensors"));
  }
  CHECK(sha256_of_file(base_weights_path(base_run())) == base_before);
}

TEST_CASE("kinds/controlnet/starts_as_the_base_and_trains_the_copy_alone") {
  for (const std::string kind : {"controlnet", "controlnet_small"}) {
    CAPTURE(kind);
    std::vector<std::string> set;
    if (kind == "controlnet_small") set.push_back("model.zero_projection=true");
    const TrainConfig config = config_of(kind, set);
    const auto trainee = make_trainee(config);
    const diffusion::DenoiserInput in{
        test::random_tensor({1, 8, 16, 16, 3}, DType::f32, 1), Tensor::full({1}, 60, DType::i64),
        test::random_tensor({1, 2, 16, 16, 3}, DType::f32, 2), Tensor::full({1, 8}, 3, DType::i64)};
    CHECK(test::max_abs_diff(trainee->denoiser().predict(in), trainee->base_denoiser()->predict(in)) == 0);
    // Without the switch the small one starts elsewhere, as the original does.
    if (kind == "controlnet_small") {
      const auto plain = make_trainee(config_of(kind, {}));
      CHECK(test::max_abs_diff(plain->denoiser().predict(in), plain->base_denoiser()->predict(in)) > 1e-4);
    }
    // The natural order of the middle outputs is another network once the copy has learnt something.
    CHECK(trainee->frozen_parameters() > 0);
    const auto cost = trainee->forward_flops({1, 8, 16, 16});
    CHECK(cost.trained > 0);
    CHECK(cost.frozen > cost.trained * 0.1);
  }
}

TEST_CASE("kinds/classifier/noisy_ones_see_noise_and_clean_ones_do_not") {
  TrainBatch batch;
  batch.x0 = test::random_tensor({2, 8, 16, 16, 3}, DType::f32, 1);
  batch.cond = test::random_tensor({2, 2, 16, 16, 3}, DType::f32, 2);
  batch.actions = Tensor::full({2, 8}, 4, DType::i64);
  batch.t = Tensor::full({2}, 150, DType::i64);
  const auto loss = [&](const std::string& kind, std::uint64_t noise) {
    const auto trainee = make_trainee(config_of(kind, {}));
    batch.noise = test::random_tensor({2, 8, 16, 16, 3}, DType::f32, noise, 1.7);
    Learner learner(*trainee, {});
    const ClipLosses e = learner.evaluate(batch);
    REQUIRE(e.accuracy().has_value());
    CHECK(*e.accuracy() >= 0);
    CHECK(*e.accuracy() <= 1);
    return e.loss();
  };
  CHECK(loss("classifier", 5) == loss("classifier", 6));
  CHECK(loss("noisy_classifier", 5) != loss("noisy_classifier", 6));
  CHECK(loss("classifier", 5) == doctest::Approx(std::log(15.0)).epsilon(0.3));  // nothing learnt: near chance
}

TEST_CASE("kinds/classifier/learns_a_batch") {
  const auto trainee = make_trainee(config_of("classifier", {}));
  Learner learner(*trainee, {.lr = 5e-3, .warmup = 0});
  TrainBatch batch;
  batch.x0 = test::random_tensor({2, 8, 16, 16, 3}, DType::f32, 1);
  batch.cond = test::random_tensor({2, 2, 16, 16, 3}, DType::f32, 2);
  batch.noise = batch.x0;
  batch.t = Tensor::zeros({2}, DType::i64);
  batch.actions = Tensor::zeros({2, 8}, DType::i64);
  for (std::int64_t i = 0; i < 16; ++i) batch.actions.data<std::int64_t>()[i] = i % 15;
  double first = 0, last = 0;
  for (int k = 0; k < 60; ++k) {
    const UpdateReport report = learner.update(k, [&](std::int64_t) { return batch; });
    CHECK(report.accuracy.has_value());
    (k == 0 ? first : last) = report.loss;
  }
  CHECK(last < 0.7 * first);
  CHECK_THROWS_AS(trainee->denoiser(), GraphError);
}

TEST_CASE("kinds/served/an_adapter_trains_on_a_served_base_as_on_its_file") {
  const test::TempDir dir;
  FrozenBase base = open_base(base_run().string());
  diffusion::ModelCard card;
  card.name = "tiny";
  card.sha256 = base.sha256;
  card.timesteps = 200;
  card.cond_frames = base.cond_frames;
  card.multiple = base.multiple;
  diffusion::DenoiserServer server(*base.denoiser, card, {});
  server.start();
  const std::vector<std::string> common = {kSmallFile,        "train.updates=3", "validation.every=0",
                                           "model.kind=avid", "data.size=8",     "train.batch=2"};
  const auto config = [&](const std::string& place) {
    auto set = common;
    set.push_back("base.checkpoint=" + place);
    return TrainConfig::load(kRoot / "configs/tiny/avid.toml", set);
  };
  test::run_whole(dir / "file", config(base_run().string()));
  test::run_whole(dir / "served", config(server.url()));
  const RunDigests a = run_digests(dir / "file"), b = run_digests(dir / "served");
  CHECK(a.weights == b.weights);
  CHECK(a.ema == b.ema);
  CHECK(server.counts().requests == 6);  // 3 updates of 2 micro-batches
  CHECK(message([&] {
          make_trainee(config_of("controlnet", {"base.checkpoint=" + server.url()}));
        }).find("base.checkpoint") != std::string::npos);
}

TEST_CASE("kinds/dry_run/says_what_is_trained") {
  const DryRun d = dry_run(config_of("controlnet", {}));
  CHECK(d.description.find("ControlNet") != std::string::npos);
  CHECK(d.frozen_parameters > 0);
  CHECK(d.flops_per_update > 0);
  CHECK(dry_run(config_of("noisy_classifier", {})).description.find("noisy") != std::string::npos);
}

TEST_CASE("kinds/errors/keys_that_do_not_fit_the_kind") {
  const auto has = [](const std::string& text, const char* part) {
    INFO(text);
    return text.find(part) != std::string::npos;
  };
  CHECK(
      has(message([] { config_of("controlnet", {"model.width=8"}); }), "takes the architecture from base.checkpoint"));
  CHECK(has(message([] { config_of("controlnet_small", {"model.multipliers=[1,2]"}); }), "takes the architecture"));
  CHECK(has(message([] { config_of("controlnet", {"train.action_drop=0.2"}); }), "never asked without actions"));
  CHECK(has(message([] { config_of("classifier", {"samples.every=2"}); }), "makes no videos"));
  CHECK(has(message([] { config_of("classifier", {"data.size=2"}); }), "data.size"));
  CHECK(has(message([] { tiny({"model.mlp=3"}); }), "only classifiers"));
  CHECK(has(message([] { tiny({"model.control_order=natural"}); }), "only controlnet"));
}

// What the paper's configurations train, against pixel.md 8.1.
TEST_CASE("kinds/paper/parameter_counts_of_every_configuration") {
  const std::map<std::string, std::int64_t> expected = {
      {"base", 91975875},
      {"avid_22m", 22667448},
      {"avid_71m", 72241592},
      {"avid_no_mask_22m", 22667397},
      {"avid_no_mask_71m", 72241501},
      {"avid_no_cond_22m", 22660098},
      {"avid_no_cond_71m", 72228362},
      {"scratch_22m", 22660047},
      {"scratch_71m", 72228271},
      {"cfg_22m", 22660047},
      {"cfg_71m", 72228271},
      {"controlnet_small", 22158492},
      {"classifier_noisy", 59747471},
      {"classifier_eval", 39699359},
      {"classifier_eval_60m", 59747471}};
  int seen = 0;
  for (const auto& entry : fs::directory_iterator(kRoot / "configs/paper")) {
    if (entry.path().extension() != ".toml") continue;
    ++seen;
    std::string name = entry.path().stem();
    CAPTURE(name);
    const TrainConfig c = TrainConfig::load(entry.path(), {}, TrainConfig::Files::may_miss);
    if (const auto at = name.find('_'); name.starts_with("coinrun")) name = name.substr(at + 1);
    CHECK(c.train.batch * c.train.accumulate == 64);
    CHECK(c.train.warmup == 1000);
    CHECK(c.train.lr == (name == "finetune" ? 2e-5 : 1e-4));
    CHECK(c.train.action_drop == (name.starts_with("cfg") ? 0.2 : 0.0));
    if (name == "finetune" || name == "controlnet") continue;  // sizes of the base
    const auto found = expected.find(name);
    REQUIRE(found != expected.end());
    Unet3dConfig unet;
    unet.dim = c.model.width;
    unet.dim_mults = c.model.multipliers;
    unet.heads = c.model.heads;
    unet.head_dim = c.model.head_dim;
    std::int64_t count = 0;
    if (c.is_classifier()) {
      count = ActionClassifier({.dim = unet.dim,
                                .dim_mults = unet.dim_mults,
                                .heads = unet.heads,
                                .head_dim = unet.head_dim,
                                .mlp_dim = c.model.mlp,
                                .image_size = c.data.size})
                  .num_parameters();
    } else if (c.is_controlnet()) {
      count = ControlNet({.dim = unet.dim,
                          .dim_mults = {1, 2, 4, 8},
                          .heads = unet.heads,
                          .head_dim = unet.head_dim,
                          .base_dim = 100})
                  .num_parameters();
    } else if (c.is_avid()) {
      const AvidVariant variant = c.model.kind == "avid"           ? AvidVariant::mask
                                  : c.model.kind == "avid_no_mask" ? AvidVariant::no_mask
                                                                   : AvidVariant::no_conditioning;
      count = Unet3d(make_avid_config(variant, unet).adapter).num_parameters();
    } else {
      count = Unet3d(unet).num_parameters();
    }
    CHECK(count == found->second);
  }
  CHECK(seen == 31);
}
