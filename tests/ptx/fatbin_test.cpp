// tests/ptx/fatbin_test.cpp -- texts are found in fat binaries, and what is none is refused
//
// Fat binaries are written here byte by byte, after those of nvcc 13; that nvcc's own are read is tested by every
// launch (work_test.cpp).
#include "kernels/ptx/runtime/fatbin.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/doctest.h"

namespace {

using namespace avid::kernels::ptx;

struct Bytes {
  std::string all;
  template <class T>
  Bytes& put(T value) {
    all.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
};

struct Entry {
  std::uint16_t kind = 1;
  std::uint32_t arch = 80;
  bool only_this_arch = false;
  std::uint32_t compressed_bytes = 0;
  std::string payload = {};
};

/// A fat binary and its wrapper; it must stay where it is.
struct Fatbin {
  std::string data;
  struct {
    std::uint32_t magic = 0x466243b1, version = 1;
    const void* data = nullptr;
    const void* name = nullptr;
  } wrapper;

  explicit Fatbin(const std::vector<Entry>& entries) {
    Bytes body;
    for (const Entry& e : entries) {
      const std::uint64_t padded = (e.payload.size() + 1 + 7) / 8 * 8;
      const std::uint64_t flags = 0x11 | (e.only_this_arch ? 1u << 20 : 0u);
      body.put(e.kind).put(std::uint16_t{0x101}).put(std::uint32_t{72}).put(padded);
      body.put(e.compressed_bytes).put(std::uint32_t{0}).put(std::uint16_t{0}).put(std::uint16_t{9}).put(e.arch);
      body.put(std::uint32_t{0}).put(std::uint32_t{0}).put(flags).put(std::uint64_t{0}).put(std::uint64_t{0});
      body.put(std::uint64_t{0});  // of the header, and not understood
      body.all += e.payload + std::string(padded - e.payload.size(), '\0');
    }
    Bytes header;
    header.put(std::uint32_t{0xba55ed50}).put(std::uint16_t{1}).put(std::uint16_t{16});
    header.put(static_cast<std::uint64_t>(body.all.size()));
    data = header.all + body.all;
    wrapper.data = data.data();
  }
  template <class T>
  void patch(std::size_t at, T value) {
    std::memcpy(data.data() + at, &value, sizeof(value));
  }
};

const std::vector<Entry> kEntries = {
    {.payload = "for 80"},
    {.kind = 2, .payload = "machine code of some length"},
    {.arch = 90, .only_this_arch = true, .payload = "for 90a"},
    {.arch = 90, .payload = "for 90!!"},  // with its end, one byte more than a multiple of 8
};

std::string refusal(const Fatbin& fatbin) {
  try {
    fatbin_texts(&fatbin.wrapper);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("fatbin/texts/are found in order, machine code is left out") {
  const Fatbin fatbin(kEntries);
  const std::vector<FatbinText> texts = fatbin_texts(&fatbin.wrapper);
  REQUIRE(texts.size() == 3);
  CHECK(texts[0].text == "for 80");
  CHECK(texts[1].text == "for 90a");
  CHECK(texts[1].only_this_arch);
  CHECK(texts[2].text == "for 90!!");
  CHECK(archs_of(texts) == "80, 90a, 90");
  for (const FatbinText& text : texts) CHECK(!text.compressed);
}

TEST_CASE("fatbin/texts/a compressed one is known as such") {
  const Fatbin fatbin({{.compressed_bytes = 20, .payload = "looks like no text"}});
  const std::vector<FatbinText> texts = fatbin_texts(&fatbin.wrapper);
  REQUIRE(texts.size() == 1);
  CHECK(texts[0].compressed);
  CHECK(texts[0].text.empty());
}

TEST_CASE("fatbin/choice/the newest that the device may run") {
  const auto chosen = [](const std::vector<Entry>& entries, int arch) {
    const Fatbin fatbin(entries);
    const std::vector<FatbinText> texts = fatbin_texts(&fatbin.wrapper);
    const FatbinText* text = text_for(texts, arch);
    return text == nullptr ? std::string("none") : std::string(text->text);
  };
  CHECK(chosen(kEntries, 80) == "for 80");
  CHECK(chosen(kEntries, 86) == "for 80");
  CHECK(chosen(kEntries, 90) == "for 90a");
  CHECK(chosen(kEntries, 100) == "for 90!!");
  CHECK(chosen(kEntries, 75) == "none");
  CHECK(chosen({kEntries[2]}, 80) == "none");
  CHECK(chosen({kEntries[2]}, 100) == "none");
  CHECK(chosen({kEntries[1]}, 80) == "none");
}

TEST_CASE("fatbin/wrong/each is refused") {
  Fatbin wrapper(kEntries);
  wrapper.wrapper.magic ^= 1;
  CHECK(refusal(wrapper).find("wrapper") != std::string::npos);
  Fatbin data(kEntries);
  data.patch(0, std::uint32_t{7});
  CHECK(refusal(data).find("data does not begin") != std::string::npos);
  Fatbin longer(kEntries);
  longer.patch(16 + 8, std::uint64_t{1} << 40);
  CHECK(refusal(longer).find("longer than what is left") != std::string::npos);
  Fatbin header(kEntries);
  header.patch(16 + 4, std::uint32_t{8});
  CHECK(refusal(header).find("longer than what is left") != std::string::npos);
  Fatbin cut(kEntries);
  cut.patch(8, static_cast<std::uint64_t>(cut.data.size() - 16 + 8));
  cut.data += std::string(8, '\0');
  cut.wrapper.data = cut.data.data();
  CHECK(refusal(cut).find("inside an entry's header") != std::string::npos);
  CHECK(refusal(Fatbin(kEntries)) == "");
}
