// train/run_lock.h -- one process per run folder
#pragma once

#include <filesystem>
#include <string>

namespace avid::train {

/// Holds FOLDER/lock for as long as it lives. The system's file lock decides, so a dead process never blocks a folder;
/// the file's text, the holder's process id, is for people.
class RunLock {
 public:
  /// Throws FileError naming the process that holds the folder, or why the lock file cannot be written.
  explicit RunLock(const std::filesystem::path& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace avid::train
