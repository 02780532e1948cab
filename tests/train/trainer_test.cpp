// tests/train/trainer_test.cpp -- a short run inside this process: what it logs, samples, keeps and reports
#include "train/trainer.h"

#include <cmath>
#include <fstream>

#include "models/checkpoint.h"
#include "models/cost.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/data/fake_world.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "train/progress.h"
#include "train/report.h"

using namespace avid;
using namespace avid::train;
namespace fs = std::filesystem;

namespace {

TrainConfig tiny(const std::string& name, const std::vector<std::string>& set) {
  return TrainConfig::load(fs::path(AVID_SOURCE_DIR) / "configs/tiny" / name, set);
}

RunInfo info_for(const TrainConfig& config) {
  RunInfo info = current_run_info();
  info.seed = config.seed;
  info.threads = 1;
  info.inputs = input_digests(config);
  return info;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

}  // namespace

TEST_CASE("trainer/run/logs_samples_and_report") {
  const test::TempDir dir;
  {
    const TrainConfig config = tiny("base.toml", {"train.updates=2", "validation.every=0"});
    RunFolder folder = RunFolder::create(dir / "base", config, info_for(config));
    Trainer trainer(folder, {});
    CHECK(trainer.run() == TrainEnd::finished);
  }
  const TrainConfig config = tiny(
      "avid.toml", {"base.checkpoint=" + (dir / "base").string(), "train.updates=4", "validation.every=2",
                    "samples.every=4", "samples.clips=2", "samples.steps=2", "log.every=2", "run.name=\"a <b> run\""});
  RunFolder folder = RunFolder::create(dir / "avid", config, info_for(config));
  std::vector<std::string> said;
  int updates = 0;
  Trainer trainer(
      folder, {.should_stop = {},
               .progress = [&](const TrainProgress& p) { CHECK(p.update == ++updates); },
               .say = [&](const std::string& text) { said.push_back(text); }});
  CHECK(trainer.run() == TrainEnd::finished);
  CHECK(updates == 4);
  CHECK(said.size() == 2);

  const auto& records = folder.log().records();
  REQUIRE(records.size() == 4);  // two lines of training, two of validation
  CHECK(records[0].value("train/mask_mean") == doctest::Approx(0.5).epsilon(0.01));
  CHECK(records[0].value("clips_per_s") > 0);
  CHECK(records[0].value("memory_mib") > 0);
  CHECK(std::isfinite(records[1].value("val/loss")));
  CHECK(records[1].value("val/mask_max") <= 1);
  CHECK(trainer.last_logged("train/lr") == doctest::Approx(1e-3 * 3 / 4));

  CHECK(fs::exists(dir / "avid/samples/step_00000004/clip_00.png"));
  CHECK(fs::exists(dir / "avid/samples/step_00000004/clip_01.gif"));
  for (const char* plot : {"loss", "mask", "lr", "grad_norm", "clips_per_s"})
    CHECK(fs::exists(dir / "avid/plots" / (std::string(plot) + ".svg")));
  const std::string html = read_text(dir / "avid/report.html");
  CHECK(count(html, "<svg") == 5);
  CHECK(count(html, "<img") == 4);
  CHECK(count(html, "data:image/png;base64,") == 2);
  CHECK(html.find("a &lt;b&gt; run") != std::string::npos);
  for (const char* link : {"href=", "src=\"http", "<script", "<link"}) CHECK(html.find(link) == std::string::npos);
}

TEST_CASE("trainer/batch/validation_and_samples_do_not_depend_on_it") {
  const test::TempDir dir;
  {
    const TrainConfig config = tiny("base.toml", {"train.updates=1", "validation.every=0", "samples.every=0"});
    RunFolder folder = RunFolder::create(dir / "base", config, info_for(config));
    CHECK(Trainer(folder, {}).run() == TrainEnd::finished);
  }
  const auto run = [&](const std::string& batch) {
    const TrainConfig config = tiny(
        "avid.toml",
        {"base.checkpoint=" + (dir / "base").string(), "train.updates=3", "train.batch=3", "train.accumulate=1",
         "validation.every=3", "validation.clips=4", "samples.every=3", "samples.clips=3", "samples.steps=2",
         "data.frames=3", "validation.batch=" + batch, "samples.batch=" + batch});
    RunFolder folder = RunFolder::create(dir / batch, config, info_for(config));
    Trainer trainer(folder, {});
    CHECK(trainer.run() == TrainEnd::finished);
    return std::vector{
        trainer.last_logged("val/loss"), trainer.last_logged("val/mask_mean"), trainer.last_logged("val/mask_std")};
  };
  const std::vector<double> whole = run("0");
  for (const double value : whole) CHECK(std::isfinite(value));
  for (const std::string batch : {"2"}) {
    CHECK(run(batch) == whole);
    for (const char* file : {"clip_00.png", "clip_01.gif", "clip_02.png", "clip_02.gif"})
      CHECK(
          read_text(dir.path() / batch / "samples/step_00000003" / file) ==
          read_text(dir / "0/samples/step_00000003" / file));
  }
}

TEST_CASE("trainer/metadata/what_the_training_cost") {
  const test::TempDir dir;
  const auto run = [&](const char* name, const char* file, std::vector<std::string> set) {
    const TrainConfig config = tiny(file, set);
    RunFolder folder = RunFolder::create(dir / name, config, info_for(config));
    Trainer(folder, {}).run();
    const auto record = read_training_record(base_weights_path(dir / name));
    REQUIRE(record);
    return std::pair(*record, config);
  };
  const auto [base, base_config] = run("base", "base.toml", {"train.updates=2", "validation.every=0"});
  const std::int64_t clips = base_config.train.batch * base_config.train.accumulate;
  CHECK(base.clips == 2 * clips);
  CHECK(base.frames == data::EpisodeStore(base_config.data.train).num_frames());
  // The network's own count of its operations: nothing frozen below a base.
  const auto network = load_unet3d(base_weights_path(dir / "base"));
  const VideoSize clip{1, base_config.data.frames, base_config.data.size, base_config.data.size};
  const auto forward = static_cast<double>(forward_cost(network->config(), clip).total);
  CHECK(base.flop == doctest::Approx(3 * forward * static_cast<double>(base.clips)).epsilon(1e-8));

  const auto [avid, avid_config] =
      run("avid", "avid.toml",
          {"base.checkpoint=" + (dir / "base").string(), "train.updates=1", "validation.every=0", "data.levels=1"});
  const auto adapter = load_avid(base_weights_path(dir / "avid"));
  const auto trained = static_cast<double>(forward_cost(adapter->config().adapter, clip).total);
  CHECK(avid.flop == doctest::Approx((3 * trained + forward) * static_cast<double>(avid.clips)).epsilon(1e-8));
  CHECK(avid.frames == data::EpisodeStore(avid_config.data.train).runs().at(0).length);
  CHECK(avid.frames < base.frames);

  CHECK_FALSE(read_training_record(test::golden("pixel/ddpm/base.safetensors")));
  CHECK_FALSE(read_training_record("http://127.0.0.1:8321"));
  save_safetensors(dir / "odd.safetensors", {{"a", Tensor::zeros({1})}}, {{"avid.training_flop", "many"}});
  CHECK_THROWS_AS(read_training_record(dir / "odd.safetensors"), FileError);
}

TEST_CASE("trainer/time_limit/stops_and_resumes_as_ended") {
  const test::TempDir dir;
  const TrainConfig config =
      tiny("scratch.toml", {"train.updates=1000000", "train.time_limit_minutes=0.0005", "validation.every=0"});
  std::int64_t ended = 0;
  {
    RunFolder folder = RunFolder::create(dir / "run", config, info_for(config));
    Trainer trainer(folder, {});
    CHECK(trainer.run() == TrainEnd::time_limit);
    ended = trainer.state().update;
    CHECK(ended > 0);
  }
  RunFolder folder = RunFolder::open(dir / "run");
  Trainer trainer(folder, {});
  CHECK(trainer.run() == TrainEnd::time_limit);
  CHECK(trainer.state().update == ended);
}

TEST_CASE("trainer/inputs/other_data_is_noticed") {
  const test::TempDir dir;
  const TrainConfig config = tiny("base.toml", {"train.updates=1", "validation.every=0"});
  {
    RunFolder folder = RunFolder::create(dir / "run", config, info_for(config));
    Trainer(folder, {}).run();
  }
  RunFolder folder = RunFolder::open(
      dir / "run",
      {"train.updates=2", "data.train=" + std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5"});
  CHECK_THROWS_AS(Trainer(folder, {}), ConfigError);
}

TEST_CASE("trainer/inputs/other_actions_on_the_same_frames_are_noticed") {
  const test::TempDir dir;
  const fs::path data = dir / "data.h5";
  data::LevelRun played = test::counting_run(40, 16);
  test::write_shard(data, {played}, test::small_meta(16));
  const TrainConfig config = tiny(
      "base.toml",
      {"train.updates=1", "validation.every=0", "samples.every=0", "data.size=16", "data.train=" + data.string()});
  RunFolder::create(dir / "run", config, info_for(config));
  RunFolder folder = RunFolder::open(dir / "run");
  CHECK_NOTHROW(Trainer(folder, {}));

  played.actions[7] = 14;
  fs::remove(data);
  test::write_shard(data, {played}, test::small_meta(16));
  CHECK_THROWS_AS(Trainer(folder, {}), ConfigError);
}

TEST_CASE("trainer/finetune/starts_from_the_base") {
  const test::TempDir dir;
  const TrainConfig base = tiny("base.toml", {"train.updates=2", "validation.every=0"});
  {
    RunFolder folder = RunFolder::create(dir / "base", base, info_for(base));
    Trainer(folder, {}).run();
  }
  const std::string data = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-train.h5";
  const TrainConfig config = TrainConfig::parse(
      "[data]\ntrain = \"" + data + "\"\nsize = 16\n[model]\nkind = \"finetune\"\n[base]\ncheckpoint = \"" +
          (dir / "base").string() + "\"\n[train]\nupdates = 1\nbatch = 2\nwarmup = 10\n",
      "f.toml");
  RunFolder folder = RunFolder::create(dir / "fine", config, info_for(config));
  Trainer trainer(folder, {});
  CHECK(trainer.run() == TrainEnd::finished);
  // The first update has learning rate 0: still the base's averaged weights, all of them.
  const NamedTensors ours = CheckpointStore::load(*folder.checkpoints().latest()).weights;
  const NamedTensors theirs = CheckpointStore::load(*CheckpointStore(dir / "base").latest()).ema;
  CHECK(digest_of(ours) == digest_of(theirs));
  CHECK(TrainConfig::load(dir / "fine/config.toml").model.kind == "finetune");
}

TEST_CASE("progress/text/for_people") {
  CHECK(duration_text(161) == "2:41");
  CHECK(duration_text(3723) == "1:02:03");
  CHECK(duration_text(86400 * 3 + 4 * 3600) == "3 d 4 h");
  CHECK(duration_text(std::nan("")) == "?");
  CHECK(
      progress_text(
          {.update = 120,
           .num_updates = 600,
           .loss = 0.412,
           .mask_mean = 0.47,
           .clips_per_s = 11.3,
           .memory_mib = 312,
           .seconds_left = 161}) == "update 120/600  20%  loss 0.412  mask 0.470  11.3 clips/s  312 MiB  2:41 left");
}

TEST_CASE("report/base64/known_values") {
  CHECK(base64("") == "");
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64(std::string("\xff\xfe\x00", 3)) == "//4A");
}
