// train/cli/cmd_export.cpp -- `avid export`: frames of a dataset, or samples, as PNG files, one .npz or one .mp4
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <memory>

#include "data/clip_export.h"
#include "data/games.h"
#include "eval/media/mp4.h"
#include "eval/media/png.h"
#include "eval/media/strip.h"
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "tensor/io/npz.h"
#include "train/cli/command.h"
#include "train/sample_file.h"

namespace avid::cli {
namespace {

struct Settings {
  std::vector<std::string> places;
  std::string game, out;
  std::int32_t level = -1;
  std::int64_t step = 0, frames = 10, clip = -1;
  int scale = 4;
  bool json = false;
  const Option *frames_option = nullptr, *scale_option = nullptr;
};

/// One PNG per frame, with what happened written into its text chunks.
std::vector<std::string> write_pngs(const std::filesystem::path& folder, const data::Clip& clip, int scale) {
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

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check<FileError>(!error, "{}: cannot be made: {}", folder.string(), error.message());
}

std::vector<eval::Image> images_of(const Tensor& frames, int scale) {
  std::vector<eval::Image> images;
  for (std::int64_t t = 0; t < frames.dim(0); ++t) images.push_back(eval::image_of_frame(frames.select(t), scale));
  return images;
}

/// Frames of recorded episodes.
Json export_dataset(const Settings& s) {
  check<UsageError>(s.clip < 0, "export: --clip: it chooses among samples, a dataset has --level and --step");
  const data::EpisodeStore store(s.places);
  const std::int32_t level = s.level >= 0 ? s.level : store.runs().front().level;
  const data::Clip clip = data::read_clip(store, data::find_frame(store, s.game, level, s.step), s.frames);
  const std::filesystem::path out = s.out;
  Json files = Json::array({out.string()});
  if (out.extension() == ".npz") {
    data::save_clip_npz(out, clip);
  } else if (out.extension() == ".mp4") {
    eval::write_mp4(out, images_of(clip.frames, s.scale));
  } else {
    make_folder(out);
    files = write_pngs(out, clip, s.scale);
  }
  Json j{{"game", clip.game}, {"level", clip.level}, {"step", clip.step}, {"files", files}};
  j["actions"] = clip.actions.to_doubles();
  return j;
}

/// What avid sample made: as .npz all tensors as they are; as .mp4 and .png what its animations show.
Json export_samples(const Settings& s, const std::filesystem::path& file) {
  check<UsageError>(
      s.game.empty() && s.level < 0 && s.step == 0 && !s.frames_option->given(),
      "export: --game, --level, --step, --frames: these are samples, which are written whole | use --clip");
  const train::SampleFile samples = train::read_sample_file(file);
  check<UsageError>(
      s.clip < samples.num_clips(), "export: --clip: expected 0 to {}, got {}", samples.num_clips() - 1, s.clip);
  const std::int64_t first = std::max<std::int64_t>(s.clip, 0), last = s.clip < 0 ? samples.num_clips() : s.clip + 1;
  const std::filesystem::path out = s.out;
  Json files = Json::array();
  if (out.extension() == ".npz") {
    NamedTensors tensors = samples.tensors;
    if (s.clip >= 0)
      for (auto& [name, tensor] : tensors) tensor = tensor.slice(first, last);
    save_npz(out, tensors);
    files.push_back(out.string());
  } else {
    const bool video = out.extension() == ".mp4";
    std::vector<eval::Image> all;
    if (!video) make_folder(out);
    for (std::int64_t b = first; b < last; ++b) {
      const eval::StripOptions strip{.scale = s.scale, .num_cond = samples.cond.dim(1), .actions = samples.captions(b)};
      std::vector<eval::Image> pictures = eval::draw_animation(samples.rows(b, "generated"), strip);
      for (std::size_t t = 0; t < pictures.size() && !video; ++t) {
        const auto path = out / fmt::format("clip_{:02}-{:02}.png", b, t);
        eval::write_png(path, pictures[t]);
        files.push_back(path.string());
      }
      std::move(pictures.begin(), pictures.end(), std::back_inserter(all));
    }
    if (video) {
      eval::write_mp4(out, all);
      files.push_back(out.string());
    }
  }
  return {{"clips", last - first}, {"frames", samples.generated.dim(1)}, {"files", files}};
}

void run_export(const Settings& s) {
  check<UsageError>(s.scale >= 1 && s.scale <= 64, "export: --scale: expected 1..64, got {}", s.scale);
  if (std::filesystem::path(s.out).extension() == ".mp4")
    check<Error>(eval::mp4_problem().empty(), "{}: {}", s.out, eval::mp4_problem());
  if (std::filesystem::path(s.out).extension() == ".npz")
    check<UsageError>(!s.scale_option->given(), "export: --scale: an .npz holds the frames as they are | leave it out");
  const std::filesystem::path samples = s.places.size() == 1 ? train::find_sample_file(s.places[0]) : "";
  const Json done = samples.empty() ? export_dataset(s) : export_samples(s, samples);
  if (s.json) {
    print_json(done, 2);
    return;
  }
  for (const Json& path : done["files"]) std::printf("%s\n", path.get<std::string>().c_str());
}

const CommandRegistrar export_command(
    "export", "write frames of a dataset, or samples, as PNG files, .npz or .mp4", [](Command* app) {
      auto s = std::make_shared<Settings>();
      app->add_option("dataset", s->places, "files, folders or patterns; or one folder or file of avid sample")
          ->required();
      app->add_option("--out", s->out, "a folder for PNG files, or one .npz or .mp4")->required();
      app->add_option("--game", s->game, "only this game's levels");
      app->add_option("--level", s->level, "which level (the first one there is)")->non_negative();
      app->add_option("--step", s->step, "first frame in that level")->capture_default_str();
      s->frames_option = app->add_option("--frames", s->frames, "how many")->positive()->capture_default_str();
      app->add_option("--clip", s->clip, "samples: only this one, counted from 0")->non_negative();
      s->scale_option =
          app->add_option("--scale", s->scale, "pictures and videos: every pixel this large")->capture_default_str();
      app->add_flag("--json", s->json, "print one JSON value");
      set_example(
          app,
          "avid export data/samples/coinrun32-train.h5 --level 3 --frames 12 --out out/level3\n  avid export pictures "
          "--out samples.mp4");
      app->callback([s] { run_export(*s); });
    });

}  // namespace
}  // namespace avid::cli
