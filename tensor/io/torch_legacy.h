// tensor/io/torch_legacy.h -- PyTorch checkpoints as torch.save wrote them before version 1.6
//
// Four pickles in a row (a magic number, a version, facts about the machine, the containers), a pickled list of storage
// keys, then for each key an i64 number of elements and the raw little-endian elements.
#pragma once

#include <unordered_map>

#include "tensor/io/mapped_file.h"
#include "tensor/io/torch_checkpoint.h"

namespace avid {

/// See torch_checkpoint.h. Tensors that were on a GPU load like the others.
/// Refused, besides: another byte order, views of storages (before version 0.4), bytes behind the last storage.
class TorchLegacyFile : public TorchCheckpoint {
 public:
  explicit TorchLegacyFile(const std::filesystem::path& path, UnknownObjects unknown = UnknownObjects::refuse);
  const char* format() const override { return "torch legacy"; }
  /// Whether the bytes start like such a file.
  static bool starts(std::span<const std::byte> bytes);

 private:
  std::optional<std::uint64_t> storage_bytes(const std::string& key) const override;
  std::vector<std::byte> read_storage(const std::string& key) const override;
  /// Notes where each storage lies, `at` being the first byte behind the list of keys.
  void find_storages(const Pickle& containers, const Pickle& keys, std::size_t at);

  MappedFile file_;
  std::unordered_map<std::string, std::span<const std::byte>> storages_;
};

}  // namespace avid
