// tests/train/calibration_test.cpp -- a classifier's run leaves a calibration record of the weights it stands for
#include "train/calibration.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "diffusion/parameterisation.h"
#include "kernels/threads.h"
#include "models/checkpoint.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "tests/train/whole_run.h"
#include "train/frozen_base.h"
#include "train/trainer.h"

using namespace avid;
using namespace avid::train;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

[[maybe_unused]] const bool g_one_thread = (kernels::set_num_threads(1), true);

TrainConfig config_of(const std::string& kind) {
  return TrainConfig::load(
      fs::path(AVID_SOURCE_DIR) / "configs/tiny/scratch.toml",
      {"model.kind=" + kind, "model.mlp=12", "train.updates=2", "validation.every=1", "validation.clips=12",
       "checkpoint.every=1"});
}

struct Sums {
  double count = 0, right = 0, probability = 0;
};

/// Predictions one clip at a time, straight from the network: what the record must add up to.
std::vector<Sums> predict_by_hand(const TrainConfig& config, const fs::path& weights, int bands) {
  const auto network = load_action_classifier(weights, DType::f32, 2);
  network->set_trainable(false);
  const ValidationBatches clips(config);
  const diffusion::Schedule schedule(diffusion::ScheduleKind::sigmoid, 200);
  std::vector<Sums> sums(static_cast<std::size_t>(bands));
  for (std::int64_t i = 0; i < clips.num_batches(); ++i) {
    const TrainBatch batch = clips.batch(i);
    for (std::int64_t n = 0; n < batch.x0.dim(0); ++n) {
      const Tensor t = bands > 1 ? batch.t.slice(n, n + 1) : Tensor::zeros({1}, DType::i64);
      const Tensor x = bands > 1
                           ? diffusion::q_sample(schedule, batch.x0.slice(n, n + 1), batch.noise.slice(n, n + 1), t)
                           : batch.x0.slice(n, n + 1);
      const auto logits = network->forward(Var(join_frames(batch.cond.slice(n, n + 1), x)), t).value().to_doubles();
      Sums& s = sums[static_cast<std::size_t>(t.data<std::int64_t>()[0] / (200 / bands))];
      for (std::size_t step = 0; step < logits.size() / 15; ++step) {
        const auto truth = static_cast<std::size_t>(batch.actions.slice(n, n + 1).to_values<std::int64_t>()[step]);
        double sum = 0;
        bool best = true;
        for (std::size_t a = 0; a < 15; ++a) {
          sum += std::exp(logits[step * 15 + a] - logits[step * 15 + truth]);
          best = best && logits[step * 15 + truth] >= logits[step * 15 + a];
        }
        s.count += 1;
        s.right += best ? 1 : 0;
        s.probability += 1 / sum;
      }
    }
  }
  return sums;
}

}  // namespace

TEST_CASE("calibration/run/record_of_the_weights_that_the_run_stands_for") {
  const test::TempDir dir;
  test::run_whole(dir / "clean", config_of("classifier"));
  const Json record = Json::parse(read_text(dir / "clean/calibration.json"));
  const fs::path weights = base_weights_path(dir / "clean");
  CHECK(record["weights_sha256"] == sha256_of_file(weights));
  CHECK(record["clips"] == 12);
  CHECK(!record.contains("noise_bands"));
  const Sums want = predict_by_hand(config_of("classifier"), weights, 1)[0];
  CHECK(record["all"]["count"] == 96);
  CHECK(record["all"]["accuracy"].get<double>() == doctest::Approx(want.right / want.count).epsilon(1e-9));
  CHECK(record["all"]["probability"].get<double>() == doctest::Approx(want.probability / want.count).epsilon(1e-5));
  double in_bins = 0;
  for (const Json& bin : record["all"]["bins"]) in_bins += bin["count"].get<double>();
  CHECK(in_bins == 96);
  // The report shows it, and it is found from the run and from its weights, but not beside other weights.
  const std::string report = read_text(dir / "clean/report.html");
  CHECK(report.find("<h2>Calibration</h2>") != std::string::npos);
  CHECK(report.find("expected calibration error") != std::string::npos);
  CHECK(find_calibration(dir / "clean") == record);
  CHECK(find_calibration(weights) == record);
  Json summary = record["all"];
  summary.erase("bins");
  CHECK(calibration_summary(weights) == summary);
  CHECK(calibration_text(record["all"]).find("(96 predictions)") != std::string::npos);
  fs::copy_file(weights, dir / "elsewhere.safetensors");
  CHECK(find_calibration(dir / "elsewhere.safetensors").is_null());
  fs::copy_file(dir / "clean/calibration.json", dir / "elsewhere.calibration.json");
  CHECK(find_calibration(dir / "elsewhere.safetensors") == record);
  Json stale = record;
  stale["weights_sha256"] = std::string(64, '0');
  write_text_atomic(dir / "clean/calibration.json", stale.dump());
  CHECK(find_calibration(dir / "clean").is_null());
  write_text_atomic(dir / "clean/calibration.json", "{ torn");
  CHECK(find_calibration(dir / "clean").is_null());
}

TEST_CASE("calibration/run/noisy_classifiers_by_bands_of_diffusion_time") {
  const test::TempDir dir;
  const TrainConfig config = config_of("noisy_classifier");
  test::run_whole(dir / "noisy", config);
  const Json record = Json::parse(read_text(dir / "noisy/calibration.json"));
  const std::vector<Sums> want = predict_by_hand(config, base_weights_path(dir / "noisy"), kNoiseBands);
  REQUIRE(record["noise_bands"].size() == kNoiseBands);
  double total = 0;
  for (std::size_t band = 0; band < want.size(); ++band) {
    CAPTURE(band);
    const Json& got = record["noise_bands"][band];
    CHECK(got["t_from"] == 40 * band);
    CHECK(got["t_to"] == 40 * band + 40);
    CHECK(got["count"].get<double>() == want[band].count);
    CHECK(got["accuracy"].get<double>() == doctest::Approx(want[band].right / want[band].count).epsilon(1e-9));
    CHECK(got["probability"].get<double>() == doctest::Approx(want[band].probability / want[band].count).epsilon(1e-5));
    total += want[band].count;
  }
  CHECK(record["all"]["count"].get<double>() == total);
  CHECK(read_text(dir / "noisy/report.html").find("diffusion time 160 to 199") != std::string::npos);
}

TEST_CASE("calibration/shipped/judge_reads_actions_as_its_record_says") {
  const fs::path judge = fs::path(AVID_SOURCE_DIR) / "data/pretrained/coinrun32_classifier.safetensors";
  const Json record = find_calibration(judge);
  REQUIRE(record.is_object());
  const TrainConfig config =
      TrainConfig::load(fs::path(AVID_SOURCE_DIR) / "configs/classifier32.toml", {}, TrainConfig::Files::may_miss);
  const Json found = calibrate(config, judge, ValidationBatches(config), Device{});
  CHECK(found["all"]["count"] == record["all"]["count"]);
  // Another processor rounds otherwise: two logits may change places, hardly more.
  CHECK(std::abs(found["all"]["accuracy"].get<double>() - record["all"]["accuracy"].get<double>()) < 0.005);
  CHECK(
      found["all"]["probability"].get<double>() ==
      doctest::Approx(record["all"]["probability"].get<double>()).epsilon(1e-4));
}

TEST_CASE("calibration/run/other_kinds_have_none") {
  const test::TempDir dir;
  TrainConfig config = TrainConfig::load(
      fs::path(AVID_SOURCE_DIR) / "configs/tiny/base.toml",
      {"train.updates=1", "validation.every=1", "validation.clips=2", "checkpoint.every=1"});
  test::run_whole(dir / "base", config);
  CHECK(!fs::exists(dir / "base/calibration.json"));
  CHECK(find_calibration(dir / "base").is_null());
  CHECK(read_text(dir / "base/report.html").find("Calibration") == std::string::npos);
}
