// data/games.h -- the 16 Procgen games, their difficulty modes, and the actions of a recorded level
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace avid::data {

/// Alphabetical. A game's index is part of its action stream's key: never reorder.
inline constexpr std::array<std::string_view, 16> kGames = {
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist",   "jumper",    "leaper",    "maze",   "miner",   "ninja",   "plunder",   "starpilot"};

inline constexpr int kNumActions = 15;

/// Position in kGames; throws ConfigError that names the nearest game.
int game_index(std::string_view game);

/// The library's number of a mode: easy 0, hard 1, extreme 2, memory 10. Throws ConfigError when the word is unknown
/// or the game does not have that mode.
int distribution_mode(std::string_view mode, std::string_view game);

/// How a recorded level chooses its actions.
enum class ActionPolicy {
  uniform,  ///< a fresh action every step (the paper's)
  hold,     ///< an action is kept for 4 steps on average, so that motion is larger
};
ActionPolicy parse_action_policy(std::string_view word);
const char* name_of(ActionPolicy policy);

/// The actions of one recorded level, reproducible for any level alone.
///
///   key = (seed: dataset_seed * 256 + game index, purpose collect_action, step: level)
///   uniform  a[t] = number t of the stream, taken below 15 by multiply-shift
///   hold     the same a[t] where t = 0 or number 2^32 + t is 0 below 4; otherwise a[t] = a[t-1]
///
/// Errors   ConfigError if dataset_seed does not fit 56 bits or level is negative.
std::vector<std::uint8_t> level_actions(
    std::uint64_t dataset_seed, std::string_view game, std::int32_t level, std::int64_t num_steps, ActionPolicy policy);

/// The id of a word such as "right", "left+up", "jump" (= "up"), "none" or a number; throws UsageError.
int parse_action(std::string_view word);
/// "right*4,up*2,none" -> ids in order; throws UsageError.
std::vector<std::uint8_t> parse_action_string(std::string_view text);
/// "right" for 7, and so on.
std::string_view action_name(int action);

}  // namespace avid::data
