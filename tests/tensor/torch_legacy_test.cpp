// tests/tensor/torch_legacy_test.cpp -- checkpoints of PyTorch before 1.6, whole, cut short and damaged
#include "tensor/io/torch_legacy.h"

#include "tensor/io/atomic_file.h"
#include "tensor/io/torch_zip.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;

namespace {

std::string bytes_of(const std::filesystem::path& path) { return read_text(path); }

std::string complaint(const std::string& bytes) {
  const test::TempDir dir;
  write_text_atomic(dir / "f.pth", bytes);
  try {
    const TorchLegacyFile file(dir / "f.pth");
    for (const auto& info : file.tensors())
      if (info.dtype) file.load(info.name);
    return "";
  } catch (const FileError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("torch_legacy/parity/the_same_tensors_as_in_the_newer_container") {
  const auto file = open_tensor_file(golden("files/tensors_legacy.pt"));
  CHECK(std::string(file->format()) == "torch legacy");
  const TorchZipFile newer(golden("files/tensors.pt"));
  CHECK(file->names() == newer.names());
  for (const auto& info : newer.tensors()) {
    CAPTURE(info.name);
    CHECK(file->info(info.name).shape == info.shape);
    CHECK(file->info(info.name).file_dtype == info.file_dtype);
    if (info.dtype) CHECK(test::same_bits(file->load(info.name), newer.load(info.name)));
  }
}

TEST_CASE("torch_legacy/errors/every_truncation_is_noticed") {
  const std::string whole = bytes_of(golden("files/tensors_legacy.pt"));
  REQUIRE(complaint(whole).empty());
  const std::size_t step = test::full_level() ? 1 : 37;
  for (std::size_t size = 0; size < whole.size(); size += step) {
    CAPTURE(size);
    CHECK(!complaint(whole.substr(0, size)).empty());
  }
  CHECK(complaint(whole + "x").find("1 bytes behind the last storage") != std::string::npos);
}

TEST_CASE("torch_legacy/errors/changed_bytes_never_crash") {
  const std::string whole = bytes_of(golden("files/tensors_legacy.pt"));
  const std::size_t step = test::full_level() ? 1 : 23;
  for (std::size_t at = 0; at < whole.size(); at += step) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x41);
    CAPTURE(at);
    CHECK(complaint(changed).find('\n') == std::string::npos);  // refused in one line, or read
  }
}

TEST_CASE("torch_legacy/errors/another_byte_order_and_version") {
  std::string bytes = bytes_of(golden("files/tensors_legacy.pt"));
  const std::size_t at = bytes.find("little_endian");
  REQUIRE(at != std::string::npos);
  const std::size_t truth = bytes.find('\x88', at);  // NEWTRUE
  REQUIRE(truth != std::string::npos);
  bytes[truth] = '\x89';
  CHECK(complaint(bytes).find("little-endian") != std::string::npos);
  bytes = bytes_of(golden("files/tensors_legacy.pt"));
  bytes[18] ^= 1;  // in the version's two bytes, behind the magic number's 15 and PROTO's 2 and the opcode
  CHECK(complaint(bytes).find("version 1001") != std::string::npos);
}
