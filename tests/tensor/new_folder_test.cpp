// tests/tensor/new_folder_test.cpp -- folders for results: what stays and what goes
#include "tensor/io/new_folder.h"

#include <fstream>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {
namespace fs = std::filesystem;
}

TEST_CASE("new_folder/empty/goes with the parents that were made for it") {
  const test::TempDir dir;
  for (const char* name : {"a/b/c", "a/b/c/", "a/../d/b"}) {
    CAPTURE(name);
    {
      const NewFolder folder(dir / name);
      CHECK(fs::is_directory(dir / name));
    }
    CHECK(fs::is_empty(dir.path()));
  }
}

TEST_CASE("new_folder/used/stays and keeps its parents") {
  const test::TempDir dir;
  {
    const NewFolder folder(dir / "a/b");
    std::ofstream(dir / "a/b/file") << "x";
  }
  CHECK(fs::exists(dir / "a/b/file"));
  {
    const NewFolder inner(dir / "a/c/d");
    std::ofstream(dir / "a/c/file") << "x";
  }
  CHECK(fs::exists(dir / "a/c/file"));
  CHECK_FALSE(fs::exists(dir / "a/c/d"));
}

TEST_CASE("new_folder/there/an empty folder that was there stays") {
  const test::TempDir dir;
  fs::create_directory(dir / "mine");
  { const NewFolder folder(dir / "mine"); }
  { const NewFolder inner(dir / "mine/a"); }
  CHECK(fs::is_directory(dir / "mine"));
  CHECK(fs::is_empty(dir / "mine"));
}

TEST_CASE("new_folder/move/one of two cleans up") {
  const test::TempDir dir;
  {
    NewFolder first(dir / "a");
    const NewFolder second(std::move(first));
    { const NewFolder gone(std::move(first)); }
    CHECK(fs::is_directory(dir / "a"));
  }
  CHECK(fs::is_empty(dir.path()));
  const NewFolder nothing;
}

TEST_CASE("new_folder/errors/a file in the way") {
  const test::TempDir dir;
  std::ofstream(dir / "file") << "x";
  CHECK_THROWS_WITH_AS(NewFolder(dir / "file/sub/a"), doctest::Contains("cannot make this folder"), FileError);
  CHECK(fs::file_size(dir / "file") == 1);
}

}  // namespace avid
