// tensor/io/torch_checkpoint.h -- what PyTorch's two containers have in common: a pickle that refers to storages by key
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tensor/io/pickle.h"
#include "tensor/io/tensor_file.h"

namespace avid {

/// A torch checkpoint. Nested dicts and lists become names joined with '.' ("state_dict.model.init_conv.weight",
/// "optimizer_states.0.state.0.exp_avg"); a bare tensor is called "tensor". Numbers and text among them: metadata().
///
/// Views, transposed and otherwise strided tensors and shared storages load as plain copies.
/// Checked when opening: the pickle's names against an allow-list (pickle.h; nothing is ever executed), every storage's
/// size, every tensor's bounds inside its storage.
/// Dtypes   Double Float Half BFloat16 Long Int Byte, Bool as u8; Short, Char and complex are listed only.
/// Errors   FileError.
class TorchCheckpoint : public TensorFile {
 public:
  /// Classes met and left out under UnknownObjects::skip, each once, sorted.
  const std::vector<std::string>& skipped() const { return skipped_; }

 protected:
  explicit TorchCheckpoint(const std::filesystem::path& path) : TensorFile(path) {}
  /// Lists the tensors of the main pickle. `file_bytes` bounds the work that a small file may ask for.
  void list(const Pickle& pickle, std::uint64_t file_bytes);

  /// Bytes of a storage; nothing when there is none of this key.
  virtual std::optional<std::uint64_t> storage_bytes(const std::string& key) const = 0;
  virtual std::vector<std::byte> read_storage(const std::string& key) const = 0;

  /// Bytes per element of a storage class, nothing for other names.
  static std::optional<std::size_t> element_bytes(std::string_view storage_class);
  /// Every value costs at least one byte of an unpacked pickle.
  static std::uint64_t max_values(std::uint64_t file_bytes) { return 100'000 + file_bytes; }
  /// Pickles up to this size are read whatever the size of the file.
  static constexpr std::uint64_t kAlwaysAllowed = std::uint64_t{16} << 20;

 private:
  struct View {
    std::string storage;
    std::int64_t offset;
    std::vector<std::int64_t> stride;
  };

  Tensor load_at(std::size_t index) const override;
  void flatten(const PickleValue& value, const std::string& name, int depth);
  void add_tensor(const PickleValue& tensor, const std::string& name);

  std::vector<View> views_;
  std::vector<std::string> skipped_;
  std::uint64_t visits_left_ = 0, name_bytes_left_ = 0;
};

}  // namespace avid
