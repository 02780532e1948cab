// tensor/io/torch_zip.h -- PyTorch checkpoints (.pt, .pth, .ckpt) as torch.save has written them since version 1.6
//
// A zip with <name>/data.pkl (a pickle of nested containers that refers to storages by key) and <name>/data/<key> (raw
// little-endian bytes of each storage).
#pragma once

#include "tensor/io/torch_checkpoint.h"
#include "tensor/io/zip_archive.h"

namespace avid {

/// See torch_checkpoint.h. TorchScript archives (torch.jit.save) read as well: attributes of modules become names like
/// those of their state_dict, the program beside them is not looked at.
/// Checked when opening, besides: the zip (zip_archive.h). load() checks the CRC-32.
class TorchZipFile : public TorchCheckpoint {
 public:
  explicit TorchZipFile(const std::filesystem::path& path, UnknownObjects unknown = UnknownObjects::refuse);
  const char* format() const override { return "torch zip"; }

 private:
  std::optional<std::uint64_t> storage_bytes(const std::string& key) const override;
  std::vector<std::byte> read_storage(const std::string& key) const override;

  ZipArchive zip_;
  std::string prefix_;  // "archive/"
};

}  // namespace avid
