// tensor/io/numpy_pickle.cpp -- from the calls in a pickle to arrays
//
// Source: numpy.ndarray.__reduce__ and __reduce_ex__: _reconstruct(ndarray, (0,), b'b') with the state (1, shape,
// dtype, is_fortran, bytes), or in protocol 5 _frombuffer(bytes, dtype, shape, order); dtype('f4', ..) with the state
// (3, '<', ..). Deviations: read only, no subclasses, no structured types.
#include "tensor/io/numpy_pickle.h"

#include <algorithm>
#include <cstring>

#include "tensor/io/atomic_file.h"
#include "tensor/io/mapped_file.h"
#include "tensor/io/torch_legacy.h"

namespace avid {
namespace {

using Kind = PickleValue::Kind;

// NumPy's element types, and the names that the base class has for them.
constexpr std::pair<std::string_view, const char*> kStorageOf[] = {
    {"<f8", "torch.DoubleStorage"},       {"<f4", "torch.FloatStorage"},         {"<f2", "torch.HalfStorage"},
    {"<i8", "torch.LongStorage"},         {"<i4", "torch.IntStorage"},           {"<i2", "torch.ShortStorage"},
    {"|i1", "torch.CharStorage"},         {"|u1", "torch.ByteStorage"},          {"|b1", "torch.BoolStorage"},
    {"<c8", "torch.ComplexFloatStorage"}, {"<c16", "torch.ComplexDoubleStorage"}};

// Parts of an array, wherever the pickle has them.
struct ArrayParts {
  const PickleValue* shape = nullptr;
  const PickleValue* dtype = nullptr;
  const PickleValue* bytes = nullptr;
  bool fortran = false;
};

std::optional<ArrayParts> parts_of(const PickleValue& array) {
  const auto& items = array.items;
  if (array.text.ends_with("._frombuffer")) {
    if (items.size() != 4 || items[3]->kind != Kind::text) return std::nullopt;
    return ArrayParts{items[2], items[1], items[0], items[3]->text == "F"};
  }
  if (items.size() != 4 || items[3]->kind != Kind::tuple || items[3]->items.size() != 5) return std::nullopt;
  const auto& state = items[3]->items;
  if (state[3]->kind != Kind::boolean) return std::nullopt;
  return ArrayParts{state[1], state[2], state[4], state[3]->boolean};
}

// "<f4", or nothing when this is no dtype.
std::optional<std::string> descr_of(const PickleValue& dtype) {
  if (dtype.kind != Kind::object || dtype.text != "numpy.dtype" || dtype.items.size() != 4) return std::nullopt;
  const PickleValue &code = *dtype.items[0], &state = *dtype.items[3];
  if (code.kind != Kind::text || state.kind != Kind::tuple || state.items.size() < 2) return std::nullopt;
  if (state.items[1]->kind != Kind::text) return std::nullopt;
  return state.items[1]->text + code.text;
}

}  // namespace

bool NumpyPickleFile::starts(std::span<const std::byte> bytes) {
  return bytes.size() >= 2 && bytes[0] == std::byte{0x80} && bytes[1] >= std::byte{2} && bytes[1] <= std::byte{5} &&
         !TorchLegacyFile::starts(bytes);
}

NumpyPickleFile::NumpyPickleFile(const std::filesystem::path& path, UnknownObjects unknown) : TorchCheckpoint(path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  check_file(starts(bytes), path, "numpy pickle: another start than that of protocols 2 to 5");
  pickle_ = read_pickle(path, bytes, unknown, max_values(bytes.size()), PickleDialect::numpy);
  check_file(
      pickle_.num_bytes == bytes.size(), path, "numpy pickle: {} bytes behind its end | the file is damaged",
      bytes.size() - pickle_.num_bytes);
  const std::size_t num_values = pickle_.values.size();
  for (std::size_t i = 0; i < num_values; ++i) {
    PickleValue& value = *pickle_.values[i];
    if (value.kind == Kind::object && value.text != "numpy.dtype") become_tensor(value);
  }
  list(pickle_, bytes.size());
}

void NumpyPickleFile::become_tensor(PickleValue& array) {
  constexpr std::size_t kMaxRank = 64;  // NumPy's
  const auto parts = parts_of(array);
  const bool whole = parts && parts->shape->kind == Kind::tuple && parts->shape->items.size() <= kMaxRank;
  check_file(whole, path(), "numpy pickle: an array without shape, element type and values | the file is damaged");
  const auto descr = descr_of(*parts->dtype);
  check_file(descr.has_value(), path(), "numpy pickle: an array without element type | the file is damaged");
  const auto* type =
      std::find_if(std::begin(kStorageOf), std::end(kStorageOf), [&](const auto& t) { return t.first == *descr; });
  check_file(
      type != std::end(kStorageOf), path(), "numpy pickle: arrays of {} cannot be read | save them as float32",
      printable(*descr));
  check_file(
      parts->bytes->kind == Kind::bytes, path(),
      "numpy pickle: an array of {} whose values are no bytes | pickle it with protocol 3, 4 or 5", *descr);

  std::vector<std::int64_t> shape;
  for (const PickleValue* extent : parts->shape->items)
    shape.push_back(extent->kind == Kind::integer ? extent->integer : -1);
  const auto numel = checked_numel(shape);
  check_file(numel.has_value(), path(), "numpy pickle: an array of shape [{}]", fmt::join(shape, ","));
  const std::size_t item = *element_bytes(type->second);
  const std::string& bytes = parts->bytes->text;
  check_file(
      bytes.size() == *numel * item, path(),
      "numpy pickle: {} [{}] needs {} bytes, {} are there | the file is damaged, or of protocol 2: use 3, 4 or 5",
      *descr, fmt::join(shape, ","), *numel * item, bytes.size());

  std::vector<std::int64_t> stride(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::size_t d = parts->fortran ? i : shape.size() - 1 - i;
    stride[d] = step;
    step *= std::max<std::int64_t>(shape[d], 1);
  }

  pickle_.values.push_back(std::make_unique<PickleValue>());
  PickleValue& storage = *pickle_.values.back();
  storage.kind = Kind::storage;
  storage.text = type->second;
  storage.key = std::to_string(storages_.size());
  storage.integer = static_cast<std::int64_t>(*numel);
  storages_.emplace(storage.key, &bytes);
  array.kind = Kind::tensor;
  array.items = {&storage};
  array.integer = 0;
  array.size = std::move(shape);
  array.stride = std::move(stride);
}

std::optional<std::uint64_t> NumpyPickleFile::storage_bytes(const std::string& key) const {
  const auto found = storages_.find(key);
  return found == storages_.end() ? std::nullopt : std::optional<std::uint64_t>(found->second->size());
}

std::vector<std::byte> NumpyPickleFile::read_storage(const std::string& key) const {
  const auto bytes = std::as_bytes(std::span(*storages_.at(key)));
  return {bytes.begin(), bytes.end()};
}

}  // namespace avid
