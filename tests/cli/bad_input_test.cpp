// tests/cli/bad_input_test.cpp -- whatever is wrong, from outside: one clear line, the right exit code, nothing lost
//
// What needs a running job is tested where that job is: killed, stopped, locked and out of disk in train/resume_test,
// the game library in cli/dataset_test, each file format byte by byte in tensor/corruption_test.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

#include "tensor/io/atomic_file.h"
#include "tensor/io/npz.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

const std::string kRoot = AVID_SOURCE_DIR;
const std::string kData = kRoot + "/data/samples/coinrun32-heldout.h5";
const std::string kBase = golden("pixel/ddpm/base.safetensors"), kAdapter = golden("pixel/ddpm/adapter.safetensors");
const std::string kClassifier = golden("pixel/classifier/classifier.safetensors");
const std::string kMalicious = golden("files/malicious_os_system.pt");

struct Case {
  std::string what;
  int exit_code;
  std::string text;  ///< part of the message
  Words words;
};

void expect(const Case& c, const ProgramResult& result) {
  CAPTURE(c.what);
  CAPTURE(result.err);
  CHECK(result.exit_code == c.exit_code);
  CHECK(result.out == "");
  // train says first on which device it runs; the error is one line, the last one.
  const auto lines = std::count(result.err.begin(), result.err.end(), '\n');
  const auto error = result.err.find("error: ");
  CHECK(error != std::string::npos);
  if (error == std::string::npos) return;
  CHECK(result.err.find('\n', error) == result.err.size() - 1);
  CHECK((lines == 1 || c.words[0] == "train"));
  CHECK(result.err.find(c.text, error) != std::string::npos);
}

void run_all(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    Words command{AVID_PROGRAM};
    command.insert(command.end(), c.words.begin(), c.words.end());
    expect(c, run_program(command));
  }
}

/// The words of `avid sample` with a small model.
Words sample(const std::string& out, const std::string& base, const std::string& data, Words more = {}) {
  Words words{"sample",      "--base", base,      "--data", data,      "--out", out,
              "--timesteps", "8",      "--steps", "2",      "--clips", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Words train(const std::string& run, Words set = {}) {
  Words words{"train", "--threads", "1", "--config", kRoot + "/configs/tiny/base.toml", "--run", run};
  for (const std::string& s : set) words.insert(words.end(), {"--set", s});
  return words;
}

/// The first `size` bytes of a file.
std::string cut(const fs::path& to, const std::string& from, std::size_t size) {
  std::ofstream(to, std::ios::binary) << read_text(from).substr(0, size);
  return to.string();
}

}  // namespace

TEST_CASE("bad_input/files/missing_truncated_and_of_another_kind") {
  const TempDir dir;
  const std::string out = dir / "out", none = dir / "none", run = dir / "run";
  const std::string short_data = cut(dir / "short.h5", kData, 300000);
  const std::string short_base = cut(dir / "short.safetensors", kBase, 20000);
  const std::string short_config = cut(dir / "short.toml", kRoot + "/configs/tiny/base.toml", 150);
  fs::create_directory(dir / "folder");
  std::ofstream(dir / "empty.h5");
  std::ofstream(dir / "huge.safetensors") << std::string(8, '\xff') + "{}";
  run_all({
      {"missing dataset", 1, "/none", sample(out, kBase, none)},
      {"missing dataset for training", 1, "/none", train(run, {"data.train=" + none})},
      {"missing checkpoint", 1, "/none: no such weights, and no such run | train it first", sample(out, none, kData)},
      {"a served base behind TLS", 1, "expected http://host:port", sample(out, "https://127.0.0.1:1", kData)},
      {"missing config", 1, "/none", {"train", "--config", none, "--run", run}},
      {"a config without an end", 1, "at most 1048576 bytes", {"train", "--config", "/dev/zero", "--run", run}},
      {"missing input", 1, "/none", {"forward", "--base", kBase, "--input", none, "--output", out}},
      {"missing run", 1, "/none", {"evaluate", "--run", none, "--data", kData}},
      {"missing anything", 1, "/none", {"inspect", none}},
      {"truncated dataset", 1, "short.h5", sample(out, kBase, short_data)},
      {"truncated dataset for training", 1, "short.h5", train(run, {"data.train=" + short_data})},
      {"truncated checkpoint", 1, "short.safetensors", sample(out, short_base, kData)},
      {"truncated config", 1, "short.toml", {"train", "--config", short_config, "--run", run}},
      {"empty dataset", 1, "is empty", sample(out, kBase, dir / "empty.h5")},
      {"empty folder", 1, "no .h5 files", sample(out, kBase, dir / "folder")},
      {"a dataset as checkpoint", 1, "got HDF5", sample(out, kData, kData)},
      {"a checkpoint as dataset", 1, "not a readable HDF5", sample(out, kBase, kBase)},
      {"a classifier as base", 1, "expected a U-Net", sample(out, kClassifier, kData)},
      {"an adapter as base", 1, "expected a U-Net", sample(out, kAdapter, kData)},
      {"a base as adapter", 1, "expected an AVID adapter", sample(out, kBase, kData, {"--adapter", kBase})},
      {"an absurd header", 1, "huge.safetensors: header", {"inspect", dir / "huge.safetensors"}},
      {"a pickle that asks for more", 1, "nothing was run", sample(out, kMalicious, kData)},
      {"the same, inspected", 1, "nothing was run", {"inspect", kMalicious}},
      {"the same, converted", 1, "nothing was run", {"convert", kMalicious, out + ".npz"}},
  });
  CHECK_FALSE(fs::exists(out));
  CHECK_FALSE(fs::exists(out + ".npz"));
  CHECK_FALSE(fs::exists(run));
}

TEST_CASE("bad_input/usage/words_that_do_not_fit") {
  const TempDir dir;
  const std::string out = dir / "out";
  run_all({
      {"no command", 2, "expected a command: bench, clips, collect", {}},
      {"unknown command", 2, "unknown command 'trai', did you mean train? | see avid --help", {"trai"}},
      {"unknown option", 2, "avid train: The following argument was not expected: --cfg", {"train", "--cfg"}},
      {"unknown kind of bench", 2, "avid bench: unknown command 'stepp', did you mean step?", {"bench", "stepp"}},
      {"option missing", 2, "--out is required | see avid sample --help", {"sample", "--base", kBase}},
      {"not a number", 2, "--steps", {"sample", "--steps", "x"}},
      {"no value", 2, "avid sample: --clips: its value is missing | see", {"sample", "--clips"}},
      {"a value twice", 2, "--clips: expected once, got it 2 times | see", sample(out, kBase, kData, {"--clips", "2"})},
      {"no clips", 2, "--clips: Value 0 not in range 1 to 100000", {"sample", "--clips", "0"}},
      {"more clips than memory", 2, "--clips: Value 1000000000 not in range", {"sample", "--clips", "1000000000"}},
      {"the same of damage", 2, "--clips: Value 1000000000 not in range", {"sensitivity", "--clips", "1000000000"}},
      {"a folder without a name", 1, "expected a folder, got an empty name", sample("", kBase, kData)},
      {"a port that there cannot be", 2, "http://127.0.0.1:99999: expected http://host:port, the port from 1 to 65535",
       sample(out, "http://127.0.0.1:99999", kData)},
      {"a number below 0 where there are none",
       2,
       "--seed: expected a number of at least 0, got -1",
       {"clips", "--data", kData, "--out", out, "--seed", "-1"}},
      {"more than 64 bits",
       2,
       "--count: expected a number of 64 bits, got 9223372036854775808",
       {"clips", "--data", kData, "--out", out, "--count", "9223372036854775808"}},
      {"more than 64 bits, unsigned",
       2,
       "expected a number of 64 bits, got 18446744073709551616",
       {"clips", "--data", kData, "--out", out, "--seed", "18446744073709551616"}},
      {"another word for resets", 2, "--resets", {"clips", "--data", kData, "--out", out, "--resets", "maybe"}},
      {"another word for windows", 2, "--windows", {"clips", "--data", kData, "--out", out, "--windows", "some"}},
      {"new and old run", 2, "--resume", {"train", "--config", "x", "--run", "y", "--resume", "z"}},
      {"actions without a model for them", 2, "takes no actions", sample(out, kBase, kData, {"--actions", "right*8"})},
      {"an action out of range", 2, "expected 0..14, got '15'",
       sample(out, kBase, kData, {"--adapter", kAdapter, "--frames", "4", "--actions", "15*4"})},
      {"too few actions", 2, "expected 4",
       sample(out, kBase, kData, {"--adapter", kAdapter, "--frames", "4", "--actions", "right"})},
      {"neither words nor a file", 2, "got 'actions.txt', which is no file either",
       sample(out, kBase, kData, {"--adapter", kAdapter, "--frames", "4", "--actions", "actions.txt"})},
      {"levels the wrong way round",
       2,
       "expected A:B with A below B, got '5:2'",
       {"collect", "--game", "coinrun", "--levels", "5:2", "--out", out}},
      {"unknown game", 2, "coinrun", {"collect", "--game", "coinrum", "--levels", "0:1", "--out", out}},
      {"more diffusion steps than there can be",
       2,
       "--timesteps: Value 1000001 not in range 1 to 1000000",
       {"forward", "--base", kBase, "--input", kBase, "--output", out, "--timesteps", "1000001"}},
      {"a graph on the CPU", 2, "--graph: expected auto or off, got on", sample(out, kBase, kData, {"--graph", "on"})},
      {"the same when scoring",
       2,
       "--graph: expected auto or off, got on",
       {"evaluate", "--base", kBase, "--data", kData, "--graph", "on", "--keep-clips", out}},
  });
  std::vector<Case> devices = {
      {"forward", 2, "", {"forward", "--base", kBase, "--input", kBase, "--output", out}},
      {"sample", 2, "", sample(out, kBase, kData)},
      {"evaluate", 2, "", {"evaluate", "--base", kBase, "--data", kData}},
      {"serve", 2, "", {"serve-denoiser", "--base", kBase}},
      {"bench", 2, "", {"bench", "step"}},
      {"profile", 2, "", {"profile"}},
      {"train", 2, "", train(out)}};
  for (Case& c : devices) {
    c.text = "--device: expected cpu, cuda, cuda:N or sim, got 'tpu' | see avid " + c.words[0];
    c.words.insert(c.words.end(), {"--device", "tpu"});
  }
  run_all(devices);
  std::vector<Case> numbers;
  for (const char* option : {"--steps", "--levels-per-shard", "--chunk-frames", "--jobs", "--size"})
    numbers.push_back(
        {option, 2, option, {"collect", "--game", "coinrun", "--levels", "0:1", "--out", out, option, "0"}});
  for (const char* option : {"--chunk-frames", "--runs-per-shard"})
    numbers.push_back({option, 2, option, {"import", dir.path(), "--out", out, option, "0"}});
  numbers.push_back({"import", 2, "--compress", {"import", dir.path(), "--out", out, "--compress", "10"}});
  run_all(numbers);
  CHECK(run_program({AVID_PROGRAM}).err.find("procgen-worker") == std::string::npos);  // for itself only
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("bad_input/config/unknown_and_contradictory_keys") {
  const TempDir dir;
  const std::string run = dir / "run";
  run_all({
      {"unknown key", 1, "did you mean train.updates?", train(run, {"train.update=3"})},
      {"unused key", 1, "base.checkpoint: not used by model.kind = base", train(run, {"base.checkpoint=" + kBase})},
      {"kind", 1, "model.kind: expected one of base, avid", train(run, {"model.kind=diffusion"})},
      {"type", 1, "train.lr: expected a number", train(run, {"train.lr=fast"})},
      {"range", 1, "train.updates: expected >= 1", train(run, {"train.updates=0"})},
      {"no value", 1, "expected key=value", train(run, {"train.lr"})},
      {"size", 1, "size: expected a divisor of the stored 32x32", train(run, {"data.size=20"})},
      {"window longer than an episode", 1, "the longest stretch without a reset", train(run, {"data.frames=200"})},
      {"the same when sampling", 1, "the longest stretch without a reset",
       sample(dir / "out", kBase, kData, {"--frames", "1000"})},
      {"a graph on the CPU", 1, "config: train.graph: expected auto or off, got on", train(run, {"train.graph=on"})},
  });
  CHECK_FALSE(fs::exists(dir / "out"));
  CHECK_FALSE(fs::exists(run));
  // In a folder that was there only what is new goes; a run that was there stays as it was.
  fs::create_directories(dir / "there");
  write_text_atomic(dir / "there/notes.txt", "mine");
  run_all({{"there", 1, "got on", train(dir / "there", {"train.graph=on"})}});
  CHECK(std::distance(fs::directory_iterator(dir / "there"), fs::directory_iterator()) == 1);
  CHECK(read_text(dir / "there/notes.txt") == "mine");
  Words first{AVID_PROGRAM};
  const Words words = train(run, {"train.updates=1", "validation.every=0", "samples.every=0"});
  first.insert(first.end(), words.begin(), words.end());
  REQUIRE(run_program(first).exit_code == 0);
  const std::string config = read_text(run + "/config.toml");
  run_all({{"a run", 1, "holds a run already", train(run, {"train.graph=on"})}});
  CHECK(read_text(run + "/config.toml") == config);
}

TEST_CASE("bad_input/tensors/wrong_type_shape_count_range_and_nan") {
  const TempDir dir;
  const SafetensorsFile good(golden("pixel/avid_mask/input.safetensors"));
  std::vector<Case> cases;
  const auto with = [&](const std::string& what, const std::string& text, const std::string& name,
                        const Tensor& tensor) {
    NamedTensors tensors = good.load_all();
    for (auto& [n, t] : tensors)
      if (n == name) t = tensor;
    const std::string file = dir / (what + ".safetensors");
    save_safetensors(file, tensors);
    cases.push_back(
        {what,
         1,
         text,
         {"forward", "--base", golden("pixel/avid_mask/base.safetensors"), "--adapter",
          golden("pixel/avid_mask/adapter.safetensors"), "--input", file, "--output", dir / "out.safetensors"}});
  };
  const auto ids = [&](const char* name, std::int64_t first) {
    auto values = good.load(name).to_values<std::int64_t>();
    values[0] = first;
    return Tensor::from_values(values, good.load(name).shape());
  };
  Tensor nan = good.load("x0").clone();
  nan.data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  with("dtype", "x0: expected a float video [B,3,T,H,W], got i32", "x0", good.load("x0").to(DType::i32));
  with("shape", "x_t: expected a float video", "x_t", random_tensor({2, 4, 3, 16, 16}, DType::f32, 1));
  with("frames", "actions: expected [2,4], got [2,3]", "actions", Tensor::zeros({2, 3}, DType::i64));
  with("clips", "cond: expected clips and frame size of x_t", "cond", random_tensor({1, 3, 2, 16, 16}, DType::f32, 1));
  with("action", "actions: expected 0..14, got 15", "actions", ids("actions", 15));
  with("time", "t: expected 0 to 199", "t", ids("t", 200));
  with("nan", "x0: element 3 is nan, not a finite number", "x0", nan);
  run_all(cases);
  CHECK_FALSE(fs::exists(dir / "out.safetensors"));

  // A checkpoint with a NaN in it: found where it first shows.
  NamedTensors weights = SafetensorsFile(kBase).load_all();
  for (auto& [name, tensor] : weights)
    if (name == "final_conv.1.bias") {
      tensor = tensor.clone();
      tensor.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    }
  save_safetensors(dir / "nan.safetensors", weights);
  run_all({{"weight", 1, "the network's output is not finite", sample(dir / "out", dir / "nan.safetensors", kData)}});
  CHECK_FALSE(fs::exists(dir / "out"));
}

TEST_CASE("bad_input/output/unwritable_and_full") {
  const TempDir dir;
  std::ofstream(dir / "file") << "x";
  const std::string under_file = (dir / "file/sub").string();
  const std::string input = golden("pixel/avid_mask/input.safetensors"),
                    base = golden("pixel/avid_mask/base.safetensors");
  run_all({
      {"sample", 1, "/file/sub", sample(under_file, kBase, kData)},
      {"train", 1, "/file/sub", train(under_file)},
      {"forward", 1, "/file/sub", {"forward", "--base", base, "--input", input, "--output", under_file}},
      {"convert", 1, "/file/sub", {"convert", kBase, under_file + ".npz"}},
      {"export", 1, "/file/sub", {"export", kData, "--out", under_file + ".npz"}},
      {"evaluate", 1, "/file/sub", {"evaluate", "--base", kBase, "--data", kData, "--clips", "1", "--out", under_file}},
  });
  // A limit on file sizes stands in for the full disk. An older file of the same name stays as it is.
  const std::string old = dir / "old.safetensors", old_npz = dir / "old.npz";
  std::ofstream(old) << "old";
  std::ofstream(old_npz) << "old";
  const std::vector<Case> full = {
      {"forward",
       1,
       "older file of this name is untouched",
       {"forward", "--base", base, "--input", input, "--output", old}},
      {"convert", 1, "older file of this name is untouched", {"convert", kBase, old_npz}},
      {"sample", 1, "write: ", sample(dir / "pictures", kBase, kData, {"--frames", "2"})},
      {"train", 1, "write: ", train(dir / "run", {"train.updates=1"})},
  };
  for (const Case& c : full) {
    Words command{"bash", "-c", "ulimit -f 1; exec \"$0\" \"$@\"", AVID_PROGRAM};
    command.insert(command.end(), c.words.begin(), c.words.end());
    expect(c, run_program(command));
  }
  CHECK(read_text(old) == "old");
  CHECK(read_text(old_npz) == "old");
  // Room for the samples and not for their pictures: what took the time is kept.
  Words some{"bash", "-c", "ulimit -f 40; exec \"$0\" \"$@\"", AVID_PROGRAM};
  const Words large = sample(dir / "some", kBase, kData, {"--frames", "2", "--scale", "16"});
  some.insert(some.end(), large.begin(), large.end());
  expect({"pictures", 1, "clip_00.gif", large}, run_program(some));
  CHECK(SafetensorsFile(dir / "some/samples.safetensors").load("generated").dim(1) == 2);
  for (const auto& entry : fs::recursive_directory_iterator(dir.path())) {
    CAPTURE(entry.path().string());
    CHECK(entry.path().filename().string()[0] != '.');  // no temporary file is left behind
  }
  const ProgramResult result = run_program({"bash", "-c", "exec \"$0\" info > /dev/full", AVID_PROGRAM});
  CHECK(result.exit_code == 1);
  CHECK(result.err.starts_with("error: stdout: "));
}

TEST_CASE("bad_input/memory/not_enough_is_one_line") {
#if defined(__SANITIZE_ADDRESS__)
  MESSAGE("an address sanitizer needs more address space than this limit leaves: checked in the other builds");
#else
  const TempDir dir;
  Words command{"bash", "-c", "ulimit -v 250000; exec \"$0\" \"$@\"", AVID_PROGRAM};
  const Words words = train(dir / "run", {"train.batch=4096"});
  command.insert(command.end(), words.begin(), words.end());
  expect({"train", 1, "host memory: could not get", words}, run_program(command));
#endif
}

TEST_CASE("bad_input/signal/a_command_without_anything_to_save_leaves_with_one_line") {
  const TempDir dir;
  const std::string messages = dir / "messages";
  // Scoring for minutes, interrupted once it catches signal 2 (bit 1 of the mask of caught signals).
  const ProgramResult result = run_program(
      {"bash", "-c",
       "\"$0\" evaluate --base \"$1\" --data \"$2\" --clips 2000 --frames 8 --sampler ddpm 2> \"$3\" & child=$!; "
       "for i in $(seq 1000); do grep -q 'SigCgt:.*[2367abef]$' /proc/$child/status && break; sleep 0.02; done; "
       "kill -INT $child; wait $child",
       AVID_PROGRAM, kBase, kData, messages});
  CHECK(result.exit_code == 130);
  CHECK(result.out == "");
  CHECK(read_text(messages).find("stopped: files finished so far are whole") != std::string::npos);
}

}  // namespace avid::test
