// tensor/io/torch_legacy.cpp -- the container of torch.save before version 1.6
//
// Source: torch/serialization.py, _legacy_save. Deviations: read only.
#include "tensor/io/torch_legacy.h"

#include <algorithm>
#include <cstring>

#include "tensor/io/atomic_file.h"

namespace avid {
namespace {

using Kind = PickleValue::Kind;

// Protocol 2, the integer 0x1950a86a20f9469cfc6c of ten bytes, end.
constexpr unsigned char kMagic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                    0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};
constexpr std::int64_t kVersion = 1001;

}  // namespace

bool TorchLegacyFile::starts(std::span<const std::byte> bytes) {
  return bytes.size() >= sizeof(kMagic) && std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) == 0;
}

TorchLegacyFile::TorchLegacyFile(const std::filesystem::path& path, UnknownObjects unknown)
    : TorchCheckpoint(path), file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  check_file(starts(bytes), path, "torch legacy: another start than torch.save's before version 1.6");
  std::size_t at = sizeof(kMagic);
  const auto next = [&] {
    Pickle pickle = read_pickle(path, bytes.subspan(at), unknown, max_values(bytes.size()));
    at += pickle.num_bytes;
    return pickle;
  };
  const Pickle version = next();
  check_file(
      version.root->kind == Kind::integer && version.root->integer == kVersion, path,
      "torch legacy: expected version {} | save it again with a newer PyTorch", kVersion);
  const Pickle machine = next();
  check_file(machine.root->kind == Kind::dict, path, "torch legacy: no facts about the machine | the file is damaged");
  const auto& facts = machine.root->items;
  for (std::size_t i = 0; i + 1 < facts.size(); i += 2)
    check_file(
        facts[i]->text != "little_endian" || facts[i + 1]->boolean, path,
        "torch legacy: expected little-endian numbers");
  const Pickle containers = next();
  const Pickle keys = next();
  find_storages(containers, keys, at);
  list(containers, bytes.size());
}

void TorchLegacyFile::find_storages(const Pickle& containers, const Pickle& keys, std::size_t at) {
  const std::span<const std::byte> bytes = file_.bytes();
  std::unordered_map<std::string, const PickleValue*> by_key;
  for (const auto& value : containers.values)
    if (value->kind == Kind::storage) by_key.emplace(value->key, value.get());
  check_file(keys.root->kind == Kind::list, path(), "torch legacy: no list of storages | the file is damaged");
  for (const PickleValue* key : keys.root->items) {
    const std::string shown = printable(key->text);
    const auto found = by_key.find(key->text);
    check_file(
        key->kind == Kind::text && found != by_key.end(), path(),
        "torch legacy: storage '{}' belongs to no tensor | the file is damaged", shown);
    const auto item = element_bytes(found->second->text);
    check_file(item.has_value(), path(), "torch legacy: '{}' is no storage class", printable(found->second->text));
    std::int64_t count = -1;
    if (bytes.size() - at >= sizeof(count)) std::memcpy(&count, bytes.data() + at, sizeof(count));
    at += sizeof(count);
    check_file(
        count >= 0 && at <= bytes.size() && static_cast<std::uint64_t>(count) <= (bytes.size() - at) / *item, path(),
        "torch legacy: storage '{}' reaches past the end of the file | the file is truncated or damaged", shown);
    const std::size_t size = static_cast<std::size_t>(count) * *item;
    check_file(
        storages_.emplace(key->text, bytes.subspan(at, size)).second, path(),
        "torch legacy: storage '{}' appears twice | the file is damaged", shown);
    at += size;
  }
  check_file(
      at == bytes.size(), path(), "torch legacy: {} bytes behind the last storage | the file is damaged",
      bytes.size() - at);
}

std::optional<std::uint64_t> TorchLegacyFile::storage_bytes(const std::string& key) const {
  const auto found = storages_.find(key);
  return found == storages_.end() ? std::nullopt : std::optional<std::uint64_t>(found->second.size());
}

std::vector<std::byte> TorchLegacyFile::read_storage(const std::string& key) const {
  const auto part = storages_.at(key);
  return {part.begin(), part.end()};
}

}  // namespace avid
