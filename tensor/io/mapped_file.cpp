// tensor/io/mapped_file.cpp -- open, fstat, mmap
#include "tensor/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tensor/error.h"

namespace avid {

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer; it is refused below.
  const int file = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  check<FileError>(file >= 0, "read: {}: {} | check the path", path_.string(), std::strerror(errno));
  struct stat status {};
  const bool known = fstat(file, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    close(file);
    fail<FileError>(
        "read: {}: expected a regular file, got {}", path_.string(),
        known && S_ISDIR(status.st_mode) ? "a folder" : "something else");
  }
  const auto num_bytes = static_cast<std::size_t>(status.st_size);
  void* memory = num_bytes == 0 ? nullptr : mmap(nullptr, num_bytes, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  close(file);
  check<FileError>(
      memory != MAP_FAILED, "read: {}: cannot map {} bytes: {}", path_.string(), num_bytes, std::strerror(error));
  bytes_ = {static_cast<const std::byte*>(memory), num_bytes};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace avid
