// tests/train/run_log_test.cpp -- records on disk, truncation after a crash, TensorBoard framing, the lock
#include "train/run_log.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "train/run_lock.h"
#include "train/tensorboard.h"

using namespace avid;
using namespace avid::train;

namespace {

LogRecord record(std::int64_t update, double loss) {
  return {update, 1000.0 + double(update), {{"train/loss", loss}, {"other", 2.0}}, ""};
}

std::string events_of(const test::TempDir& dir) { return read_text(dir / "events.out.tfevents.0000000000.avid"); }

// The payloads of a TFRecord file; checks both checksums of every frame.
std::vector<std::string> payloads(const std::string& bytes) {
  std::vector<std::string> out;
  const auto masked = [](std::string_view data) { return std::rotr(crc32c(data), 15) + 0xa282ead8u; };
  std::size_t at = 0;
  while (at + 12 <= bytes.size()) {
    std::uint64_t length;
    std::uint32_t head, tail;
    std::memcpy(&length, &bytes[at], 8);
    std::memcpy(&head, &bytes[at + 8], 4);
    REQUIRE(at + 16 + length <= bytes.size());
    CHECK(head == masked(std::string_view(bytes).substr(at, 8)));
    out.push_back(bytes.substr(at + 12, length));
    std::memcpy(&tail, &bytes[at + 12 + length], 4);
    CHECK(tail == masked(out.back()));
    at += 16 + length;
  }
  CHECK(at == bytes.size());
  return out;
}

}  // namespace

TEST_CASE("run_log/append/three_files_agree") {
  const test::TempDir dir;
  {
    RunLog log(dir.path(), 0, true);
    log.append(record(1, 0.5));
    log.append({2, 1002, {}, "something \"odd\"\nhappened"});
    log.append(record(3, std::nan("")));
  }
  const std::string json = read_text(dir / "log.jsonl"), csv = read_text(dir / "log.csv");
  CHECK(
      json ==
      "{\"update\":1,\"time\":1001.0,\"train/loss\":0.5,\"other\":2.0}\n"
      "{\"update\":2,\"time\":1002.0,\"event\":\"something \\\"odd\\\"\\nhappened\"}\n"
      "{\"update\":3,\"time\":1003.0,\"train/loss\":null,\"other\":2.0}\n");
  CHECK(csv.find("\n1,1001.000,0.5,") != std::string::npos);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 3);
  CHECK(payloads(events_of(dir)).size() == 3);  // header and two records with numbers
}

TEST_CASE("run_log/resume/drops_what_the_checkpoint_does_not_know") {
  const test::TempDir dir, straight;
  {
    RunLog log(dir.path(), 0, true);
    for (int i = 1; i <= 7; ++i) log.append(record(i, i));
  }
  std::ofstream(dir / "log.jsonl", std::ios::app) << "{\"update\":8,\"ti";  // torn
  {
    RunLog log(dir.path(), 4, true);
    CHECK(log.records().size() == 4);
    for (int i = 5; i <= 9; ++i) log.append(record(i, i));
  }
  {
    RunLog log(straight.path(), 0, true);
    for (int i = 1; i <= 9; ++i) log.append(record(i, i));
  }
  for (const char* name : {"log.jsonl", "log.csv"}) CHECK(read_text(dir / name) == read_text(straight / name));
  CHECK(payloads(events_of(dir)).size() == payloads(events_of(straight)).size());
}

TEST_CASE("run_log/errors/disk_full") {
  const test::TempDir dir;
  RunLog log(dir.path(), 0, false);
  log.append(record(1, 1));
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  rlimit old{}, tight{};
  getrlimit(RLIMIT_FSIZE, &old);
  tight = {64, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  std::string message;
  try {
    log.append(record(2, 2));
  } catch (const FileError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, old_handler);
  CHECK(message.find("log.jsonl") != std::string::npos);
  CHECK(message.find("avid train --resume") != std::string::npos);
  CHECK(log.records().size() == 1);
  RunLog again(dir.path(), 9, false);
  CHECK(again.records().size() == 1);
}

TEST_CASE("tensorboard/bytes/known_values") {
  CHECK(crc32c("123456789") == 0xe3069283u);
  CHECK(crc32c("") == 0u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aau);  // RFC 3720, B.4
  const auto head = payloads(tensorboard_header(2.0));
  REQUIRE(head.size() == 1);
  CHECK(
      head[0] == std::string(
                     "\x09\0\0\0\0\0\0\0\x40\x1a\x0d"
                     "brain.Event:2",
                     24));
  const std::pair<std::string, double> value{"a", 1.0};
  const auto body = payloads(tensorboard_scalars(2.0, 300, std::span(&value, 1)));
  REQUIRE(body.size() == 1);
  CHECK(
      body[0] == std::string(
                     "\x09\0\0\0\0\0\0\0\x40"
                     "\x10\xac\x02"
                     "\x2a\x0a"
                     "\x0a\x08"
                     "\x0a\x01"
                     "a"
                     "\x15\0\0\x80\x3f",
                     24));
}

TEST_CASE("run_lock/held/refused_while_the_holder_lives") {
  const test::TempDir dir;
  int ready[2], done[2];
  REQUIRE((pipe(ready) == 0 && pipe(done) == 0));
  const pid_t child = fork();
  if (child == 0) {
    RunLock lock(dir.path());
    char c = 1;
    if (write(ready[1], &c, 1) != 1 || read(done[0], &c, 1) < 0) _exit(1);
    for (;;) pause();  // killed while holding the lock
  }
  char c;
  REQUIRE(read(ready[0], &c, 1) == 1);
  std::string message;
  try {
    RunLock second(dir.path());
  } catch (const FileError& error) {
    message = error.what();
  }
  CHECK(message.find("in use by the live process " + std::to_string(child)) != std::string::npos);
  kill(child, SIGKILL);
  int status;
  waitpid(child, &status, 0);
  CHECK(std::filesystem::exists(dir / "lock"));
  {
    RunLock takes_over(dir.path());
    CHECK(read_text(dir / "lock") == std::to_string(getpid()) + "\n");
  }
  CHECK_FALSE(std::filesystem::exists(dir / "lock"));
  for (const int f : {ready[0], ready[1], done[0], done[1]}) close(f);
}

TEST_CASE("run_lock/errors/disk_full") {
  const test::TempDir dir;
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  rlimit old{}, tight{};
  getrlimit(RLIMIT_FSIZE, &old);
  tight = {0, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  std::string message;
  try {
    errno = ENOENT;  // whatever went wrong before is not what went wrong here
    const RunLock lock(dir.path());
  } catch (const FileError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, old_handler);
  CHECK(message.find("File too large | free some space") != std::string::npos);
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("run_lock/errors/unwritable_folder") { CHECK_THROWS_AS(RunLock("/nonexistent/folder"), FileError); }
