// train/config_toml.cpp -- TOML and --set overrides in: every value of the right type and within its range
#include <algorithm>
#include <sstream>

#include <toml++/toml.h>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "train/config_keys.h"

namespace avid::train {
namespace {

// One key as given by the user: its value, and where to point when it is wrong.
struct Given {
  const toml::node* node;
  std::string where;  // file:line, or "--set"
  bool bare_text = false;
  std::string text;  // of --set, for strings without quotes
};
using GivenKeys = std::map<std::string, Given>;

std::string trimmed(const std::string& s) {
  const auto begin = s.find_first_not_of(" \t"), end = s.find_last_not_of(" \t");
  return begin == std::string::npos ? "" : s.substr(begin, end - begin + 1);
}

void flatten(const toml::table& table, const std::string& prefix, const std::string& name, GivenKeys& out) {
  for (const auto& [key, node] : table) {
    const std::string full = prefix + std::string(key.str());
    if (const auto* inner = node.as_table()) {
      if (inner->empty()) out[full] = {&node, fmt::format("{}:{}", name, node.source().begin.line), false, {}};
      flatten(*inner, full + ".", name, out);
    } else {
      out[full] = {&node, fmt::format("{}:{}", name, node.source().begin.line), false, {}};
    }
  }
}

[[noreturn]] void wrong(
    const std::string& key, const std::string& expected, const std::string& got, const Given& given) {
  fail<ConfigError>("config: {}: expected {}, got {} | {}", key, expected, got, given.where);
}

std::string shown(const Given& given) {
  if (given.bare_text) return given.text;
  std::ostringstream text;
  given.node->visit([&](const auto& node) { text << node; });
  return text.str();
}

bool read_value(const Given& given, bool& out) {
  const auto v = given.node->value_exact<bool>();
  if (v) out = *v;
  return v.has_value();
}
bool read_value(const Given& given, std::int64_t& out) {
  const auto v = given.node->value_exact<std::int64_t>();
  if (v) out = *v;
  return v.has_value();
}
bool read_value(const Given& given, double& out) {
  const auto v = given.node->is_integer() ? given.node->value<double>() : given.node->value_exact<double>();
  if (v) out = *v;
  return v.has_value();
}
bool read_value(const Given& given, std::string& out) {
  if (given.bare_text) {
    out = given.text;
    return true;
  }
  const auto v = given.node->value_exact<std::string>();
  if (v) out = *v;
  return v.has_value();
}
template <class Item>
bool read_value(const Given& given, std::vector<Item>& out) {
  const auto* array = given.node->as_array();
  out.clear();
  if (array == nullptr) {  // one value stands for a list of one
    Item item;
    if (!read_value(given, item)) return false;
    out.push_back(std::move(item));
    return true;
  }
  for (const auto& node : *array) {
    Item item;
    if (!read_value(Given{&node, given.where, false, {}}, item)) return false;
    out.push_back(std::move(item));
  }
  return true;
}

const char* type_name(const bool&) { return "true or false"; }
const char* type_name(const std::int64_t&) { return "a whole number"; }
const char* type_name(const double&) { return "a number"; }
const char* type_name(const std::string&) { return "a text"; }
const char* type_name(const std::vector<std::string>&) { return "a list of texts"; }
const char* type_name(const std::vector<std::int64_t>&) { return "a list of whole numbers"; }

bool obeys(const Rule&, bool) { return true; }
bool obeys(const Rule& rule, double v) { return (rule.above ? v > rule.low : v >= rule.low) && v <= rule.high; }
bool obeys(const Rule& rule, std::int64_t v) { return obeys(rule, static_cast<double>(v)); }
bool obeys(const Rule& rule, const std::string& v) {
  return rule.choices.empty() || std::find(rule.choices.begin(), rule.choices.end(), v) != rule.choices.end();
}
template <class Item>
bool obeys(const Rule& rule, const std::vector<Item>& v) {
  return std::all_of(v.begin(), v.end(), [&](const Item& item) { return obeys(rule, item); });
}

// From here, then from the configuration's folder and those above it. Of a pattern (*.h5) the folder counts.
void resolve(
    std::string& path, const std::string& key, const std::filesystem::path& folder, const Given& given,
    TrainConfig::Files files) {
  if (path.empty() || path.starts_with("http://")) return;
  const std::filesystem::path whole = path;
  const bool pattern = path.find_first_of("*?[") != std::string::npos;
  std::vector<std::filesystem::path> roots = {std::filesystem::current_path(), folder};
  while (roots.back().has_relative_path()) roots.push_back(roots.back().parent_path());
  for (const auto& root : roots) {
    std::error_code ignored;
    const auto candidate = root / (pattern ? whole.parent_path() : whole);
    if (!std::filesystem::exists(candidate, ignored)) continue;
    const auto found = std::filesystem::weakly_canonical(candidate);
    path = (pattern ? found / whole.filename() : found).string();
    return;
  }
  check<ConfigError>(
      files == TrainConfig::Files::may_miss,
      "config: {}: file not found: {} | make it first, or name another: --set {}=PLACE ({})", key, path, key,
      given.where);
}
void resolve(
    std::vector<std::string>& paths, const std::string& key, const std::filesystem::path& folder, const Given& given,
    TrainConfig::Files files) {
  for (std::string& path : paths) resolve(path, key, folder, given, files);
}
template <class Value>
void resolve(Value&, const std::string&, const std::filesystem::path&, const Given&, TrainConfig::Files) {}

void refuse_unknown(const GivenKeys& given) {
  const std::vector<std::string> known = TrainConfig::keys();
  for (const auto& [key, value] : given) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    // A wrong section with a right name, or the other way round, is the likeliest slip: look there first.
    std::vector<std::string> close;
    const std::string last = key.substr(key.rfind('.') + 1);
    for (const std::string& k : known)
      if (k.substr(k.rfind('.') + 1) == last) close.push_back(k);
    std::string nearest = nearest_name(key, close);
    if (nearest.empty() && close.size() == 1) nearest = close[0];
    if (nearest.empty()) nearest = nearest_name(key, known);
    fail<ConfigError>(
        "config: {}: unknown key{} | {}", key, nearest.empty() ? "" : fmt::format(", did you mean {}?", nearest),
        value.where);
  }
}

}  // namespace

std::string toml_library_version() { return fmt::format("{}.{}.{}", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH); }

TrainConfig TrainConfig::parse(
    const std::string& text, const std::string& name, const std::vector<std::string>& overrides, Files files) {
  toml::table file;
  std::vector<toml::table> set_tables;  // keep the nodes alive
  set_tables.reserve(overrides.size());
  GivenKeys given;
  try {
    file = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    fail<ConfigError>("config: syntax: {} | {}:{}", error.description(), name, error.source().begin.line);
  }
  flatten(file, "", name, given);
  for (const std::string& override_text : overrides) {
    const auto equals = override_text.find('=');
    check<ConfigError>(
        equals != std::string::npos && equals > 0, "config: --set: expected key=value, got {}", override_text);
    const std::string key = trimmed(override_text.substr(0, equals)), value = trimmed(override_text.substr(equals + 1));
    Given entry{nullptr, "--set " + override_text, false, value};
    try {
      set_tables.push_back(toml::parse("value = " + value));
    } catch (const toml::parse_error&) {  // not TOML: a text without quotes
      set_tables.push_back(toml::table{{"value", value}});
      entry.bare_text = true;
    }
    entry.node = set_tables.back().get("value");
    given[key] = entry;
  }
  refuse_unknown(given);

  TrainConfig c;
  const std::filesystem::path folder = std::filesystem::absolute(name).parent_path();
  visit_keys(c, [&](const char* key, auto& value, const Rule& rule, const char*) {
    const auto found = given.find(key);
    if (found == given.end()) return;
    if (!read_value(found->second, value)) wrong(key, type_name(value), shown(found->second), found->second);
    if (!obeys(rule, value)) wrong(key, rule.text(), shown(found->second), found->second);
    if (rule.path) resolve(value, key, folder, found->second, files);
  });
  std::map<std::string, std::string> where;
  for (const auto& [key, value] : given) where[key] = value.where;
  check_together(c, where, name);
  return c;
}

TrainConfig TrainConfig::load(
    const std::filesystem::path& file, const std::vector<std::string>& overrides, Files files) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  std::string text;
  try {
    text = read_text(file, kMostBytes);
  } catch (const FileError& error) {
    fail<FileError>("config: {}; give a TOML file, see configs/", error.what());
  }
  return parse(text, file.string(), overrides, files);
}

}  // namespace avid::train
