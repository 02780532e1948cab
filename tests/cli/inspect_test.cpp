// tests/cli/inspect_test.cpp -- `avid inspect`: every kind of path, the digests, one line for everything that is wrong
#include <nlohmann/json.hpp>

#include <algorithm>

#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/support.h"
#include "train/run_state.h"

using namespace avid;
using test::golden;
using test::ProgramResult;
using test::run_program;
using test::TempDir;
using Json = nlohmann::json;

namespace {

ProgramResult inspect(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {AVID_PROGRAM, "inspect"});
  return run_program(arguments);
}

// Failed with exit code 1, nothing on stdout, one line on stderr.
std::string complaint(const std::vector<std::string>& arguments) {
  const ProgramResult result = inspect(arguments);
  CHECK(result.exit_code == 1);
  CHECK(result.out.empty());
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.starts_with("error: "));
  return result.err;
}

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

train::Checkpoint checkpoint(std::int64_t update) {
  train::Checkpoint c;
  c.state.update = update;
  c.weights = {{"w", test::random_tensor({2, 3}, DType::f32, static_cast<std::uint64_t>(update))}};
  c.ema = {{"w", test::random_tensor({2, 3}, DType::f32, 2)}};
  c.optimizer = {{"m.w", Tensor::zeros({2, 3})}, {"v.w", Tensor::zeros({2, 3})}};
  return c;
}

}  // namespace

TEST_CASE("inspect/safetensors/table_and_json") {
  const std::string path = golden("files/tensors.safetensors");
  const ProgramResult table = inspect({path});
  CHECK(table.exit_code == 0);
  CHECK(table.err.empty());
  CHECK(mentions(table.out, "safetensors, 16 tensors"));
  CHECK(mentions(table.out, "[2,3,5]"));
  CHECK(mentions(table.out, "I16 (cannot be loaded)"));
  CHECK(mentions(table.out, "note: héllo"));
  const Json json = Json::parse(inspect({path, "--json", "--sha"}).out);
  CHECK(json["kind"] == "safetensors");
  CHECK(json["sha256"] == sha256_of_file(path));
  CHECK(json["num_tensors"] == 16);
  CHECK(json["tensors"].size() == 16);
  CHECK(json["metadata"]["format"] == "pt");
  const Json few = Json::parse(inspect({path, "--json", "--select", "f"}).out);
  CHECK(few["num_tensors"] == 3);  // f64, f32, f16
}

TEST_CASE("inspect/others/torch_npz_npy") {
  CHECK(Json::parse(inspect({golden("files/lightning.ckpt"), "--json"}).out)["metadata"]["epoch"] == "3");
  CHECK(Json::parse(inspect({golden("files/arrays.npz"), "--json"}).out)["num_tensors"] == 10);
  CHECK(Json::parse(inspect({golden("files/array.npy"), "--json"}).out)["tensors"][0]["shape"] == Json({2, 3}));
}

TEST_CASE("inspect/dataset/file_and_folder") {
  const std::string folder = std::filesystem::path(AVID_SOURCE_DIR) / "data" / "samples";
  const ProgramResult text = inspect({folder});
  CHECK(text.exit_code == 0);
  CHECK(mentions(text.out, "coinrun"));
  const Json json = Json::parse(inspect({folder, "--json", "--sha"}).out);
  CHECK(json["kind"] == "dataset");
  CHECK(json["sha256"].size() == json["shards"].size());
  const std::string shard = json["shards"][0]["path"];
  CHECK(inspect({shard, "--sha"}).out == sha256_of_file(shard) + "  " + shard + "\n");
}

TEST_CASE("inspect/run/summary_digests_and_checkpoints") {
  const TempDir dir;
  const std::string run = dir / "run";
  std::filesystem::create_directories(dir / "run/checkpoints");
  write_text_atomic(dir / "run/run.json", R"({"seed": 7, "device": "cpu", "version": "0.1.0"})");
  CHECK(mentions(complaint({run}), "no checkpoint yet"));
  CHECK(mentions(complaint({run, "--sha"}), "no checkpoint yet"));

  train::CheckpointStore store(run);
  store.save(checkpoint(1), 3, {});
  const std::string first = inspect({run, "--sha"}).out;
  store.save(checkpoint(2), 3, {});
  const std::string second = inspect({run, "--sha"}).out;
  const train::Checkpoint now = checkpoint(2);
  CHECK(
      second == train::digest_of(now.weights) + "  weights\n" + train::digest_of(now.ema) + "  ema\n" +
                    train::digest_of(now.optimizer) + "  optimizer\n");
  CHECK(first.substr(0, 64) != second.substr(0, 64));
  CHECK(first.substr(75) == second.substr(75));  // ema and optimizer are the same in both

  const ProgramResult text = inspect({run});
  CHECK(text.exit_code == 0);
  CHECK(mentions(text.out, "run, 2 updates done"));
  CHECK(mentions(text.out, "1, 2"));
  const Json json = Json::parse(inspect({run, "--json", "--sha"}).out);
  CHECK(json["kind"] == "run");
  CHECK(json["info"]["seed"] == 7);
  CHECK(json["checkpoints"] == Json({1, 2}));
  CHECK(json["state"]["update"] == 2);
  CHECK(json["sha256"]["weights"] == train::digest_of(now.weights));

  const std::string folder = json["latest"];
  CHECK(inspect({folder, "--sha"}).out == second);
  CHECK(mentions(inspect({folder}).out, "checkpoint after 2 updates"));
  CHECK(Json::parse(inspect({folder, "--json"}).out)["files"].size() == 3);
}

TEST_CASE("inspect/error/missing_truncated_unknown_hostile") {
  const TempDir dir;
  CHECK(mentions(complaint({dir / "none"}), "no such file or folder"));
  CHECK(mentions(complaint({dir / "none", "--sha"}), "no such file or folder"));
  complaint({dir.path()});  // an empty folder
  write_text_atomic(dir / "text", "just some words, longer than a header length");
  CHECK(mentions(complaint({dir / "text"}), "not a safetensors"));
  write_text_atomic(dir / "empty", "");
  complaint({dir / "empty"});
  const std::string good = read_text(golden("files/tensors.safetensors"));
  write_text_atomic(dir / "cut", good.substr(0, good.size() - 1));
  CHECK(mentions(complaint({dir / "cut"}), "truncated"));
  write_text_atomic(dir / "cut.pt", read_text(golden("files/tensors.pt")).substr(0, 3000));
  CHECK(mentions(complaint({dir / "cut.pt", "--json"}), "truncated"));
  CHECK(mentions(complaint({golden("files/malicious_os_system.pt")}), "'posix.system'"));
  CHECK(inspect({golden("files/malicious_os_system.pt"), "--skip-unknown"}).exit_code == 0);
}

TEST_CASE("inspect/usage/exit_code_2_and_help_with_an_example") {
  CHECK(inspect({}).exit_code == 2);
  CHECK(inspect({"a", "--no-such-option"}).exit_code == 2);
  const std::string dataset = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5";
  CHECK(mentions(inspect({dataset, "--select", "x"}).err, "--select, --skip-unknown: expected a file of tensors"));
  CHECK(inspect({dataset, "--skip-unknown"}).exit_code == 2);
  for (const char* command : {"inspect", "convert", "info"}) {
    const ProgramResult help = run_program({AVID_PROGRAM, command, "--help"});
    CHECK(help.exit_code == 0);
    CHECK(mentions(help.out, std::string("avid ") + command));
    CHECK(mentions(help.out, "Example:"));
  }
}

TEST_CASE("inspect/names/control_characters_stay_on_one_line") {
  const TempDir dir;
  save_safetensors(dir / "a.safetensors", {{"line\nbreak \"quoted\"", Tensor::zeros({1})}});
  const Json json = Json::parse(inspect({dir / "a.safetensors", "--json"}).out);
  CHECK(json["tensors"][0]["name"] == "line\nbreak \"quoted\"");
  const std::string table = inspect({dir / "a.safetensors"}).out;
  CHECK(mentions(table, "line\\x0abreak"));
}
