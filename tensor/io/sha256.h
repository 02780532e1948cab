// tensor/io/sha256.h -- SHA-256, streaming
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace avid {

/// SHA-256 of a stream of bytes. Source: FIPS 180-4, sections 4.1.2, 5.1.1, 5.3.3 and 6.2. Deviations: none.
/// Uses the processor's own instructions for it where there are some (five times as fast).
class Sha256 {
 public:
  /// `portable`: the plain loop, as on other processors.
  explicit Sha256(bool portable = false);
  Sha256& update(std::span<const std::byte> bytes);
  Sha256& update(std::string_view text) { return update(std::as_bytes(std::span(text.data(), text.size()))); }
  /// The digest of everything so far as 64 lower-case hex digits; update() may go on afterwards.
  std::string hex() const;

 private:
  void absorb(const std::byte* blocks, std::size_t count);

  bool instructions_ = false;
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::uint64_t num_bytes_ = 0;
};

std::string sha256_hex(std::span<const std::byte> bytes);
/// Digest of a file's bytes, read in pieces. Throws FileError.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace avid
