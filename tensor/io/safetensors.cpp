// tensor/io/safetensors.cpp -- header checks, loading, writing
#include "tensor/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/io/atomic_file.h"

namespace avid {
namespace {

using nlohmann::json;

static_assert(
    std::endian::native == std::endian::little, "file formats here are little-endian and are copied as they are");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library

struct FileType {
  const char* name;
  std::size_t num_bytes;
  std::optional<DType> dtype;
};
constexpr FileType kFileTypes[] = {
    {"F64", 8, DType::f64},   {"F32", 4, DType::f32},       {"BF16", 2, DType::bf16},    {"F16", 2, DType::f16},
    {"I64", 8, DType::i64},   {"I32", 4, DType::i32},       {"U8", 1, DType::u8},        {"BOOL", 1, DType::u8},
    {"I8", 1, std::nullopt},  {"I16", 2, std::nullopt},     {"U16", 2, std::nullopt},    {"U32", 4, std::nullopt},
    {"U64", 8, std::nullopt}, {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt}};

const FileType* find_type(std::string_view name) {
  for (const FileType& type : kFileTypes)
    if (name == type.name) return &type;
  return nullptr;
}

const char* file_name_of(DType dtype) {
  for (const FileType& type : kFileTypes)
    if (type.dtype == dtype) return type.name;
  return "?";
}

// nlohmann keeps the last of two equal keys; here the second one is an error. Depth is bounded: "[[[[..." stays cheap.
json parse_header(const std::filesystem::path& path, std::string_view text) {
  constexpr int kMaxDepth = 4;
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    using Event = json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start)
      check_file(
          depth < kMaxDepth, path, "header: nested deeper than {} levels | not a safetensors file, or damaged",
          kMaxDepth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      auto name = value.get<std::string>();
      check_file(
          keys.back().insert(name).second, path, "header: key '{}' appears twice | the file is damaged",
          printable(name));
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    fail_file(path, "header: not valid JSON ({}) | not a safetensors file, or damaged", printable(error.what()));
  }
}

std::uint64_t as_offset(
    const std::filesystem::path& path, const std::string& name, const json& value, const char* what) {
  check_file(
      value.is_number_integer() && (value.is_number_unsigned() || value.get<std::int64_t>() >= 0), path,
      "tensor '{}': {}: expected integers >= 0, got {}", printable(name), what,
      printable(value.dump(-1, ' ', true, json::error_handler_t::replace)));
  return value.get<std::uint64_t>();
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : TensorFile(path), file_(path) {
  const auto bytes = file_.bytes();
  check_file(
      bytes.size() >= 8, path, "expected at least 8 bytes of header length, got {} | the file is truncated",
      bytes.size());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  check_file(
      header_bytes <= kMaxHeaderBytes, path,
      "header: {} bytes, at most {} are allowed | not a safetensors file, or damaged", header_bytes, kMaxHeaderBytes);
  check_file(
      header_bytes <= bytes.size() - 8, path,
      "header: {} bytes announced, the file has {} more | the file is truncated", header_bytes, bytes.size() - 8);
  data_ = bytes.subspan(8 + header_bytes);
  read_header({reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes}, data_.size());
}

void SafetensorsFile::read_header(std::string_view text, std::uint64_t data_bytes) {
  check_file(text.starts_with('{'), path(), "header: expected '{{' first | not a safetensors file, or damaged");
  const json header = parse_header(path(), text);

  struct Entry {
    TensorInfo info;
    std::uint64_t begin, end;
  };
  std::vector<Entry> entries;
  for (const auto& [name, fields] : header.items()) {
    check_file(fields.is_object(), path(), "header: '{}': expected an object", printable(name));
    if (name == "__metadata__") {
      for (const auto& [key, value] : fields.items()) {
        check_file(value.is_string(), path(), "metadata '{}': expected text", printable(key));
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    check_file(
        fields.size() == 3 && fields.contains("dtype") && fields.contains("shape") && fields.contains("data_offsets"),
        path(), "tensor '{}': expected exactly dtype, shape and data_offsets", printable(name));
    const json &dtype = fields["dtype"], &shape = fields["shape"], &offsets = fields["data_offsets"];
    check_file(dtype.is_string(), path(), "tensor '{}': dtype: expected text", printable(name));
    check_file(shape.is_array(), path(), "tensor '{}': shape: expected a list", printable(name));
    check_file(
        offsets.is_array() && offsets.size() == 2, path(), "tensor '{}': data_offsets: expected [begin,end]",
        printable(name));

    Entry entry{{name, dtype.get<std::string>(), std::nullopt, {}}, 0, 0};
    for (const json& extent : shape) {
      const std::uint64_t value = as_offset(path(), name, extent, "shape");
      check_file(
          value <= std::uint64_t{1} << 56, path(), "tensor '{}': shape: extent {} is absurd", printable(name), value);
      entry.info.shape.push_back(static_cast<std::int64_t>(value));
    }
    entry.begin = as_offset(path(), name, offsets[0], "data_offsets");
    entry.end = as_offset(path(), name, offsets[1], "data_offsets");
    check_file(
        entry.begin <= entry.end && entry.end <= data_bytes, path(),
        "tensor '{}': data_offsets [{},{}] outside the {} bytes of data | the file is truncated or damaged",
        printable(name), entry.begin, entry.end, data_bytes);
    const auto numel = checked_numel(entry.info.shape);
    check_file(
        numel.has_value(), path(), "tensor '{}': shape {} has more than 2^56 elements", printable(name),
        entry.info.shape_text());
    if (const FileType* type = find_type(entry.info.file_dtype)) {
      entry.info.dtype = type->dtype;
      check_file(
          entry.end - entry.begin == *numel * type->num_bytes, path(),
          "tensor '{}': {} {} needs {} bytes, data_offsets give {}", printable(name), type->name,
          entry.info.shape_text(), *numel * type->num_bytes, entry.end - entry.begin);
    }
    entries.push_back(std::move(entry));
  }

  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.info.name) < std::tie(b.begin, b.end, b.info.name);
  });
  std::uint64_t expected = 0;
  for (Entry& entry : entries) {
    check_file(
        entry.begin == expected, path(),
        "tensor '{}': data begin at {}, expected {} | tensors overlap or leave a hole: damaged",
        printable(entry.info.name), entry.begin, expected);
    expected = entry.end;
    begins_.push_back(entry.begin);
    add(std::move(entry.info));
  }
  check_file(
      expected == data_bytes, path(), "{} bytes of data announced, the file has {} | the file is truncated or damaged",
      expected, data_bytes);
}

Tensor SafetensorsFile::load_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  return Tensor::from_dense_bytes(
      data_.subspan(begins_[index], info.numel() * size_of(*info.dtype)), Shape(info.shape), *info.dtype);
}

void save_safetensors(
    const std::filesystem::path& path, const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<const std::pair<std::string, Tensor>*> order;
  std::set<std::string_view> names{"__metadata__"};
  for (const auto& entry : tensors) {
    check_file(
        names.insert(entry.first).second, path, "cannot write tensor '{}': the name is taken", printable(entry.first));
    check_file(entry.second.defined(), path, "cannot write tensor '{}': it is undefined", printable(entry.first));
    order.push_back(&entry);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_of(a->second.dtype()) > size_of(b->second.dtype());
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const auto* entry : order) {
    const Tensor& t = entry->second;
    const std::uint64_t end = offset + static_cast<std::uint64_t>(t.numel()) * size_of(t.dtype());
    header[entry->first] = {
        {"dtype", file_name_of(t.dtype())}, {"shape", t.shape().to_vector()}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& error) {
    fail_file(path, "cannot write: a tensor name or metadata text is not UTF-8 ({})", printable(error.what()));
  }
  text.append((8 - text.size() % 8) % 8, ' ');  // data start 8-byte aligned

  AtomicFile file(path);
  const std::uint64_t header_bytes = text.size();
  file.write(std::as_bytes(std::span(&header_bytes, 1)));
  file.write(text);
  for (const auto* entry : order) {
    const Tensor& t = entry->second;
    if (t.numel() == 0) continue;
    const std::size_t item = size_of(t.dtype()), row_bytes = static_cast<std::size_t>(t.cols()) * item;
    const std::size_t pitch_bytes = static_cast<std::size_t>(t.pitch()) * item;
    const auto* row = static_cast<const std::byte*>(t.raw_data());
    if (t.is_dense()) {
      file.write({row, row_bytes * static_cast<std::size_t>(t.rows())});
    } else {
      for (std::int64_t r = 0; r < t.rows(); ++r, row += pitch_bytes) file.write({row, row_bytes});
    }
  }
  file.commit();
}

}  // namespace avid
