// train/cli/cmd_convert.cpp -- `avid convert`: tensors from one file format or layout of names to another
#include <cstdio>

#include "diffusion/served/client.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/npz.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/torch_writer.h"
#include "train/cli/command.h"
#include "train/cli/convert_layout.h"

namespace avid::cli {
namespace {

struct Settings {
  std::filesystem::path out;
  LayoutRequest layout;
  std::vector<std::string> select, metadata;
  std::string to, strip, dtype;
  bool skip_unknown = false, compress = false, json = false;
};

DType parse_float_type(const std::string& text) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
    if (text == name_of(dtype)) return dtype;
  fail<UsageError>("convert: --dtype: expected f64, f32, bf16 or f16, got '{}'", text);
}

bool selected(const Settings& s, const std::string& name) {
  if (s.select.empty()) return true;
  for (const std::string& prefix : s.select)
    if (name.starts_with(prefix)) return true;
  return false;
}

NamedTensors read_tensors(const Settings& s, const TensorFile& file) {
  const bool converts = !s.dtype.empty();
  const DType dtype = converts ? parse_float_type(s.dtype) : DType::f32;
  NamedTensors tensors;
  bool any_stripped = false;
  for (const TensorInfo& info : file.tensors()) {
    if (!selected(s, info.name)) continue;
    const bool strip = !s.strip.empty() && info.name.starts_with(s.strip) && info.name.size() > s.strip.size();
    any_stripped = any_stripped || strip;
    Tensor t = file.load(info.name);
    if (converts && is_float(t.dtype()) && t.dtype() != dtype) t = t.to(dtype);
    tensors.emplace_back(strip ? info.name.substr(s.strip.size()) : info.name, std::move(t));
  }
  const auto count = file.tensors().size();
  if (!s.select.empty())
    check_file(
        !tensors.empty(), s.layout.in, "--select {} matches none of the {} tensors | list them with: avid inspect {}",
        fmt::join(s.select, " "), count, s.layout.in.string());
  if (!s.strip.empty())
    check_file(
        any_stripped, s.layout.in, "--strip {} matches no selected tensor | list them with: avid inspect {}", s.strip,
        s.layout.in.string());
  return tensors;
}

/// Metadata of the file, or where it came from, and what the command line adds.
std::map<std::string, std::string> metadata_of(const Settings& s, std::map<std::string, std::string> metadata) {
  if (metadata.empty()) metadata["converted_from"] = s.layout.in.filename().string();
  for (const std::string& entry : s.metadata) {
    const std::size_t equals = entry.find('=');
    check<UsageError>(
        equals != std::string::npos && equals > 0, "convert: --metadata: expected key=value, got '{}'", entry);
    metadata[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  return metadata;
}

ConvertedLayout read_plain(const Settings& s) {
  const auto file = open_tensor_file(s.layout.in, s.skip_unknown ? UnknownObjects::skip : UnknownObjects::refuse);
  ConvertedLayout out{.tensors = read_tensors(s, *file), .metadata = {}, .said = {}};
  // A checkpoint's scalars (epochs, learning rates) say nothing about bare weights; only real metadata go along.
  if (std::string_view(file->format()) == "safetensors") out.metadata = file->metadata();
  return out;
}

void write_tensors(const Settings& s, const ConvertedLayout& what) {
  const std::string extension = s.out.extension().string();
  if (extension == ".npz") {
    save_npz(s.out, what.tensors, s.compress);
  } else if (extension == ".npy") {
    check_file(
        what.tensors.size() == 1, s.out, "an .npy holds one tensor, {} are selected | use .npz, or --select one",
        what.tensors.size());
    save_npy(s.out, what.tensors[0].second);
  } else if (extension == ".safetensors") {
    save_safetensors(s.out, what.tensors, metadata_of(s, what.metadata));
  } else {
    save_torch_state_dict(
        s.out, what.tensors,
        {{"epoch", 0}, {"global_step", what.global_step}, {"pytorch-lightning_version", std::string("2.3.3")}},
        {"ema.initted"});
  }
}

void run_convert(const Settings& s) {
  const std::string extension = s.out.extension().string();
  const bool torch = extension == ".ckpt" || extension == ".pt";
  check<UsageError>(
      torch || extension == ".safetensors" || extension == ".npz" || extension == ".npy",
      "convert: {}: expected an output that ends in .safetensors, .npz, .npy, .ckpt or .pt", s.out.string());
  check<UsageError>(
      !torch || s.to == "original", "convert: {}: .ckpt and .pt are written by --to original only", s.out.string());
  const std::pair<const char*, bool> idle[] = {
      {"--base: it goes with --to original", !s.layout.base.empty() && s.to != "original"},
      {"--network: it goes with --to avid", !s.layout.network.empty() && s.to != "avid"},
      {"--weights: it goes with --to avid", s.layout.weights != LayoutRequest{}.weights && s.to != "avid"},
      {"--compress: only .npz is deflated", s.compress && extension != ".npz"},
      {"--metadata: only .safetensors has it", !s.metadata.empty() && extension != ".safetensors"}};
  for (const auto& [why, given] : idle) check<UsageError>(!given, "convert: {} | leave it out", why);
  check<UsageError>(
      !diffusion::is_served(s.layout.base),
      "convert: --base: {} is a server, which shows no weights | give a file or run", s.layout.base);
  const ConvertedLayout what = s.to == "original" ? to_original(s.layout)
                               : s.to == "avid"   ? to_avid(s.layout)
                                                  : read_plain(s);
  write_tensors(s, what);
  std::uint64_t numel = 0;
  for (const auto& [name, tensor] : what.tensors) numel += static_cast<std::uint64_t>(tensor.numel());
  const auto bytes = std::filesystem::file_size(s.out);
  if (s.json) {
    Json json{{"out", s.out.string()}, {"num_tensors", what.tensors.size()}, {"num_elements", numel}, {"bytes", bytes}};
    if (!what.said.empty()) json["layout"] = what.said;
    print_json(json, 2);
  } else {
    std::printf(
        "%s: %zu tensors, %llu elements, %llu bytes%s%s\n", s.out.c_str(), what.tensors.size(),
        static_cast<unsigned long long>(numel), static_cast<unsigned long long>(bytes), what.said.empty() ? "" : ": ",
        what.said.c_str());
  }
}

const CommandRegistrar convert_command(
    "convert", "tensors between file formats, and networks to and from the research code's names", [](Command* app) {
      auto s = std::make_shared<Settings>();
      app->add_option("in", s->layout.in, "a .safetensors, .pt, .ckpt, .npz or .npy file; with --to also a run")
          ->required();
      app->add_option("out", s->out, "ends in .safetensors, .npz or .npy; --to original: .ckpt and .pt as well")
          ->required();
      Option* to =
          app->add_option(
                 "--to", s->to,
                 "original: a checkpoint of the research code (the model four times, schedule, averaging state); avid: "
                 "one network under its own names")
              ->one_of({"original", "avid"});
      app->add_option("--base", s->layout.base, "--to original: put this frozen base in (default: the run's own)")
          ->type_name("F")
          ->needs(to);
      app->add_option(
             "--network", s->layout.network,
             "--to avid: base, avid, controlnet or classifier (default: what was trained)")
          ->needs(to);
      app->add_option("--weights", s->layout.weights, "--to avid: averaged or online")
          ->capture_default_str()
          ->needs(to);
      app->add_option("--select", s->select, "only tensors whose names start with this (may be given several times)")
          ->excludes(to);
      app->add_option("--strip", s->strip, "remove this from the front of the names")->excludes(to);
      app->add_option("--metadata", s->metadata, "key=value to store beside the tensors, in safetensors (repeatable)");
      app->add_option("--dtype", s->dtype, "f64, f32, bf16 or f16: convert all float tensors; others stay")
          ->excludes(to);
      app->add_flag("--compress", s->compress, "npz: deflate the members");
      app->add_flag(
             "--skip-unknown", s->skip_unknown,
             "torch checkpoints: leave out objects of unknown classes (nothing is ever run)")
          ->excludes(to);
      app->add_flag("--json", s->json, "print one JSON value");
      set_example(
          app,
          "avid convert last.ckpt base.safetensors --to avid --network base\n  avid convert runs/demo demo.ckpt --to "
          "original");
      app->callback([s] { run_convert(*s); });
    });

}  // namespace
}  // namespace avid::cli
