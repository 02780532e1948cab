// train/cli/cmd_sample.cpp -- avid sample: pictures of what a model makes of start frames and actions
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>

#include "data/games.h"
#include "eval/media/gif.h"
#include "eval/media/png.h"
#include "eval/media/strip.h"
#include "eval/opponents.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/new_folder.h"
#include "tensor/io/safetensors.h"
#include "tensor/ops/frames.h"
#include "train/batches.h"
#include "train/cli/command.h"
#include "train/cli/held_out_clips.h"
#include "train/cli/video_file.h"
#include "train/cli/world_model.h"

namespace avid::cli {
namespace {

struct Options {
  ModelFiles files;
  SamplingFlags sampling;
  std::vector<std::string> data;
  std::string start_from, actions = "data", resets;
  std::filesystem::path out;
  std::int64_t clips = 4, frames = 0, size = 0;
  int scale = 0;
  bool json = false;
};

/// Where the clips begin, and how they really went on if that is known.
struct Start {
  Tensor cond;          // [B,K,H,W,3] u8
  Tensor real;          // [B,T,H,W,3] u8, or undefined
  Tensor data_actions;  // [B,T] i64, or undefined
  std::vector<std::int64_t> windows;
};

Start start_from_data(const Options& options, const WorldModel& world, std::int64_t frames) {
  const data::Loader loader = open_windows(
      std::make_shared<const data::EpisodeStore>(options.data), world, frames, options.size,
      options.resets.empty() ? "exclude" : options.resets, options.sampling.seed);
  const data::Batch batch = loader.read_windows(loader.sampler().draw_evaluation(options.sampling.seed, options.clips));
  const std::int64_t k = world.cond_frames();
  Start start{
      eval::take_frames(batch.frames, 0, k), eval::take_frames(batch.frames, k, batch.frames.dim(1)), {}, batch.starts};
  if (batch.actions.dtype() == DType::i64) start.data_actions = batch.actions;
  return start;
}

/// The last K frames of the videos in a file.
Start start_from_file(const Options& options, const WorldModel& world) {
  const Tensor videos = load_videos(options.start_from);
  const std::int64_t k = world.cond_frames(), n = std::min(videos.dim(0), options.clips);
  check<ShapeError>(
      videos.dim(1) >= k && n >= 1, "{}: expected at least one video of {} frames or more, got {}", options.start_from,
      k, videos.shape());
  return {eval::take_frames(videos.slice(0, n), videos.dim(1) - k, videos.dim(1)), {}, {}, {}};
}

/// Lines of actions: one line for all clips, or one per clip.
std::vector<std::vector<std::uint8_t>> read_action_lines(const Options& options) {
  if (!std::filesystem::exists(options.actions)) {
    try {
      return {data::parse_action_string(options.actions)};
    } catch (const UsageError& error) {
      fail<UsageError>("{}, which is no file either", error.what());
    }
  }
  std::vector<std::vector<std::uint8_t>> lines;
  std::istringstream text(read_text(options.actions, 1 << 20));
  int number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos || line.starts_with('#')) continue;
    try {
      lines.push_back(data::parse_action_string(line));
    } catch (const UsageError& error) {
      fail<FileError>("{}: line {}: {}", options.actions, number, error.what());
    }
  }
  check<FileError>(!lines.empty(), "{}: expected lines such as right*4,up*4, got none", options.actions);
  return lines;
}

/// [B,T] i64; undefined for a model without actions.
Tensor choose_actions(const Options& options, const WorldModel& world, const Start& start, std::int64_t frames) {
  if (!world.uses_actions()) {
    check<UsageError>(
        options.actions == "data",
        "sample: --actions: this model takes no actions | leave it out, or give an --adapter");
    return {};
  }
  const std::int64_t clips = start.cond.dim(0);
  if (options.actions == "data") {
    check<UsageError>(
        start.data_actions.defined(),
        "sample: --actions: the start frames come without actions | give a string such as \"right*{}\"", frames);
    return start.data_actions;
  }
  const auto lines = read_action_lines(options);
  check<UsageError>(
      lines.size() == 1 || static_cast<std::int64_t>(lines.size()) == clips,
      "sample: --actions: expected 1 line or {} (one per clip), got {}", clips, lines.size());
  std::vector<std::int64_t> ids;
  for (std::int64_t b = 0; b < clips; ++b) {
    const auto& line = lines[lines.size() == 1 ? 0 : static_cast<std::size_t>(b)];
    check<UsageError>(
        static_cast<std::int64_t>(line.size()) == frames,
        "sample: --actions: expected {} (one per generated frame), got {} | change the counts, or use --frames {}",
        frames, line.size(), line.size());
    ids.insert(ids.end(), line.begin(), line.end());
  }
  return Tensor::from_values(ids, {clips, frames});
}

/// What came out, everything u8 but the actions.
struct Made {
  Tensor generated, base, mask;  // [B,T,H,W,3], [B,T,H,W,3] or undefined, [B,T,H,W,1] or undefined
  Json mask_trace = Json::array();
};

Made make_videos(
    const Options& options, WorldModel& world, const Start& start, const Tensor& actions, std::int64_t frames) {
  const Tensor cond = train::split_clips(start.cond, world.cond_frames()).cond.to(world.device());
  diffusion::SamplerOptions sampler = sampler_options(options.sampling, world.schedule());
  Made made;
  diffusion::MaskTrace trace;
  sampler.on_step = [&](const diffusion::StepReport& step) {
    trace.add(step);
    if (!step.mask.defined() || step.index + 1 != step.num_steps) return;
    // The last step's mask is the one that composed the picture that is shown.
    const Tensor levels = eval::mask_to_u8(step.mask.to(Device()));
    if (!made.mask.defined()) made.mask = Tensor::empty({cond.dim(0), frames, cond.dim(2), cond.dim(3), 1}, DType::u8);
    Tensor part = made.mask.slice(step.first_clip, step.first_clip + levels.dim(0));
    part.copy_from(levels);
  };
  world.guide(sampler);
  show_sampling_progress(sampler, world.label());
  made.generated =
      frames_to_u8(diffusion::sample(world.denoiser(), world.schedule(), cond, actions, frames, sampler).to(Device()));
  for (const auto& point : trace.points()) made.mask_trace.push_back({{"t", point.t}, {"mean", point.mean}});
  if (world.base() != nullptr) {
    sampler.on_step = {};
    sampler.guidance = {};
    show_sampling_progress(sampler, "base");
    made.base =
        frames_to_u8(diffusion::sample(*world.base(), world.schedule(), cond, {}, frames, sampler).to(Device()));
  }
  return made;
}

std::vector<std::string> action_names(const Tensor& actions, std::int64_t clip) {
  std::vector<std::string> names;
  if (actions.defined())
    for (std::int64_t i = 0; i < actions.dim(1); ++i)
      names.emplace_back(data::action_name(static_cast<int>(actions.data<std::int64_t>()[clip * actions.dim(1) + i])));
  return names;
}

Json describe(
    const Options& options, const WorldModel& world, const Start& start, const Tensor& actions, const Made& made) {
  const diffusion::SamplerOptions sampler = sampler_options(options.sampling, world.schedule());
  Json settings;
  settings["program"] = std::string("avid ") + AVID_VERSION;
  settings["command"] = "sample";
  settings["device"] = world.device().describe();
  settings["sources"] = world.sources();
  settings["schedule"] = {{"kind", name_of(world.schedule().kind())}, {"timesteps", world.schedule().num_steps()}};
  settings["sampler"] = {
      {"kind", name_of(sampler.kind)},
      {"steps", diffusion::sampling_times(world.schedule(), sampler).size()},
      {"eta", sampler.eta},
      {"seed", options.sampling.seed}};
  settings["n_clips"] = made.generated.dim(0);
  settings["frames"] = made.generated.dim(1);
  settings["t_cond"] = world.cond_frames();
  settings["height"] = made.generated.dim(2);
  settings["width"] = made.generated.dim(3);
  if (!options.data.empty()) settings["data"] = options.data;
  if (!start.windows.empty()) settings["windows"] = start.windows;
  if (!options.start_from.empty()) settings["start_from"] = options.start_from;
  settings["actions"] = Json::array();
  for (std::int64_t b = 0; actions.defined() && b < actions.dim(0); ++b)
    settings["actions"].push_back(action_names(actions, b));
  if (!made.mask_trace.empty()) settings["mask_mean_per_step"] = made.mask_trace;
  return settings;
}

constexpr std::int64_t kClipsInOnePicture = 8;

/// Writes everything into options.out; returns the files' names.
Json write_files(
    const Options& options, const WorldModel& world, const Start& start, const Tensor& actions, const Made& made,
    const Json& settings) {
  // Text chunks are ASCII: everything else is escaped.
  const std::string metadata = json_text(settings, -1, true);
  // First what cannot be had again without sampling: a disk that fills up costs pictures only.
  NamedTensors tensors{{"generated", made.generated}, {"cond", start.cond}};
  if (start.real.defined()) tensors.emplace_back("real", start.real);
  if (made.base.defined()) tensors.emplace_back("base", made.base);
  if (made.mask.defined()) tensors.emplace_back("mask", made.mask);
  if (actions.defined()) tensors.emplace_back("actions", actions);
  save_safetensors(options.out / "samples.safetensors", tensors, {{"avid", metadata}});
  write_text_atomic(options.out / "settings.json", json_text(settings, 2) + "\n");
  eval::StripOptions strip{
      .scale =
          options.scale != 0 ? options.scale : static_cast<int>(std::max<std::int64_t>(1, 128 / made.generated.dim(2))),
      .num_cond = world.cond_frames(),
      .actions = {}};
  std::vector<eval::Image> pictures;
  Json gifs = Json::array();
  for (std::int64_t b = 0; b < made.generated.dim(0); ++b) {
    // The real continuation belongs to the data's own actions only.
    const bool real = start.real.defined() && (options.actions == "data" || !world.uses_actions());
    std::vector<eval::ClipRow> rows;
    if (real) rows.push_back({"real", start.cond.select(b), start.real.select(b)});
    const Tensor given = real ? Tensor{} : start.cond.select(b);  // shown once if the real frames are there to show it
    if (made.base.defined()) rows.push_back({"base", given, made.base.select(b)});
    rows.push_back({world.label(), given, made.generated.select(b)});
    if (made.mask.defined()) rows.push_back({"mask", {}, made.mask.select(b)});
    strip.actions.clear();
    for (const std::string& name : action_names(actions, b)) strip.actions.push_back(eval::action_caption(name));
    if (b < kClipsInOnePicture) pictures.push_back(eval::draw_strip(rows, strip));
    const std::string name = fmt::format("clip_{:02}.gif", b);
    eval::write_gif(options.out / name, eval::draw_animation(rows, strip), {.comment = metadata});
    gifs.push_back(name);
  }
  eval::write_png(options.out / "strip.png", eval::stack(pictures, 10), {{"Software", "avid"}, {"avid", metadata}});

  return {{"strip", "strip.png"}, {"gifs", gifs}, {"samples", "samples.safetensors"}, {"settings", "settings.json"}};
}

void sample(const Options& options) {
  check<UsageError>(
      options.data.empty() != options.start_from.empty(), "sample: expected either --data or --start-from");
  check<UsageError>(
      options.start_from.empty() || (options.size == 0 && options.resets.empty()),
      "sample: --size, --resets: they are about --data, frames of --start-from are taken as they are | leave them out");
  check<UsageError>(
      sweep(options.files).size() == 1,
      "sample: expected one weight of each method, got {} combinations | sweeps go with avid evaluate",
      sweep(options.files).size());
  const std::unique_ptr<WorldModel> world = WorldModel::load(options.files);
  world->check_sampling(sampler_options(options.sampling, world->schedule()));
  const std::int64_t frames = options.frames != 0            ? options.frames
                              : world->trained_frames() != 0 ? world->trained_frames()
                                                             : 8;
  const Start start =
      options.data.empty() ? start_from_file(options, *world) : start_from_data(options, *world, frames);
  world->check_size(start.cond.dim(2), start.cond.dim(3));
  const Tensor actions = choose_actions(options, *world, start, frames);
  // Before the minutes of sampling, so that they are not lost.
  const NewFolder folder(options.out);
  AtomicFile(options.out / "settings.json");
  const Made made = make_videos(options, *world, start, actions, frames);
  Json settings = describe(options, *world, start, actions, made);
  const Json files = write_files(options, *world, start, actions, made, settings);
  if (options.json) {
    settings["out"] = options.out.string();
    settings["files"] = files;
    print_json(settings, 2);
    return;
  }
  std::printf("device %s\n", world->device().describe().c_str());
  for (const char* key : {"strip", "samples", "settings"})
    std::printf("%s\n", (options.out / files[key].get<std::string>()).c_str());
  for (const Json& name : files["gifs"]) std::printf("%s\n", (options.out / name.get<std::string>()).c_str());
}

const CommandRegistrar registrar(
    "sample", "make videos from start frames and actions, as GIF and PNG", [](Command* command) {
      auto options = std::make_shared<Options>();
      add_model_options(command, options->files, "--guidance-classifier,--classifier");
      Option* data = command->add_option("--data", options->data, "episodes to start from: files, folders or patterns")
                         ->type_name("DATASET");
      command->add_option("--start-from", options->start_from, "u8 videos [N,F,H,W,3]; their last frames are the start")
          ->type_name("F[:TENSOR]")
          ->excludes(data);
      command
          ->add_option(
              "--actions", options->actions,
              "data, a file with one line per clip, or a string such as \"right*4,jump*4\"")
          ->capture_default_str();
      command->add_option("--clips", options->clips, "how many clips")->range(1, 100'000)->capture_default_str();
      add_sampling_options(command, options->sampling);
      command->add_option("--frames", options->frames, "generated frames (default: as trained, else 8)")->positive();
      command->add_option("--size", options->size, "height and width (default: as trained, else as stored)")
          ->positive();
      command->add_option("--resets", options->resets, "exclude or allow windows over a restart (default: exclude)")
          ->one_of({"exclude", "allow"});
      command->add_option("--scale", options->scale, "screen pixels per pixel (default: frames of about 128)")
          ->range(1, 16);
      command->add_option("--out", options->out, "folder for strip.png, clip_*.gif, samples.safetensors, settings.json")
          ->type_name("DIR")
          ->required();
      command->add_flag("--json", options->json, "print settings and file names as one JSON value");
      set_example(
          command,
          "avid sample --run runs/demo --data data/samples/coinrun32-heldout.h5 --actions \"right*4,jump*4\" --clips 4 "
          "--out pictures");
      command->callback([options] { sample(*options); });
    });

}  // namespace
}  // namespace avid::cli
