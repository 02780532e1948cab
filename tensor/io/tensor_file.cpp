// tensor/io/tensor_file.cpp -- the shared part of the readers, and the choice among them
#include "tensor/io/tensor_file.h"

#include <algorithm>
#include <cstring>

#include "tensor/io/atomic_file.h"
#include "tensor/io/mapped_file.h"
#include "tensor/io/npz.h"
#include "tensor/io/numpy_pickle.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/torch_legacy.h"
#include "tensor/io/torch_zip.h"
#include "tensor/io/zip_archive.h"

namespace avid {
namespace {

// Edit distance, for "did you mean" (names are short; quadratic is fine).
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::uint64_t> checked_numel(const std::vector<std::int64_t>& shape) {
  std::uint64_t total = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent > 0 && total > (std::uint64_t{1} << 56) / static_cast<std::uint64_t>(extent)) return std::nullopt;
    // An empty tensor keeps its other extents in bounds too: loops over rows must stay finite.
    total *= std::max<std::uint64_t>(static_cast<std::uint64_t>(extent), 1);
  }
  return std::find(shape.begin(), shape.end(), 0) != shape.end() ? 0 : total;
}

std::uint64_t TensorInfo::numel() const { return checked_numel(shape).value_or(0); }

std::string TensorInfo::shape_text() const { return fmt::format("[{}]", fmt::join(shape, ",")); }

void TensorFile::add(TensorInfo info) {
  check_file(
      index_.emplace(info.name, tensors_.size()).second, path_, "tensor '{}' appears twice | the file is damaged",
      printable(info.name));
  tensors_.push_back(std::move(info));
}

std::size_t TensorFile::index_of(const std::string& name) const {
  const auto found = index_.find(name);
  if (found != index_.end()) return found->second;
  std::string nearest;
  std::size_t best = name.size() / 2 + 1;
  for (const TensorInfo& info : tensors_) {
    if (info.name.size() > 200 || name.size() > 200) continue;
    const std::size_t distance = edit_distance(name, info.name);
    if (distance < best) best = distance, nearest = info.name;
  }
  fail_file(
      path_, "no tensor '{}' among {} | {}", printable(name), tensors_.size(),
      nearest.empty() ? "list them with: avid inspect" : fmt::format("did you mean '{}'?", printable(nearest)));
}

Tensor TensorFile::load(const std::string& name) const {
  const std::size_t index = index_of(name);
  const TensorInfo& info = tensors_[index];
  check_file(
      info.dtype.has_value(), path_, "tensor '{}': element type {} cannot be loaded | convert it to f32 first",
      printable(name), printable(info.file_dtype));
  check_file(
      info.shape.size() <= Shape::kMaxRank, path_, "tensor '{}': {} dimensions, at most {} can be loaded",
      printable(name), info.shape.size(), int{Shape::kMaxRank});
  return load_at(index);
}

NamedTensors TensorFile::load_all() const {
  NamedTensors all;
  all.reserve(tensors_.size());
  for (const TensorInfo& info : tensors_) all.emplace_back(info.name, load(info.name));
  return all;
}

std::vector<std::string> TensorFile::names() const {
  std::vector<std::string> names;
  for (const TensorInfo& info : tensors_) names.push_back(info.name);
  return names;
}

FileKind detect_file_kind(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  const auto starts_with = [&](std::string_view magic) {
    return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
  };
  if (starts_with("\x89HDF\r\n\x1a\n")) return FileKind::hdf5;
  if (starts_with("\x93NUMPY")) return FileKind::npy;
  // An empty zip has only its end record, whose signature is PK\5\6.
  if (starts_with(std::string_view("PK\x03\x04", 4)) || starts_with("PK\x05\x06")) {
    const ZipArchive zip(path);
    for (const ZipArchive::Member& member : zip.members())
      if (member.name == "data.pkl" || member.name.ends_with("/data.pkl")) return FileKind::torch_zip;
    return FileKind::npz;
  }
  if (TorchLegacyFile::starts(bytes)) return FileKind::torch_legacy;
  if (NumpyPickleFile::starts(bytes)) return FileKind::numpy_pickle;
  // The first byte of the JSON header is its opening brace.
  if (bytes.size() > 8 && bytes[8] == std::byte{'{'}) return FileKind::safetensors;
  return FileKind::unknown;
}

std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path, UnknownObjects unknown) {
  switch (detect_file_kind(path)) {
    case FileKind::safetensors: return std::make_unique<SafetensorsFile>(path);
    case FileKind::torch_zip: return std::make_unique<TorchZipFile>(path, unknown);
    case FileKind::torch_legacy: return std::make_unique<TorchLegacyFile>(path, unknown);
    case FileKind::numpy_pickle: return std::make_unique<NumpyPickleFile>(path, unknown);
    case FileKind::npz: return std::make_unique<NpzFile>(path);
    case FileKind::npy: return std::make_unique<NpyFile>(path);
    case FileKind::hdf5:
      fail_file(path, "expected a file of tensors, got HDF5 | give a safetensors, .pt/.ckpt or .npz file");
    case FileKind::unknown: break;
  }
  fail_file(path, "not a safetensors, torch zip (.pt/.ckpt), npz or npy file, or damaged at its start");
}

}  // namespace avid
