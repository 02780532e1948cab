// tensor/io/new_folder.cpp -- notes what was missing before it makes a folder
#include "tensor/io/new_folder.h"

#include <utility>

#include "tensor/error.h"

namespace avid {

namespace fs = std::filesystem;

NewFolder::NewFolder(const fs::path& path) {
  check<FileError>(!path.empty(), "expected a folder, got an empty name");
  std::error_code error, ignored;
  for (fs::path p = fs::absolute(path); p.has_relative_path() && !fs::exists(p, ignored); p = p.parent_path())
    made_.push_back(p);
  fs::create_directories(path, error);
  if (!error) return;
  remove_empty();
  fail<FileError>("{}: cannot make this folder: {} | choose a place you may write to", path.string(), error.message());
}

NewFolder::~NewFolder() { remove_empty(); }

NewFolder::NewFolder(NewFolder&& other) noexcept : made_(std::exchange(other.made_, {})) {}

void NewFolder::remove_empty() {
  std::error_code ignored;  // of a folder that is not empty, or was not made
  for (const fs::path& p : made_) fs::remove(p, ignored);
}

}  // namespace avid
