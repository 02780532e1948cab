// tensor/io/numpy_pickle.h -- weights as JAX packages ship them: one pickle of nested dicts of NumPy arrays
#pragma once

#include <unordered_map>

#include "tensor/io/torch_checkpoint.h"

namespace avid {

/// What pickle.dump writes for dicts, lists and tuples of arrays, protocols 3 to 5, from NumPy before and since
/// version 2. Names, limits and listing are those of torch_checkpoint.h; nothing is ever executed. Arrays in Fortran's
/// order load like the others.
/// Dtypes   f8 f4 f2 i8 i4 u1, b1 as u8; i2, i1 and complex are listed only. All others, big-endian ones and arrays of
///          Python objects are refused.
/// Errors   FileError.
class NumpyPickleFile : public TorchCheckpoint {
 public:
  explicit NumpyPickleFile(const std::filesystem::path& path, UnknownObjects unknown = UnknownObjects::refuse);
  const char* format() const override { return "numpy pickle"; }
  /// Whether the bytes start like a bare pickle.
  static bool starts(std::span<const std::byte> bytes);

 private:
  std::optional<std::uint64_t> storage_bytes(const std::string& key) const override;
  std::vector<std::byte> read_storage(const std::string& key) const override;
  /// Turns an array, as the pickle describes it, into a tensor with a storage, as the base class knows them.
  void become_tensor(PickleValue& array);

  Pickle pickle_;  // holds the arrays' bytes
  std::unordered_map<std::string, const std::string*> storages_;
};

}  // namespace avid
