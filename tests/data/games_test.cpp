// tests/data/games_test.cpp -- game names, action words, action streams
#include "data/games.h"

#include <numeric>

#include "tensor/error.h"
#include "tests/doctest.h"

using namespace avid;
using namespace avid::data;

TEST_CASE("games/index/order_is_fixed") {
  CHECK(game_index("bigfish") == 0);
  CHECK(game_index("coinrun") == 5);
  CHECK(game_index("starpilot") == 15);
  CHECK_THROWS_WITH_AS(
      game_index("coinrunn"), "procgen: game: expected one of the 16 games, got 'coinrunn' | did you mean coinrun?",
      ConfigError);
}

TEST_CASE("games/actions/words_numbers_and_repeats") {
  CHECK(parse_action("left+down") == 0);
  CHECK(parse_action("none") == 4);
  CHECK(parse_action("jump") == 5);
  CHECK(parse_action("right+up") == 8);
  CHECK(parse_action("up+right") == 8);
  CHECK(parse_action("right+jump") == 8);
  CHECK(parse_action("jump+left") == 2);
  CHECK(parse_action(" 14 ") == 14);
  CHECK(parse_action_string("right*4, jump*2,none") == std::vector<std::uint8_t>{7, 7, 7, 7, 5, 5, 4});
  CHECK(parse_action_string("3") == std::vector<std::uint8_t>{3});
  CHECK(parse_action_string("right*0").empty());
  for (const char* bad :
       {"", "15", "-1", "rigth", "right*", "right*x", "right,,left", "right*99999999999", "a+b", "*3"})
    CHECK_THROWS_AS(parse_action_string(bad), UsageError);
  for (int a = 0; a < kNumActions; ++a) CHECK(parse_action(action_name(a)) == a);
  CHECK_THROWS_AS(action_name(15), UsageError);
}

TEST_CASE("games/level_actions/depend_only_on_seed_game_level_and_step") {
  const auto a = level_actions(0, "coinrun", 17, 1000, ActionPolicy::uniform);
  CHECK(a == level_actions(0, "coinrun", 17, 1000, ActionPolicy::uniform));
  auto prefix = level_actions(0, "coinrun", 17, 100, ActionPolicy::uniform);
  CHECK(std::equal(prefix.begin(), prefix.end(), a.begin()));
  CHECK(a != level_actions(1, "coinrun", 17, 1000, ActionPolicy::uniform));
  CHECK(a != level_actions(0, "coinrun", 18, 1000, ActionPolicy::uniform));
  CHECK(a != level_actions(0, "maze", 17, 1000, ActionPolicy::uniform));
  // Written down so that recorded datasets can always be made again.
  CHECK(
      level_actions(0, "coinrun", 0, 8, ActionPolicy::uniform) == std::vector<std::uint8_t>{6, 5, 11, 5, 9, 1, 8, 13});
}

TEST_CASE("games/level_actions/uniform_and_hold_have_their_statistics") {
  std::vector<int> count(kNumActions);
  int changes = 0;
  constexpr int kSteps = 60000;
  for (const std::uint8_t a : level_actions(3, "ninja", 5, kSteps, ActionPolicy::uniform)) ++count[a];
  for (const int n : count) CHECK(std::abs(n - kSteps / 15) < 5 * 62);  // five standard deviations of a binomial
  const auto held = level_actions(3, "ninja", 5, kSteps, ActionPolicy::hold);
  for (std::size_t t = 1; t < held.size(); ++t) changes += held[t] != held[t - 1];
  CHECK(std::abs(changes / static_cast<double>(kSteps) - 14.0 / 60.0) < 0.01);  // drawn anew 1 in 4, different 14 in 15
}

TEST_CASE("games/level_actions/bad_input") {
  CHECK_THROWS_AS(level_actions(std::uint64_t{1} << 56, "coinrun", 0, 1, ActionPolicy::uniform), ConfigError);
  CHECK_THROWS_AS(level_actions(0, "coinrun", -1, 1, ActionPolicy::uniform), ConfigError);
  CHECK_THROWS_AS(parse_action_policy("random"), ConfigError);
}
