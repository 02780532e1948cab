// tests/data/fake_libenv.cpp -- a library with the game library's interface and a made-up, exactly predictable world
//
// Frame bytes = (level + 3 * step + 7 * sum of actions + byte index) mod 256; reward = action; an episode ends after
// every 100 steps, and the next one starts with the world as it was. Some levels misbehave, see kExitLevel and its
// neighbours. FAKE_LIBENV_VERSION in the environment changes the version it reports.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "data/procgen_abi.h"

namespace abi = avid::data::libenv;

namespace {

constexpr int kExitLevel = 666;      // exits at step 5, as the real library does when it is displeased
constexpr int kCrashLevel = 667;     // crashes at step 5
constexpr int kHangLevel = 668;      // never returns from step 5
constexpr int kUnmarkedLevel = 669;  // forgets to mark the first frame
constexpr int kEpisodeSteps = 100;

struct World {
  int level = -1, step = 0, total = 0;
  std::string game;
  abi::Buffers buffers{};
  bool first = true;
  float reward = 0;
};

[[noreturn]] void displeased(const char* what) {
  std::printf("starting up\nfatal: %s\n", what);
  std::fflush(stdout);
  std::exit(3);
}

int int_option(const abi::Options& options, const char* name, int count = 1) {
  for (int i = 0; i < options.count; ++i) {
    const abi::Option& option = options.items[i];
    if (std::strcmp(option.name, name) != 0) continue;
    if (option.count != count) displeased("wrong option count");
    if (option.dtype == abi::kUint8) return *static_cast<std::uint8_t*>(option.data);
    int value = 0;
    std::memcpy(&value, option.data, sizeof value);
    return value;
  }
  displeased(name);  // every option must be passed
}

void describe(abi::TensorType* type, const char* name, int dtype, int high) {
  std::memset(type, 0, sizeof *type);
  std::strcpy(type->name, name);
  type->scalar_type = abi::kDiscrete;
  type->dtype = dtype;
  if (dtype == abi::kUint8)
    type->high.uint8 = static_cast<std::uint8_t>(high);
  else
    type->high.int32 = high;
}

}  // namespace

extern "C" {

int libenv_version() {
  const char* other = std::getenv("FAKE_LIBENV_VERSION");
  return other == nullptr ? abi::kVersion : std::atoi(other);
}

abi::Handle libenv_make(int num_envs, abi::Options options) {
  if (num_envs != 1) displeased("one environment only");
  auto* world = new World;
  for (int i = 0; i < options.count; ++i)
    if (std::strcmp(options.items[i].name, "env_name") == 0)
      world->game.assign(static_cast<char*>(options.items[i].data), static_cast<std::size_t>(options.items[i].count));
  if (world->game.empty()) displeased("no env_name");
  world->level = int_option(options, "start_level");
  if (int_option(options, "num_levels") != 1 || int_option(options, "num_actions") != 15)
    displeased("levels or actions");
  if (int_option(options, "num_threads") != 0) displeased("threads");
  if (int_option(options, "distribution_mode") != 1 || int_option(options, "center_agent") != 1)
    displeased("mode or centring");
  int_option(options, "use_backgrounds");
  for (const char* off :
       {"paint_vel_info", "use_generated_assets", "use_monochrome_assets", "restrict_themes", "render_human",
        "use_sequential_levels", "debug_mode"})
    if (int_option(options, off) != 0) displeased(off);
  return world;
}

int libenv_get_tensortypes(abi::Handle, int space, abi::TensorType* types) {
  if (space == abi::kObservation) {
    if (types != nullptr) {
      describe(types, "rgb", abi::kUint8, 255);
      types->ndim = 3;
      types->shape[0] = types->shape[1] = 64;
      types->shape[2] = 3;
    }
    return 1;
  }
  if (space == abi::kAction) {
    if (types != nullptr) describe(types, "action", abi::kInt32, 14);
    return 1;
  }
  if (types != nullptr) {
    describe(types, "prev_level_seed", abi::kInt32, 0x7fffffff);
    describe(types + 1, "prev_level_complete", abi::kUint8, 1);
    describe(types + 2, "level_seed", abi::kInt32, 0x7fffffff);
  }
  return 3;
}

void libenv_set_buffers(abi::Handle handle, abi::Buffers* buffers) { static_cast<World*>(handle)->buffers = *buffers; }

void libenv_observe(abi::Handle handle) {
  auto& w = *static_cast<World*>(handle);
  auto* frame = static_cast<std::uint8_t*>(w.buffers.ob[0]);
  for (int i = 0; i < 64 * 64 * 3; ++i) frame[i] = static_cast<std::uint8_t>(w.level + 3 * w.step + 7 * w.total + i);
  *w.buffers.rew = w.reward;
  *w.buffers.first = w.first && w.level != kUnmarkedLevel;
  std::memcpy(w.buffers.info[2], &w.level, sizeof w.level);
}

void libenv_act(abi::Handle handle) {
  auto& w = *static_cast<World*>(handle);
  int action = 0;
  std::memcpy(&action, w.buffers.ac[0], sizeof action);
  if (action < 0 || action > 14) displeased("action out of range");
  ++w.step;
  w.total += action;
  w.reward = static_cast<float>(action);
  w.first = w.step == kEpisodeSteps;
  if (w.first) w.step = w.total = 0;
  if (w.step == 5 && w.level == kExitLevel) displeased("assertion failed: the coin is gone");
  if (w.step == 5 && w.level == kCrashLevel) raise(SIGSEGV);
  while (w.step == 5 && w.level == kHangLevel) pause();
}

void libenv_close(abi::Handle handle) { delete static_cast<World*>(handle); }

int get_state(abi::Handle handle, int, char* buffer, int length) {
  const auto& w = *static_cast<World*>(handle);
  const int state[] = {w.step, w.total};
  if (length < static_cast<int>(sizeof state)) displeased("buffer too small");
  std::memcpy(buffer, state, sizeof state);
  return sizeof state;
}

void set_state(abi::Handle handle, int, char* buffer, int) {
  auto& w = *static_cast<World*>(handle);
  int state[2];
  std::memcpy(state, buffer, sizeof state);
  w.step = state[0];
  w.total = state[1];
}

}  // extern "C"
