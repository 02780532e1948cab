// tests/eval/procgen_distance_test.cpp -- fid_procgen and fvd_procgen: protocol, record, and what they answer to
#include "eval/metrics/procgen_distance.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/loader.h"
#include "eval/corruptions.h"
#include "eval/metrics/network_metrics.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

const std::filesystem::path kRoot = AVID_SOURCE_DIR;
const std::string kShipped = (kRoot / "data/pretrained/procgen-encoder.safetensors").string();
constexpr auto kFid = NetworkMetric::fid_procgen, kFvd = NetworkMetric::fvd_procgen;

Tensor real_clips(const char* file, std::int64_t count, std::int64_t frames, std::uint64_t seed) {
  auto store = std::make_shared<const data::EpisodeStore>(kRoot / "data/samples" / file);
  const data::Loader loader(store, {.batch = 1, .context = 1, .targets = frames - 1, .workers = 0});
  return loader.read_windows(loader.sampler().draw_evaluation(seed, count)).frames;
}

NetworkMetricOptions shipped() { return {.weights = {}, .procgen_encoder = kShipped}; }

struct Scores {
  double fid, fvd;
};
Scores scores_of(NetworkScorer& scorer, const Tensor& made) {
  const NetworkScores s = scorer.score(made);
  return {s.distances.at("fid_procgen"), s.distances.at("fvd_procgen")};
}

}  // namespace

TEST_CASE("procgen_distance/frames/boxes_of_pixels") {
  Tensor frames = Tensor::zeros({1, 2, 64, 64, 3}, DType::u8);
  // One box of the second frame: 10, 20, 30, 41 -> 25.25 -> 25; and 0, 0, 1, 1 -> a half, which rounds up.
  const auto at = [&](int y, int x, int c) { return ((64 + y) * 64 + x) * 3 + c; };
  std::uint8_t* v = frames.data<std::uint8_t>();
  v[at(4, 6, 1)] = 10, v[at(4, 7, 1)] = 20, v[at(5, 6, 1)] = 30, v[at(5, 7, 1)] = 41;
  v[at(0, 1, 2)] = 1, v[at(1, 1, 2)] = 1;
  const Tensor small = procgen_frames(frames);
  CHECK(small.shape() == Shape({1, 2, 32, 32, 3}));
  CHECK(small.data<std::uint8_t>()[((32 + 2) * 32 + 3) * 3 + 1] == 25);
  CHECK(small.data<std::uint8_t>()[(32 * 32) * 3 + 2] == 1);
  CHECK(test::same_bits(procgen_frames(small), small));
  CHECK_THROWS_WITH_AS(
      check_procgen_frames(64, 48, "fid_procgen"), doctest::Contains("fid_procgen: expected square frames"),
      ShapeError);
  CHECK_THROWS_AS(check_procgen_frames(48, 48, "fid_procgen"), ShapeError);
}

TEST_CASE("procgen_distance/files/shipped_own_missing_and_wrong") {
  const ProcgenEncoder encoder = load_procgen_encoder(kShipped, "fvd_procgen");
  CHECK(encoder.shipped);  // otherwise the digest in the program is not that of the file
  CHECK(encoder.sha256 == sha256_of_file(kShipped));
  CHECK(encoder.network->config().features == 64);
  CHECK(std::filesystem::file_size(kShipped) <= 1'500'000);
  CHECK(procgen_encoder_file("x.safetensors") == "x.safetensors");

  const test::TempDir dir;
  ClipEncoder other({.width = 2, .features = 6});
  other.initialize(1);
  save_safetensors(dir / "own.safetensors", other.export_tensors());
  NetworkScorer scorer({kFvd}, {.weights = {}, .procgen_encoder = dir / "own.safetensors"});
  scorer.set_real(real_clips("coinrun32-heldout.h5", 8, 4, 1), {});
  REQUIRE(scorer.warnings().size() == 1);
  CHECK(scorer.warnings()[0].find("another encoder than the shipped one") != std::string::npos);
  CHECK(scorer.weights_record()["procgen-encoder"]["state"] == "own");

  const auto reason = [&](const std::string& file) {
    return NetworkScorer({kFid}, {.weights = {}, .procgen_encoder = file}).unavailable().at("fid_procgen");
  };
  CHECK(reason(dir / "nothing").find("fid_procgen: unavailable: no ") == 0);
  write_text_atomic(dir / "torn.safetensors", read_text(kShipped).substr(0, 5000));
  CHECK(reason(dir / "torn.safetensors").find("not a whole clip encoder") != std::string::npos);
  CHECK(
      reason(test::golden("pixel/classifier/classifier.safetensors")).find("not a whole clip encoder") !=
      std::string::npos);
}

TEST_CASE("procgen_distance/record/keys_note_weights_and_switches") {
  NetworkScorer scorer({kFid, kFvd}, shipped());
  CHECK(scorer.unavailable().empty());
  const Tensor real = real_clips("coinrun32-heldout.h5", 8, 6, 1);
  scorer.set_real(real, {});
  const NetworkScores s = scorer.score(real);
  // A set with itself; and no key of a published metric.
  CHECK(s.distances.size() == 4);
  CHECK(std::abs(s.distances.at("fid_procgen")) < 1e-6);
  CHECK(std::abs(s.distances.at("fvd_procgen")) < 1e-6);
  CHECK(s.distances.at("fvd_procgen.real_halves") > 0);
  REQUIRE(scorer.notes().size() == 1);
  const std::string note = scorer.notes()[0];
  CHECK(note.find("fid_procgen, fvd_procgen:") == 0);
  CHECK(note.find("not FID or FVD") != std::string::npos);
  CHECK(note.find(sha256_of_file(kShipped).substr(0, 12)) != std::string::npos);
  const auto record = scorer.weights_record();
  CHECK(record.size() == 1);
  CHECK(record["procgen-encoder"]["state"] == "shipped");
  CHECK(record["procgen-encoder"]["sha256"] == sha256_of_file(kShipped));
  CHECK(scorer.switches()["procgen.size"] == 32);
  CHECK(scorer.switches()["procgen.cov"] == "unbiased");
  // Fewer samples than features: a warning that names both. 48 frames and 8 clips for 64 features.
  REQUIRE(scorer.warnings().size() == 2);
  CHECK(scorer.warnings()[0].find("fid_procgen: 48 frames for 64 features") == 0);
  CHECK(scorer.warnings()[1].find("fvd_procgen: 8 clips for 64 features") == 0);
  CHECK(NetworkScorer({NetworkMetric::lpips}, shipped()).notes().empty());
}

TEST_CASE("procgen_distance/unavailable/too_short_too_few_or_another_size") {
  const auto reasons = [](const Tensor& real, const Tensor& cond) {
    NetworkScorer scorer({kFid, kFvd}, shipped());
    scorer.set_real(real, cond);
    return scorer.unavailable();
  };
  const auto clips = [](std::int64_t n, std::int64_t t, std::int64_t size) {
    return Tensor::full({n, t, size, size, 3}, 90, DType::u8);
  };
  const auto brief = reasons(clips(3, 2, 32), {});
  CHECK(brief.size() == 1);
  CHECK(brief.at("fvd_procgen").find("at least 4 frames") != std::string::npos);
  CHECK(reasons(clips(3, 2, 32), clips(3, 2, 32)).empty());  // conditioning frames count
  CHECK(reasons(clips(3, 4, 40), {}).size() == 2);
  CHECK(reasons(clips(3, 4, 64), {}).empty());
  CHECK(reasons(clips(1, 4, 32), {}).at("fvd_procgen").find("at least 2 samples") != std::string::npos);
}

TEST_CASE("procgen_distance/scorer/what_is_compared") {
  // By hand: features of conditioning and generated frames together, then the distance; frames without them for fid.
  const Tensor real = real_clips("coinrun32-heldout.h5", 12, 6, 3);
  const Tensor cond = real_clips("coinrun32-heldout.h5", 12, 2, 4);
  const Tensor made = with_noise(real, 20, 1);
  NetworkScorer scorer({kFid, kFvd}, shipped());
  scorer.set_real(real, cond);
  const Scores got = scores_of(scorer, made);
  const ProcgenEncoder encoder = load_procgen_encoder(kShipped, "test");
  const auto joined = [&](const Tensor& clips) {
    Tensor out = Tensor::empty({12, 8, 32, 32, 3}, DType::u8);
    for (std::int64_t n = 0; n < 12; ++n)
      for (std::int64_t t = 0; t < 8; ++t) {
        Tensor frame = out.select(n).select(t);
        frame.copy_from(t < 2 ? cond.select(n).select(t) : clips.select(n).select(t - 2));
      }
    return encoder.network->clip_features(out);
  };
  const auto frames = [&](const Tensor& clips) {
    return encoder.network->frame_features(clips.reshape({72, 32, 32, 3}));
  };
  CHECK(got.fvd == doctest::Approx(frechet_distance(joined(real), joined(made), Covariance::unbiased)).epsilon(1e-4));
  CHECK(got.fid == doctest::Approx(frechet_distance(frames(real), frames(made), Covariance::unbiased)).epsilon(1e-4));
}

TEST_CASE("procgen_distance/answers/rise_with_known_damage") {
  const std::int64_t count = test::full_level() ? 256 : 72, frames = test::full_level() ? 10 : 6;
  const Tensor real = real_clips("coinrun32-heldout.h5", count, frames, 1);
  NetworkScorer scorer({kFid, kFvd}, shipped());
  scorer.set_real(real, {});
  const auto rises = [&](const char* damage, std::initializer_list<Tensor> steps, bool fid, bool fvd) {
    CAPTURE(damage);
    Scores last{0, 0};
    for (const Tensor& made : steps) {
      const Scores now = scores_of(scorer, made);
      CAPTURE(now.fid);
      CAPTURE(now.fvd);
      if (fid) CHECK(now.fid > last.fid);
      if (fvd) CHECK(now.fvd > last.fvd);
      last = now;
    }
    return last;
  };
  const Scores blur = rises("blur", {blurred(real, 0.4), blurred(real, 0.8), blurred(real, 1.6)}, true, true);
  rises("noise", {with_noise(real, 6, 1), with_noise(real, 12, 1), with_noise(real, 24, 1)}, true, true);
  rises("frozen", {frozen(real, 1), frozen(real, 2), frozen(real, frames - 2)}, false, true);
  const Scores shuffle =
      rises("shuffled", {shuffled_in_time(real, 2, 1), shuffled_in_time(real, frames, 1)}, false, true);
  // Order is nothing to single frames. Other real clips are closer than strong damage; frozen frames are mild, because
  // little moves in few steps of uniform actions.
  CHECK(std::abs(scores_of(scorer, shuffled_in_time(real, frames, 1)).fid) < 1e-4);
  const Scores same = scores_of(scorer, real_clips("coinrun32-heldout.h5", count, frames, 2));
  CHECK(same.fid < blur.fid);
  CHECK(same.fvd < blur.fvd);
  CHECK(same.fvd < shuffle.fvd);
}

}  // namespace avid::eval
