// data/hdf5_file.h -- the part of HDF5 that the episode store needs, with FileErrors instead of return codes
//
// The HDF5 library of a distribution is usually not thread-safe: every function here takes one process-wide lock.
// Frame data therefore never pass through it when a file is read (see episode_store.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace avid::data {

/// What kind of numbers a dataset or attribute holds, as far as we use them.
enum class H5Type { u8, i32, u32, i64, u64, f32, f64, text, other };

struct H5Extent {
  H5Type type = H5Type::other;
  std::vector<std::uint64_t> dims;
  bool chunked = false;
  std::vector<std::uint64_t> chunk_dims;
  /// Where the data lie in the file; only for contiguous, unfiltered data.
  std::optional<std::uint64_t> offset_bytes;
  std::uint64_t stored_bytes = 0;

  std::uint64_t num_elements() const;
  std::string dims_text() const;
};

/// An open file. Errors are FileErrors that begin with "<path>: ".
class H5File {
 public:
  enum class Mode { create, read, extend };
  /// Metadata of created files carry checksums (file format of HDF5 1.10), so damage is seen before it is parsed.
  H5File(const std::filesystem::path& path, Mode mode);
  ~H5File();
  H5File(H5File&& other) noexcept;
  H5File& operator=(H5File&&) = delete;

  // ---- reading ----
  bool has(const std::string& name) const;
  H5Extent extent(const std::string& name) const;
  /// Whole dataset; the element type must have the stored size and kind. `expected` elements are read.
  void read(const std::string& name, H5Type type, void* out, std::uint64_t expected) const;
  /// `count` items of the first dimension from `begin` on.
  void read_rows(const std::string& name, H5Type type, std::uint64_t begin, std::uint64_t count, void* out) const;
  bool has_attribute(const std::string& name) const;
  std::string text_attribute(const std::string& name) const;
  std::int64_t int_attribute(const std::string& name) const;
  std::uint64_t uint_attribute(const std::string& name) const;

  // ---- writing ----
  void make_group(const std::string& name);
  void write(const std::string& name, H5Type type, const std::vector<std::uint64_t>& dims, const void* data);
  /// Space for a dataset without writing it; returns where its data go in the file.
  std::uint64_t reserve_contiguous(const std::string& name, H5Type type, const std::vector<std::uint64_t>& dims);
  void make_deflated(
      const std::string& name, H5Type type, const std::vector<std::uint64_t>& dims, std::uint64_t chunk_rows,
      int level);
  void write_rows(const std::string& name, H5Type type, std::uint64_t begin, std::uint64_t count, const void* data);
  void set_attribute(const std::string& name, const std::string& text);
  void set_attribute(const std::string& name, std::int64_t value);
  void set_attribute_u64(const std::string& name, std::uint64_t value);
  /// Flushes and closes, and says so if that fails (the destructor cannot).
  void close();

 private:
  std::string path_;
  std::int64_t file_ = -1;  // hid_t
};

}  // namespace avid::data
