// train/config.cpp -- a configuration written out: as TOML, as a fingerprint, and the names of its keys
#include "train/config.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "tensor/io/sha256.h"
#include "train/config_keys.h"

namespace avid::train {
namespace {

// Keys that decide no number of the training: they may differ between a run and its resumption.
const std::set<std::string> kFreeOnResume = {
    "run.name",
    "train.updates",
    "train.time_limit_minutes",
    "train.max_bad_steps",
    "train.graph",
    "checkpoint.every",
    "checkpoint.keep",
    "validation.every",
    "validation.clips",
    "validation.batch",
    "samples.every",
    "samples.clips",
    "samples.batch",
    "samples.steps",
    "samples.eta",
    "log.every",
    "log.tensorboard",
    "data.train",
    "data.validation",
    "base.checkpoint"};
// Keys that came later: at their defaults they leave the fingerprint of older runs as it was.
const std::set<std::string> kLater = {"data.levels",           "model.mlp",       "model.control_order",
                                      "model.zero_projection", "train.precision", "train.recompute"};

std::string toml_text(bool v) { return v ? "true" : "false"; }
std::string toml_text(std::int64_t v) { return std::to_string(v); }
std::string toml_text(double v) {
  std::string text = fmt::format("{}", v);  // shortest text that reads back to the same bits
  if (text.find_first_of(".einf") == std::string::npos) text += ".0";
  return text;
}
std::string toml_text(const std::string& v) {
  std::string out = "\"";
  for (const char c : v) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out + '"';
}
template <class Item>
std::string toml_text(const std::vector<Item>& v) {
  std::vector<std::string> items;
  for (const Item& item : v) items.push_back(toml_text(item));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

}  // namespace

std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(word.size() / 2, 2);
  for (const std::string& candidate : candidates) {
    // Levenshtein, one row at a time.
    std::vector<std::size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t change = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) best_distance = row.back(), best = candidate;
  }
  return best;
}

std::vector<std::string> TrainConfig::keys() {
  std::vector<std::string> names;
  TrainConfig c;
  visit_keys(c, [&](const char* key, auto&, const Rule&, const char*) { names.push_back(key); });
  return names;
}

std::string TrainConfig::to_toml() const {
  std::string out, section;
  visit_keys(*this, [&](const std::string& key, const auto& value, const Rule&, const char* help) {
    const auto dot = key.find('.');
    const std::string key_section = dot == std::string::npos ? "" : key.substr(0, dot);
    const std::string name = dot == std::string::npos ? key : key.substr(dot + 1);
    // Keys a kind does not use are left out, so that the file passes its own checks.
    if (key == "base.checkpoint" && base.checkpoint.empty()) return;
    if (key_section == "model" && (architecture_from_base(*this, name) || absent_in_encoder(*this, name))) return;
    if (key == "model.mlp" && !is_classifier()) return;
    if (key == "validation.batch" && is_encoder()) return;
    if (key == "model.control_order" && !is_controlnet()) return;
    if (key == "model.zero_projection" && model.kind != "controlnet_small") return;
    if (key_section != section) out += fmt::format("\n[{}]\n", section = key_section);
    out += fmt::format("{} = {}  # {}\n", name, toml_text(value), help);
  });
  return out;
}

std::string TrainConfig::fingerprint() const {
  Sha256 digest;
  std::map<std::string, std::string> defaults;
  const TrainConfig fresh;
  visit_keys(fresh, [&](const std::string& key, const auto& value, const Rule&, const char*) {
    if (kLater.count(key)) defaults[key] = toml_text(value);
  });
  visit_keys(*this, [&](const std::string& key, const auto& value, const Rule&, const char*) {
    const std::string text = toml_text(value);
    if (kFreeOnResume.count(key) || (kLater.count(key) && defaults[key] == text)) return;
    digest.update(key + "=" + text + "\n");
  });
  return digest.hex();
}

}  // namespace avid::train
