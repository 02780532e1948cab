// train/config.cpp -- the list of all keys, and everything that walks it
#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>
#include <sstream>

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include "tensor/error.h"
#include "tensor/io/sha256.h"

namespace avid::train {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a value may be.
struct Rule {
  double low = -kInfinity, high = kInfinity;
  bool above = false;  // low itself is not allowed
  std::vector<std::string> choices;
  bool path = false;  // looked for and made absolute

  std::string text() const {
    if (!choices.empty()) return fmt::format("one of {}", fmt::join(choices, ", "));
    if (high == kInfinity) return fmt::format("{} {}", above ? ">" : ">=", low);
    return fmt::format("{} {} and <= {}", above ? ">" : ">=", low, high);
  }
};
// What can be trained (train/README.md says what each is).
const std::vector<std::string> kModelKinds = {
    "base",     "avid",       "avid_no_mask",     "avid_no_cond", "scratch",
    "finetune", "controlnet", "controlnet_small", "classifier",   "noisy_classifier", "clip_encoder"};

Rule any() { return {}; }
Rule at_least(double low) { return {.low = low, .choices = {}}; }
Rule more_than(double low) { return {.low = low, .above = true, .choices = {}}; }
Rule between(double low, double high) { return {.low = low, .high = high, .choices = {}}; }
Rule one_of(std::vector<std::string> choices) { return {.choices = std::move(choices)}; }
Rule file_path() { return {.choices = {}, .path = true}; }

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
const std::set<std::string> kLater = {
    "data.levels", "model.mlp", "model.control_order", "model.zero_projection", "train.precision",
    "train.recompute"};

// The one list. Config is TrainConfig or const TrainConfig; visit is called as visit(key, value, rule, help).
template <class Config, class Visit>
void visit_keys(Config& c, Visit&& visit) {
  visit("seed", c.seed, at_least(0), "every random number of the run follows from it");
  visit("run.name", c.run.name, any(), "shown in the report");
  visit("data.train", c.data.train, file_path(), "episode stores to train on");
  visit("data.validation", c.data.validation, file_path(), "held-out episode stores");
  visit("data.size", c.data.size, between(4, 1024), "frame height and width in pixels; frames are reduced to it");
  visit("data.cond_frames", c.data.cond_frames, between(1, 64), "K: clean frames that start a clip");
  visit("data.frames", c.data.frames, between(1, 256), "T: frames the model generates");
  visit(
      "data.resets", c.data.resets, one_of({"exclude", "allow"}),
      "whether a window may straddle a restart of the level");
  visit("data.windows", c.data.windows, one_of({"full", "reference"}), "every start, or only those the original uses");
  visit("data.levels", c.data.levels, at_least(0), "train on the first so many recorded levels of data.train; 0: all");
  visit("model.kind", c.model.kind, one_of(kModelKinds), "what is trained");
  visit("model.width", c.model.width, between(4, 4096), "base width d of the trained U-Net");
  visit("model.multipliers", c.model.multipliers, between(1, 64), "width of each level, in units of d");
  visit("model.heads", c.model.heads, between(1, 256), "attention heads");
  visit("model.head_dim", c.model.head_dim, between(2, 1024), "width of a temporal attention head");
  visit("model.actions", c.model.actions, between(1, 1e6), "number of discrete actions");
  visit("model.mlp", c.model.mlp, between(1, 1e6), "classifiers: width of the hidden layer");
  visit(
      "model.control_order", c.model.control_order, one_of({"reversed", "natural"}),
      "controlnets: how the two middle outputs enter the base; reversed as in the original");
  visit(
      "model.zero_projection", c.model.zero_projection, any(),
      "controlnet_small: zero the biases of the projections, so that it starts as the base");
  visit(
      "base.checkpoint", c.base.checkpoint, file_path(),
      "frozen base (avid*, controlnet*) or starting weights (finetune): file, run folder or http://host:port");
  visit("diffusion.schedule", c.diffusion.schedule, one_of({"sigmoid", "cosine", "linear"}), "noise schedule");
  visit("diffusion.timesteps", c.diffusion.timesteps, between(2, 100000), "N: diffusion steps");
  visit(
      "diffusion.objective", c.diffusion.objective, one_of({"pred_x0", "pred_noise", "pred_v"}),
      "what the network's output means");
  visit(
      "diffusion.loss_weight", c.diffusion.loss_weight, one_of({"snr", "min_snr", "none"}),
      "weight of a clip in the loss");
  visit("train.updates", c.train.updates, at_least(1), "optimiser updates");
  visit("train.batch", c.train.batch, between(1, 1e6), "clips per micro-batch");
  visit("train.accumulate", c.train.accumulate, between(1, 1e6), "micro-batches per update");
  visit("train.lr", c.train.lr, at_least(0), "learning rate of Adam after the warm-up");
  visit("train.warmup", c.train.warmup, at_least(0), "update k (from 0) uses lr * min(1, k / warmup); 0: no warm-up");
  visit(
      "train.cooldown", c.train.cooldown, at_least(0),
      "the last so many updates lower the rate to 0 in a straight line; 0: none (the paper)");
  visit("train.beta1", c.train.beta1, between(0, 0.9999999), "Adam: decay of the mean");
  visit("train.beta2", c.train.beta2, between(0, 0.9999999), "Adam: decay of the mean square");
  visit("train.eps", c.train.eps, more_than(0), "Adam: added to the root");
  visit("train.clip", c.train.clip, more_than(0), "largest global gradient norm; inf: no clipping");
  visit(
      "train.action_drop", c.train.action_drop, between(0, 1),
      "probability that a clip's actions are withheld (0.2 for guidance)");
  visit("train.max_bad_steps", c.train.max_bad_steps, at_least(1), "stop after so many non-finite updates in a row");
  visit(
      "train.time_limit_minutes", c.train.time_limit_minutes, at_least(0),
      "stop after so many minutes of training; 0: no limit");
  visit(
      "train.precision", c.train.precision, one_of({"f32", "bf16"}),
      "type of the activations; weights, gradients and losses are f32");
  visit(
      "train.graph", c.train.graph, one_of({"auto", "on", "off"}),
      "on a device, record one update and repeat it; auto: where that is possible");
  visit(
      "train.recompute", c.train.recompute, one_of({"none", "blocks", "levels"}),
      "forget activations inside U-Net blocks or levels and compute them again on the way back: less memory, more time");
  visit("ema.decay", c.ema.decay, between(0, 1), "largest decay of the averaged weights");
  visit("ema.power", c.ema.power, more_than(0), "decay grows as 1 - (1 + s - update_after)^-power");
  visit("ema.update_every", c.ema.update_every, at_least(1), "micro-batches from one average to the next");
  visit("ema.update_after", c.ema.update_after, at_least(0), "micro-batches during which the average is a copy");
  visit(
      "ema.start_counter", c.ema.start_counter, at_least(0),
      "0: fresh start; the original goes on from the base run's counter (520000)");
  visit("checkpoint.every", c.checkpoint.every, at_least(1), "updates from one checkpoint to the next");
  visit("checkpoint.keep", c.checkpoint.keep, at_least(1), "newest checkpoints to keep, besides the best");
  visit("validation.every", c.validation.every, at_least(0), "updates from one validation to the next; 0: never");
  visit("validation.clips", c.validation.clips, at_least(1), "held-out clips per validation, always the same");
  visit(
      "validation.batch", c.validation.batch, between(0, 1e6),
      "clips evaluated at once, at most train.batch; 0: train.batch. Decides memory, not the result");
  visit("samples.every", c.samples.every, at_least(0), "updates from one set of samples to the next; 0: never");
  visit("samples.clips", c.samples.clips, between(1, 64), "clips to sample");
  visit(
      "samples.batch", c.samples.batch, between(0, 1e6),
      "clips sampled at once, at most train.batch; 0: train.batch. Decides memory, not the result");
  visit("samples.steps", c.samples.steps, at_least(1), "DDIM steps");
  visit("samples.eta", c.samples.eta, between(0, 1), "DDIM noise; 0: deterministic");
  visit("log.every", c.log.every, at_least(1), "updates from one log line to the next");
  visit("log.tensorboard", c.log.tensorboard, any(), "write TensorBoard events as well");
}

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
      files == TrainConfig::Files::may_miss, "config: {}: file not found: {} | {}", key, path, given.where);
}
void resolve(
    std::vector<std::string>& paths, const std::string& key, const std::filesystem::path& folder, const Given& given,
    TrainConfig::Files files) {
  for (std::string& path : paths) resolve(path, key, folder, given, files);
}
template <class Value>
void resolve(Value&, const std::string&, const std::filesystem::path&, const Given&, TrainConfig::Files) {}

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

// Whether a clip encoder lacks this part of the architecture.
bool absent_in_encoder(const TrainConfig& c, const std::string& name) {
  return c.is_encoder() && (name == "multipliers" || name == "heads" || name == "head_dim" || name == "actions");
}

// Whether this part of the architecture comes from base.checkpoint instead of the configuration.
bool architecture_from_base(const TrainConfig& c, const std::string& name) {
  if (c.model.kind == "finetune" || c.model.kind == "controlnet")
    return name == "width" || name == "multipliers" || name == "heads" || name == "head_dim" || name == "actions";
  return c.model.kind == "controlnet_small" && (name == "multipliers" || name == "actions");
}

// Keys that exclude or need each other. `given` tells what the user wrote, as opposed to defaults.
void check_together(const TrainConfig& c, const GivenKeys& given, const std::string& name) {
  const auto where = [&](const char* key) { return given.count(key) ? given.at(key).where : name; };
  const auto need = [&](const char* key, const std::string& why) {
    check<ConfigError>(given.count(key) > 0, "config: {}: missing, {} | {}", key, why, name);
  };
  const auto clash = [&](bool bad, const char* key, const std::string& why) {
    check<ConfigError>(!bad, "config: {}: {} | {}", key, why, where(key));
  };
  need("model.kind", fmt::format("it says what to train: {}", fmt::join(kModelKinds, ", ")));
  need("data.train", "it names the episodes to train on");
  need("train.updates", "it says how long to train");
  const std::string& kind = c.model.kind;
  if (c.has_base() || kind == "finetune")
    need("base.checkpoint", fmt::format("model.kind = {} starts from a trained base", kind));
  else
    clash(
        given.count("base.checkpoint") > 0, "base.checkpoint",
        fmt::format("not used by model.kind = {} | leave it out", kind));
  for (const char* key : {"model.width", "model.multipliers", "model.heads", "model.head_dim", "model.actions"})
    clash(
        given.count(key) > 0 && architecture_from_base(c, key + 6), key,
        fmt::format("model.kind = {} takes the architecture from base.checkpoint | leave it out", kind));
  for (const char* key : {"model.multipliers", "model.heads", "model.head_dim", "model.actions"})
    clash(
        given.count(key) > 0 && absent_in_encoder(c, key + 6), key,
        "model.kind = clip_encoder has only model.width | leave it out");
  clash(
      c.is_encoder() && c.data.size != 32, "data.size",
      fmt::format("a clip encoder sees frames of 32x32, got {}", c.data.size));
  clash(
      c.is_encoder() && c.data.cond_frames + c.data.frames < 9, "data.frames",
      fmt::format(
          "a clip encoder learns from clips of 9 frames or more, got {} + {}", c.data.cond_frames, c.data.frames));
  clash(c.is_encoder() && c.train.batch < 2, "train.batch", "a clip encoder tells clips apart, expected >= 2, got 1");
  clash(
      c.is_encoder() && c.train.recompute != "none", "train.recompute",
      "a clip encoder has no U-Net, expected none | leave it out");
  clash(
      c.is_encoder() && given.count("validation.batch") > 0, "validation.batch",
      "a clip encoder's loss compares the clips of a batch, so that validation takes train.batch | leave it out");
  clash(given.count("model.mlp") > 0 && !c.is_classifier(), "model.mlp", "only classifiers have it | leave it out");
  clash(
      given.count("model.control_order") > 0 && !c.is_controlnet(), "model.control_order",
      "only controlnet and controlnet_small have it | leave it out");
  clash(
      given.count("model.zero_projection") > 0 && kind != "controlnet_small", "model.zero_projection",
      "only controlnet_small has projections | leave it out");
  clash(c.data.train.empty(), "data.train", "expected at least one file, got an empty list");
  clash(c.model.multipliers.empty(), "model.multipliers", "expected at least one level, got an empty list");
  clash(c.model.width % 2 != 0, "model.width", fmt::format("expected an even number, got {}", c.model.width));
  clash(c.model.head_dim % 2 != 0, "model.head_dim", fmt::format("expected an even number, got {}", c.model.head_dim));
  // A classifier halves its frames once more.
  const std::int64_t step = std::int64_t{1}
                            << std::min<std::size_t>(c.model.multipliers.size() - (c.is_classifier() ? 0 : 1), 20);
  clash(
      !architecture_from_base(c, "multipliers") && c.data.size % step != 0, "data.size",
      fmt::format(
          "expected a multiple of {} (model.multipliers has {} levels), got {}", step, c.model.multipliers.size(),
          c.data.size));
  clash(
      kind == "base" && c.train.action_drop > 0, "train.action_drop",
      "model.kind = base never sees actions | leave it out");
  clash(
      (c.is_controlnet() || !c.is_denoiser()) && c.train.action_drop > 0, "train.action_drop",
      fmt::format("model.kind = {} is never asked without actions | leave it out", kind));
  clash(
      !c.is_denoiser() && c.samples.every > 0, "samples.every",
      fmt::format("model.kind = {} makes no videos | leave it out", kind));
  clash(
      c.validation.every > 0 && c.data.validation.empty(), "validation.every",
      "validation needs held-out episodes | set data.validation, or validation.every = 0");
  clash(
      c.samples.steps > c.diffusion.timesteps, "samples.steps",
      fmt::format("expected <= diffusion.timesteps = {}, got {}", c.diffusion.timesteps, c.samples.steps));
}

}  // namespace

std::string toml_library_version() {
  return fmt::format("{}.{}.{}", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH);
}

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
  check_together(c, given, name);
  return c;
}

TrainConfig TrainConfig::load(
    const std::filesystem::path& file, const std::vector<std::string>& overrides, Files files) {
  std::ifstream in(file, std::ios::binary);
  check<FileError>(
      in.good() && !std::filesystem::is_directory(file), "config: {}: cannot be read | give a TOML file, see configs/",
      file.string());
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return parse(text, file.string(), overrides, files);
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
