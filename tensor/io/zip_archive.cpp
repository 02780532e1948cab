// tensor/io/zip_archive.cpp -- libzip behind checks
#include "tensor/io/zip_archive.h"

#include <zip.h>
#include <zlib.h>

#include <algorithm>

#include "tensor/io/atomic_file.h"
#include "tensor/io/tensor_file.h"

namespace avid {
namespace {

// Deflate codes at most 258 bytes in 2 bits.
constexpr std::uint64_t kMaxDeflateRatio = 1032;
constexpr std::uint64_t kAlwaysAllowedBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMaxTotalRatio = 100;

std::string text_of(zip_error_t* error) {
  std::string text = printable(zip_error_strerror(error));
  zip_error_fini(error);
  return text;
}

}  // namespace

ZipArchive::ZipArchive(const std::filesystem::path& path) : file_(path), zip_(nullptr, zip_discard) {
  const auto bytes = file_.bytes();
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  check_file(source != nullptr, path, "zip: {}", text_of(&error));
  zip_.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
  if (!zip_) {
    zip_source_free(source);
    fail_file(path, "zip: {} | not a zip file, or truncated", text_of(&error));
  }
  zip_error_fini(&error);

  const zip_int64_t count = zip_get_num_entries(zip_.get(), 0);
  std::uint64_t total = 0, total_packed = 0;
  for (zip_int64_t i = 0; i < count; ++i) {
    zip_stat_t stat;
    zip_stat_init(&stat);
    constexpr zip_uint64_t kNeeded =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    const bool known = zip_stat_index(zip_.get(), static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW, &stat) == 0 &&
                       (stat.valid & kNeeded) == kNeeded;
    check_file(known, path, "zip: directory entry {} is damaged", i);
    Member member{stat.name, stat.size, stat.comp_size, static_cast<std::uint64_t>(i)};
    const std::string name = printable(member.name);
    check_file(stat.encryption_method == ZIP_EM_NONE, path, "zip: '{}' is encrypted | decrypt the archive first", name);
    check_file(
        stat.comp_method == ZIP_CM_STORE || stat.comp_method == ZIP_CM_DEFLATE, path,
        "zip: '{}' uses compression method {} | pack it again, stored or deflated", name, stat.comp_method);
    const bool size_possible = stat.comp_method == ZIP_CM_STORE
                                   ? member.num_bytes == member.packed_bytes
                                   : member.num_bytes / kMaxDeflateRatio <= member.packed_bytes;
    check_file(
        size_possible, path,
        "zip: '{}' declares {} bytes from {} packed ones, which is impossible | damaged or a zip bomb", name,
        member.num_bytes, member.packed_bytes);
    total_packed += std::min(member.packed_bytes, bytes.size() + 1);
    total += std::min(member.num_bytes, std::uint64_t{1} << 60);
    check_file(
        total_packed <= bytes.size(), path, "zip: members of {} packed bytes in a file of {} | truncated or a zip bomb",
        total_packed, bytes.size());
    check_file(
        total <= std::max(kAlwaysAllowedBytes, kMaxTotalRatio * bytes.size()), path,
        "zip: members unpack to more than {} bytes from a file of {} | a zip bomb?", total, bytes.size());
    check_file(
        index_.emplace(member.name, members_.size()).second, path,
        "zip: member '{}' appears twice | the file is damaged", name);
    members_.push_back(std::move(member));
  }
}

ZipArchive::~ZipArchive() = default;

const ZipArchive::Member* ZipArchive::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &members_[found->second];
}

std::vector<std::byte> ZipArchive::read_start(const Member& member, std::uint64_t count) const {
  const std::string name = printable(member.name);
  const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> in(zip_fopen_index(zip_.get(), member.index, 0), zip_fclose);
  check_file(in != nullptr, path(), "zip: '{}': {} | the file is damaged", name, printable(zip_strerror(zip_.get())));
  std::vector<std::byte> bytes(std::min(count, member.num_bytes));
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const zip_int64_t got = zip_fread(in.get(), bytes.data() + filled, bytes.size() - filled);
    check_file(got >= 0, path(), "zip: '{}': {} | the file is damaged", name, printable(zip_file_strerror(in.get())));
    check_file(
        got > 0, path(), "zip: '{}': {} bytes, the directory declares {} | the file is damaged", name, filled,
        member.num_bytes);
    filled += static_cast<std::size_t>(got);
  }
  if (count < member.num_bytes) return bytes;
  // libzip compares the CRC when it meets the end of the member, so the end must be met.
  std::byte extra;
  const zip_int64_t got = zip_fread(in.get(), &extra, 1);
  check_file(got >= 0, path(), "zip: '{}': {} | the file is damaged", name, printable(zip_file_strerror(in.get())));
  check_file(
      got == 0, path(), "zip: '{}': more than the {} bytes the directory declares | damaged or a zip bomb", name,
      member.num_bytes);
  const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
  zip_stat_t stat;
  zip_stat_init(&stat);
  const bool known = zip_stat_index(zip_.get(), member.index, 0, &stat) == 0 && (stat.valid & ZIP_STAT_CRC) != 0;
  check_file(
      known && crc32_z(crc32_z(0, nullptr, 0), data, bytes.size()) == stat.crc, path(),
      "zip: '{}': CRC-32 differs | the file is damaged", name);
  return bytes;
}

std::vector<std::byte> ZipArchive::read(const Member& member) const { return read_start(member, member.num_bytes); }

void write_zip(const std::filesystem::path& path, const std::vector<ZipMember>& members, bool compress) {
  AtomicFile file(path, AtomicFile::Writer::external);
  int code = 0;
  std::unique_ptr<zip_t, void (*)(zip_t*)> archive(
      zip_open(file.temporary_path().c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code), zip_discard);
  if (!archive) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    fail_file(path, "cannot write: {} | choose a folder you may write to", text_of(&error));
  }
  const auto failed = [&](const std::string& name) {
    fail_file(
        path, "cannot write '{}': {} | check the disk; an older file of this name is untouched", printable(name),
        printable(zip_strerror(archive.get())));
  };
  for (const ZipMember& member : members) {
    // libzip reads the bytes when it closes the archive.
    zip_source_t* source = zip_source_buffer(archive.get(), member.bytes.data(), member.bytes.size(), 0);
    const zip_int64_t added =
        source == nullptr ? -1 : zip_file_add(archive.get(), member.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    if (added < 0) {
      zip_source_free(source);
      failed(member.name);
    }
    const auto index = static_cast<zip_uint64_t>(added);
    // The earliest time a zip can hold.
    if (zip_file_set_dostime(archive.get(), index, 0, (1 << 5) | 1, 0) != 0) failed(member.name);
    if (zip_set_file_compression(archive.get(), index, compress ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0) != 0)
      failed(member.name);
  }
  if (zip_close(archive.get()) != 0) failed(path.filename().string());
  archive.release();
  if (members.empty())
    write_text_atomic(
        file.temporary_path(), std::string("PK\5\6", 4) + std::string(18, '\0'));  // libzip writes no empty archives
  file.commit();
}

std::string version_of_libzip() { return zip_libzip_version(); }
std::string version_of_zlib() { return zlibVersion(); }

}  // namespace avid
