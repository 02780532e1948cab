// tensor/io/json.h -- JSON as this project reads and prints it; what the library's templates cost is compiled once
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace avid {

/// Objects keep the order in which their keys were written.
using Json = nlohmann::ordered_json;

/// The text of `value`: on one line, or with `indent` >= 0 spaces a level over several; no newline at the end. NaN and
/// infinities become null, bytes that are not UTF-8 the replacement character; with `ascii` all else beyond ASCII
/// \uXXXX.
std::string json_text(const Json& value, int indent = -1, bool ascii = false);

/// Prints json_text(value, indent) and a newline to stdout.
void print_json(const Json& value, int indent = -1);

/// The value that `text` holds; one for which is_discarded() is true if it holds none.
Json parse_json(std::string_view text);

}  // namespace avid
