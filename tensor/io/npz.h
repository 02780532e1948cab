// tensor/io/npz.h -- NumPy's array files: .npy (one array) and .npz (a zip of them)
#pragma once

#include "tensor/io/tensor_file.h"
#include "tensor/io/zip_archive.h"

namespace avid {

/// An .npz archive; a member "obs.npy" is the tensor "obs". Members that are no .npy files are ignored.
///
/// Checked when opening: the zip's directory (zip_archive.h), every array header, size = header + shape x element size.
/// load() checks the CRC-32.
/// Dtypes   |u1 <i4 <i8 <f2 <f4 <f8 load as u8 i32 i64 f16 f32 f64, |b1 as u8; all others are listed only.
/// Errors   FileError; also for fortran_order and object arrays.
class NpzFile : public TensorFile {
 public:
  explicit NpzFile(const std::filesystem::path& path);
  const char* format() const override { return "npz"; }

 private:
  Tensor load_at(std::size_t index) const override;

  ZipArchive zip_;
  std::vector<std::string> members_;       // same order as tensors()
  std::vector<std::uint64_t> data_begin_;  // header bytes of each
};

/// A single .npy file; its tensor is called "array".
class NpyFile : public TensorFile {
 public:
  explicit NpyFile(const std::filesystem::path& path);
  const char* format() const override { return "npy"; }

 private:
  Tensor load_at(std::size_t index) const override;

  MappedFile file_;
  std::uint64_t data_begin_ = 0;
};

/// Writes an .npz atomically; same input, same bytes. bf16 has no NumPy type: FileError (convert to f32 first).
/// A name may not be empty, contain a NUL, or appear twice.
void save_npz(const std::filesystem::path& path, const NamedTensors& tensors, bool compress = false);

/// Writes one .npy atomically.
void save_npy(const std::filesystem::path& path, const Tensor& tensor);

/// What the header of an .npy says.
struct NpyHeader {
  std::string descr;
  std::optional<DType> dtype;
  std::size_t item_bytes = 0;
  std::vector<std::int64_t> shape;
  std::uint64_t data_begin = 0;
};
/// Largest header we read; NumPy's own are below 200 bytes.
inline constexpr std::uint64_t kMaxNpyHeaderBytes = 1 << 16;
/// Reads the header at the start of `bytes`; the array occupies `total_bytes` in all. `what` names it in errors.
NpyHeader parse_npy_header(
    const std::filesystem::path& path, const std::string& what, std::span<const std::byte> bytes,
    std::uint64_t total_bytes);

}  // namespace avid
