// train/run_lock.cpp -- flock on FOLDER/lock
#include "train/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "tensor/error.h"

namespace avid::train {

RunLock::RunLock(const std::filesystem::path& folder) : path_(folder / "lock") {
  for (;;) {
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    check<FileError>(
        file_ >= 0, "run: {}: {} | choose a folder you may write to", path_.string(), std::strerror(errno));
    if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      std::array<char, 32> text{};
      const ssize_t length = pread(file_, text.data(), text.size() - 1, 0);
      std::string holder(text.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
      while (!holder.empty() && holder.back() == '\n') holder.pop_back();
      close(file_);
      file_ = -1;
      check<FileError>(
          error == EWOULDBLOCK, "run: {}: cannot lock: {} | use a folder on a local disk", path_.string(),
          std::strerror(error));
      fail<FileError>(
          "run: {}: in use by the live process {} | wait for it, stop it, or choose another folder", folder.string(),
          holder.empty() ? "(starting)" : holder);
    }
    // The holder removes the file when it ends: a lock on a file that is no longer there excludes nobody.
    struct stat ours {
    }, named{};
    if (fstat(file_, &ours) == 0 && stat(path_.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
        ours.st_dev == named.st_dev)
      break;
    close(file_);
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(file_, 0) == 0 && pwrite(file_, pid.data(), pid.size(), 0) == static_cast<ssize_t>(pid.size())) return;
  const int error = errno;  // now: arguments of the message may be evaluated before what they stand behind
  unlink(path_.c_str());
  close(file_);
  fail<FileError>("run: {}: {} | free some space", path_.string(), std::strerror(error));
}

RunLock::~RunLock() {
  if (file_ < 0) return;
  unlink(path_.c_str());
  close(file_);
}

}  // namespace avid::train
