// tests/cli/convert_test.cpp -- `avid convert` between formats, by name and type, and what it refuses
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <set>

#include "diffusion/schedule.h"
#include "models/checkpoint.h"
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

/// Names of the sections of the research code's own list whose headings contain all of these words.
std::set<std::string> original_names(const std::vector<std::string>& words) {
  std::ifstream list(golden("pixel/tensors.tsv"));
  std::set<std::string> names;
  bool inside = false;
  for (std::string line; std::getline(list, line);) {
    if (line.starts_with("# section")) {
      inside = std::all_of(words.begin(), words.end(), [&](const std::string& w) { return mentions(line, w); });
    } else if (inside && !line.empty()) {
      names.insert(line.substr(0, line.find('\t')));
    }
  }
  return names;
}

/// Four levels as in the paper's networks, so that the names are the paper's, and as narrow as it goes.
const Unet3dConfig kNarrow{.dim = 4, .dim_mults = {1, 2, 4, 8}, .heads = 1, .head_dim = 8};

struct Pair {
  std::unique_ptr<Unet3d> base = std::make_unique<Unet3d>(kNarrow);
  std::unique_ptr<Avid> avid = std::make_unique<Avid>(make_avid_config(AvidVariant::mask, kNarrow));
  explicit Pair(const TempDir& dir) {
    base->initialize(1);
    avid->initialize(2);
    save_safetensors(dir / "base.safetensors", base->export_tensors(), {{"avid.kind", "base"}});
    save_safetensors(dir / "avid.safetensors", avid->export_tensors(), {{"avid.kind", "avid"}, {"avid.update", "123"}});
  }
};

bool same_tensors(const NamedTensors& a, const TensorFile& b) {
  if (a.size() != b.tensors().size()) return false;
  return std::all_of(a.begin(), a.end(), [&](const auto& entry) {
    return b.contains(entry.first) && test::same_bits(entry.second, b.load(entry.first));
  });
}

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

TEST_CASE("convert/to_original/names_of_the_research_code_four_times") {
  const TempDir dir;
  const Pair pair(dir);
  for (const char* out : {"o.safetensors", "o.ckpt"}) {
    CAPTURE(out);
    const ProgramResult result =
        convert({dir / "avid.safetensors", dir / out, "--to", "original", "--base", dir / "base.safetensors"});
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    const auto file = open_tensor_file(dir / out);
    const std::string wrapper = std::string(out) == "o.ckpt" ? "state_dict." : "";
    std::set<std::string> expected;
    for (const char* copy : {"diffusion_model.", "ema.online_model.", "ema.ema_model.", "eval_model."}) {
      for (const std::string& name : original_names({"base model"})) expected.insert(wrapper + copy + "model." + name);
      for (const std::string& name : original_names({"22M AVID adapter"}))
        expected.insert(wrapper + copy + "adapter." + name);
      for (const std::string& name : original_names({"mixing layer", "learnt mask"}))
        expected.insert(wrapper + copy + name);
      for (const std::string& name : original_names({"diffusion buffers"})) expected.insert(wrapper + copy + name);
    }
    for (const std::string& name : original_names({"EMA bookkeeping"})) expected.insert(wrapper + "ema." + name);
    const auto names = file->names();
    CHECK(std::set<std::string>(names.begin(), names.end()) == expected);
    CHECK(names.size() == expected.size());
    CHECK(file->load(wrapper + "ema.initted").to_doubles() == std::vector<double>{1});
    // The tables are those of the original's own files.
    const auto tables = open_tensor_file(golden("pixel/schedules/expected.safetensors"));
    for (const std::string table : {"betas", "alphas_cumprod", "posterior_mean_coef2", "sqrt_recipm1_alphas_cumprod"}) {
      CAPTURE(table);
      REQUIRE(tables->contains("sigmoid.200." + table));
      CHECK(test::same_bits(file->load(wrapper + "eval_model." + table), tables->load("sigmoid.200." + table)));
    }
    if (wrapper.empty()) continue;
    CHECK(file->metadata().at("global_step") == "123");
    CHECK(file->metadata().at("pytorch-lightning_version") == "2.3.3");
  }
}

TEST_CASE("convert/to_original/there_and_back_keeps_every_bit") {
  const TempDir dir;
  const Pair pair(dir);
  REQUIRE(
      convert({dir / "avid.safetensors", dir / "o.ckpt", "--to", "original", "--base", dir / "base.safetensors"})
          .exit_code == 0);
  for (const char* weights : {"averaged", "online"}) {
    REQUIRE(
        convert({dir / "o.ckpt", dir / "adapter.safetensors", "--to", "avid", "--weights", weights}).exit_code == 0);
    CHECK(same_tensors(pair.avid->export_tensors(), SafetensorsFile(dir / "adapter.safetensors")));
  }
  REQUIRE(convert({dir / "o.ckpt", dir / "b.safetensors", "--to", "avid", "--network", "base"}).exit_code == 0);
  CHECK(same_tensors(pair.base->export_tensors(), SafetensorsFile(dir / "b.safetensors")));
  // From the checkpoint itself, as every other command reads it, and once more through the original's layout.
  CHECK(same_tensors(load_avid(dir / "o.ckpt")->export_tensors(), SafetensorsFile(dir / "adapter.safetensors")));
  REQUIRE(convert({dir / "o.ckpt", dir / "again.ckpt", "--to", "original"}).exit_code == 0);
  CHECK(same_tensors(open_tensor_file(dir / "o.ckpt")->load_all(), *open_tensor_file(dir / "again.ckpt")));
}

TEST_CASE("convert/to_original/controlnet_and_classifier") {
  const TempDir dir;
  const Pair pair(dir);
  ControlNet control({.dim = 4, .dim_mults = {1, 2, 4, 8}, .heads = 1, .head_dim = 8});
  control.initialize(3);
  save_safetensors(dir / "control.safetensors", control.export_tensors());
  const ProgramResult bare = convert({dir / "control.safetensors", dir / "c.safetensors", "--to", "original"});
  REQUIRE(bare.exit_code == 0);
  CHECK(mentions(bare.out, "without its base: give --base"));
  const SafetensorsFile file(dir / "c.safetensors");
  for (const std::string& name : original_names({"full ControlNet"}))
    CHECK(file.contains("diffusion_model.control_net." + name));
  CHECK_FALSE(file.contains("diffusion_model.model.init_conv.weight"));
  CHECK(same_tensors(
      load_controlnet(dir / "c.safetensors")->export_tensors(), SafetensorsFile(dir / "control.safetensors")));

  ActionClassifier classifier(
      {.dim = 4,
       .dim_mults = {1, 2, 4, 8},
       .heads = 1,
       .head_dim = 8,
       .num_actions = 15,
       .mlp_dim = 6,
       .image_size = 16});
  classifier.initialize(4);
  for (const char* kind : {"classifier", "noisy_classifier"}) {
    save_safetensors(dir / "k.safetensors", classifier.export_tensors(), {{"avid.kind", kind}});
    REQUIRE(convert({dir / "k.safetensors", dir / "ko.safetensors", "--to", "original"}).exit_code == 0);
    const SafetensorsFile out(dir / "ko.safetensors");
    std::set<std::string> expected;
    for (const std::string& name : original_names({"evaluation action classifier"}))
      expected.insert("classifier.model." + name);
    if (std::string(kind) == "noisy_classifier")
      for (const std::string& name : original_names({"classifier noise buffers"}))
        expected.insert("classifier." + name);
    const auto names = out.names();
    CHECK(std::set<std::string>(names.begin(), names.end()) == expected);
    CHECK(same_tensors(
        load_action_classifier(dir / "ko.safetensors")->export_tensors(), SafetensorsFile(dir / "k.safetensors")));
    // Through a checkpoint that has no metadata of ours, and back: what it was trained for is not forgotten.
    REQUIRE(convert({dir / "k.safetensors", dir / "k.ckpt", "--to", "original"}).exit_code == 0);
    REQUIRE(convert({dir / "k.ckpt", dir / "again.ckpt", "--to", "original"}).exit_code == 0);
    CHECK(same_tensors(open_tensor_file(dir / "k.ckpt")->load_all(), *open_tensor_file(dir / "again.ckpt")));
    REQUIRE(convert({dir / "again.ckpt", dir / "back.safetensors", "--to", "avid"}).exit_code == 0);
    CHECK(SafetensorsFile(dir / "back.safetensors").metadata().at("avid.kind") == kind);
  }
}

TEST_CASE("convert/original/a_lightning_checkpoint_with_the_model_four_times") {
  // Written by PyTorch (tests/golden/files/make.py); its networks are those of golden/pixel/ddpm.
  const TempDir dir;
  const std::string checkpoint = golden("files/model_four_times.ckpt");
  const auto expect = [&](const char* weights, const char* network, const char* source, const char* moved) {
    CAPTURE(weights);
    CAPTURE(network);
    const auto out = dir / "out.safetensors";
    REQUIRE(convert({checkpoint, out, "--to", "avid", "--weights", weights, "--network", network}).exit_code == 0);
    const SafetensorsFile file(out), original(golden(source));
    CHECK(file.names().size() == original.names().size());
    for (const std::string& name : original.names()) {
      REQUIRE(file.contains(name));
      const bool same = test::same_bits(file.load(name), original.load(name));
      CHECK(same == (std::string(weights) == "online" || name != moved));
    }
  };
  for (const char* weights : {"averaged", "online"}) {
    expect(weights, "avid", "pixel/ddpm/adapter.safetensors", "mixture_conv.bias");
    expect(weights, "base", "pixel/ddpm/base.safetensors", "init_conv.bias");
  }
  // Into the original's layout once more: nothing but the schedule's tables changes.
  REQUIRE(convert({checkpoint, dir / "again.ckpt", "--to", "original"}).exit_code == 0);
  const auto before = open_tensor_file(checkpoint), after = open_tensor_file(dir / "again.ckpt");
  for (const std::string& name : before->names()) {
    CAPTURE(name);
    REQUIRE(after->contains(name));
    const bool table = name.ends_with("betas") || name.ends_with("alphas_cumprod") || name.ends_with("loss_weight");
    if (!table) CHECK(test::same_bits(before->load(name), after->load(name)));
  }
  CHECK(after->info("state_dict.ema.ema_model.betas").shape == before->info("state_dict.ema.ema_model.betas").shape);
  CHECK(after->metadata().at("global_step") == "40000");
  // Every command reads it as it is.
  const ProgramResult sampled = test::run_program(
      {AVID_PROGRAM, "evaluate", "--base", checkpoint, "--adapter", checkpoint, "--timesteps", "8", "--steps", "2",
       "--frames", "2", "--size", "16", "--clips", "1", "--data",
       std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5"});
  CAPTURE(sampled.err);
  CHECK(sampled.exit_code == 0);
}

TEST_CASE("convert/to/one_line_for_what_cannot_be") {
  const TempDir dir;
  const Pair pair(dir);
  const std::string avid = dir / "avid.safetensors", out = dir / "o.safetensors";
  CHECK(mentions(complaint({golden("files/lightning.ckpt"), out, "--to", "original"}), "expected a U-Net"));
  CHECK(mentions(complaint({avid, out, "--to", "avid", "--network", "controlnet"}), "expected a ControlNet"));
  CHECK(mentions(complaint({avid, out, "--to", "avid", "--network", "lstm"}, 2), "expected base, avid, controlnet"));
  CHECK(mentions(complaint({avid, out, "--to", "avid", "--weights", "best"}, 2), "expected averaged or online"));
  CHECK(mentions(
      complaint({dir / "base.safetensors", out, "--to", "original", "--base", dir / "base.safetensors"}, 2),
      "stands on no base"));
  CHECK(mentions(complaint({avid, dir / "o.ckpt"}, 2), "--to original only"));
  // What would change nothing is not taken.
  CHECK(mentions(complaint({avid, out, "--to", "avid", "--base", avid}, 2), "--base: it goes with --to original"));
  CHECK(mentions(complaint({avid, out, "--to", "original", "--network", "base"}, 2), "goes with --to avid"));
  CHECK(mentions(complaint({avid, out, "--to", "original", "--weights", "online"}, 2), "goes with --to avid"));
  CHECK(mentions(complaint({avid, out, "--compress"}, 2), "only .npz is deflated"));
  CHECK(mentions(complaint({avid, dir / "o.npz", "--metadata", "a=b"}, 2), "only .safetensors has it"));
  CHECK(mentions(
      complaint({avid, out, "--to", "original", "--base", "http://127.0.0.1:9"}, 2), "which shows no weights"));
  CHECK(mentions(complaint({dir.path(), out, "--to", "avid"}), "not one made by avid train"));
  CHECK(convert({avid, out, "--to", "elsewhere"}).exit_code == 2);
  CHECK(convert({avid, out, "--to", "avid", "--strip", "adapter."}).exit_code == 2);
  CHECK_FALSE(std::filesystem::exists(out));
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
