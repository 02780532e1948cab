// tensor/io/new_folder.h -- a folder for results that is not left behind empty
#pragma once

#include <filesystem>
#include <vector>

namespace avid {

/// Makes a folder, and its parents, unless they are there. Those that it made go again at the end of its life if they
/// are empty then: what fails before its first file leaves nothing.
class NewFolder {
 public:
  NewFolder() = default;
  /// Throws FileError when the folder cannot be made.
  explicit NewFolder(const std::filesystem::path& path);
  ~NewFolder();
  NewFolder(NewFolder&&) noexcept;
  NewFolder& operator=(NewFolder&&) = delete;

 private:
  void remove_empty();

  std::vector<std::filesystem::path> made_;  // the folder, its parent, and so on
};

}  // namespace avid
