// tensor/io/mapped_file.h -- a whole file as read-only memory
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace avid {

/// The bytes of a regular file, mapped: pages are read when touched. The file must not be shortened meanwhile (our own
/// writers never do: they rename a new file into place, and the mapping keeps the old one alive).
class MappedFile {
 public:
  /// Throws FileError when the file is missing, a folder, not a regular file, or unreadable. Empty files are legal.
  explicit MappedFile(std::filesystem::path path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace avid
