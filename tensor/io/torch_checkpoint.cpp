// tensor/io/torch_checkpoint.cpp -- from a pickle's values to named tensors
#include "tensor/io/torch_checkpoint.h"

#include <algorithm>
#include <cstring>

#include "tensor/io/atomic_file.h"

namespace avid {
namespace {

using Kind = PickleValue::Kind;

struct StorageType {
  const char* name;
  std::size_t num_bytes;
  std::optional<DType> dtype;
};
constexpr StorageType kStorageTypes[] = {
    {"torch.DoubleStorage", 8, DType::f64},
    {"torch.FloatStorage", 4, DType::f32},
    {"torch.HalfStorage", 2, DType::f16},
    {"torch.BFloat16Storage", 2, DType::bf16},
    {"torch.LongStorage", 8, DType::i64},
    {"torch.IntStorage", 4, DType::i32},
    {"torch.ByteStorage", 1, DType::u8},
    {"torch.BoolStorage", 1, DType::u8},
    {"torch.ShortStorage", 2, std::nullopt},
    {"torch.CharStorage", 1, std::nullopt},
    {"torch.ComplexFloatStorage", 8, std::nullopt},
    {"torch.ComplexDoubleStorage", 16, std::nullopt}};

const StorageType* find_type(std::string_view name) {
  for (const StorageType& type : kStorageTypes)
    if (name == type.name) return &type;
  return nullptr;
}

std::string key_text(const PickleValue& key) {
  switch (key.kind) {
    case Kind::text: return key.text;
    case Kind::integer: return std::to_string(key.integer);
    case Kind::boolean: return key.boolean ? "True" : "False";
    case Kind::none: return "None";
    case Kind::real: return fmt::format("{}", key.real);
    default: return "?";
  }
}

}  // namespace

std::optional<std::size_t> TorchCheckpoint::element_bytes(std::string_view storage_class) {
  const StorageType* type = find_type(storage_class);
  return type == nullptr ? std::nullopt : std::optional(type->num_bytes);
}

void TorchCheckpoint::list(const Pickle& pickle, std::uint64_t file_bytes) {
  for (const auto& value : pickle.values)
    if (value->kind == Kind::opaque) skipped_.push_back(value->text);
  std::sort(skipped_.begin(), skipped_.end());
  skipped_.erase(std::unique(skipped_.begin(), skipped_.end()), skipped_.end());
  // Values may be shared; nested sharing could multiply without end.
  visits_left_ = 4 * pickle.values.size() + 1000;
  name_bytes_left_ = kAlwaysAllowed + 16 * file_bytes;
  flatten(*pickle.root, "", 0);
}

void TorchCheckpoint::flatten(const PickleValue& value, const std::string& name, int depth) {
  constexpr int kMaxDepth = 100;
  constexpr std::size_t kMaxNameBytes = 4096;
  check_file(
      depth < kMaxDepth, path(), "torch checkpoint: containers nested deeper than {} levels, or within themselves",
      kMaxDepth);
  check_file(
      visits_left_-- > 0, path(),
      "torch checkpoint: the same containers are repeated without end | the file is damaged");
  check_file(name.size() <= kMaxNameBytes, path(), "torch checkpoint: a name longer than {} bytes", kMaxNameBytes);
  check_file(
      name.size() <= name_bytes_left_, path(),
      "torch checkpoint: long names are repeated without end | the file is damaged");
  name_bytes_left_ -= name.size();
  const auto below = [&](const std::string& key) { return name.empty() ? key : name + "." + key; };
  switch (value.kind) {
    case Kind::dict:
      for (std::size_t i = 0; i + 1 < value.items.size(); i += 2)
        flatten(*value.items[i + 1], below(key_text(*value.items[i])), depth + 1);
      return;
    case Kind::list:
    case Kind::tuple:
    case Kind::set:
      for (std::size_t i = 0; i < value.items.size(); ++i)
        flatten(*value.items[i], below(std::to_string(i)), depth + 1);
      return;
    case Kind::tensor: return add_tensor(value, name.empty() ? "tensor" : name);
    case Kind::none: return;
    case Kind::boolean: metadata_[name] = value.boolean ? "true" : "false"; return;
    case Kind::integer: metadata_[name] = std::to_string(value.integer); return;
    case Kind::real: metadata_[name] = fmt::format("{}", value.real); return;
    case Kind::text:
    case Kind::global: metadata_[name] = value.text; return;
    case Kind::bytes: metadata_[name] = fmt::format("<{} bytes>", value.text.size()); return;
    case Kind::storage: fail_file(path(), "torch checkpoint: '{}' is a bare storage | save tensors", printable(name));
    case Kind::object:  // a NumPy element type: arrays have become tensors
      metadata_[name] = fmt::format("<{}>", value.text);
      return;
    case Kind::opaque: metadata_[name] = fmt::format("<{}, skipped>", value.text); return;
  }
}

void TorchCheckpoint::add_tensor(const PickleValue& tensor, const std::string& name) {
  const PickleValue& storage = *tensor.items[0];
  const std::string shown = printable(name);
  const StorageType* type = find_type(storage.text);
  check_file(type != nullptr, path(), "tensor '{}': '{}' is no storage class", shown, printable(storage.text));
  const std::optional<std::uint64_t> stored = storage_bytes(storage.key);
  check_file(
      stored.has_value(), path(), "tensor '{}': storage '{}' is missing | the file is truncated or damaged", shown,
      printable(storage.key));
  const bool fits = storage.integer >= 0 && static_cast<std::uint64_t>(storage.integer) <= *stored &&
                    static_cast<std::uint64_t>(storage.integer) * type->num_bytes == *stored;
  check_file(
      fits, path(), "tensor '{}': storage '{}' has {} bytes, {} elements of {} were announced | the file is damaged",
      shown, printable(storage.key), *stored, storage.integer, type->name);

  TensorInfo info{name, std::string(type->name).substr(6), type->dtype, tensor.size};
  const auto numel = checked_numel(info.shape);
  check_file(numel.has_value(), path(), "tensor '{}': shape {} is absurd", shown, info.shape_text());
  // The last element's place, in 128 bits: strides come from the file and may be anything.
  __extension__ using Wide = __int128;
  Wide last = tensor.integer;
  bool inside = tensor.integer >= 0;
  for (std::size_t i = 0; i < tensor.size.size(); ++i) {
    inside = inside && tensor.stride[i] >= 0;
    last += static_cast<Wide>(std::max<std::int64_t>(tensor.size[i], 1) - 1) * tensor.stride[i];
  }
  inside = inside && (*numel == 0 || last < storage.integer);
  check_file(
      inside, path(),
      "tensor '{}': shape {} with stride [{}] at {} reaches outside its storage of {} elements | the file is damaged",
      shown, info.shape_text(), fmt::join(tensor.stride, ","), tensor.integer, storage.integer);
  // An expanded tensor (stride 0) is larger than what is stored; only small ones are worth the trust.
  constexpr std::uint64_t kMaxExpanded = 1 << 16;
  check_file(
      *numel <= std::max(static_cast<std::uint64_t>(storage.integer), kMaxExpanded), path(),
      "tensor '{}': {} elements repeated from a storage of {} | save it with .contiguous()", shown, *numel,
      storage.integer);
  View view{storage.key, tensor.integer, tensor.stride};
  for (std::size_t i = 0; i < view.stride.size(); ++i)
    if (info.shape[i] <= 1) view.stride[i] = 0;  // never stepped along; the file may hold anything here
  views_.push_back(std::move(view));
  add(std::move(info));
}

Tensor TorchCheckpoint::load_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  const View& view = views_[index];
  const std::size_t item = size_of(*info.dtype);
  const std::vector<std::byte> stored = read_storage(view.storage);
  const std::uint64_t numel = info.numel();
  const std::size_t rank = info.shape.size();

  std::int64_t dense_stride = 1;
  bool dense = true;
  for (std::size_t i = rank; i-- > 0;) {
    if (info.shape[i] != 1) dense = dense && view.stride[i] == dense_stride;
    dense_stride *= std::max<std::int64_t>(info.shape[i], 1);
  }
  const Shape shape(info.shape);
  if (numel == 0) return Tensor::empty(shape, *info.dtype);
  const std::span<const std::byte> source = std::span(stored).subspan(static_cast<std::size_t>(view.offset) * item);
  if (dense) return Tensor::from_dense_bytes(source.first(numel * item), shape, *info.dtype);

  std::vector<std::byte> gathered(numel * item);
  std::vector<std::int64_t> at(rank, 0);
  std::int64_t place = 0;
  for (std::uint64_t i = 0; i < numel; ++i) {
    std::memcpy(gathered.data() + i * item, source.data() + static_cast<std::size_t>(place) * item, item);
    for (std::size_t d = rank; d-- > 0;) {  // count up like an odometer
      place += view.stride[d];
      if (++at[d] < info.shape[d]) break;
      place -= info.shape[d] * view.stride[d];
      at[d] = 0;
    }
  }
  return Tensor::from_dense_bytes(gathered, shape, *info.dtype);
}

}  // namespace avid
