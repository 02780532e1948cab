// data/procgen.h -- Procgen levels from the game's own library, which runs in a child process
//
// The library calls exit() when anything displeases it, and a crash in it must not take a training run along. So this
// program starts itself again as `avid procgen-worker LIBRARY`, and the two talk over a pair of pipes. Whatever goes
// wrong over there becomes one Error here, with the last line the library printed.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/frame_source.h"

namespace avid::data {

/// All options of the library that matter; every one is passed explicitly, since its own defaults (easy, not centred)
/// differ from those everybody uses.
struct ProcgenOptions {
  std::string game = "coinrun";
  std::string distribution_mode = "hard";
  bool center_agent = true;
  bool use_backgrounds = true;
  bool paint_vel_info = false;
  bool use_generated_assets = false;
  bool use_monochrome_assets = false;
  bool restrict_themes = false;
  int rand_seed = 0;  ///< only chooses among levels; no effect here, since a handle has one level

  /// The same as JSON text, stored with every dataset.
  std::string to_json() const;
  /// The other way round. Throws ConfigError for text that to_json() does not write.
  static ProcgenOptions from_json(const std::string& text);
};

/// Where the library and its pictures are.
struct ProcgenFiles {
  std::filesystem::path library;    ///< .../procgen/data/prebuilt/libenv.so
  std::filesystem::path resources;  ///< .../procgen/data/assets
};
/// $AVID_PROCGEN_DIR, else third_party/procgen in the current folder or in one of the three folders above the program
/// (so that of the source tree is found from its build folder). Throws FileError that says how to get the package.
ProcgenFiles find_procgen();

/// One child process with the library in it. One thread at a time.
class ProcgenSource : public FrameSource {
 public:
  struct Process {
    std::vector<std::string> worker_command;  ///< empty: this program with `procgen-worker`
    int time_out_ms = 60'000;                 ///< for one exchange (at most 128 steps)
  };

  /// Starts the child and makes it load the library. Throws FileError (library missing, not loadable or of another
  /// version) and ConfigError (unknown game or mode).
  ProcgenSource(const ProcgenFiles& files, const ProcgenOptions& options) : ProcgenSource(files, options, Process{}) {}
  ProcgenSource(const ProcgenFiles& files, const ProcgenOptions& options, Process process);
  ~ProcgenSource() override;
  ProcgenSource(const ProcgenSource&) = delete;
  ProcgenSource& operator=(const ProcgenSource&) = delete;

  std::int64_t height() const override { return height_; }
  std::int64_t width() const override { return width_; }
  std::vector<std::uint8_t> begin(std::int32_t level) override;
  PlayedSteps step(std::span<const std::uint8_t> actions) override;
  void use(const std::string& options) override;

  /// The library's own snapshot of the running level (layout, entities, counters; no pixels).
  std::vector<char> save_state();
  /// Goes back to a snapshot of the same game and returns the frame it shows.
  std::vector<std::uint8_t> load_state(std::span<const char> state);

 private:
  std::vector<char> exchange(std::uint32_t operation, std::span<const char> payload);
  [[noreturn]] void child_failed(const std::string& what);
  void stop_child();

  Process process_;
  std::string game_;
  std::string library_;
  std::vector<char> request_;  // the options, as the child takes them
  pid_t child_ = -1;
  int request_fd_ = -1, reply_fd_ = -1, log_fd_ = -1;
  std::int64_t height_ = 0, width_ = 0;
};

}  // namespace avid::data
