// train/cli/cmd_convert.cpp -- `avid convert`: tensors from one file format to another, by name
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tensor/io/atomic_file.h"
#include "tensor/io/npz.h"
#include "tensor/io/safetensors.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

struct Settings {
  std::filesystem::path in, out;
  std::vector<std::string> select, metadata;
  std::string strip, dtype;
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
  const std::optional<DType> dtype = s.dtype.empty() ? std::nullopt : std::optional(parse_float_type(s.dtype));
  NamedTensors tensors;
  bool any_stripped = false;
  for (const TensorInfo& info : file.tensors()) {
    if (!selected(s, info.name)) continue;
    const bool strip = !s.strip.empty() && info.name.starts_with(s.strip) && info.name.size() > s.strip.size();
    any_stripped = any_stripped || strip;
    Tensor t = file.load(info.name);
    if (dtype && is_float(t.dtype()) && t.dtype() != *dtype) t = t.to(*dtype);
    tensors.emplace_back(strip ? info.name.substr(s.strip.size()) : info.name, std::move(t));
  }
  const auto count = file.tensors().size();
  if (!s.select.empty())
    check_file(
        !tensors.empty(), s.in, "--select {} matches none of the {} tensors | list them with: avid inspect {}",
        fmt::join(s.select, " "), count, s.in.string());
  if (!s.strip.empty())
    check_file(
        any_stripped, s.in, "--strip {} matches no selected tensor | list them with: avid inspect {}", s.strip,
        s.in.string());
  return tensors;
}

void run_convert(const Settings& s) {
  const std::string extension = s.out.extension().string();
  check<UsageError>(
      extension == ".safetensors" || extension == ".npz" || extension == ".npy",
      "convert: {}: expected an output that ends in .safetensors, .npz or .npy", s.out.string());
  const auto file = open_tensor_file(s.in, s.skip_unknown ? UnknownObjects::skip : UnknownObjects::refuse);
  const NamedTensors tensors = read_tensors(s, *file);
  if (extension == ".npz") {
    save_npz(s.out, tensors, s.compress);
  } else if (extension == ".npy") {
    check_file(
        tensors.size() == 1, s.out, "an .npy holds one tensor, {} are selected | use .npz, or --select one",
        tensors.size());
    save_npy(s.out, tensors[0].second);
  } else {
    // A checkpoint's scalars (epochs, learning rates) say nothing about bare weights; only real metadata go along.
    auto metadata =
        std::string_view(file->format()) == "safetensors" ? file->metadata() : std::map<std::string, std::string>{};
    if (metadata.empty()) metadata["converted_from"] = s.in.filename().string();
    for (const std::string& entry : s.metadata) {
      const std::size_t equals = entry.find('=');
      check<UsageError>(
          equals != std::string::npos && equals > 0, "convert: --metadata: expected key=value, got '{}'", entry);
      metadata[entry.substr(0, equals)] = entry.substr(equals + 1);
    }
    save_safetensors(s.out, tensors, metadata);
  }
  std::uint64_t numel = 0;
  for (const auto& [name, tensor] : tensors) numel += static_cast<std::uint64_t>(tensor.numel());
  if (s.json) {
    const nlohmann::ordered_json json{
        {"out", s.out.string()},
        {"num_tensors", tensors.size()},
        {"num_elements", numel},
        {"bytes", std::filesystem::file_size(s.out)}};
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    std::printf(
        "%s: %zu tensors, %llu elements, %llu bytes\n", s.out.c_str(), tensors.size(),
        static_cast<unsigned long long>(numel), static_cast<unsigned long long>(std::filesystem::file_size(s.out)));
  }
}

const CommandRegistrar convert_command(
    "convert", "torch zip, npz or safetensors -> safetensors or npz", [](CLI::App* app) {
      auto s = std::make_shared<Settings>();
      app->add_option("in", s->in, "a .safetensors, .pt, .ckpt, .npz or .npy file")->required();
      app->add_option("out", s->out, "a file that ends in .safetensors, .npz or .npy")->required();
      app->add_option("--select", s->select, "only tensors whose names start with this (may be given several times)");
      app->add_option("--strip", s->strip, "remove this from the front of the names");
      app->add_option("--metadata", s->metadata, "key=value to store beside the tensors, in safetensors (repeatable)");
      app->add_option("--dtype", s->dtype, "f64, f32, bf16 or f16: convert all float tensors; others stay");
      app->add_flag("--compress", s->compress, "npz: deflate the members");
      app->add_flag(
          "--skip-unknown", s->skip_unknown,
          "torch checkpoints: leave out objects of unknown classes (nothing is ever run)");
      app->add_flag("--json", s->json, "print one JSON value");
      set_example(
          app, "avid convert last.ckpt base.safetensors --select ema.ema_model.model. --strip ema.ema_model.model.");
      app->callback([s] { run_convert(*s); });
    });

}  // namespace
}  // namespace avid::cli
