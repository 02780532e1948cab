// eval/media/png.cpp -- PNG files with text chunks
#include "eval/media/png.h"

#include <zlib.h>

#include <algorithm>
#include <cstdint>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace avid::eval {
namespace {

constexpr std::size_t kHeaderBytes = 8 + 25;  // signature and the IHDR chunk

void append_u32(std::string& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift & 0xff));
}

/// length | "tEXt" | keyword NUL text | CRC of type and data
std::string text_chunk(const std::string& keyword, const std::string& text) {
  const auto printable_ascii = [](unsigned char c) { return c >= 0x20 && c < 0x7f; };
  check<Error>(
      !keyword.empty() && keyword.size() <= 79 && std::all_of(keyword.begin(), keyword.end(), printable_ascii),
      "png: expected a keyword of 1 to 79 printable ASCII characters, got '{}'", printable(keyword));
  check<Error>(
      std::all_of(text.begin(), text.end(), [](unsigned char c) { return c != 0 && c < 0x80; }),
      "png: text '{}': expected ASCII without NUL | escape other characters", keyword);
  const std::string body = "tEXt" + keyword + '\0' + text;
  std::string chunk;
  append_u32(chunk, static_cast<std::uint32_t>(body.size() - 4));
  chunk += body;
  append_u32(
      chunk, static_cast<std::uint32_t>(
                 crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()))));
  return chunk;
}

}  // namespace

std::string encode_png(const Image& image, const std::map<std::string, std::string>& text) {
  std::string file;
  const auto append = [](void* context, void* data, int size) {
    static_cast<std::string*>(context)->append(static_cast<const char*>(data), static_cast<std::size_t>(size));
  };
  check<OutOfMemoryError>(
      stbi_write_png_to_func(append, &file, image.width, image.height, 3, image.rgb.data(), image.width * 3) != 0,
      "png: could not encode {}x{} pixels", image.width, image.height);
  std::string chunks;
  for (const auto& [keyword, value] : text) chunks += text_chunk(keyword, value);
  return file.insert(kHeaderBytes, chunks);
}

void write_png(const std::filesystem::path& path, const Image& image, const std::map<std::string, std::string>& text) {
  write_text_atomic(path, encode_png(image, text));
}

std::string stb_version() { return AVID_STB_VERSION; }

}  // namespace avid::eval
