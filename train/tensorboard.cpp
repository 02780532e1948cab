// train/tensorboard.cpp -- protobuf's wire format
//
// key = field number << 3 | kind (0 varint, 1 fixed64, 2 bytes, 5 fixed32)
#include "train/tensorboard.h"

#include <array>
#include <bit>

namespace avid::train {
namespace {

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
    table[i] = c;
  }
  return table;
}();

template <class Word>
void put_fixed(std::string& out, Word word) {
  for (std::size_t i = 0; i < sizeof(Word); ++i) out += static_cast<char>(word >> (8 * i));
}

void put_varint(std::string& out, std::uint64_t v) {
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  out += static_cast<char>(v);
}

void put_key(std::string& out, int field, int kind) { put_varint(out, static_cast<std::uint64_t>(field << 3 | kind)); }
void put_double(std::string& out, int field, double v) {
  put_key(out, field, 1), put_fixed(out, std::bit_cast<std::uint64_t>(v));
}
void put_float(std::string& out, int field, float v) {
  put_key(out, field, 5), put_fixed(out, std::bit_cast<std::uint32_t>(v));
}
void put_int(std::string& out, int field, std::int64_t v) {
  put_key(out, field, 0), put_varint(out, static_cast<std::uint64_t>(v));
}
void put_bytes(std::string& out, int field, std::string_view v) {
  put_key(out, field, 2), put_varint(out, v.size()), out += v;
}

std::uint32_t masked(std::uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; }

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<std::uint8_t>(c)) & 0xff];
  return ~crc;
}

std::string tfrecord_frame(std::string_view data) {
  std::string out;
  put_fixed(out, static_cast<std::uint64_t>(data.size()));
  put_fixed(out, masked(crc32c(out)));
  out += data;
  put_fixed(out, masked(crc32c(data)));
  return out;
}

std::string tensorboard_header(double unix_time) {
  std::string event;
  put_double(event, 1, unix_time);
  put_bytes(event, 3, "brain.Event:2");
  return tfrecord_frame(event);
}

std::string tensorboard_scalars(
    double unix_time, std::int64_t step, std::span<const std::pair<std::string, double>> values) {
  std::string summary;
  for (const auto& [tag, number] : values) {
    std::string value;
    put_bytes(value, 1, tag);
    put_float(value, 2, static_cast<float>(number));
    put_bytes(summary, 1, value);
  }
  std::string event;
  put_double(event, 1, unix_time);
  put_int(event, 2, step);
  put_bytes(event, 5, summary);
  return tfrecord_frame(event);
}

}  // namespace avid::train
