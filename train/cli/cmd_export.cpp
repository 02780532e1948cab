// train/cli/cmd_export.cpp -- `avid export`: frames of a dataset as PNG files or one .npz
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/clip_export.h"
#include "data/games.h"
#include "eval/media/png.h"
#include "tensor/error.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

struct Settings {
  std::vector<std::string> places;
  std::string game, out;
  std::int32_t level = -1;
  std::int64_t step = 0, frames = 10;
  int scale = 4;
  bool json = false;
};

/// One PNG per frame, with what happened written into its text chunks.
std::vector<std::string> write_pngs(const std::filesystem::path& folder, const data::Clip& clip, int scale) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check<FileError>(!error, "{}: cannot be made: {}", folder.string(), error.message());
  std::vector<std::string> paths;
  for (std::int64_t t = 0; t < clip.frames.dim(0); ++t) {
    std::map<std::string, std::string> text = {
        {"game", clip.game}, {"level", std::to_string(clip.level)}, {"step", std::to_string(clip.step + t)}};
    if (clip.actions.dtype() == DType::i64)
      text["action"] = data::action_name(static_cast<int>(clip.actions.data<std::int64_t>()[t]));
    if (clip.first.data<std::uint8_t>()[t] != 0) text["first"] = "1";
    const auto path = folder / fmt::format("{}-{:05}-{:04}.png", clip.game, clip.level, clip.step + t);
    eval::write_png(path, eval::image_of_frame(clip.frames.select(t), scale), text);
    paths.push_back(path.string());
  }
  return paths;
}

void run_export(const Settings& s) {
  check<UsageError>(s.scale >= 1 && s.scale <= 64, "export: --scale: expected 1..64, got {}", s.scale);
  const data::EpisodeStore store(s.places);
  const std::int32_t level = s.level >= 0 ? s.level : store.runs().front().level;
  const data::Clip clip = data::read_clip(store, data::find_frame(store, s.game, level, s.step), s.frames);
  const std::filesystem::path out = s.out;
  std::vector<std::string> paths;
  if (out.extension() == ".npz") {
    data::save_clip_npz(out, clip);
    paths.push_back(out.string());
  } else {
    paths = write_pngs(out, clip, s.scale);
  }
  if (!s.json) {
    for (const std::string& path : paths) std::printf("%s\n", path.c_str());
    return;
  }
  nlohmann::ordered_json j{{"game", clip.game}, {"level", clip.level}, {"step", clip.step}, {"files", paths}};
  j["actions"] = clip.actions.to_doubles();
  std::printf("%s\n", j.dump(2).c_str());
}

const CommandRegistrar export_command("export", "write frames of a dataset as PNG files or .npz", [](CLI::App* app) {
  auto s = std::make_shared<Settings>();
  app->add_option("dataset", s->places, "files, folders or patterns")->required();
  app->add_option("--out", s->out, "a folder for PNG files, or one .npz")->required();
  app->add_option("--game", s->game, "only this game's levels");
  app->add_option("--level", s->level, "which level (the first one there is)");
  app->add_option("--step", s->step, "first frame in that level")->capture_default_str();
  app->add_option("--frames", s->frames, "how many")->capture_default_str();
  app->add_option("--scale", s->scale, "PNG only: every pixel this large")->capture_default_str();
  app->add_flag("--json", s->json, "print one JSON value");
  set_example(app, "avid export data/samples/coinrun32-train.h5 --level 3 --frames 12 --out out/level3");
  app->callback([s] { run_export(*s); });
});

}  // namespace
}  // namespace avid::cli
