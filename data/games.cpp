// data/games.cpp -- names, modes and action streams of the Procgen games
#include "data/games.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/rng.h"

namespace avid::data {
namespace {

constexpr std::array<std::string_view, kNumActions> kActionNames = {
    "left+down", "left", "left+up", "down", "none", "up", "right+down", "right",
    "right+up",  "d",    "a",       "w",    "s",    "q",  "e"};

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

int parse_number(std::string_view text, int limit, const char* what) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0 || value >= limit)
    fail<UsageError>("actions: {}: expected 0..{}, got '{}'", what, limit - 1, printable(text));
  return value;
}

}  // namespace

int game_index(std::string_view game) {
  const auto found = std::find(kGames.begin(), kGames.end(), game);
  if (found != kGames.end()) return static_cast<int>(found - kGames.begin());
  const auto nearest = std::min_element(kGames.begin(), kGames.end(), [&](std::string_view a, std::string_view b) {
    return edit_distance(a, game) < edit_distance(b, game);
  });
  fail<ConfigError>("procgen: game: expected one of the 16 games, got '{}' | did you mean {}?", game, *nearest);
}

int distribution_mode(std::string_view mode, std::string_view game) {
  game_index(game);
  const auto among = [&](std::initializer_list<std::string_view> games) {
    return std::find(games.begin(), games.end(), game) != games.end();
  };
  if (mode == "easy") return 0;
  if (mode == "hard") return 1;
  if (mode == "extreme") {
    if (among({"chaser", "dodgeball", "leaper", "starpilot"})) return 2;
    fail<ConfigError>(
        "procgen: mode: {} has no mode extreme | only chaser, dodgeball, leaper, starpilot have it", game);
  }
  if (mode == "memory") {
    if (among({"caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"})) return 10;
    fail<ConfigError>(
        "procgen: mode: {} has no mode memory | only caveflyer, dodgeball, heist, jumper, maze, miner have it", game);
  }
  fail<ConfigError>("procgen: mode: expected easy, hard, extreme or memory, got '{}'", mode);
}

ActionPolicy parse_action_policy(std::string_view word) {
  if (word == "uniform") return ActionPolicy::uniform;
  if (word == "hold") return ActionPolicy::hold;
  fail<ConfigError>("collect: actions: expected uniform or hold, got '{}'", word);
}

const char* name_of(ActionPolicy policy) { return policy == ActionPolicy::uniform ? "uniform" : "hold"; }

std::vector<std::uint8_t> level_actions(
    std::uint64_t dataset_seed, std::string_view game, std::int32_t level, std::int64_t num_steps,
    ActionPolicy policy) {
  check<ConfigError>(dataset_seed >> 56 == 0, "collect: seed: expected below 2^56, got {}", dataset_seed);
  check<ConfigError>(level >= 0, "collect: level: expected >= 0, got {}", level);
  const RngKey key{
      .seed = dataset_seed * 256 + static_cast<std::uint64_t>(game_index(game)),
      .purpose = RngPurpose::collect_action,
      .step = static_cast<std::uint64_t>(level)};
  constexpr std::uint64_t kHoldStream = std::uint64_t{1} << 32;  // a run is never this long
  std::vector<std::uint8_t> actions(static_cast<std::size_t>(num_steps));
  for (std::size_t t = 0; t < actions.size(); ++t) {
    const bool keep = policy == ActionPolicy::hold && t > 0 && random_below(key, kHoldStream + t, 4) != 0;
    actions[t] = keep ? actions[t - 1] : static_cast<std::uint8_t>(random_below(key, t, kNumActions));
  }
  return actions;
}

std::string_view action_name(int action) {
  check<UsageError>(action >= 0 && action < kNumActions, "actions: id: expected 0..14, got {}", action);
  return kActionNames[static_cast<std::size_t>(action)];
}

int parse_action(std::string_view word) {
  word = trim(word);
  if (word == "jump") word = "up";
  const auto found = std::find(kActionNames.begin(), kActionNames.end(), word);
  if (found != kActionNames.end()) return static_cast<int>(found - kActionNames.begin());
  if (!word.empty() && word.find_first_not_of("0123456789") == std::string_view::npos)
    return parse_number(word, kNumActions, "id");
  // "up+right" is "right+up": the library's names put the horizontal key first
  if (const auto plus = word.find('+'); plus != std::string_view::npos) {
    std::string_view vertical = word.substr(0, plus);
    if (vertical == "jump") vertical = "up";
    const std::string swapped = std::string(word.substr(plus + 1)) + "+" + std::string(vertical);
    const std::string straight =
        std::string(word.substr(0, plus)) + "+" + (word.substr(plus + 1) == "jump" ? "up" : "?");
    for (const std::string& name : {swapped, straight})
      if (const auto hit = std::find(kActionNames.begin(), kActionNames.end(), name); hit != kActionNames.end())
        return static_cast<int>(hit - kActionNames.begin());
  }
  fail<UsageError>(
      "actions: expected left, right, up (jump), down, none, pairs such as right+up, d a w s q e, or 0..14, got '{}'",
      printable(word));
}

std::vector<std::uint8_t> parse_action_string(std::string_view text) {
  std::vector<std::uint8_t> actions;
  while (true) {
    const auto comma = text.find(',');
    std::string_view item = trim(text.substr(0, comma));
    int repeats = 1;
    if (const auto star = item.find('*'); star != std::string_view::npos) {
      repeats = parse_number(trim(item.substr(star + 1)), 100001, "repeat count");
      item = item.substr(0, star);
    }
    actions.insert(actions.end(), static_cast<std::size_t>(repeats), static_cast<std::uint8_t>(parse_action(item)));
    if (comma == std::string_view::npos) return actions;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace avid::data
