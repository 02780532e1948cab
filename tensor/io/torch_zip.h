// tensor/io/torch_zip.h -- PyTorch checkpoints (.pt, .pth, .ckpt) as torch.save has written them since version 1.6
//
// A zip with <name>/data.pkl (a pickle of nested containers that refers to storages by key) and <name>/data/<key> (raw
// little-endian bytes of each storage).
#pragma once

#include "tensor/io/pickle.h"
#include "tensor/io/tensor_file.h"
#include "tensor/io/zip_archive.h"

namespace avid {

/// A torch checkpoint. Nested dicts and lists become names joined with '.' ("state_dict.model.init_conv.weight",
/// "optimizer_states.0.state.0.exp_avg"); a bare tensor is called "tensor". Numbers and text among them: metadata().
///
/// Views, transposed and otherwise strided tensors and shared storages load as plain copies.
/// Checked when opening: the zip (zip_archive.h), the pickle's names against an allow-list (pickle.h; nothing is ever
/// executed), every storage's size, every tensor's bounds inside its storage. load() checks the CRC-32.
/// Dtypes   Double Float Half BFloat16 Long Int Byte, Bool as u8; Short, Char and complex are listed only.
/// Errors   FileError.
class TorchZipFile : public TensorFile {
 public:
  explicit TorchZipFile(const std::filesystem::path& path, UnknownObjects unknown = UnknownObjects::refuse);
  const char* format() const override { return "torch zip"; }
  /// Classes met and left out under UnknownObjects::skip, each once, sorted.
  const std::vector<std::string>& skipped() const { return skipped_; }

 private:
  struct View {
    std::size_t member;  // index into zip_.members()
    std::int64_t offset;
    std::vector<std::int64_t> stride;
  };

  Tensor load_at(std::size_t index) const override;
  void flatten(const PickleValue& value, const std::string& name, int depth);
  void add_tensor(const PickleValue& tensor, const std::string& name);

  ZipArchive zip_;
  std::string prefix_;  // "archive/"
  std::vector<View> views_;
  std::vector<std::string> skipped_;
  std::uint64_t visits_left_ = 0, name_bytes_left_ = 0;  // bounds on the work that a small file may ask for
};

}  // namespace avid
