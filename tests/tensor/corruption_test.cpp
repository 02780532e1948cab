// tests/tensor/corruption_test.cpp -- every reader meets damaged files: an error or a success, nothing else
//
// Run under AddressSanitizer and UBSan as well. "Success" is legal where the damage hits values that carry no checksum,
// or padding. Allocations are watched through the tensor pool: no file may ask for much more than it holds.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>

#include "tensor/io/atomic_file.h"
#include "tensor/io/npz.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/torch_zip.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;
using test::TempDir;

namespace {

struct Outcome {
  int opened = 0, refused = 0;
};

// Opens the bytes as a file by content, loads every tensor, and counts what happens. Anything but FileError escapes.
void try_bytes(const std::filesystem::path& path, const std::string& bytes, Outcome& outcome) {
  {
    std::FILE* out = std::fopen(path.c_str(), "wb");
    REQUIRE(out != nullptr);
    REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), out) == bytes.size());
    std::fclose(out);
  }
  bool good = true;
  reset_host_pool_peak();
  const std::size_t before = host_pool_stats().in_use_bytes;
  try {
    for (const UnknownObjects unknown : {UnknownObjects::refuse, UnknownObjects::skip}) {
      const auto file = open_tensor_file(path, unknown);
      for (const TensorInfo& info : file->tensors()) {
        try {
          file->load(info.name);
        } catch (const FileError&) {
          good = false;  // one damaged tensor does not hide the others
        }
      }
    }
  } catch (const FileError& error) {
    good = false;
    CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
  // One tensor at a time: at most the file eightfold (a row of one f16 takes 16 bytes), unpacked, or a small view.
  const std::size_t limit = 64 * bytes.size() + (std::size_t{1} << 21);
  CHECK(host_pool_stats().peak_in_use_bytes - before <= limit);
  ++(good ? outcome.opened : outcome.refused);
}

// Files small enough that a truncation at every byte stays quick.
void sweep(const std::filesystem::path& valid, std::uint64_t seed) {
  const TempDir dir;
  const std::string bytes = read_text(valid);
  Outcome whole;
  try_bytes(dir / "f", bytes, whole);
  CAPTURE(valid);

  Outcome cut;
  const std::size_t step = test::full_level() ? 1 : std::max<std::size_t>(1, bytes.size() / 300);
  for (std::size_t length = 0; length < bytes.size(); length += step)
    try_bytes(dir / "f", bytes.substr(0, length), cut);
  CHECK(cut.opened == 0);  // every format here knows its own length

  std::mt19937_64 random(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  Outcome flipped;
  const int num_edits = test::full_level() ? 5000 : 250;
  constexpr std::string_view kAwkward("\x00\x01\x7f\x80\xff\x20\x2c\x30\x39\x5b\x5d\x7b\x7d(R.", 16);
  for (int i = 0; i < num_edits; ++i) {
    std::string edited = bytes;
    for (std::size_t n = 1 + below(3); n > 0; --n) {
      const std::size_t at = below(edited.size());
      switch (below(5)) {
        case 0: edited[at] = static_cast<char>(edited[at] ^ (1 << below(8))); break;
        case 1: edited[at] = static_cast<char>(random()); break;
        case 2: edited[at] = kAwkward[below(kAwkward.size())]; break;
        case 3: {  // a whole number overwritten
          const std::uint64_t value = below(2) ? ~std::uint64_t{0} >> below(64) : std::uint64_t{1} << below(64);
          std::memcpy(
              edited.data() + at, &value, std::min<std::size_t>(std::size_t{1} << below(4), edited.size() - at));
          break;
        }
        case 4:
          below(2) ? edited.erase(at, 1 + below(8))
                   : edited.insert(at, edited.substr(below(edited.size()), 1 + below(8)));
          break;
      }
      if (edited.empty()) edited = "x";
    }
    try_bytes(dir / "f", edited, flipped);
  }
  CHECK(flipped.opened + flipped.refused == num_edits);
  CHECK(flipped.refused > 0);
}

std::filesystem::path small_safetensors(const TempDir& dir) {
  save_safetensors(
      dir / "a.safetensors",
      {{"w", test::random_tensor({3, 5}, DType::f32, 1)},
       {"b", test::random_tensor({2}, DType::bf16, 2)},
       {"s", Tensor::scalar(1)},
       {"u", test::random_tensor({3}, DType::u8, 3, 100)},
       {"e", Tensor::empty({0, 2})}},
      {{"note", "text"}});
  return dir / "a.safetensors";
}

}  // namespace

TEST_CASE("corruption/safetensors/truncation_at_every_byte") {
  // Small enough for every byte at both levels.
  const TempDir dir;
  const std::string bytes = read_text(small_safetensors(dir));
  Outcome cut;
  for (std::size_t length = 0; length < bytes.size(); ++length) try_bytes(dir / "f", bytes.substr(0, length), cut);
  CHECK(cut.opened == 0);
  CHECK(cut.refused == static_cast<int>(bytes.size()));
}

TEST_CASE("corruption/safetensors/own_file") {
  const TempDir dir;
  sweep(small_safetensors(dir), 1);
}
TEST_CASE("corruption/safetensors/foreign_file") { sweep(golden("files/tensors.safetensors"), 2); }

TEST_CASE("corruption/torch_zip/bare") { sweep(golden("files/bare.pt"), 3); }
TEST_CASE("corruption/torch_zip/tensors") { sweep(golden("files/tensors.pt"), 4); }
TEST_CASE("corruption/torch_zip/deflated") { sweep(golden("files/tensors_deflated.pt"), 5); }
TEST_CASE("corruption/torch_zip/protocol_5") { sweep(golden("files/tensors_protocol5.pt"), 6); }
TEST_CASE("corruption/torch_zip/malicious") { sweep(golden("files/malicious_os_system.pt"), 7); }

TEST_CASE("corruption/torch_zip/pickle_alone") {
  // The zip's CRC stops most damage before it reaches the pickle, so the pickle is damaged on its own too.
  for (const char* name : {"files/tensors.pt", "files/tensors_protocol5.pt", "files/unknown_class.ckpt"}) {
    const ZipArchive zip(golden(name));
    const ZipArchive::Member* member = nullptr;
    for (const auto& m : zip.members())
      if (m.name.ends_with("data.pkl")) member = &m;
    REQUIRE(member != nullptr);
    const auto bytes = zip.read(*member);
    int good = 0, refused = 0;
    const auto attempt = [&](const std::vector<std::byte>& pickle) {
      for (const UnknownObjects unknown : {UnknownObjects::refuse, UnknownObjects::skip}) {
        try {
          const Pickle result = read_pickle("p", pickle, unknown, 100000);
          ++good;
        } catch (const FileError&) {
          ++refused;
        }
      }
    };
    for (std::size_t length = 0; length < bytes.size(); ++length)
      attempt({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)});
    CHECK(good == 0);
    std::mt19937_64 random(8);
    const int num_edits = test::full_level() ? 20000 : 1000;
    for (int i = 0; i < num_edits; ++i) {
      auto edited = bytes;
      for (std::size_t n = 1 + random() % 4; n > 0; --n) {
        const std::size_t at = random() % edited.size();
        // Opcodes are printable letters or lie above 0x80: draw from both, from the file itself, and from all bytes.
        switch (random() % 3) {
          case 0: edited[at] = static_cast<std::byte>(random()); break;
          case 1: edited[at] = edited[random() % edited.size()]; break;
          case 2: edited[at] = static_cast<std::byte>("()]}.012NRQabehjqrstu"[random() % 21]); break;
        }
      }
      attempt(edited);
    }
    CHECK(refused > num_edits / 2);
  }
}

TEST_CASE("corruption/numpy_pickle/protocol_3") { sweep(golden("files/arrays_p3.pickle"), 13); }
TEST_CASE("corruption/numpy_pickle/protocol_4") { sweep(golden("files/arrays_p4.pickle"), 14); }
TEST_CASE("corruption/numpy_pickle/protocol_5") { sweep(golden("files/arrays_p5.pickle"), 15); }

TEST_CASE("corruption/npz/stored") { sweep(golden("files/arrays.npz"), 9); }
TEST_CASE("corruption/npz/deflated") { sweep(golden("files/arrays_deflated.npz"), 10); }
TEST_CASE("corruption/npz/streamed") { sweep(golden("files/arrays_streamed.npz"), 11); }
TEST_CASE("corruption/npy/single") { sweep(golden("files/array.npy"), 12); }

TEST_CASE("corruption/random/noise_of_every_kind_of_beginning") {
  const TempDir dir;
  std::mt19937_64 random(13);
  Outcome outcome;
  const int num_files = test::full_level() ? 2000 : 200;
  const std::string beginnings[] = {
      "", "PK\x03\x04", std::string("PK\x05\x06\0\0\0\0\1\0\1\0", 12), "\x93NUMPY\x01",
      std::string("\x40\0\0\0\0\0\0\0{\"a\":", 13)};
  for (int i = 0; i < num_files; ++i) {
    std::string bytes = beginnings[static_cast<std::size_t>(i) % std::size(beginnings)];
    for (std::size_t n = random() % 300; n > 0; --n) bytes += static_cast<char>(random());
    try_bytes(dir / "f", bytes, outcome);
  }
  CHECK(outcome.opened == 0);
}
