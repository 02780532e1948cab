// tensor/io/safetensors.h -- the format of our weights: a JSON header, then the bare bytes of each tensor
//
// File: 8 bytes little-endian header length N; N bytes JSON {"name": {"dtype", "shape", "data_offsets": [begin, end)},
// ..., "__metadata__": {text: text}}, padded with spaces; then the data, offsets counted from there, without holes.
#pragma once

#include "tensor/io/mapped_file.h"
#include "tensor/io/tensor_file.h"

namespace avid {

/// A memory-mapped safetensors file. Tensors are listed in the order of their data.
///
/// Checked when opening: header length against the file and against 100 MB, JSON without duplicate keys, known fields
/// only, shape products without overflow, every offset inside the file, no overlap, no hole, sizes that fit.
/// Dtypes   F64 F32 BF16 F16 I64 I32 U8 load, BOOL as u8; all others are listed only.
class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const char* format() const override { return "safetensors"; }

 private:
  Tensor load_at(std::size_t index) const override;
  void read_header(std::string_view header, std::uint64_t data_bytes);

  MappedFile file_;
  std::span<const std::byte> data_;
  std::vector<std::uint64_t> begins_;  // offset of each tensor in data_, same order as tensors()
};

/// Writes tensors (dense on disk) atomically. Wider element types come first (else in the given order), so that every
/// tensor starts at a multiple of its element size; same input, same bytes.
/// Errors   FileError: a name twice or "__metadata__", text that is not UTF-8, or anything AtomicFile reports.
void save_safetensors(
    const std::filesystem::path& path, const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata = {});

}  // namespace avid
