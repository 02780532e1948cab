// tensor/io/atomic_file.h -- files that appear complete or not at all
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace avid {

/// Writes a file under a temporary name in the same folder and gives it its real name in commit(), after its bytes
/// reached the disk. A crash, a full disk or an exception before that leaves an older file of this name untouched.
///
///   AtomicFile file(path);           // path's folder must exist
///   file.write(bytes);               // as often as needed; buffered
///   file.commit();                   // fsync, rename, fsync of the folder
///
/// Abandoned (destroyed without commit): the temporary file is removed. A killed process leaves one behind, see
/// remove_abandoned_temporaries(). Behind a link the file that it names is replaced, and the link stays.
/// Errors   FileError with the path, the system's reason, the bytes written so far and what to do; where a folder, a
///          device or a pipe has the name, it stays. All that can be known is known at once. Not thread-safe.
class AtomicFile {
 public:
  /// ours: through write(). external: a library (HDF5, libzip) makes the file temporary_path() by itself and has closed
  /// it before commit().
  enum class Writer { ours, external };

  explicit AtomicFile(std::filesystem::path path, Writer writer = Writer::ours);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  void commit();

  /// Bytes handed to write() so far.
  std::uint64_t num_bytes() const { return num_bytes_; }
  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& temporary_path() const { return temporary_path_; }

 private:
  void flush();
  [[noreturn]] void fail_here(const char* step, int error) const;

  std::filesystem::path path_, temporary_path_;
  std::vector<std::byte> buffer_;
  std::uint64_t num_bytes_ = 0;
  int file_ = -1;
  Writer writer_;
  bool committed_ = false;
};

/// The whole text as a file, atomically.
void write_text_atomic(const std::filesystem::path& path, std::string_view text);

/// The whole file as text. Throws FileError when it is missing, a folder, unreadable, or longer than `max_bytes`.
std::string read_text(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{256} << 20);

/// Removes temporaries in `folder` whose writing process is no longer alive. Returns how many.
int remove_abandoned_temporaries(const std::filesystem::path& folder);

/// Text for a message: control characters escaped, cut to `max_length`, so that a hostile name stays on one line.
std::string printable(std::string_view text, std::size_t max_length = 120);

}  // namespace avid
