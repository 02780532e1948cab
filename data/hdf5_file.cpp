// data/hdf5_file.cpp -- RAII and error texts around libhdf5
#include "data/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::data {
namespace {

/// One lock for the whole library; the first holder also stops it from printing and from cleaning up at exit (after a
/// full disk the clean-up would try to write again).
std::unique_lock<std::recursive_mutex> lock_library() {
  static std::recursive_mutex mutex;
  static const bool prepared = [] {
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  (void)prepared;
  return std::unique_lock(mutex);
}

/// The innermost description on the library's error stack: the most telling one.
std::string library_reason() {
  std::string reason;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* entry, void* out) -> herr_t {
        auto& text = *static_cast<std::string*>(out);
        if (n == 0 && entry->desc != nullptr) text = entry->desc;
        return 0;
      },
      &reason);
  H5Eclear2(H5E_DEFAULT);
  return printable(reason.empty() ? "HDF5 gave no reason" : reason, 200);
}

template <class Closer>
class Handle {
 public:
  explicit Handle(hid_t id) : id_(id) {}
  ~Handle() {
    if (id_ >= 0) Closer{}(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  hid_t get() const { return id_; }
  bool ok() const { return id_ >= 0; }
  bool close() { return Closer{}(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_;
};
struct CloseDataset {
  herr_t operator()(hid_t i) const { return H5Dclose(i); }
};
struct CloseSpace {
  herr_t operator()(hid_t i) const { return H5Sclose(i); }
};
struct CloseType {
  herr_t operator()(hid_t i) const { return H5Tclose(i); }
};
struct ClosePlist {
  herr_t operator()(hid_t i) const { return H5Pclose(i); }
};
struct CloseAttribute {
  herr_t operator()(hid_t i) const { return H5Aclose(i); }
};
struct CloseGroup {
  herr_t operator()(hid_t i) const { return H5Gclose(i); }
};
using Dataset = Handle<CloseDataset>;
using Space = Handle<CloseSpace>;
using Type = Handle<CloseType>;
using Plist = Handle<ClosePlist>;
using Attribute = Handle<CloseAttribute>;
using Group = Handle<CloseGroup>;

/// Types in files are little-endian; in memory the machine's own.
hid_t file_type(H5Type type) {
  switch (type) {
    case H5Type::u8: return H5T_STD_U8LE;
    case H5Type::i32: return H5T_STD_I32LE;
    case H5Type::u32: return H5T_STD_U32LE;
    case H5Type::i64: return H5T_STD_I64LE;
    case H5Type::u64: return H5T_STD_U64LE;
    case H5Type::f32: return H5T_IEEE_F32LE;
    case H5Type::f64: return H5T_IEEE_F64LE;
    default: fail<FileError>("hdf5: type: cannot be stored");
  }
}

hid_t memory_type(H5Type type) {
  switch (type) {
    case H5Type::u8: return H5T_NATIVE_UINT8;
    case H5Type::i32: return H5T_NATIVE_INT32;
    case H5Type::u32: return H5T_NATIVE_UINT32;
    case H5Type::i64: return H5T_NATIVE_INT64;
    case H5Type::u64: return H5T_NATIVE_UINT64;
    case H5Type::f32: return H5T_NATIVE_FLOAT;
    case H5Type::f64: return H5T_NATIVE_DOUBLE;
    default: fail<FileError>("hdf5: type: cannot be read");
  }
}

H5Type kind_of(hid_t type) {
  const std::size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_INTEGER: {
      const bool has_sign = H5Tget_sign(type) == H5T_SGN_2;
      if (size == 1 && !has_sign) return H5Type::u8;
      if (size == 4) return has_sign ? H5Type::i32 : H5Type::u32;
      if (size == 8) return has_sign ? H5Type::i64 : H5Type::u64;
      return H5Type::other;
    }
    case H5T_FLOAT: return size == 4 ? H5Type::f32 : size == 8 ? H5Type::f64 : H5Type::other;
    case H5T_STRING: return H5Type::text;
    default: return H5Type::other;
  }
}

std::vector<hsize_t> to_hsize(const std::vector<std::uint64_t>& v) { return {v.begin(), v.end()}; }

Dataset open_dataset(const std::string& path, std::int64_t file, const std::string& name) {
  Dataset data(H5Dopen2(file, name.c_str(), H5P_DEFAULT));
  if (!data.ok()) {
    H5Eclear2(H5E_DEFAULT);
    fail<FileError>("{}: no dataset {} | is it an avid dataset, and complete?", path, name);
  }
  return data;
}

/// A selection of rows [begin, begin + count) in the file's space, and the matching memory space.
struct RowSelection {
  RowSelection(const std::string& path, const std::string& name, hid_t data, std::uint64_t begin, std::uint64_t count)
      : file(H5Dget_space(data)), memory(-1) {
    hsize_t dims[H5S_MAX_RANK] = {};
    const int rank = H5Sget_simple_extent_ndims(file.get());
    if (rank < 1 || H5Sget_simple_extent_dims(file.get(), dims, nullptr) < 0 || begin > dims[0] ||
        count > dims[0] - begin)
      fail<FileError>("{}: {}: expected rows {}..{} to exist", path, name, begin, begin + count);
    hsize_t start[H5S_MAX_RANK] = {};
    start[0] = begin;
    dims[0] = count;
    H5Sselect_hyperslab(file.get(), H5S_SELECT_SET, start, nullptr, dims, nullptr);
    memory = H5Screate_simple(rank, dims, nullptr);
  }
  ~RowSelection() {
    if (memory >= 0) H5Sclose(memory);
  }
  Space file;
  hid_t memory;
};

}  // namespace

std::uint64_t H5Extent::num_elements() const {
  std::uint64_t n = 1;
  for (const std::uint64_t d : dims)
    if (__builtin_mul_overflow(n, d, &n)) fail<FileError>("hdf5: extent {} is absurd", dims_text());
  return n;
}

std::string H5Extent::dims_text() const { return fmt::format("[{}]", fmt::join(dims, ",")); }

H5File::H5File(const std::filesystem::path& path, Mode mode) : path_(printable(path.string(), 400)) {
  const auto guard = lock_library();
  const Plist access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_file_locking(access.get(), false, true);  // locks fail on many network file systems, and we rename instead
  if (mode == Mode::create) {
    file_ = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get());
    if (file_ < 0) fail<FileError>("{}: cannot be made: {}", path_, library_reason());
    return;
  }
  file_ = H5Fopen(path.c_str(), mode == Mode::read ? H5F_ACC_RDONLY : H5F_ACC_RDWR, access.get());
  if (file_ < 0) fail<FileError>("{}: not a readable HDF5 file: {} | fetch or make it again", path_, library_reason());
}

H5File::~H5File() {
  if (file_ < 0) return;
  const auto guard = lock_library();
  H5Fclose(file_);
  H5Eclear2(H5E_DEFAULT);
}

H5File::H5File(H5File&& other) noexcept : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

void H5File::close() {
  const auto guard = lock_library();
  if (file_ < 0) return;
  if (H5Fflush(file_, H5F_SCOPE_LOCAL) < 0)
    fail<FileError>("{}: cannot be written: {} | disk full?", path_, library_reason());
  if (H5Fclose(std::exchange(file_, -1)) < 0)
    fail<FileError>("{}: cannot be closed: {} | disk full?", path_, library_reason());
}

bool H5File::has(const std::string& name) const {
  const auto guard = lock_library();
  // Every part of the path must exist, or the library complains.
  for (std::size_t slash = name.find('/', 1); slash != std::string::npos; slash = name.find('/', slash + 1))
    if (H5Lexists(file_, name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
  const bool found = H5Lexists(file_, name.c_str(), H5P_DEFAULT) > 0;
  H5Eclear2(H5E_DEFAULT);
  return found;
}

H5Extent H5File::extent(const std::string& name) const {
  const auto guard = lock_library();
  const Dataset data = open_dataset(path_, file_, name);
  const Space space(H5Dget_space(data.get()));
  const Type type(H5Dget_type(data.get()));
  const Plist plist(H5Dget_create_plist(data.get()));
  const int rank = space.ok() ? H5Sget_simple_extent_ndims(space.get()) : -1;
  if (rank < 0 || !type.ok() || !plist.ok()) fail<FileError>("{}: {}: {}", path_, name, library_reason());
  H5Extent out;
  hsize_t dims[H5S_MAX_RANK] = {};
  H5Sget_simple_extent_dims(space.get(), dims, nullptr);
  out.dims.assign(dims, dims + rank);
  out.type = kind_of(type.get());
  out.stored_bytes = H5Dget_storage_size(data.get());
  const H5D_layout_t layout = H5Pget_layout(plist.get());
  if (layout == H5D_CHUNKED) {
    out.chunked = true;
    if (H5Pget_chunk(plist.get(), H5S_MAX_RANK, dims) == rank) out.chunk_dims.assign(dims, dims + rank);
  } else if (layout == H5D_CONTIGUOUS && H5Pget_nfilters(plist.get()) == 0 && H5Pget_external_count(plist.get()) == 0) {
    const haddr_t offset = H5Dget_offset(data.get());
    if (offset != HADDR_UNDEF) out.offset_bytes = offset;
  }
  return out;
}

void H5File::read(const std::string& name, H5Type type, void* out, std::uint64_t expected) const {
  const auto guard = lock_library();
  const Dataset data = open_dataset(path_, file_, name);
  const Space space(H5Dget_space(data.get()));
  const hssize_t n = H5Sget_simple_extent_npoints(space.get());
  check<FileError>(
      n >= 0 && static_cast<std::uint64_t>(n) == expected, "{}: {}: expected {} elements, got {}", path_, name,
      expected, n);
  if (expected == 0) return;
  if (H5Dread(data.get(), memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0)
    fail<FileError>("{}: {}: cannot be read: {}", path_, name, library_reason());
}

void H5File::read_rows(
    const std::string& name, H5Type type, std::uint64_t begin, std::uint64_t count, void* out) const {
  const auto guard = lock_library();
  const Dataset data = open_dataset(path_, file_, name);
  const RowSelection rows(path_, name, data.get(), begin, count);
  if (H5Dread(data.get(), memory_type(type), rows.memory, rows.file.get(), H5P_DEFAULT, out) < 0)
    fail<FileError>("{}: {}: rows {}..{} cannot be read: {}", path_, name, begin, begin + count, library_reason());
}

bool H5File::has_attribute(const std::string& name) const {
  const auto guard = lock_library();
  const bool found = H5Aexists(file_, name.c_str()) > 0;
  H5Eclear2(H5E_DEFAULT);
  return found;
}

std::string H5File::text_attribute(const std::string& name) const {
  const auto guard = lock_library();
  const Attribute attribute(H5Aopen(file_, name.c_str(), H5P_DEFAULT));
  if (!attribute.ok()) {
    H5Eclear2(H5E_DEFAULT);
    fail<FileError>("{}: no attribute {} | is it an avid dataset, and complete?", path_, name);
  }
  const Type type(H5Aget_type(attribute.get()));
  const Space space(H5Aget_space(attribute.get()));
  check<FileError>(
      H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0 &&
          H5Sget_simple_extent_npoints(space.get()) == 1 && H5Tget_size(type.get()) <= (std::size_t{1} << 20),
      "{}: attribute {}: expected one fixed-length string", path_, name);
  std::string text(H5Tget_size(type.get()), '\0');
  if (H5Aread(attribute.get(), type.get(), text.data()) < 0)
    fail<FileError>("{}: attribute {}: {}", path_, name, library_reason());
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

std::uint64_t H5File::uint_attribute(const std::string& name) const {
  const auto guard = lock_library();
  const Attribute attribute(H5Aopen(file_, name.c_str(), H5P_DEFAULT));
  if (!attribute.ok()) {
    H5Eclear2(H5E_DEFAULT);
    fail<FileError>("{}: no attribute {} | is it an avid dataset, and complete?", path_, name);
  }
  const Type type(H5Aget_type(attribute.get()));
  const Space space(H5Aget_space(attribute.get()));
  check<FileError>(
      H5Tget_class(type.get()) == H5T_INTEGER && H5Sget_simple_extent_npoints(space.get()) == 1,
      "{}: attribute {}: expected one integer", path_, name);
  // A signed value is read with its bits kept: negative numbers survive the round trip through int_attribute.
  const bool has_sign = H5Tget_sign(type.get()) == H5T_SGN_2;
  std::uint64_t value = 0;
  if (H5Aread(attribute.get(), has_sign ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT64, &value) < 0)
    fail<FileError>("{}: attribute {}: {}", path_, name, library_reason());
  return value;
}

std::int64_t H5File::int_attribute(const std::string& name) const {
  return static_cast<std::int64_t>(uint_attribute(name));
}

void H5File::make_group(const std::string& name) {
  const auto guard = lock_library();
  const Group group(H5Gcreate2(file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  if (!group.ok()) fail<FileError>("{}: {}: {}", path_, name, library_reason());
}

void H5File::write(const std::string& name, H5Type type, const std::vector<std::uint64_t>& dims, const void* data) {
  const auto guard = lock_library();
  const auto extents = to_hsize(dims);
  const Space space(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr));
  Dataset set(H5Dcreate2(file_, name.c_str(), file_type(type), space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  const bool empty = H5Sget_simple_extent_npoints(space.get()) == 0;
  if (!set.ok() || (!empty && H5Dwrite(set.get(), memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) ||
      !set.close())
    fail<FileError>("{}: {}: cannot be written: {} | disk full?", path_, name, library_reason());
}

std::uint64_t H5File::reserve_contiguous(const std::string& name, H5Type type, const std::vector<std::uint64_t>& dims) {
  const auto guard = lock_library();
  const auto extents = to_hsize(dims);
  const Space space(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr));
  const Plist plist(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_layout(plist.get(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(plist.get(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist.get(), H5D_FILL_TIME_NEVER);
  const Dataset set(
      H5Dcreate2(file_, name.c_str(), file_type(type), space.get(), H5P_DEFAULT, plist.get(), H5P_DEFAULT));
  const haddr_t offset = set.ok() ? H5Dget_offset(set.get()) : HADDR_UNDEF;
  if (offset == HADDR_UNDEF) fail<FileError>("{}: {}: no space for it: {}", path_, name, library_reason());
  return offset;
}

void H5File::make_deflated(
    const std::string& name, H5Type type, const std::vector<std::uint64_t>& dims, std::uint64_t chunk_rows, int level) {
  const auto guard = lock_library();
  const auto extents = to_hsize(dims);
  auto chunk = extents;
  chunk[0] = std::min<hsize_t>(chunk_rows, extents[0]);
  const Space space(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr));
  const Plist plist(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_chunk(plist.get(), static_cast<int>(chunk.size()), chunk.data());
  H5Pset_deflate(plist.get(), static_cast<unsigned>(level));
  const Dataset set(
      H5Dcreate2(file_, name.c_str(), file_type(type), space.get(), H5P_DEFAULT, plist.get(), H5P_DEFAULT));
  if (!set.ok()) fail<FileError>("{}: {}: {}", path_, name, library_reason());
}

void H5File::write_rows(
    const std::string& name, H5Type type, std::uint64_t begin, std::uint64_t count, const void* data) {
  const auto guard = lock_library();
  Dataset set = open_dataset(path_, file_, name);
  const RowSelection rows(path_, name, set.get(), begin, count);
  if (H5Dwrite(set.get(), memory_type(type), rows.memory, rows.file.get(), H5P_DEFAULT, data) < 0 || !set.close())
    fail<FileError>("{}: {}: cannot be written: {} | disk full?", path_, name, library_reason());
}

void H5File::set_attribute(const std::string& name, const std::string& text) {
  const auto guard = lock_library();
  const Type type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), std::max<std::size_t>(1, text.size()));
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  const Space space(H5Screate(H5S_SCALAR));
  const Attribute attribute(H5Acreate2(file_, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.ok() || H5Awrite(attribute.get(), type.get(), text.empty() ? "" : text.data()) < 0)
    fail<FileError>("{}: attribute {}: {}", path_, name, library_reason());
}

void H5File::set_attribute(const std::string& name, std::int64_t value) {
  const auto guard = lock_library();
  const Space space(H5Screate(H5S_SCALAR));
  const Attribute attribute(H5Acreate2(file_, name.c_str(), H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.ok() || H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value) < 0)
    fail<FileError>("{}: attribute {}: {}", path_, name, library_reason());
}

void H5File::set_attribute_u64(const std::string& name, std::uint64_t value) {
  const auto guard = lock_library();
  const Space space(H5Screate(H5S_SCALAR));
  const Attribute attribute(H5Acreate2(file_, name.c_str(), H5T_STD_U64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.ok() || H5Awrite(attribute.get(), H5T_NATIVE_UINT64, &value) < 0)
    fail<FileError>("{}: attribute {}: {}", path_, name, library_reason());
}

}  // namespace avid::data
