// tests/boolean_npz.h -- an .npz with an array of booleans, as NumPy writes it
#pragma once

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/io/atomic_file.h"
#include "tensor/io/npz.h"

namespace avid::test {

/// Writes the tensors as save_npz does, but the u8 tensor called `boolean` as one of booleans.
inline void save_npz_with_booleans(
    const std::filesystem::path& path, const NamedTensors& tensors, const std::string& boolean) {
  std::vector<ZipMember> members;
  for (const auto& [name, tensor] : tensors) {
    save_npy(path, tensor);
    std::string bytes = read_text(path);
    if (name == boolean) bytes.replace(bytes.find("|u1"), 3, "|b1");
    members.push_back({name + ".npy", std::vector<std::byte>(bytes.size())});
    std::memcpy(members.back().bytes.data(), bytes.data(), bytes.size());
  }
  write_zip(path, members, false);
}

}  // namespace avid::test
