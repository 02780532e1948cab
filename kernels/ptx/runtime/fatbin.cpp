// kernels/ptx/runtime/fatbin.cpp -- see fatbin.h
#include "kernels/ptx/runtime/fatbin.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace avid::kernels::ptx {
namespace {

constexpr std::uint32_t kWrapperMagic = 0x466243b1, kDataMagic = 0xba55ed50;
constexpr std::uint16_t kPtx = 1;
constexpr std::uint64_t kOneArchFlag = std::uint64_t{1} << 20;

struct Wrapper {
  std::uint32_t magic, version;
  const std::byte* data;
  const void* name;
};

struct DataHeader {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t entries_bytes;
};

/// The part of an entry's header that is read here.
struct EntryHeader {
  std::uint16_t kind, version;
  std::uint32_t header_bytes;
  std::uint64_t payload_bytes;  // padded
  std::uint32_t compressed_bytes, options_at;
  std::uint16_t ptx_minor, ptx_major;
  std::uint32_t arch;
  std::uint32_t name_at, name_bytes;
  std::uint64_t flags;
  std::uint64_t unused, full_bytes;  // full_bytes: of what was compressed
};

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace

std::vector<FatbinText> fatbin_texts(const void* wrapper) {
  const auto w = read<Wrapper>(static_cast<const std::byte*>(wrapper));
  if (w.magic != kWrapperMagic || w.data == nullptr)
    throw std::runtime_error("fat binary: its wrapper does not begin with nvcc's magic number");
  const auto header = read<DataHeader>(w.data);
  if (header.magic != kDataMagic || header.header_bytes < sizeof(DataHeader))
    throw std::runtime_error("fat binary: its data does not begin with nvcc's magic number");
  std::vector<FatbinText> texts;
  const std::byte* at = w.data + header.header_bytes;
  const std::byte* end = at + header.entries_bytes;
  while (at < end) {
    const auto left = static_cast<std::uint64_t>(end - at);
    if (left < sizeof(EntryHeader)) throw std::runtime_error("fat binary: it ends inside an entry's header");
    const auto entry = read<EntryHeader>(at);
    if (entry.header_bytes < sizeof(EntryHeader) || entry.header_bytes > left ||
        entry.payload_bytes > left - entry.header_bytes)
      throw std::runtime_error("fat binary: an entry is longer than what is left");
    const char* payload = reinterpret_cast<const char*>(at + entry.header_bytes);
    at += entry.header_bytes + entry.payload_bytes;
    if (entry.kind != kPtx) continue;
    FatbinText text;
    text.arch = static_cast<int>(entry.arch);
    text.only_this_arch = (entry.flags & kOneArchFlag) != 0;
    text.compressed = entry.compressed_bytes != 0;
    // The text ends with a zero, padding follows.
    if (!text.compressed) text.text = {payload, strnlen(payload, entry.payload_bytes)};
    texts.push_back(text);
  }
  return texts;
}

const FatbinText* text_for(const std::vector<FatbinText>& texts, int arch) {
  const FatbinText* best = nullptr;
  for (const FatbinText& text : texts) {
    const bool runs = text.only_this_arch ? text.arch == arch : text.arch <= arch;
    if (runs && (best == nullptr || text.arch > best->arch || (text.arch == best->arch && text.only_this_arch)))
      best = &text;
  }
  return best;
}

std::string archs_of(const std::vector<FatbinText>& texts) {
  std::string all;
  for (const FatbinText& text : texts)
    all += (all.empty() ? "" : ", ") + std::to_string(text.arch) + (text.only_this_arch ? "a" : "");
  return all;
}

}  // namespace avid::kernels::ptx
