// tensor/io/torch_writer.cpp -- a pickle of protocol 2, and one zip member per storage
#include "tensor/io/torch_writer.h"

#include <span>
#include <tuple>
#include <utility>

#include "tensor/io/atomic_file.h"
#include "tensor/io/zip_archive.h"

namespace avid {
namespace {

/// Writes the few opcodes that a checkpoint needs; nothing is memoised.
class PickleWriter {
 public:
  PickleWriter() { code("\x80\x02"); }  // PROTO 2
  void code(std::string_view opcodes) { bytes_ += opcodes; }
  void global(std::string_view module, std::string_view name) {
    bytes_ += 'c';
    bytes_.append(module).append("\n").append(name).append("\n");
  }
  void text(std::string_view value) {  // BINUNICODE
    bytes_ += 'X';
    little_endian(value.size(), 4);
    bytes_ += value;
  }
  void integer(std::int64_t value) {
    if (value >= INT32_MIN && value <= INT32_MAX) {
      bytes_ += 'J';  // BININT
      little_endian(static_cast<std::uint64_t>(value), 4);
    } else {
      bytes_ += "\x8a\x08";  // LONG1 of 8 bytes
      little_endian(static_cast<std::uint64_t>(value), 8);
    }
  }
  void extents(const std::vector<std::int64_t>& values) {
    bytes_ += '(';
    for (const std::int64_t v : values) integer(v);
    bytes_ += 't';
  }
  std::vector<std::byte> finish() {
    bytes_ += '.';
    const auto all = std::as_bytes(std::span(bytes_));
    return {all.begin(), all.end()};
  }

 private:
  void little_endian(std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 255);
  }
  std::string bytes_;
};

const char* storage_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return "DoubleStorage";
    case DType::f32: return "FloatStorage";
    case DType::f16: return "HalfStorage";
    case DType::bf16: return "BFloat16Storage";
    case DType::i64: return "LongStorage";
    case DType::i32: return "IntStorage";
    case DType::u8: return "ByteStorage";
  }
  return "";
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto all = std::as_bytes(std::span(text.data(), text.size()));
  return {all.begin(), all.end()};
}

/// torch._utils._rebuild_tensor_v2(storage, 0, shape, strides of dense rows, False, OrderedDict())
void put_tensor(PickleWriter& pickle, const Tensor& tensor, const char* storage, const std::string& key) {
  std::vector<std::int64_t> shape, strides(static_cast<std::size_t>(tensor.rank()), 1);
  for (int i = 0; i < tensor.rank(); ++i) shape.push_back(tensor.dim(i));
  for (std::size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.code("((");
  pickle.text("storage");
  pickle.global("torch", storage);
  pickle.text(key);
  pickle.text("cpu");
  pickle.integer(tensor.numel());
  pickle.code("tQ");  // the tuple is a persistent id: the reader looks the storage up
  pickle.integer(0);
  pickle.extents(shape);
  pickle.extents(strides);
  pickle.code("\x89");  // requires_grad = False
  pickle.global("collections", "OrderedDict");
  pickle.code(")RtR");
}

}  // namespace

void save_torch_state_dict(
    const std::filesystem::path& path, const NamedTensors& tensors, const TorchExtras& extras,
    const std::set<std::string>& as_bool) {
  // PyTorch wants all members in one folder; its name means nothing.
  std::vector<ZipMember> members{{"archive/data.pkl", {}}, {"archive/byteorder", bytes_of("little")}};
  PickleWriter pickle;
  pickle.code("}(");
  for (const auto& [name, value] : extras) {
    pickle.text(name);
    if (const auto* number = std::get_if<std::int64_t>(&value))
      pickle.integer(*number);
    else
      pickle.text(std::get<std::string>(value));
  }
  pickle.text("state_dict");
  pickle.global("collections", "OrderedDict");
  pickle.code(")R(");
  std::set<std::string_view> names;
  std::map<std::tuple<const void*, std::int64_t, const char*>, std::string> storages;  // by memory: its key
  for (const auto& [name, tensor] : tensors) {
    check_file(names.insert(name).second, path, "cannot write tensor '{}': the name is taken", printable(name));
    const char* storage = as_bool.contains(name) ? "BoolStorage" : storage_of(tensor.dtype());
    const auto [place, is_new] =
        storages.try_emplace({tensor.raw_data(), tensor.numel(), storage}, std::to_string(storages.size()));
    if (is_new) members.push_back({"archive/data/" + place->second, tensor.to_dense_bytes()});
    pickle.text(name);
    put_tensor(pickle, tensor, storage, place->second);
  }
  pickle.code("uu");
  members[0].bytes = pickle.finish();
  members.push_back({"archive/version", bytes_of("3\n")});
  write_zip(path, members, false);
}

}  // namespace avid
