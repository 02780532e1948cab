// data/procgen_worker.h -- the child process's side of data/procgen.h
//
// Messages in both directions: code (uint32), length (uint64), then that many bytes, in host byte order. The parent
// sends an Operation, the child answers kReplyOk with the result or kReplyError with a text and goes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace avid::data::worker {

enum Operation : std::uint32_t {
  kOpen = 1,       ///< OpenRequest, then the asset folder -> OpenReply
  kBegin = 2,      ///< int32 level, then perhaps an OpenRequest for this level and those after it -> frame
  kStep = 3,       ///< n action bytes -> n frames, n float rewards, n first bytes
  kSaveState = 4,  ///< -> blob
  kLoadState = 5,  ///< blob -> frame
};
inline constexpr std::uint32_t kReplyOk = 100, kReplyError = 101;
/// Most steps in one kStep; keeps a time-out meaningful.
inline constexpr std::size_t kMaxSteps = 128;

struct OpenRequest {
  char game[32];
  std::int32_t distribution_mode, rand_seed;
  std::uint8_t center_agent, use_backgrounds, paint_vel_info, use_generated_assets, use_monochrome_assets,
      restrict_themes;
};
struct OpenReply {
  std::int32_t height, width;
};

/// Reads or writes exactly n bytes; false at end of file or on an error. Survives signals.
bool read_exactly(int fd, void* data, std::size_t n);
bool write_exactly(int fd, const void* data, std::size_t n);

/// Serves requests until the parent closes its end; the return value is the exit code. Loads `library` on kOpen.
int run(const std::string& library, int request_fd, int reply_fd);

}  // namespace avid::data::worker
