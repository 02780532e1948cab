// data/procgen.cpp -- starts the child process with the game library and talks to it
#include "data/procgen.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "data/games.h"
#include "data/procgen_worker.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"

namespace avid::data {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kWorkerRequestFd = 3, kWorkerReplyFd = 4;

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail<Error>("procgen: pipe: {}", std::strerror(errno));
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);  // 85 frames at once instead of 5; where it is refused, it only takes longer
    read_end = ends[0];
    write_end = ends[1];
  }
  int read_end, write_end;
};

/// Reads n bytes before `deadline`: 1 done, 0 the other side closed, -1 too late.
int read_before(int fd, char* data, std::size_t n, Clock::time_point deadline) {
  while (n > 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return -1;
    pollfd wait{fd, POLLIN, 0};
    const int ready = poll(&wait, 1, static_cast<int>(std::min<long long>(left, 1'000'000)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) continue;  // the loop's clock decides
    const ssize_t got = ::read(fd, data, n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    data += got;
    n -= static_cast<std::size_t>(got);
  }
  return 1;
}

/// A write to a child that is gone must be an error code here, not a SIGPIPE that ends the program.
bool write_without_sigpipe(int fd, const void* data, std::size_t n) {
  sigset_t pipe_signal, before, pending;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  const bool ok = worker::write_exactly(fd, data, n);
  if (!ok) {
    sigpending(&pending);
    const timespec at_once{0, 0};
    if (sigismember(&pending, SIGPIPE)) sigtimedwait(&pipe_signal, nullptr, &at_once);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return ok;
}

std::string last_line(int log_fd) {
  char tail[4096];
  const off_t size = lseek(log_fd, 0, SEEK_END);
  const off_t from = std::max<off_t>(0, size - static_cast<off_t>(sizeof tail));
  const ssize_t got = pread(log_fd, tail, sizeof tail, from);
  std::string text(tail, got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
  const auto line_start = text.rfind('\n');
  text = line_start == std::string::npos ? text : text.substr(line_start + 1);
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 32; }, ' ');
  return text.substr(0, 300);
}

}  // namespace

std::string ProcgenOptions::to_json() const {
  Json j;
  j["env_name"] = game;
  j["num_levels"] = 1;
  j["num_actions"] = kNumActions;
  j["rand_seed"] = rand_seed;
  j["num_threads"] = 0;
  j["distribution_mode"] = distribution_mode;
  j["center_agent"] = center_agent;
  j["use_backgrounds"] = use_backgrounds;
  j["paint_vel_info"] = paint_vel_info;
  j["use_generated_assets"] = use_generated_assets;
  j["use_monochrome_assets"] = use_monochrome_assets;
  j["restrict_themes"] = restrict_themes;
  j["use_sequential_levels"] = false;
  return json_text(j);
}

ProcgenOptions ProcgenOptions::from_json(const std::string& text) {
  const auto j = parse_json(text);
  ProcgenOptions o;
  try {
    o.game = j.at("env_name");
    o.rand_seed = j.at("rand_seed");
    o.distribution_mode = j.at("distribution_mode");
    o.center_agent = j.at("center_agent");
    o.use_backgrounds = j.at("use_backgrounds");
    o.paint_vel_info = j.at("paint_vel_info");
    o.use_generated_assets = j.at("use_generated_assets");
    o.use_monochrome_assets = j.at("use_monochrome_assets");
    o.restrict_themes = j.at("restrict_themes");
  } catch (const Json::exception&) {
    fail<ConfigError>("procgen: options: expected those of a recorded game, got '{}'", printable(text, 200));
  }
  check<ConfigError>(
      o.to_json() == json_text(j), "procgen: options: expected those of a recorded game, got '{}'",
      printable(text, 200));
  return o;
}

ProcgenFiles find_procgen() {
  std::vector<fs::path> places;
  if (const char* given = std::getenv("AVID_PROCGEN_DIR")) {
    places.emplace_back(given);
  } else {
    places.emplace_back("third_party/procgen");
    std::error_code ignored;
    const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
    if (!ignored) {
      places.push_back(program.parent_path() / "third_party/procgen");
      places.push_back(program.parent_path().parent_path() / "third_party/procgen");
      places.push_back(program.parent_path().parent_path().parent_path() / "third_party/procgen");
    }
  }
  for (const fs::path& place : places) {
    const fs::path base = place / "procgen" / "data";
    std::error_code ignored;
    if (fs::exists(base / "prebuilt/libenv.so", ignored)) return {base / "prebuilt/libenv.so", base / "assets"};
  }
  fail<FileError>(
      "procgen: library: no procgen/data/prebuilt/libenv.so in {} | run scripts/get_procgen.sh or set AVID_PROCGEN_DIR",
      places.front().string());
}

namespace {

std::vector<char> request_of(const ProcgenOptions& options) {
  worker::OpenRequest request{};
  game_index(options.game);
  std::strncpy(request.game, options.game.c_str(), sizeof request.game - 1);
  request.distribution_mode = distribution_mode(options.distribution_mode, options.game);
  request.rand_seed = options.rand_seed;
  request.center_agent = options.center_agent;
  request.use_backgrounds = options.use_backgrounds;
  request.paint_vel_info = options.paint_vel_info;
  request.use_generated_assets = options.use_generated_assets;
  request.use_monochrome_assets = options.use_monochrome_assets;
  request.restrict_themes = options.restrict_themes;
  const auto* bytes = reinterpret_cast<const char*>(&request);
  return {bytes, bytes + sizeof request};
}

}  // namespace

ProcgenSource::ProcgenSource(const ProcgenFiles& files, const ProcgenOptions& options, Process process)
    : process_(std::move(process)),
      game_(options.game),
      library_(files.library.string()),
      request_(request_of(options)) {
  std::vector<std::string> command = process_.worker_command;
  if (command.empty()) command = {"/proc/self/exe", "procgen-worker"};
  command.push_back(library_);
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);

  const Pipe requests, replies;
  log_fd_ = memfd_create("procgen-log", MFD_CLOEXEC);
  if (log_fd_ < 0) fail<Error>("procgen: memfd_create: {}", std::strerror(errno));
  child_ = fork();
  if (child_ < 0) fail<Error>("procgen: fork: {}", std::strerror(errno));
  if (child_ == 0) {
    // Only async-signal-safe calls until exec: other threads of the parent may have held locks.
    signal(SIGINT, SIG_IGN);  // Ctrl-C goes to the whole foreground group; the parent decides when to stop
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    // Lift the descriptors above the two fixed numbers first, so that no dup2 overwrites one still needed.
    const int in = fcntl(requests.read_end, F_DUPFD, 10), out = fcntl(replies.write_end, F_DUPFD, 10);
    const int log = fcntl(log_fd_, F_DUPFD, 10);
    const int null = open("/dev/null", O_RDONLY);
    if (null > 0) dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    dup2(in, kWorkerRequestFd);
    dup2(out, kWorkerReplyFd);
    close(in);
    close(out);
    close(log);
    execv(argv[0], argv.data());
    const char message[] = "cannot start the worker program";
    [[maybe_unused]] const ssize_t ignored = ::write(2, message, sizeof message - 1);
    _exit(126);
  }
  close(requests.read_end);
  close(replies.write_end);
  request_fd_ = requests.write_end;
  reply_fd_ = replies.read_end;

  std::vector<char> payload = request_;
  const std::string resources = files.resources.string();
  payload.insert(payload.end(), resources.begin(), resources.end());
  try {
    const std::vector<char> reply = exchange(worker::kOpen, payload);
    worker::OpenReply opened{};
    check<Error>(reply.size() == sizeof opened, "procgen: {}: malformed reply", library_);
    std::memcpy(&opened, reply.data(), sizeof opened);
    height_ = opened.height;
    width_ = opened.width;
  } catch (...) {
    stop_child();
    throw;
  }
}

ProcgenSource::~ProcgenSource() { stop_child(); }

void ProcgenSource::stop_child() {
  for (int* fd : {&request_fd_, &reply_fd_, &log_fd_}) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
  if (child_ > 0) {
    kill(child_, SIGKILL);  // it holds nothing worth saving
    while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
    child_ = -1;
  }
}

void ProcgenSource::child_failed(const std::string& what) {
  std::string how = what;
  if (child_ > 0) {
    int status = 0;
    // The pipe closes a moment before the process is gone.
    pid_t ended = 0;
    for (int i = 0; i < 200 && (ended = waitpid(child_, &status, WNOHANG)) == 0; ++i) usleep(5000);
    if (ended == child_) {
      child_ = -1;
      how = WIFSIGNALED(status) ? fmt::format("{} (signal {}, {})", what, WTERMSIG(status), strsignal(WTERMSIG(status)))
                                : fmt::format("{} (exit code {})", what, WEXITSTATUS(status));
    }
  }
  const std::string said = last_line(log_fd_);
  stop_child();
  fail<Error>(
      "procgen: {}: {}{} | library {}", game_, how, said.empty() ? "" : fmt::format("; its last words: \"{}\"", said),
      library_);
}

std::vector<char> ProcgenSource::exchange(std::uint32_t operation, std::span<const char> payload) {
  check<Error>(child_ > 0, "procgen: {}: the game process has already ended", game_);
  const std::uint64_t length = payload.size();
  if (!write_without_sigpipe(request_fd_, &operation, sizeof operation) ||
      !write_without_sigpipe(request_fd_, &length, sizeof length) ||
      !write_without_sigpipe(request_fd_, payload.data(), payload.size()))
    child_failed("the game process ended");

  const auto deadline = Clock::now() + std::chrono::milliseconds(process_.time_out_ms);
  const auto read = [&](void* data, std::size_t n) {
    const int outcome = read_before(reply_fd_, static_cast<char*>(data), n, deadline);
    if (outcome == 0) child_failed("the game process ended");
    if (outcome < 0) {
      kill(child_, SIGKILL);
      child_failed(fmt::format("no answer within {} ms, stopped it", process_.time_out_ms));
    }
  };
  std::uint32_t code = 0;
  std::uint64_t reply_length = 0;
  read(&code, sizeof code);
  read(&reply_length, sizeof reply_length);
  if ((code != worker::kReplyOk && code != worker::kReplyError) || reply_length > (std::uint64_t{1} << 32))
    child_failed("malformed reply");
  std::vector<char> reply(reply_length);
  read(reply.data(), reply.size());
  if (code == worker::kReplyError)
    fail<FileError>("procgen: {}: {}", library_, std::string(reply.begin(), reply.end()));
  return reply;
}

void ProcgenSource::use(const std::string& options) {
  const ProcgenOptions other = ProcgenOptions::from_json(options);
  request_ = request_of(other);
  game_ = other.game;
}

std::vector<std::uint8_t> ProcgenSource::begin(std::int32_t level) {
  const auto* bytes = reinterpret_cast<const char*>(&level);
  std::vector<char> payload(bytes, bytes + sizeof level);
  payload.insert(payload.end(), request_.begin(), request_.end());
  const std::vector<char> reply = exchange(worker::kBegin, payload);
  check<Error>(
      reply.size() == frame_bytes(), "procgen: {}: expected a frame of {} bytes, got {}", game_, frame_bytes(),
      reply.size());
  return {reply.begin(), reply.end()};
}

PlayedSteps ProcgenSource::step(std::span<const std::uint8_t> actions) {
  PlayedSteps out;
  out.frames.reserve(actions.size() * frame_bytes());
  while (!actions.empty()) {
    const std::size_t n = std::min(actions.size(), worker::kMaxSteps);
    const auto reply = exchange(worker::kStep, {reinterpret_cast<const char*>(actions.data()), n});
    const std::size_t frames_end = n * frame_bytes(), rewards_end = frames_end + n * sizeof(float);
    check<Error>(
        reply.size() == rewards_end + n, "procgen: {}: expected {} bytes of steps, got {}", game_, rewards_end + n,
        reply.size());
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(reply.data());
    out.frames.insert(out.frames.end(), bytes, bytes + frames_end);
    const std::size_t done = out.rewards.size();
    out.rewards.resize(done + n);
    std::memcpy(out.rewards.data() + done, bytes + frames_end, n * sizeof(float));
    out.first.insert(out.first.end(), bytes + rewards_end, bytes + rewards_end + n);
    actions = actions.subspan(n);
  }
  return out;
}

std::vector<char> ProcgenSource::save_state() { return exchange(worker::kSaveState, {}); }

std::vector<std::uint8_t> ProcgenSource::load_state(std::span<const char> state) {
  const auto reply = exchange(worker::kLoadState, state);
  check<Error>(
      reply.size() == frame_bytes(), "procgen: {}: expected a frame of {} bytes, got {}", game_, frame_bytes(),
      reply.size());
  return {reply.begin(), reply.end()};
}

void FrameSource::use(const std::string& options) {
  fail<ConfigError>("game: this source of frames plays one game, not that of '{}'", printable(options, 200));
}

LevelRun play_level(FrameSource& source, std::int32_t level, std::span<const std::uint8_t> actions) {
  LevelRun run;
  if (actions.empty()) return run;
  const std::size_t n = actions.size(), frame_bytes = source.frame_bytes();
  run.actions.assign(actions.begin(), actions.end());
  run.frames.reserve(n * frame_bytes);
  run.rewards.reserve(n);
  const std::vector<std::uint8_t> start = source.begin(level);
  run.frames.insert(run.frames.end(), start.begin(), start.end());
  run.first.assign(1, 1);
  // Piece by piece, so that what comes through the pipe is still in the cache when it is copied to its place.
  for (std::size_t done = 0; done < n;) {
    const std::size_t count = std::min(n - done, worker::kMaxSteps);
    const PlayedSteps steps = source.step(actions.subspan(done, count));
    done += count;
    const std::size_t kept = done < n ? count : count - 1;  // the frame after the last action is dropped
    const auto until = [](const auto& list, std::size_t i) { return list.begin() + static_cast<std::ptrdiff_t>(i); };
    run.frames.insert(run.frames.end(), steps.frames.begin(), until(steps.frames, kept * frame_bytes));
    run.first.insert(run.first.end(), steps.first.begin(), until(steps.first, kept));
    run.rewards.insert(run.rewards.end(), steps.rewards.begin(), steps.rewards.end());
  }
  return run;
}

}  // namespace avid::data
