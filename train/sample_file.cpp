// train/sample_file.cpp -- reading it, and what its pictures show
#include "train/sample_file.h"

#include "data/games.h"
#include "tensor/error.h"
#include "tensor/io/booleans.h"

namespace avid::train {

std::vector<std::string> SampleFile::captions(std::int64_t clip) const {
  std::vector<std::string> out;
  if (!actions.defined() || actions.dtype() != DType::i64) return out;
  for (const double action : actions.select(clip).to_doubles())
    out.push_back(eval::action_caption(std::string(data::action_name(static_cast<int>(action)))));
  return out;
}

std::vector<eval::ClipRow> SampleFile::rows(std::int64_t clip, const std::string& label) const {
  std::vector<eval::ClipRow> out;
  if (real.defined()) out.push_back({"real", cond.select(clip), real.select(clip)});
  if (base.defined()) out.push_back({"base", cond.select(clip), base.select(clip)});
  out.push_back({label, cond.select(clip), generated.select(clip)});
  if (mask.defined()) out.push_back({"mask", {}, mask.select(clip)});
  return out;
}

std::filesystem::path find_sample_file(const std::filesystem::path& place) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_directory(place, ignored)) {
    const fs::path inside = place / "samples.safetensors";
    return fs::exists(inside, ignored) ? inside : fs::path();
  }
  if (!fs::is_regular_file(place, ignored)) return {};
  const FileKind kind = detect_file_kind(place);
  if (kind != FileKind::safetensors && kind != FileKind::npz) return {};
  return open_tensor_file(place)->contains("generated") ? place : fs::path();
}

SampleFile read_sample_file(const std::filesystem::path& file) {
  SampleFile samples;
  const auto opened = open_tensor_file(file);
  for (const char* name : {"cond", "real", "generated", "base", "mask", "actions"})
    if (opened->contains(name)) check_no_booleans(*opened, name);
  samples.tensors = opened->load_all();
  for (const auto& [name, tensor] : samples.tensors) {
    if (name == "cond") samples.cond = tensor;
    if (name == "real") samples.real = tensor;
    if (name == "generated") samples.generated = tensor;
    if (name == "base") samples.base = tensor;
    if (name == "mask") samples.mask = tensor;
    if (name == "actions") samples.actions = tensor;
  }
  const std::string where = file.string();
  check<FileError>(
      samples.generated.defined() && samples.cond.defined(),
      "{}: expected tensors 'generated' and 'cond' | give what avid sample wrote", where);
  const Tensor& made = samples.generated;
  const auto check_part = [&](const Tensor& part, const char* name, std::int64_t frames, std::int64_t channels) {
    if (!part.defined()) return;
    check<ShapeError>(
        part.dtype() == DType::u8 && made.rank() == 5 &&
            part.shape() == Shape({made.dim(0), frames, made.dim(2), made.dim(3), channels}),
        "{}: {}: expected u8 frames that go with generated {}, got {} {}", where, name, made.shape(),
        name_of(part.dtype()), part.shape());
  };
  const std::int64_t frames = made.rank() == 5 ? made.dim(1) : 0;
  check_part(made, "generated", frames, 3);
  check_part(samples.cond, "cond", samples.cond.rank() == 5 ? samples.cond.dim(1) : 0, 3);
  check_part(samples.real, "real", frames, 3);
  check_part(samples.base, "base", frames, 3);
  check_part(samples.mask, "mask", frames, 1);
  check<ShapeError>(
      !samples.actions.defined() || samples.actions.shape() == Shape({made.dim(0), frames}) ||
          samples.actions.dtype() != DType::i64,
      "{}: actions: expected [{},{}], got {}", where, made.dim(0), frames, samples.actions.shape());
  return samples;
}

}  // namespace avid::train
