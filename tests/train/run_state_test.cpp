// tests/train/run_state_test.cpp -- checkpoints: complete or absent, pruned, digested, damaged
#include "train/run_state.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::train;
namespace fs = std::filesystem;

namespace {

// Values tell the update, so that a mixture of two checkpoints would show.
Checkpoint checkpoint(std::int64_t update, std::int64_t size = 5) {
  Checkpoint c;
  c.state.update = update;
  c.state.fingerprint = "f";
  c.weights = {{"w", Tensor::full({size, 3}, double(update))}};
  c.ema = {{"w", Tensor::full({size, 3}, double(update))}};
  c.optimizer = {{"m.w", Tensor::full({size, 3}, double(update))}, {"v.w", Tensor::full({size, 3}, double(update))}};
  return c;
}

bool consistent(const Checkpoint& c) {
  for (const auto* set : {&c.weights, &c.ema, &c.optimizer})
    for (const auto& [name, t] : *set)
      for (const double v : t.to_doubles())
        if (v != double(c.state.update)) return false;
  return c.optimizer.size() == 2;
}

}  // namespace

TEST_CASE("run_state/json/round_trip") {
  RunState s;
  s.update = 12;
  s.ema_initialised = true;
  s.train_seconds = 0.1 + 0.2;
  s.window.loss = 1.0 / 3;
  s.fingerprint = "abc";
  const RunState again = RunState::from_json(s.to_json(), "x");
  CHECK(again.to_json() == s.to_json());
  CHECK(again.window.loss == s.window.loss);
  CHECK(std::isnan(again.best_loss));
  CHECK_THROWS_AS(RunState::from_json("{\"format\": 1}", "x"), FileError);
  CHECK_THROWS_AS(RunState::from_json("{\"format\": 2}", "x"), FileError);
  CHECK_THROWS_AS(RunState::from_json(s.to_json().substr(0, 40), "x"), FileError);
}

TEST_CASE("run_state/save/keeps_newest_and_best") {
  const test::TempDir dir;
  CheckpointStore store(dir.path());
  CHECK_FALSE(store.latest());
  CHECK_THROWS_AS(run_digests(dir.path()), FileError);
  for (const int update : {1, 2, 3, 4, 5}) {
    Checkpoint c = checkpoint(update);
    c.state.best_update = std::min(update, 2);
    store.save(c, 2, {{"step", std::to_string(update)}});
  }
  std::vector<std::int64_t> left;
  for (const auto& [update, path] : store.all()) left.push_back(update);
  CHECK(left == std::vector<std::int64_t>{2, 4, 5});
  CHECK(store.latest()->filename() == "step_00000005");
  CHECK(store.best()->filename() == "step_00000002");
  CHECK(consistent(CheckpointStore::load(*store.latest())));
  fs::remove(store.folder() / "latest");
  CHECK(store.latest()->filename() == "step_00000005");
  std::ofstream(store.folder() / "latest") << "../../etc\n";
  CHECK(store.latest()->filename() == "step_00000005");
}

TEST_CASE("run_state/digest/sees_every_bit_and_name") {
  const Tensor a = test::random_tensor({3, 5}, DType::f32, 1);
  Tensor b = a.clone();
  CHECK(digest_of({{"a", a}, {"b", b}}) == digest_of({{"b", b}, {"a", a}}));
  CHECK(digest_of({{"a", a}}) != digest_of({{"c", a}}));
  CHECK(digest_of({{"a", a}}) != digest_of({{"a", a.to(DType::f64)}}));
  b.data<float>()[0] = -b.data<float>()[0];
  CHECK(digest_of({{"a", a}}) != digest_of({{"a", b}}));
}

TEST_CASE("run_state/save/disk_full_leaves_the_older_one") {
  const test::TempDir dir;
  CheckpointStore store(dir.path());
  store.save(checkpoint(1), 3, {});
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit tight{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  CHECK_THROWS_AS(store.save(checkpoint(2, 5000), 3, {}), FileError);
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, old_handler);
  CHECK(store.all().size() == 1);
  CHECK(consistent(CheckpointStore::load(*store.latest())));
  for (const auto& entry : fs::directory_iterator(store.folder())) CHECK(entry.path().filename().string()[0] != '.');
}

TEST_CASE("run_state/save/killed_at_random_instants") {
  // A child saves checkpoints as fast as it can; whenever it dies, the latest is whole and never older than announced.
  const int kills = test::full_level() ? 60 : 6;
  const test::TempDir dir;
  std::int64_t first = 1;
  for (int k = 0; k < kills; ++k) {
    int progress[2];
    REQUIRE(pipe(progress) == 0);
    const pid_t child = fork();
    if (child == 0) {
      CheckpointStore store(dir.path());
      store.remove_leftovers();
      for (std::int64_t update = first;; ++update) {
        store.save(checkpoint(update, 2000), 2, {});
        if (write(progress[1], &update, sizeof update) < 0) _exit(1);
      }
    }
    close(progress[1]);
    std::int64_t announced = 0;
    REQUIRE(read(progress[0], &announced, sizeof announced) == sizeof announced);
    usleep(static_cast<useconds_t>((k * 7919) % 12000));
    kill(child, SIGKILL);
    int status;
    waitpid(child, &status, 0);
    for (std::int64_t u; read(progress[0], &u, sizeof u) == sizeof u;) announced = u;
    close(progress[0]);

    const CheckpointStore store(dir.path());
    REQUIRE(store.latest());
    const Checkpoint c = CheckpointStore::load(*store.latest());
    CHECK(consistent(c));
    CHECK(c.state.update >= announced);
    for (const auto& [update, path] : store.all()) CHECK(consistent(CheckpointStore::load(path)));
    first = c.state.update + 1;
  }
}

TEST_CASE("run_state/load/damaged_is_an_error") {
  const test::TempDir dir;
  CheckpointStore store(dir.path());
  store.save(checkpoint(1), 3, {});
  for (const char* name : {"weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}) {
    const fs::path path = *store.latest() / name;
    const std::string whole = read_text(path);
    std::ofstream(path, std::ios::binary) << whole.substr(0, whole.size() - 7);
    CHECK_THROWS_AS(CheckpointStore::load(*store.latest()), FileError);
    fs::remove(path);
    CHECK_THROWS_AS(CheckpointStore::load(*store.latest()), FileError);
    std::ofstream(path, std::ios::binary) << whole;
  }
  CHECK(consistent(CheckpointStore::load(*store.latest())));
}
