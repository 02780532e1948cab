// tensor/io/zip_archive.h -- reading zip files that nobody has vouched for (libzip does the format)
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tensor/io/mapped_file.h"

struct zip;

namespace avid {

/// A zip file opened for reading: stored or deflated members, zip64. Not thread-safe.
///
/// Refused when opening: damaged directory, encryption, other compression methods, a name twice, packed sizes past
/// the file (members sharing bytes), sizes beyond what deflate can reach, and more unpacked bytes in all than
/// max(1 GiB, 100 x file): a zip bomb. Nothing is ever extracted to disk, so names with ".." are harmless.
/// Errors   FileError.
class ZipArchive {
 public:
  struct Member {
    std::string name;
    std::uint64_t num_bytes;     ///< unpacked, as the directory declares
    std::uint64_t packed_bytes;  ///< in the file
    std::uint64_t index;
  };

  explicit ZipArchive(const std::filesystem::path& path);
  ~ZipArchive();
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;

  const std::vector<Member>& members() const { return members_; }
  /// Null when there is no such member.
  const Member* find(std::string_view name) const;
  /// A whole member; its length and CRC-32 must match the directory.
  std::vector<std::byte> read(const Member& member) const;
  /// The first min(count, size) bytes of a member, CRC unchecked.
  std::vector<std::byte> read_start(const Member& member, std::uint64_t count) const;
  const std::filesystem::path& path() const { return file_.path(); }
  std::uint64_t file_bytes() const { return file_.bytes().size(); }

 private:
  MappedFile file_;
  std::unique_ptr<zip, void (*)(zip*)> zip_;
  std::vector<Member> members_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// A file inside a zip that is to be written.
struct ZipMember {
  std::string name;
  std::vector<std::byte> bytes;
};

/// Writes a zip atomically, stored or deflated; its bytes depend on the members only, not on the clock.
/// Errors   FileError; an older file of this name is then untouched.
void write_zip(const std::filesystem::path& path, const std::vector<ZipMember>& members, bool compress);

/// Versions of the libraries behind the readers, for `avid info`.
std::string version_of_libzip();
std::string version_of_zlib();

}  // namespace avid
