// tests/tensor/atomic_file_test.cpp -- files appear complete or not at all; every failure names the path
#include "tensor/io/atomic_file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using avid::test::TempDir;

namespace {

std::size_t num_files(const std::filesystem::path& folder) {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

std::string message_of(const auto& work) {
  try {
    work();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

}  // namespace

TEST_CASE("atomic_file/commit/replaces_the_old_file_and_leaves_no_temporary") {
  const TempDir dir;
  write_text_atomic(dir / "a.txt", "old");
  AtomicFile file(dir / "a.txt");
  file.write(std::string_view("new "));
  file.write(std::string_view("text"));
  CHECK(read_text(dir / "a.txt") == "old");
  CHECK(file.num_bytes() == 8);
  file.commit();
  CHECK(read_text(dir / "a.txt") == "new text");
  CHECK(num_files(dir.path()) == 1);
  CHECK_THROWS_AS(file.write(std::string_view("more")), FileError);
  CHECK_THROWS_AS(file.commit(), FileError);
}

TEST_CASE("atomic_file/commit/more_than_one_buffer") {
  const TempDir dir;
  std::string text;
  for (int i = 0; text.size() < (5u << 20) / 2; ++i) text += std::to_string(i) + ",";
  AtomicFile file(dir / "big");
  for (std::size_t at = 0; at < text.size(); at += 77777) file.write(std::string_view(text).substr(at, 77777));
  file.commit();
  CHECK(read_text(dir / "big") == text);
}

TEST_CASE("atomic_file/abandon/old_file_stays_and_temporary_goes") {
  const TempDir dir;
  write_text_atomic(dir / "a.txt", "old");
  {
    AtomicFile file(dir / "a.txt");
    file.write(std::string_view("half"));
    CHECK(num_files(dir.path()) == 2);
  }
  CHECK(num_files(dir.path()) == 1);
  CHECK(read_text(dir / "a.txt") == "old");
}

TEST_CASE("atomic_file/external/library_writes_the_temporary") {
  const TempDir dir;
  AtomicFile file(dir / "b", AtomicFile::Writer::external);
  CHECK(num_files(dir.path()) == 0);
  CHECK_THROWS_AS(file.commit(), FileError);  // nothing was written
  std::ofstream(file.temporary_path()) << "by somebody else";
  file.commit();
  CHECK(read_text(dir / "b") == "by somebody else");
  CHECK(num_files(dir.path()) == 1);
}

TEST_CASE("atomic_file/error/no_room_names_path_bytes_and_remedy") {
  const TempDir dir;
  write_text_atomic(dir / "a.bin", "old");
  // The kernel refuses to grow files past this limit exactly as it refuses on a full disk.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1 << 16;
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = message_of([&] { write_text_atomic(dir / "a.bin", std::string(3 << 20, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(message.find((dir / "a.bin").string()) != std::string::npos);
  CHECK(message.find("File too large (27)") != std::string::npos);
  CHECK(message.find(" | ") != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
  CHECK(read_text(dir / "a.bin") == "old");
  CHECK(num_files(dir.path()) == 1);
}

TEST_CASE("atomic_file/temporary/a_link_under_its_name_is_not_followed") {
  const TempDir dir;
  write_text_atomic(dir / "victim", "precious");
  // Names count up by one, so the next temporary's name follows from this one's.
  std::string next;
  {
    const AtomicFile probe(dir / "a.bin");
    next = probe.temporary_path().string();
  }
  const std::size_t dash = next.rfind('-');
  next = next.substr(0, dash + 1) + std::to_string(std::stoi(next.substr(dash + 1)) + 1);
  std::filesystem::create_symlink(dir / "victim", next);
  write_text_atomic(dir / "a.bin", "new");
  CHECK(read_text(dir / "a.bin") == "new");
  CHECK(read_text(dir / "victim") == "precious");
  CHECK(std::filesystem::is_symlink(next));
}

TEST_CASE("atomic_file/commit/a_link_stays_and_the_file_behind_it_is_replaced") {
  const TempDir dir;
  std::filesystem::create_directory(dir / "there");
  write_text_atomic(dir / "there/a", "old");
  std::filesystem::create_symlink("there/a", dir / "link");
  write_text_atomic(dir / "link", "new");
  CHECK(std::filesystem::is_symlink(dir / "link"));
  CHECK(read_text(dir / "there/a") == "new");
  CHECK(num_files(dir / "there") == 1);
  std::filesystem::create_symlink("nowhere/a", dir / "dangling");
  write_text_atomic(dir / "dangling", "new");  // nothing is behind it: it gives way
  CHECK(read_text(dir / "dangling") == "new");
}

TEST_CASE("atomic_file/error/what_is_no_file_stays") {
  const TempDir dir;
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  std::filesystem::create_symlink("pipe", dir / "link");
  for (const char* name : {"pipe", "link"})
    for (const auto writer : {AtomicFile::Writer::ours, AtomicFile::Writer::external})
      CHECK(
          message_of([&] { AtomicFile(dir / name, writer); }) ==
          "write: " + (dir / "pipe").string() +
              ": expected the name of a file, this is a device or a pipe | choose another");
  CHECK(std::filesystem::is_fifo(dir / "pipe"));
  CHECK(num_files(dir.path()) == 2);
}

TEST_CASE("atomic_file/external/a_place_where_no_file_can_be_made_is_known_before_the_library_writes") {
  const TempDir dir;
  CHECK(message_of([&] {
          AtomicFile(dir / "no/a.h5", AtomicFile::Writer::external);
        }).find("make the folder first") != std::string::npos);
  const AtomicFile file(dir / "a.h5", AtomicFile::Writer::external);
  CHECK_FALSE(std::filesystem::exists(file.temporary_path()));  // HDF5 makes it, and may want it not to exist
}

TEST_CASE("atomic_file/error/unwritable_places") {
  const TempDir dir;
  write_text_atomic(dir / "file", "x");
  CHECK(message_of([&] {
          write_text_atomic(dir / "no/such/folder/a", "x");
        }).find("make the folder first") != std::string::npos);
  CHECK(message_of([&] {
          write_text_atomic(dir / "file/a", "x");
        }).find("a part of the path is a file") != std::string::npos);
  CHECK(message_of([&] { write_text_atomic(dir.path(), "x"); }).find("folder") != std::string::npos);
  CHECK_THROWS_AS(write_text_atomic(dir / "", "x"), FileError);
  CHECK_THROWS_AS(write_text_atomic("/proc/avid-test", "x"), FileError);
}

TEST_CASE("atomic_file/read_text/missing_folder_and_too_long") {
  const TempDir dir;
  CHECK_THROWS_AS(read_text(dir / "none"), FileError);
  CHECK_THROWS_AS(read_text(dir.path()), FileError);
  write_text_atomic(dir / "a", "12345");
  CHECK(read_text(dir / "a", 5) == "12345");
  CHECK_THROWS_AS(read_text(dir / "a", 4), FileError);
  write_text_atomic(dir / "empty", "");
  CHECK(read_text(dir / "empty").empty());
}

TEST_CASE("atomic_file/abandoned/only_temporaries_of_dead_processes_go") {
  const TempDir dir;
  const AtomicFile mine(dir / "a");
  std::ofstream(dir / ".a.avid-tmp-999999999-0") << "left by a killed process";
  std::ofstream(dir / ".avid-tmp-notes") << "not ours";
  CHECK(remove_abandoned_temporaries(dir.path()) == 1);
  CHECK(std::filesystem::exists(mine.temporary_path()));
  CHECK(num_files(dir.path()) == 2);
  CHECK(remove_abandoned_temporaries(dir / "no_such_folder") == 0);
}

TEST_CASE("atomic_file/printable/hostile_names_stay_on_one_line") {
  CHECK(printable("plain.name") == "plain.name");
  CHECK(printable("a\nb\x7f\\") == "a\\x0ab\\x7f\\x5c");
  CHECK(printable(std::string(500, 'a'), 10) == "aaaaaaaaaa...");
}
