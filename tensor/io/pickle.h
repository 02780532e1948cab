// tensor/io/pickle.h -- a pickle reader that cannot run anything
//
// A pickle is a program for a small stack machine; Python's own reader lets it import and call any function. This one
// knows the data opcodes of protocols 2 to 5 and a fixed list of harmless names (pickle.cpp), for which it builds plain
// values itself. Any other name is an error that says which one was asked for, or becomes an opaque value.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/io/tensor_file.h"

namespace avid {

struct PickleValue {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    bytes,
    list,
    tuple,
    set,      // items
    dict,     // items: key, value, key, value, ...
    global,   // text: "torch.FloatStorage"
    storage,  // text: storage class, key; integer: number of elements
    tensor,   // items: {storage}; offset in integer; size, stride
    object,   // of a NumPy class, only in its dialect; text: the class or function; items: arguments, then states
    opaque,   // text: the class that was skipped
  };
  Kind kind = Kind::none;
  bool boolean = false;
  std::int64_t integer = 0;
  double real = 0;
  std::string text, key;
  std::vector<const PickleValue*> items;
  std::vector<std::int64_t> size, stride;
};

/// A pickle's values; `root` is the result and may contain cycles.
struct Pickle {
  std::vector<std::unique_ptr<PickleValue>> values;
  const PickleValue* root = nullptr;
  std::size_t num_bytes = 0;  ///< from the first opcode to behind the last
};

/// Whose objects a pickle may hold besides Python's own.
enum class PickleDialect { torch, numpy };

/// Interprets one pickle; bytes behind its end are left alone. Objects of TorchScript modules (classes __torch__.*)
/// become dicts of their attributes. At most `max_values` values are made (a bound on memory).
/// Errors   FileError: truncated or damaged pickle, an opcode outside protocols 2-5, a name outside the allow-list.
Pickle read_pickle(
    const std::filesystem::path& path, std::span<const std::byte> bytes, UnknownObjects unknown,
    std::uint64_t max_values, PickleDialect dialect = PickleDialect::torch);

}  // namespace avid
