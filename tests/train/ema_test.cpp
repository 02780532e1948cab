// tests/train/ema_test.cpp -- when the average copies, moves and rests
#include "train/ema.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::train;

namespace {

// One turn of the average, as the learner gives it.
double turn(Ema& ema) {
  const double decay = ema.next_decay();
  ema.move({&decay, 1});
  return decay;
}

// One parameter of 5 numbers in a padded row.
struct OneParameter : nn::Module {
  OneParameter() {
    p = add_parameter({.name = "p", .shape = {2, 5}, .plain_shape = {2, 5}, .init = nn::Init::ones});
    initialize(1);
  }
  nn::Parameter* p;
  void set(double v) {
    Var leaf = p->var();
    leaf.mutable_value().fill(v);
  }
};

}  // namespace

TEST_CASE("ema/decay/property_40_values") {
  const EmaOptions o;
  const std::vector<std::pair<int, double>> expected = {{110, 0.797820},  {120, 0.868623},  {200, 0.953891},
                                                        {500, 0.981610},  {1000, 0.989280}, {2000, 0.993484},
                                                        {2920, 0.994991}, {2930, 0.995}};
  for (const auto& [s, d] : expected) CHECK(ema_decay(o, s) == doctest::Approx(d).epsilon(1e-6));
  CHECK(ema_decay(o, 2930) == 0.995);
  CHECK(ema_decay(o, 1000000) == 0.995);
  CHECK(ema_decay(o, 100) == 0);
}

TEST_CASE("ema/counter/property_40_copies_moves_and_rests") {
  OneParameter module;
  Ema ema(module.parameters(), {});
  double shadow = 1;  // f64 model of the rule
  for (int s = 0; s <= 3000; ++s) {
    const double weights = std::sin(0.01 * s);
    module.set(weights);
    const double before = ema.shadow(0).to_doubles()[0];
    const double decay = turn(ema);
    const double after = ema.shadow(0).to_doubles()[7];
    if (s % 10 != 0) {
      REQUIRE(decay == 1);
      REQUIRE(after == before);
    } else if (s <= 110) {
      REQUIRE(decay == 0);
      REQUIRE(after == static_cast<double>(static_cast<float>(weights)));
      shadow = weights;
    } else {
      REQUIRE(decay == ema_decay({}, s));
      shadow += (1 - decay) * (weights - shadow);
      REQUIRE(std::abs(after - shadow) < 1e-6);
    }
  }
  CHECK(ema.counter() == 3001);
  CHECK(test::gaps_are_zero(ema.shadow(0)));
}

TEST_CASE("ema/start/fresh_and_continued") {
  OneParameter module;
  Ema fresh(module.parameters(), {}), continued(module.parameters(), {.start_counter = 520000});
  module.set(3);
  CHECK(turn(fresh) == 0);
  CHECK(fresh.shadow(0).to_doubles()[0] == 3);
  CHECK(turn(continued) == 0.995);  // at once slow, as in the original
  CHECK(continued.shadow(0).to_doubles()[0] == doctest::Approx(1 + 0.005 * 2));
}

TEST_CASE("ema/swap/parameters_hold_the_average_for_a_while") {
  OneParameter module;
  Ema ema(module.parameters(), {});
  module.set(7);
  {
    const Ema::Swapped averaged(ema);
    CHECK(module.p->var().value().to_doubles()[0] == 1);
  }
  CHECK(module.p->var().value().to_doubles()[0] == 7);
  CHECK(ema.shadow(0).to_doubles()[0] == 1);
}
