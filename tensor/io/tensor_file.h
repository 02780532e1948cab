// tensor/io/tensor_file.h -- what all readers of files with named tensors have in common
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace avid {

/// Tensors with names, in an order that matters to people only.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// What a file says about one tensor. Shapes are the file's: a rank above Shape::kMaxRank is listed, never loaded.
struct TensorInfo {
  std::string name;
  std::string file_dtype;      ///< the format's own name: "F32", "<f4", "FloatStorage"
  std::optional<DType> dtype;  ///< ours; empty when we have no such type (listed, load() refuses)
  std::vector<std::int64_t> shape;

  std::uint64_t numel() const;  ///< readers have checked that this does not overflow
  std::string shape_text() const;
};

/// An open file of named tensors. Opening reads and checks everything but the values; load() reads one tensor.
/// Errors   FileError, one line with the path, for everything that can be wrong with a file.
class TensorFile {
 public:
  virtual ~TensorFile() = default;

  /// "safetensors", "torch zip", "npz", "npy"
  virtual const char* format() const = 0;
  /// Copies a tensor into our pitched layout. Throws FileError when the name is unknown or the dtype has no equivalent.
  Tensor load(const std::string& name) const;
  /// Every tensor, in file order.
  NamedTensors load_all() const;

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return index_.count(name) != 0; }
  /// Throws FileError with the nearest names when there is no such tensor.
  const TensorInfo& info(const std::string& name) const { return tensors_[index_of(name)]; }
  /// Text stored beside the tensors: safetensors metadata, the scalars of a torch checkpoint.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 protected:
  explicit TensorFile(std::filesystem::path path) : path_(std::move(path)) {}
  /// Appends to the list; throws FileError when the name is taken.
  void add(TensorInfo info);
  virtual Tensor load_at(std::size_t index) const = 0;

  std::map<std::string, std::string> metadata_;

 private:
  std::size_t index_of(const std::string& name) const;

  std::filesystem::path path_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
};

enum class FileKind { safetensors, torch_zip, torch_legacy, numpy_pickle, npz, npy, hdf5, unknown };
/// Looks at the first bytes (and into a zip's directory), never at the file's name. Throws FileError when unreadable.
FileKind detect_file_kind(const std::filesystem::path& path);

/// What to do with objects in a torch checkpoint whose class is not on the allow-list. Neither ever runs anything.
enum class UnknownObjects { refuse, skip };

/// Opens safetensors, torch zip, legacy torch, a pickle of NumPy arrays, npz or npy by content. Throws FileError when
/// it is none of them.
std::unique_ptr<TensorFile> open_tensor_file(
    const std::filesystem::path& path, UnknownObjects unknown = UnknownObjects::refuse);

/// Product of extents, or nothing when one is negative or the product passes 2^56 elements.
std::optional<std::uint64_t> checked_numel(const std::vector<std::int64_t>& shape);

/// The FileError every reader throws: "path: what | remedy".
template <class... Args>
[[noreturn]] void fail_file(const std::filesystem::path& path, fmt::format_string<Args...> format, Args&&... args) {
  throw FileError(path.string() + ": " + fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void check_file(bool condition, const std::filesystem::path& path, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    fail_file(path, format, std::forward<Args>(args)...);
}

}  // namespace avid
