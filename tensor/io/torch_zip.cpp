// tensor/io/torch_zip.cpp -- the zip container of torch.save and torch.jit.save
#include "tensor/io/torch_zip.h"

#include <algorithm>
#include <cstring>

#include "tensor/io/atomic_file.h"

namespace avid {

TorchZipFile::TorchZipFile(const std::filesystem::path& path, UnknownObjects unknown)
    : TorchCheckpoint(path), zip_(path) {
  const ZipArchive::Member* pickle_member = nullptr;
  for (const ZipArchive::Member& member : zip_.members()) {
    if (member.name != "data.pkl" && !member.name.ends_with("/data.pkl")) continue;
    check_file(pickle_member == nullptr, path, "torch zip: more than one data.pkl | the file is damaged");
    pickle_member = &member;
  }
  check_file(pickle_member != nullptr, path, "torch zip: no data.pkl inside | not a file of torch.save");
  prefix_ = pickle_member->name.substr(0, pickle_member->name.size() - std::string_view("data.pkl").size());
  if (const ZipArchive::Member* order = zip_.find(prefix_ + "byteorder")) {
    const auto text = zip_.read_start(*order, 16);
    check_file(
        text.size() == 6 && std::memcmp(text.data(), "little", 6) == 0, path,
        "torch zip: expected byte order 'little'");
  }
  // Storages hold the numbers; a pickle far larger than the file it came in was packed to exhaust memory.
  check_file(
      pickle_member->num_bytes <= std::max(kAlwaysAllowed, zip_.file_bytes()), path,
      "torch zip: data.pkl of {} bytes in a file of {} | a zip bomb?", pickle_member->num_bytes, zip_.file_bytes());

  list(read_pickle(path, zip_.read(*pickle_member), unknown, max_values(zip_.file_bytes())), zip_.file_bytes());
}

std::optional<std::uint64_t> TorchZipFile::storage_bytes(const std::string& key) const {
  const ZipArchive::Member* member = zip_.find(prefix_ + "data/" + key);
  return member == nullptr ? std::nullopt : std::optional(member->num_bytes);
}

std::vector<std::byte> TorchZipFile::read_storage(const std::string& key) const {
  return zip_.read(*zip_.find(prefix_ + "data/" + key));
}

}  // namespace avid
