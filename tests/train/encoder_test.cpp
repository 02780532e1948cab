// tests/train/encoder_test.cpp -- training of clip encoders: learns, resumes exactly, refuses what does not fit
#include <cmath>

#include "kernels/threads.h"
#include "models/clip_encoder.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/whole_run.h"
#include "train/dry_run.h"
#include "train/frozen_base.h"
#include "train/trainer.h"

using namespace avid;
using namespace avid::train;
namespace fs = std::filesystem;

namespace {

[[maybe_unused]] const bool g_one_thread = (kernels::set_num_threads(1), true);

TrainConfig config_of(const std::vector<std::string>& set) {
  return TrainConfig::parse(
      "seed = 7\n[data]\ntrain = [\"data/samples/coinrun32-train.h5\"]\n"
      "validation = [\"data/samples/coinrun32-heldout.h5\"]\nsize = 32\n"
      "[model]\nkind = \"clip_encoder\"\nwidth = 4\n"
      "[train]\nupdates = 4\nbatch = 4\naccumulate = 2\nlr = 2e-3\nwarmup = 2\n"
      "[ema]\nupdate_every = 2\nupdate_after = 4\n"
      "[checkpoint]\nevery = 2\n[validation]\nevery = 2\nclips = 6\n[log]\nevery = 1\n",
      (fs::path(AVID_SOURCE_DIR) / "x.toml").string(), set);
}

std::string message(const std::vector<std::string>& set) {
  try {
    config_of(set);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("encoder/resume/an_interrupted_run_is_the_same_run") {
  const test::TempDir dir;
  test::run_whole(dir / "straight", config_of({}));
  test::run_whole(dir / "stopped", config_of({"train.updates=2"}));
  {
    RunFolder folder = RunFolder::open(dir / "stopped", {"train.updates=4"});
    Trainer trainer(folder, {});
    CHECK(trainer.state().update == 2);
    CHECK(trainer.run() == TrainEnd::finished);
    CHECK(std::isfinite(trainer.last_logged("val/loss")));
    CHECK(std::isfinite(trainer.last_logged("val/acc")));
  }
  const RunDigests a = run_digests(dir / "straight"), b = run_digests(dir / "stopped");
  CHECK(a.weights == b.weights);
  CHECK(a.ema == b.ema);
  CHECK(a.optimizer == b.optimizer);
  // The run stands for its averaged weights, and the metrics' loader takes them.
  const auto encoder = load_clip_encoder(base_weights_path(dir / "straight"));
  CHECK(encoder->config() == ClipEncoderConfig{.width = 4});
  CHECK(encoder->clip_features(Tensor::full({1, 10, 32, 32, 3}, 99, DType::u8)).shape() == Shape({1, 64}));
}

TEST_CASE("encoder/learner/learns_to_match_and_to_tell_speeds_apart") {
  const auto trainee = make_trainee(config_of({}));
  Learner learner(*trainee, {.lr = 5e-3, .warmup = 0});
  TrainBatch batch;
  batch.x0 = test::random_tensor({4, 8, 32, 32, 3}, DType::f32, 1);
  batch.cond = test::random_tensor({4, 2, 32, 32, 3}, DType::f32, 2);
  batch.noise = batch.x0;
  batch.t = Tensor::zeros({4}, DType::i64);
  double first = 0, last = 0;
  for (int k = 0; k < 25; ++k) {
    const UpdateReport report = learner.update(k, [&](std::int64_t) { return batch; });
    CHECK(report.accuracy.has_value());
    (k == 0 ? first : last) = report.loss;
  }
  CHECK(first > 3.0);  // about ln 4 three times: which of four clips, twice, and which of four speeds
  CHECK(last < 0.6 * first);
  // Noise and time are nothing to it.
  const double loss = learner.evaluate(batch).loss();
  batch.noise = test::random_tensor({4, 8, 32, 32, 3}, DType::f32, 3);
  batch.t = Tensor::full({4}, 150, DType::i64);
  CHECK(learner.evaluate(batch).loss() == loss);
  CHECK_THROWS_AS(trainee->denoiser(), GraphError);
}

TEST_CASE("encoder/config/keys_that_do_not_fit") {
  const auto has = [](const std::string& text, const char* part) {
    INFO(text);
    return text.find(part) != std::string::npos;
  };
  CHECK(has(message({"model.heads=2"}), "has only model.width"));
  CHECK(has(message({"model.multipliers=[1,2]"}), "has only model.width"));
  CHECK(has(message({"data.size=64"}), "frames of 32x32"));
  CHECK(has(message({"data.frames=6"}), "clips of 9 frames or more"));
  CHECK(has(message({"model.actions=15"}), "has only model.width"));
  CHECK(has(message({"train.batch=1"}), "tells clips apart"));
  CHECK(has(message({"samples.every=5"}), "makes no videos"));
  CHECK(has(message({"validation.batch=2"}), "so that validation takes train.batch"));
  CHECK(has(message({"train.action_drop=0.1"}), "never asked without actions"));
  CHECK(has(message({"base.checkpoint=x"}), "base.checkpoint"));
  const TrainConfig config = config_of({"train.batch=70"});
  CHECK(TrainConfig::parse(config.to_toml(), "again.toml").fingerprint() == config.fingerprint());
  CHECK(config.validation_batch() == 70);
}

TEST_CASE("encoder/dry_run/counts_its_work") {
  const DryRun d = dry_run(config_of({}));
  CHECK(d.description.find("clip encoder of 64 features") != std::string::npos);
  // By hand for width 4, 10 frames: multiply-adds of every layer at its output positions.
  const double shared = 256 * (16 * 3 * 4 + 9 * 4 * 8) + 64 * 16 * 8 * 8;
  const double frame = 64 * 9 * 8 * 12 + 16 * 16 * 12 * 16 + 16 * 16 * 64;
  const double pairs = 64 * 9 * 16 * 12, windows = 16 * 16 * 24 * 16 + 16 * 16 * 64;
  const double speeds = 4 * (2 * pairs + windows);
  const double forward = 2 * (10 * shared + 2 * frame + 9 * pairs + 8 * windows + speeds);
  CHECK(d.flops_per_update == doctest::Approx(3 * forward * 8));
}
