// data/procgen_worker.cpp -- loads the game library, plays levels, answers over a pipe (runs in a child process)
#include "data/procgen_worker.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "data/games.h"
#include "data/procgen_abi.h"
#include "tensor/error.h"

namespace avid::data::worker {
namespace {

/// The library's functions. Never unloaded: its picture tables and statics live as long as the process.
struct Library {
  libenv::VersionFn* version;
  libenv::MakeFn* make;
  libenv::GetTensorTypesFn* get_tensortypes;
  libenv::SetBuffersFn* set_buffers;
  libenv::ObserveFn* observe;
  libenv::ActFn* act;
  libenv::CloseFn* close;
  libenv::GetStateFn* get_state;
  libenv::SetStateFn* set_state;
};

template <class Fn>
void load_symbol(void* handle, const char* name, Fn*& out) {
  out = reinterpret_cast<Fn*>(dlsym(handle, name));
  check<FileError>(out != nullptr, "it has no function {}; it is not the game library of procgen 0.10.7", name);
}

Library load_library(const std::string& path) {
  int flags = RTLD_NOW | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__)
  flags |= RTLD_DEEPBIND;  // it brings its own Qt; the sanitizer refuses this flag
#endif
  void* handle = dlopen(path.c_str(), flags);
  if (handle == nullptr) {
    const std::string reason = dlerror();
    const bool needs_glib =
        reason.find("libglib") != std::string::npos || reason.find("libgthread") != std::string::npos;
    fail<FileError>("{}{}", reason, needs_glib ? " | apt-get install libglib2.0-0" : "");
  }
  Library lib{};
  load_symbol(handle, "libenv_version", lib.version);
  const int version = lib.version();
  check<FileError>(
      version == libenv::kVersion,
      "interface version: expected {}, got {} | use procgen 0.10.7 (scripts/get_procgen.sh)", libenv::kVersion,
      version);
  load_symbol(handle, "libenv_make", lib.make);
  load_symbol(handle, "libenv_get_tensortypes", lib.get_tensortypes);
  load_symbol(handle, "libenv_set_buffers", lib.set_buffers);
  load_symbol(handle, "libenv_observe", lib.observe);
  load_symbol(handle, "libenv_act", lib.act);
  load_symbol(handle, "libenv_close", lib.close);
  load_symbol(handle, "get_state", lib.get_state);
  load_symbol(handle, "set_state", lib.set_state);
  return lib;
}

/// Option values must stay alive as long as the handle, so this owns them.
class OptionList {
 public:
  void add_bool(const char* name, bool value) { add(name, libenv::kUint8, std::string(1, value ? '\1' : '\0'), 1); }
  void add_string(const char* name, const std::string& value) {
    add(name, libenv::kUint8, value, static_cast<int>(value.size()));
  }
  void add_int(const char* name, std::int32_t value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    add(name, libenv::kInt32, std::move(bytes), 1);
  }
  libenv::Options get() { return {items_.data(), static_cast<int>(items_.size())}; }

 private:
  void add(const char* name, int dtype, std::string bytes, int count) {
    values_.push_back(std::make_unique<std::string>(std::move(bytes)));
    libenv::Option& item = items_.emplace_back();
    std::memset(&item, 0, sizeof item);
    std::strncpy(item.name, name, libenv::kMaxNameLength - 1);
    item.dtype = dtype;
    item.count = count;
    item.data = values_.back()->data();
  }
  std::vector<libenv::Option> items_;
  std::vector<std::unique_ptr<std::string>> values_;
};

/// 64-byte aligned zeroed memory for one of the library's arrays.
struct AlignedBuffer {
  explicit AlignedBuffer(std::size_t bytes) : data(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {
    if (data == nullptr) throw std::bad_alloc();
    std::memset(data, 0, (bytes + 63) / 64 * 64);
  }
  ~AlignedBuffer() { std::free(data); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  char* data;
};

std::size_t bytes_of(const libenv::TensorType& type) {
  std::size_t bytes = type.dtype == libenv::kUint8 ? 1 : 4;
  for (int i = 0; i < type.ndim; ++i) bytes *= static_cast<std::size_t>(type.shape[i]);
  return bytes;
}

/// One level of one game: a handle and the buffers it fills.
class Level {
 public:
  Level(const Library& lib, const OpenRequest& request, const std::string& resources, std::int32_t level) : lib_(lib) {
    options_.add_string("env_name", request.game);
    options_.add_int("num_levels", 1);
    options_.add_int("start_level", level);
    options_.add_int("num_actions", kNumActions);
    options_.add_int("rand_seed", request.rand_seed);
    options_.add_int("num_threads", 0);
    options_.add_string("resource_root", resources);
    options_.add_bool("render_human", false);
    options_.add_int("distribution_mode", request.distribution_mode);
    options_.add_bool("center_agent", request.center_agent != 0);
    options_.add_bool("use_backgrounds", request.use_backgrounds != 0);
    options_.add_bool("paint_vel_info", request.paint_vel_info != 0);
    options_.add_bool("use_generated_assets", request.use_generated_assets != 0);
    options_.add_bool("use_monochrome_assets", request.use_monochrome_assets != 0);
    options_.add_bool("restrict_themes", request.restrict_themes != 0);
    options_.add_bool("use_sequential_levels", false);
    options_.add_int("debug_mode", 0);
    handle_ = lib_.make(1, options_.get());
    check<FileError>(handle_ != nullptr, "libenv_make gave no handle");

    const auto observations = types(libenv::kObservation), actions = types(libenv::kAction),
               infos = types(libenv::kInfo);
    check<FileError>(
        observations.size() == 1 && std::string(observations[0].name) == "rgb" && observations[0].ndim == 3 &&
            observations[0].dtype == libenv::kUint8 && observations[0].shape[2] == 3 && observations[0].shape[0] > 0 &&
            observations[0].shape[0] <= 4096 && observations[0].shape[1] > 0 && observations[0].shape[1] <= 4096,
        "observation: expected one array rgb, uint8 [H,W,3]");
    check<FileError>(
        actions.size() == 1 && actions[0].dtype == libenv::kInt32 && actions[0].ndim == 0 &&
            actions[0].high.int32 == kNumActions - 1,
        "action: expected one int32 scalar 0..14");
    height = observations[0].shape[0];
    width = observations[0].shape[1];
    const auto pointers = [this](const std::vector<libenv::TensorType>& list) {
      std::vector<void*> out;
      for (const auto& type : list) {
        arrays_.push_back(std::make_unique<AlignedBuffer>(bytes_of(type)));
        out.push_back(arrays_.back()->data);
      }
      return out;
    };
    observation_pointers_ = pointers(observations);
    action_pointers_ = pointers(actions);
    info_pointers_ = pointers(infos);
    buffers_ = {
        observation_pointers_.data(), reinterpret_cast<float*>(reward_.data),
        reinterpret_cast<std::uint8_t*>(first_.data), info_pointers_.data(), action_pointers_.data()};
    lib_.set_buffers(handle_, &buffers_);
    lib_.observe(handle_);
    check<FileError>(first() == 1, "the first frame of level {} is not marked as one", level);
  }
  ~Level() {
    if (handle_ != nullptr) lib_.close(handle_);
  }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

  void act(std::uint8_t action) {
    const std::int32_t value = action;
    std::memcpy(action_pointers_[0], &value, sizeof value);
    lib_.act(handle_);
    lib_.observe(handle_);
  }
  std::vector<char> save() {
    std::vector<char> state(std::size_t{1} << 20);
    state.resize(static_cast<std::size_t>(lib_.get_state(handle_, 0, state.data(), static_cast<int>(state.size()))));
    return state;
  }
  void load(std::vector<char>& state) {
    lib_.set_state(handle_, 0, state.data(), static_cast<int>(state.size()));
    lib_.observe(handle_);
  }

  const char* frame() const { return static_cast<const char*>(observation_pointers_[0]); }
  std::size_t frame_bytes() const { return static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3; }
  float reward() const { return buffers_.rew[0]; }
  std::uint8_t first() const { return buffers_.first[0]; }

  int height = 0, width = 0;

 private:
  std::vector<libenv::TensorType> types(int space) {
    const int count = lib_.get_tensortypes(handle_, space, nullptr);
    check<FileError>(count >= 0 && count <= 64, "space {}: expected a few arrays, got {}", space, count);
    std::vector<libenv::TensorType> list(static_cast<std::size_t>(count));
    lib_.get_tensortypes(handle_, space, list.data());
    for (auto& type : list) {
      type.name[libenv::kMaxNameLength - 1] = '\0';
      check<FileError>(
          type.ndim >= 0 && type.ndim <= libenv::kMaxDimensions, "space {}: bad array {}", space, type.name);
      for (int i = 0; i < type.ndim; ++i)
        check<FileError>(type.shape[i] > 0 && type.shape[i] <= 4096, "space {}: bad array {}", space, type.name);
    }
    return list;
  }

  const Library& lib_;
  OptionList options_;
  libenv::Handle handle_ = nullptr;
  std::vector<std::unique_ptr<AlignedBuffer>> arrays_;
  std::vector<void*> observation_pointers_, action_pointers_, info_pointers_;
  AlignedBuffer reward_{sizeof(float)}, first_{1};
  libenv::Buffers buffers_{};
};

/// What the requests act on.
struct State {
  std::string library_path, resources;
  OpenRequest request{};
  std::unique_ptr<Library> library;
  std::unique_ptr<Level> level;
};

std::vector<char> open_library(State& state, std::span<const char> payload) {
  check<FileError>(payload.size() > sizeof(OpenRequest), "malformed request");
  std::memcpy(&state.request, payload.data(), sizeof(OpenRequest));
  state.resources.assign(payload.begin() + sizeof(OpenRequest), payload.end());
  if (state.resources.back() != '/') state.resources += '/';  // the library glues file names on
  if (!std::filesystem::exists(state.library_path)) fail<FileError>("no such file");
  if (!std::filesystem::is_directory(state.resources)) fail<FileError>("no folder of pictures at {}", state.resources);
  state.library = std::make_unique<Library>(load_library(state.library_path));
  // A handle tells the frame size, and shows now rather than in the middle of a run that everything fits together.
  const Level probe(*state.library, state.request, state.resources, 0);
  const OpenReply reply{probe.height, probe.width};
  const auto* bytes = reinterpret_cast<const char*>(&reply);
  return {bytes, bytes + sizeof reply};
}

std::vector<char> frame_of(const Level& level) { return {level.frame(), level.frame() + level.frame_bytes()}; }

std::vector<char> step(Level& level, std::span<const char> actions) {
  const std::size_t n = actions.size(), frame_bytes = level.frame_bytes();
  std::vector<char> reply(n * (frame_bytes + sizeof(float) + 1));
  char* const rewards = reply.data() + n * frame_bytes;
  char* const first = rewards + n * sizeof(float);
  for (std::size_t i = 0; i < n; ++i) {
    const auto action = static_cast<std::uint8_t>(actions[i]);
    check<ConfigError>(action < kNumActions, "action: expected 0..14, got {}", action);
    level.act(action);
    std::memcpy(reply.data() + i * frame_bytes, level.frame(), frame_bytes);
    const float reward = level.reward();
    std::memcpy(rewards + i * sizeof(float), &reward, sizeof reward);
    first[i] = static_cast<char>(level.first());
  }
  return reply;
}

std::vector<char> serve(State& state, std::uint32_t operation, std::vector<char>& payload) {
  if (operation == kOpen) return open_library(state, payload);
  check<Error>(state.library != nullptr, "no library is open");
  if (operation == kBegin) {
    const bool other_game = payload.size() == sizeof(std::int32_t) + sizeof(OpenRequest);
    check<FileError>(other_game || payload.size() == sizeof(std::int32_t), "malformed request");
    std::int32_t level = 0;
    std::memcpy(&level, payload.data(), sizeof level);
    if (other_game) std::memcpy(&state.request, payload.data() + sizeof level, sizeof(OpenRequest));
    check<ConfigError>(level >= 0, "level: expected >= 0, got {}", level);
    state.level.reset();
    state.level = std::make_unique<Level>(*state.library, state.request, state.resources, level);
    return frame_of(*state.level);
  }
  check<Error>(state.level != nullptr, "no level has begun");
  switch (operation) {
    case kStep: return step(*state.level, payload);
    case kSaveState: return state.level->save();
    case kLoadState: state.level->load(payload); return frame_of(*state.level);
    default: fail<Error>("unknown request {}", operation);
  }
}

bool send(int fd, std::uint32_t code, std::span<const char> payload) {
  const std::uint64_t length = payload.size();
  return write_exactly(fd, &code, sizeof code) && write_exactly(fd, &length, sizeof length) &&
         write_exactly(fd, payload.data(), payload.size());
}

}  // namespace

bool read_exactly(int fd, void* data, std::size_t n) {
  auto* p = static_cast<char*>(data);
  while (n > 0) {
    const ssize_t got = ::read(fd, p, n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    p += got;
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_exactly(int fd, const void* data, std::size_t n) {
  const auto* p = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t put = ::write(fd, p, n);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    p += put;
    n -= static_cast<std::size_t>(put);
  }
  return true;
}

int run(const std::string& library, int request_fd, int reply_fd) {
  State state;
  state.library_path = library;
  while (true) {
    std::uint32_t operation = 0;
    std::uint64_t length = 0;
    if (!read_exactly(request_fd, &operation, sizeof operation)) return 0;
    if (!read_exactly(request_fd, &length, sizeof length) || length > (std::uint64_t{1} << 24)) return 1;
    std::vector<char> payload(length);
    if (!read_exactly(request_fd, payload.data(), payload.size())) return 1;
    bool sent = false;
    try {
      sent = send(reply_fd, kReplyOk, serve(state, operation, payload));
    } catch (const std::exception& error) {
      const std::string text = error.what();
      sent = send(reply_fd, kReplyError, {text.data(), text.size()});
    }
    if (!sent) return 1;
  }
}

}  // namespace avid::data::worker
