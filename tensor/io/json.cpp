// tensor/io/json.cpp
#include "tensor/io/json.h"

#include <cstdio>

template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace avid {

std::string json_text(const Json& value, int indent, bool ascii) {
  return value.dump(indent, ' ', ascii, Json::error_handler_t::replace);
}

void print_json(const Json& value, int indent) { std::printf("%s\n", json_text(value, indent).c_str()); }

Json parse_json(std::string_view text) { return Json::parse(text, nullptr, false); }

}  // namespace avid
