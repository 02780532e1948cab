// train/cli/cmd_profile.cpp -- avid profile: where the time of a step goes, op by op; a trace and a roofline picture
#include <filesystem>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "train/cli/bench_options.h"

namespace avid::cli {
namespace {

struct ProfileFiles {
  std::filesystem::path trace, roofline;
};

void run(BenchOptions& options, const ProfileFiles& files) {
  for (const auto& file : {files.trace, files.roofline})
    if (!file.empty()) AtomicFile{file};  // that it cannot be written shows now, not after the work
  options.request.collect = files.trace.empty() ? kernels::Collect::sums : kernels::Collect::events;
  const TimedStep step = time_step(options);
  print_step(options, step);
  if (!files.trace.empty()) write_text_atomic(files.trace, train::chrome_trace(step.title, step.result));
  if (!files.roofline.empty())
    write_text_atomic(files.roofline, train::roofline_svg(step.title, step.rows, step.peaks));
  for (const auto& file : {files.trace, files.roofline})
    if (!file.empty()) std::fprintf(stderr, "wrote %s\n", file.c_str());
}

void setup(Command* command) {
  auto options = std::make_shared<BenchOptions>();
  auto files = std::make_shared<ProfileFiles>();
  add_step_options(command, options);
  command->add_option(
      "--trace", files->trace, "Write every op and module as a Chrome trace (JSON: chrome://tracing, ui.perfetto.dev)");
  command->add_option("--roofline", files->roofline, "Write a picture (SVG): FLOP per byte against FLOP/s, every op");
  command->callback([options, files] { run(*options, *files); });
  set_example(
      command,
      "avid profile --device cuda --dtype bf16 --base base.safetensors --adapter adapter.safetensors --input "
      "clips.safetensors --trace trace.json --roofline roofline.svg");
}

const CommandRegistrar kRegistrar(
    "profile", "where the time of a training or sampling step goes, op by op; on a device each op is waited for",
    setup);

}  // namespace
}  // namespace avid::cli
