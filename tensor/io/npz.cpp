// tensor/io/npz.cpp -- npy headers (a Python dict literal), zip members, writing
#include "tensor/io/npz.h"

#include <charconv>
#include <cstring>
#include <set>

#include "tensor/io/atomic_file.h"

namespace avid {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kAlignment = 64;  // NumPy starts the data at a multiple of this

struct FileType {
  const char* name;
  std::optional<DType> dtype;
};
constexpr FileType kFileTypes[] = {{"|u1", DType::u8},  {"<i8", DType::i64}, {"<i4", DType::i32}, {"<f4", DType::f32},
                                   {"<f8", DType::f64}, {"<f2", DType::f16}, {"|b1", DType::u8},  {"<u1", DType::u8}};

const char* file_name_of(DType dtype) {
  for (const FileType& type : kFileTypes)
    if (type.dtype == dtype) return type.name;
  return nullptr;
}

// The literal in a header, e.g. {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }. Keys in any order, either
// quote, blanks anywhere, a trailing comma, 3L from Python 2.
class HeaderParser {
 public:
  HeaderParser(const std::filesystem::path& path, const std::string& what, std::string_view text)
      : path_(path), what_(what), rest_(text) {}

  NpyHeader parse() {
    NpyHeader header;
    std::set<std::string> seen;
    expect('{');
    while (!accept('}')) {
      const std::string key = text();
      check_file(seen.insert(key).second, path_, "{}: header: '{}' appears twice", what_, printable(key));
      expect(':');
      if (key == "descr") {
        check_file(
            peek() == '\'' || peek() == '"', path_, "{}: structured arrays are not supported | save plain arrays",
            what_);
        header.descr = text();
      } else if (key == "fortran_order") {
        const bool fortran = truth();
        check_file(!fortran, path_, "{}: column-major (fortran_order) | save np.ascontiguousarray(x)", what_);
      } else if (key == "shape") {
        header.shape = extents();
      } else {
        fail_file(path_, "{}: header: unknown key '{}'", what_, printable(key));
      }
      if (!accept(',') && peek() != '}') damaged();
    }
    check_file(seen.size() == 3, path_, "{}: header: expected descr, fortran_order and shape", what_);
    if (peek() != '\0' || !rest_.empty()) damaged();
    return header;
  }

 private:
  [[noreturn]] void damaged() const {
    fail_file(path_, "{}: header is damaged near '{}'", what_, printable(rest_, 20));
  }

  char peek() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\n' || rest_[0] == '\t' || rest_[0] == '\r'))
      rest_.remove_prefix(1);
    return rest_.empty() ? '\0' : rest_[0];
  }
  bool accept(char c) {
    if (peek() != c || rest_.empty()) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c)) damaged();
  }
  std::string text() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') damaged();
    const std::size_t end = rest_.find(quote, 1);
    if (end == std::string_view::npos || rest_.substr(0, end).find('\\') != std::string_view::npos) damaged();
    std::string value(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return value;
  }
  bool truth() {
    peek();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (!rest_.starts_with(word)) continue;
      rest_.remove_prefix(word.size());
      return value;
    }
    damaged();
  }
  std::vector<std::int64_t> extents() {
    std::vector<std::int64_t> shape;
    bool comma = true;
    expect('(');
    while (!accept(')')) {
      if (!comma) damaged();
      peek();
      std::int64_t value = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
      if (error != std::errc{} || value < 0) damaged();
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      if (rest_.starts_with('L')) rest_.remove_prefix(1);
      shape.push_back(value);
      comma = accept(',');
    }
    if (shape.size() == 1 && !comma) damaged();  // (3) is a number, not a tuple
    return shape;
  }

  const std::filesystem::path& path_;
  const std::string& what_;
  std::string_view rest_;
};

// "|u1" -> 1; what a listed-only array takes on disk, 0 if unknown.
std::size_t item_bytes_of(std::string_view descr) {
  std::size_t bytes = 0;
  if (descr.size() < 3 || std::string_view("<>|=").find(descr[0]) == std::string_view::npos) return 0;
  if (std::string_view("biufc").find(descr[1]) == std::string_view::npos) return 0;
  const auto [end, error] = std::from_chars(descr.data() + 2, descr.data() + descr.size(), bytes);
  return error == std::errc{} && end == descr.data() + descr.size() && bytes <= 64 ? bytes : 0;
}

std::vector<std::byte> npy_bytes(const std::filesystem::path& path, const std::string& name, const Tensor& tensor) {
  check_file(tensor.defined(), path, "cannot write tensor '{}': it is undefined", printable(name));
  const char* descr = file_name_of(tensor.dtype());
  check_file(
      descr != nullptr, path, "cannot write tensor '{}': NumPy has no {} | convert it to f32 first (--dtype f32)",
      printable(name), name_of(tensor.dtype()));
  const Shape& shape = tensor.shape();
  std::string text = fmt::format(
      "{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr,
      fmt::join(shape.begin(), shape.end(), ", "), shape.rank() == 1 ? "," : "");
  const std::size_t begin = (kMagic.size() + 4 + text.size() + 1 + kAlignment - 1) / kAlignment * kAlignment;
  text.append(begin - kMagic.size() - 4 - text.size() - 1, ' ');
  text += '\n';
  std::string head(kMagic);
  head += {'\1', '\0', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
  head += text;
  const auto data = tensor.to_dense_bytes();
  std::vector<std::byte> bytes(head.size() + data.size());
  std::memcpy(bytes.data(), head.data(), head.size());
  if (!data.empty()) std::memcpy(bytes.data() + head.size(), data.data(), data.size());
  return bytes;
}

TensorInfo info_from(const std::string& name, const NpyHeader& header) {
  return {name, header.descr, header.dtype, header.shape};
}

}  // namespace

NpyHeader parse_npy_header(
    const std::filesystem::path& path, const std::string& what, std::span<const std::byte> bytes,
    std::uint64_t total_bytes) {
  check_file(
      bytes.size() >= 12 && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0, path,
      "{}: not an npy array, or truncated", what);
  const auto major = std::to_integer<unsigned>(bytes[6]);
  check_file(major >= 1 && major <= 3, path, "{}: npy version {} is unknown (1 to 3 can be read)", what, major);
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data() + 8, length_bytes);
  const std::uint64_t begin = 8 + length_bytes + length;
  check_file(
      length <= kMaxNpyHeaderBytes && begin <= bytes.size(), path,
      "{}: header of {} bytes | the array is truncated or damaged", what, length);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8 + length_bytes, length);

  NpyHeader header = HeaderParser(path, what, text).parse();
  header.data_begin = begin;
  check_file(
      header.descr.find('O') == std::string::npos, path,
      "{}: object arrays hold Python code and are refused | save plain numbers", what);
  for (const FileType& type : kFileTypes)
    if (header.descr == type.name) header.dtype = type.dtype;
  header.item_bytes = item_bytes_of(header.descr);
  const auto numel = checked_numel(header.shape);
  check_file(numel.has_value(), path, "{}: shape ({}) has more than 2^56 elements", what, fmt::join(header.shape, ","));
  if (header.item_bytes != 0)
    check_file(
        total_bytes - begin == *numel * header.item_bytes, path,
        "{}: {} ({}) needs {} bytes, {} are there | truncated or damaged", what, printable(header.descr),
        fmt::join(header.shape, ","), *numel * header.item_bytes, total_bytes - begin);
  return header;
}

NpzFile::NpzFile(const std::filesystem::path& path) : TensorFile(path), zip_(path) {
  for (const ZipArchive::Member& member : zip_.members()) {
    if (!member.name.ends_with(".npy")) continue;
    const std::string what = fmt::format("array '{}'", printable(member.name));
    const NpyHeader header =
        parse_npy_header(path, what, zip_.read_start(member, kMaxNpyHeaderBytes + 12), member.num_bytes);
    add(info_from(member.name.substr(0, member.name.size() - 4), header));
    members_.push_back(member.name);
    data_begin_.push_back(header.data_begin);
  }
}

Tensor NpzFile::load_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  const auto bytes = zip_.read(*zip_.find(members_[index]));
  return Tensor::from_dense_bytes(std::span(bytes).subspan(data_begin_[index]), Shape(info.shape), *info.dtype);
}

NpyFile::NpyFile(const std::filesystem::path& path) : TensorFile(path), file_(path) {
  const NpyHeader header = parse_npy_header(path, "npy", file_.bytes(), file_.bytes().size());
  data_begin_ = header.data_begin;
  add(info_from("array", header));
}

Tensor NpyFile::load_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  return Tensor::from_dense_bytes(file_.bytes().subspan(data_begin_), Shape(info.shape), *info.dtype);
}

void save_npy(const std::filesystem::path& path, const Tensor& tensor) {
  const auto bytes = npy_bytes(path, "array", tensor);
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void save_npz(const std::filesystem::path& path, const NamedTensors& tensors, bool compress) {
  std::vector<ZipMember> members;
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    check_file(
        !name.empty() && name.size() < 60000 && name.find('\0') == std::string::npos, path,
        "cannot write tensor '{}': not a usable name", printable(name));
    check_file(names.insert(name).second, path, "cannot write tensor '{}': the name is taken", printable(name));
    members.push_back({name + ".npy", npy_bytes(path, name, tensor)});
  }
  write_zip(path, members, compress);
}

}  // namespace avid
