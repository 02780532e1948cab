// tensor/io/atomic_file.cpp -- temporary file, fsync, rename
#include "tensor/io/atomic_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "tensor/error.h"

namespace avid {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::string_view kTemporaryMark = ".avid-tmp-";

const char* remedy_for(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT: return "free some space or write to another disk";
    case EFBIG: return "the file size limit is reached: raise it (ulimit -f) or write elsewhere";
    case EACCES:
    case EPERM:
    case EROFS: return "choose a folder you may write to";
    case ENOENT: return "make the folder first";
    case ENOTDIR: return "a part of the path is a file, not a folder";
    case EISDIR: return "choose a file name, not a folder";
    case ENAMETOOLONG: return "choose a shorter name";
    default: return "check the disk and the path";
  }
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// The process id lets remove_abandoned_temporaries tell a running writer from a dead one.
std::filesystem::path temporary_name(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  return folder_of(path) / fmt::format(".{}{}{}-{}", path.filename().string(), kTemporaryMark, getpid(), counter++);
}

/// A link's end, if it has one: a rename would put the file in the link's place.
std::filesystem::path behind_links(std::filesystem::path path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  std::filesystem::path end = std::filesystem::canonical(path, error);
  return error ? path : end;
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path, Writer writer)
    : path_(behind_links(std::move(path))), temporary_path_(temporary_name(path_)), writer_(writer) {
  check<FileError>(
      path_.has_filename(), "write: {}: expected a file name, got a folder | add a file name", path_.string());
  struct stat status {};
  if (stat(path_.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail_here("write", EISDIR);
    check<FileError>(
        S_ISREG(status.st_mode), "write: {}: expected the name of a file, this is a device or a pipe | choose another",
        path_.string());
  }
  // O_EXCL: a file or link that somebody put under this name (a dead process with our id, or worse) is never followed.
  while ((file_ = open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0) {
    if (errno != EEXIST) fail_here("write", errno);
    temporary_path_ = temporary_name(path_);
  }
  if (writer_ == Writer::external) {  // it makes the file itself; that one can be made here is known now
    close(std::exchange(file_, -1));
    unlink(temporary_path_.c_str());
    return;
  }
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0) close(file_);
  if (!committed_) unlink(temporary_path_.c_str());
}

void AtomicFile::fail_here(const char* step, int error) const {
  fail<FileError>(
      "{}: {}: {} ({}) after {} bytes | {}; an older file of this name is untouched", step, path_.string(),
      std::strerror(error), error, num_bytes_, remedy_for(error));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  check<FileError>(file_ >= 0, "write: {}: written to after commit", path_.string());
  while (!bytes.empty()) {
    const std::size_t part = std::min(bytes.size(), kBufferBytes - buffer_.size());
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(part));
    bytes = bytes.subspan(part);
    num_bytes_ += part;
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void AtomicFile::flush() {
  const std::byte* next = buffer_.data();
  std::size_t left = buffer_.size();
  while (left > 0) {
    const ssize_t written = ::write(file_, next, left);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_here("write", errno);
    }
    next += written;
    left -= static_cast<std::size_t>(written);
  }
  buffer_.clear();
}

void AtomicFile::commit() {
  check<FileError>(!committed_, "write: {}: committed twice", path_.string());
  if (writer_ == Writer::external) {
    file_ = open(temporary_path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) fail_here("write", errno);
  } else {
    flush();
  }
  // Some filesystems (pipes, a few network mounts) have no fsync: EINVAL is not a lost write.
  if (fsync(file_) != 0 && errno != EINVAL) fail_here("write: flush to disk", errno);
  const int closed = close(file_);
  file_ = -1;
  if (closed != 0 && errno != EINTR) fail_here("write: close", errno);
  if (std::rename(temporary_path_.c_str(), path_.c_str()) != 0) fail_here("write: rename", errno);
  committed_ = true;
  // The rename itself is durable once the folder is; a folder that cannot be opened for this is not an error.
  const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
}

void write_text_atomic(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_text(const std::filesystem::path& path, std::size_t max_bytes) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check<FileError>(file >= 0, "read: {}: {} | check the path", path.string(), std::strerror(errno));
  std::string text;
  std::string chunk(1 << 16, '\0');
  for (;;) {
    const ssize_t got = ::read(file, chunk.data(), chunk.size());
    const int error = errno;
    if (got < 0 && error == EINTR) continue;
    const bool too_long = got > 0 && text.size() + static_cast<std::size_t>(got) > max_bytes;
    if (got <= 0 || too_long) {
      close(file);
      check<FileError>(got >= 0, "read: {}: {} | check the path", path.string(), std::strerror(error));
      check<FileError>(
          !too_long, "read: {}: expected at most {} bytes of text | is this the right file?", path.string(), max_bytes);
      return text;
    }
    text.append(chunk, 0, static_cast<std::size_t>(got));
  }
}

int remove_abandoned_temporaries(const std::filesystem::path& folder) {
  int removed = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const std::size_t mark = name.rfind(kTemporaryMark);
    if (mark == std::string::npos || name[0] != '.') continue;
    const char* digits = name.c_str() + mark + kTemporaryMark.size();
    pid_t writer = 0;
    if (std::from_chars(digits, name.c_str() + name.size(), writer).ec != std::errc{} || writer <= 0) continue;
    if (writer == getpid() || kill(writer, 0) == 0 || errno != ESRCH) continue;
    if (unlink(it->path().c_str()) == 0) ++removed;
  }
  return removed;
}

std::string printable(std::string_view text, std::size_t max_length) {
  std::string out;
  for (const char c : text) {
    if (out.size() >= max_length) return out + "...";
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f || c == '\\')
      out += fmt::format("\\x{:02x}", u);
    else
      out += c;
  }
  return out;
}

}  // namespace avid
