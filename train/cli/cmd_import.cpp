// train/cli/cmd_import.cpp -- `avid import`: the original code's .npz recordings -> our episode store
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "data/npz_import.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"
#include "train/stop_signal.h"

namespace avid::cli {
namespace {

struct Settings {
  std::vector<std::string> places;
  std::string out;
  bool json = false;
  data::ImportOptions import;
};

void run_import(Settings& s) {
  s.import.places.assign(s.places.begin(), s.places.end());
  s.import.out = s.out;
  const train::StopSignal stop;
  const bool terminal = isatty(STDERR_FILENO) == 1;
  const auto report = [&](std::int64_t done, std::int64_t total) {
    if (done == total || (terminal && done % 50 == 0))
      std::fprintf(
          stderr, "%simport: %lld of %lld chunks%s", terminal ? "\r" : "", static_cast<long long>(done),
          static_cast<long long>(total), done == total ? "\n" : "");
  };
  const data::ImportResult result = data::import_npz(s.import, report, [&] { return stop.received() != 0; });
  if (s.json) {
    Json j;
    j["shards"] = Json::array();
    for (const auto& path : result.shards) j["shards"].push_back(path.string());
    j["num_runs"] = result.num_runs;
    j["num_frames"] = result.num_frames;
    j["num_chunks"] = result.num_chunks;
    j["notes"] = result.notes;
    print_json(j, 2);
    return;
  }
  for (const std::string& note : result.notes) std::fprintf(stderr, "import: note: %s\n", note.c_str());
  for (const auto& path : result.shards) std::printf("%s\n", path.c_str());
}

const CommandRegistrar import_command(
    "import", "turn recordings of the original code (.npz) into a dataset", [](Command* app) {
      auto s = std::make_shared<Settings>();
      app->add_option("places", s->places, ".npz chunks, or folders of them")->required();
      app->add_option("--out", s->out, "folder for the shards")->required();
      app->add_option("--compress", s->import.storage.deflate_level, "deflate level 1..9; 0 stores plain")
          ->range(0, 9)
          ->capture_default_str();
      app->add_option("--chunk-frames", s->import.storage.chunk_frames, "frames per compressed chunk")
          ->positive()
          ->capture_default_str();
      app->add_option("--runs-per-shard", s->import.runs_per_shard, "recorded levels in one file")
          ->positive()
          ->capture_default_str();
      app->add_flag("--json", s->json, "print one JSON value");
      set_example(
          app,
          "avid import recordings/ --out data/imported\nThe chunks say nothing about resets: train with data.resets = "
          "allow.");
      app->callback([s] { run_import(*s); });
    });

}  // namespace
}  // namespace avid::cli
