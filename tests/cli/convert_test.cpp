// tests/cli/convert_test.cpp -- `avid convert` between formats, by name and type, and what it refuses
#include <nlohmann/json.hpp>

#include <algorithm>

#include "tensor/io/atomic_file.h"
#include "tensor/io/npz.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;
using test::ProgramResult;
using test::TempDir;

namespace {

ProgramResult convert(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {AVID_PROGRAM, "convert"});
  return test::run_program(arguments);
}

std::string complaint(const std::vector<std::string>& arguments, int exit_code = 1) {
  const ProgramResult result = convert(arguments);
  CHECK(result.exit_code == exit_code);
  CHECK(result.out.empty());
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  return result.err;
}

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("convert/torch_to_safetensors/select_and_strip") {
  const TempDir dir;
  const std::string out = dir / "a.safetensors";
  const ProgramResult result =
      convert({golden("files/lightning.ckpt"), out, "--select", "state_dict.", "--strip", "state_dict."});
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  const SafetensorsFile file(out);
  CHECK(file.tensors().size() == 7);
  CHECK(file.load("0.weight").to_doubles() == std::vector<double>{0, 0.25, 0.5, 0.75, 1, 1.25});
  CHECK(file.metadata().at("converted_from") == "lightning.ckpt");
}

TEST_CASE("convert/round_trip/safetensors_npz_safetensors_keeps_every_bit") {
  const TempDir dir;
  const NamedTensors tensors{
      {"a.w", test::random_tensor({3, 5}, DType::f32, 1)},
      {"a.i", test::random_tensor({4}, DType::i64, 2, 100)},
      {"b", Tensor::scalar(0.1, DType::f64)}};
  save_safetensors(dir / "a.safetensors", tensors, {{"card", "text"}});
  CHECK(convert({dir / "a.safetensors", dir / "b.npz", "--compress"}).exit_code == 0);
  CHECK(convert({dir / "b.npz", dir / "c.safetensors"}).exit_code == 0);
  const SafetensorsFile back(dir / "c.safetensors");
  CHECK(back.tensors().size() == 3);
  for (const auto& [name, tensor] : tensors) CHECK(test::same_bits(back.load(name), tensor));
  CHECK(convert({dir / "a.safetensors", dir / "d.safetensors"}).exit_code == 0);
  CHECK(SafetensorsFile(dir / "d.safetensors").metadata() == std::map<std::string, std::string>{{"card", "text"}});
  CHECK(convert({dir / "a.safetensors", dir / "a.safetensors", "--dtype", "bf16"}).exit_code == 0);  // onto itself
  const SafetensorsFile narrow(dir / "a.safetensors");
  CHECK(test::same_bits(narrow.load("a.w"), tensors[0].second.to(DType::bf16)));
  CHECK(narrow.info("a.i").dtype == DType::i64);
  CHECK(convert({dir / "d.safetensors", dir / "w.npy", "--select", "a.w"}).exit_code == 0);
  CHECK(test::same_bits(NpyFile(dir / "w.npy").load("array"), tensors[0].second));
}

TEST_CASE("convert/metadata/key_value_pairs_join_those_of_the_file") {
  const TempDir dir;
  save_safetensors(dir / "in.safetensors", {{"a", Tensor::zeros({2})}}, {{"avid.kind", "base"}, {"note", "old"}});
  REQUIRE(
      convert({dir / "in.safetensors", dir / "out.safetensors", "--metadata", "note=new=er", "--metadata", "x=1"})
          .exit_code == 0);
  const SafetensorsFile out(dir / "out.safetensors");
  CHECK(out.metadata() == std::map<std::string, std::string>{{"avid.kind", "base"}, {"note", "new=er"}, {"x", "1"}});
  const std::string in = dir / "in.safetensors", other = dir / "other.safetensors";
  CHECK(mentions(complaint({in, other, "--metadata", "novalue"}, 2), "expected key=value"));
}

TEST_CASE("convert/json/one_value") {
  const TempDir dir;
  const auto json = nlohmann::json::parse(convert({golden("files/bare.pt"), dir / "a.npz", "--json"}).out);
  CHECK(json["num_tensors"] == 1);
  CHECK(json["num_elements"] == 4);
  CHECK(json["bytes"] == std::filesystem::file_size(dir / "a.npz"));
}

TEST_CASE("convert/error/one_line_and_no_output_file") {
  const TempDir dir;
  const std::string in = golden("files/lightning.ckpt"), out = dir / "a.safetensors";
  CHECK(mentions(complaint({in, out, "--select", "nothing"}), "matches none of the 20 tensors"));
  CHECK(mentions(complaint({in, out, "--strip", "nothing"}), "--strip nothing matches no selected tensor"));
  CHECK(mentions(complaint({golden("files/tensors.pt"), out}), "ShortStorage cannot be loaded"));
  CHECK(mentions(complaint({golden("files/malicious_eval.pt"), out}), "__builtin__.eval"));
  CHECK(mentions(complaint({dir / "none", out}), "No such file"));
  CHECK(mentions(complaint({in, dir / "no/such/folder.safetensors"}), "make the folder first"));
  CHECK(mentions(complaint({in, dir / "a.npy"}), "an .npy holds one tensor, 20 are selected"));
  CHECK(mentions(complaint({in, dir / "a.npz", "--dtype", "bf16"}), "NumPy has no bf16"));
  CHECK(mentions(complaint({in, dir / "a.bin"}, 2), "expected an output that ends in"));
  CHECK(mentions(complaint({in, out, "--dtype", "f8"}, 2), "expected f64, f32, bf16 or f16"));
  CHECK(convert({in}).exit_code == 2);
  CHECK(std::filesystem::is_empty(dir.path()));
}
