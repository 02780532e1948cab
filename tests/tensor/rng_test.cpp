// tests/tensor/rng_test.cpp -- Philox against its published numbers; uniform and normal fills
#include "tensor/rng.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/philox.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;
using Words = std::array<std::uint32_t, 4>;

TEST_CASE("rng/philox/published_answers") {
  // kat_vectors of the Random123 distribution, philox4x32 with 10 rounds
  CHECK(kernels::philox4x32_10({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint32_t f = 0xffffffff;
  CHECK(kernels::philox4x32_10({f, f, f, f}, {f, f}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(
      kernels::philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
      Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("rng/philox_block/counter_layout") {
  const RngKey key{.seed = 0x1122334455667788, .purpose = RngPurpose::test, .step = 0x99aabbccddeeff00};
  CHECK(
      philox_block(key, 0x123456789abc) ==
      kernels::philox4x32_10({0x56789abc, 0x1234u | 11u << 16, 0xddeeff00, 0x99aabbcc}, {0x55667788, 0x11223344}));
}

TEST_CASE("rng/random_below/range_and_formula") {
  const RngKey key{.seed = 5};
  std::array<int, 7> seen{};
  for (std::uint64_t e = 0; e < 7000; ++e) {
    const std::uint32_t v = random_below(key, e, 7);
    REQUIRE(v < 7);
    ++seen[v];
    CHECK(random_u32(key, e) == philox_block(key, e / 4)[e % 4]);
    const float u = random_uniform(key, e);
    CHECK((u >= 0 && u < 1));
  }
  // 1000 expected each, standard deviation 29
  for (int count : seen) CHECK(std::abs(count - 1000) < 150);
}

TEST_CASE("rng/fill_normal/moments_and_tails") {
  Tensor t = Tensor::empty({1 << 20});
  fill_normal(t, {.seed = 1});
  double sum = 0, squares = 0, cubes = 0, fourths = 0, largest = 0;
  for (double v : t.to_doubles()) {
    sum += v;
    squares += v * v;
    cubes += v * v * v;
    fourths += v * v * v * v;
    largest = std::max(largest, std::abs(v));
  }
  const double n = 1 << 20;  // six standard errors each
  CHECK(std::abs(sum / n) < 6 / 1024.0);
  CHECK(std::abs(squares / n - 1) < 6 * std::sqrt(2.0) / 1024);
  CHECK(std::abs(cubes / n) < 6 * std::sqrt(15.0) / 1024);
  CHECK(std::abs(fourths / n - 3) < 6 * std::sqrt(96.0) / 1024);
  CHECK(largest > 4.2);
  CHECK(largest < 6.7);
}

TEST_CASE("rng/fill_normal/box_muller_of_the_words") {
  const RngKey key{.seed = 77, .purpose = RngPurpose::train_noise, .step = 3};
  Tensor t = Tensor::empty({8}, DType::f64);
  fill_normal(t, key);
  for (std::uint64_t pair = 0; pair < 4; ++pair) {
    const double u = (random_u32(key, 2 * pair) + 1.0) / 4294967296.0;
    const double angle = 2 * 3.14159265358979323846 * random_u32(key, 2 * pair + 1) / 4294967296.0;
    CHECK(t.to_doubles()[2 * pair] == doctest::Approx(std::sqrt(-2 * std::log(u)) * std::cos(angle)).epsilon(1e-12));
    CHECK(
        t.to_doubles()[2 * pair + 1] == doctest::Approx(std::sqrt(-2 * std::log(u)) * std::sin(angle)).epsilon(1e-12));
  }
}

TEST_CASE("rng/fill_normal/f32_equals_f64_up_to_rounding") {
  Tensor single = Tensor::empty({300000}), full = Tensor::empty({300000}, DType::f64);
  fill_normal(single, {.seed = 9, .step = 4});
  fill_normal(full, {.seed = 9, .step = 4});
  CHECK(max_abs_diff(single, full) < 2e-6);
}

TEST_CASE("rng/fill_normal/same_bits_for_one_and_two_threads") {
  Tensor one = Tensor::empty({513, 50}), two = Tensor::empty({513, 50});
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  fill_normal(one, {.seed = 2});
  omp_set_num_threads(2);
  fill_normal(two, {.seed = 2});
  omp_set_num_threads(before);
  CHECK(same_bits(one, two));
}

TEST_CASE("rng/fill/first_element_continues_the_stream") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tensor whole = Tensor::empty({1000}, dtype);
    fill_normal(whole, {.seed = 3});
    for (const std::int64_t start : {1, 255, 256, 258, 999}) {
      Tensor part = Tensor::empty({1000 - start}, dtype);
      fill_normal(part, {.seed = 3}, static_cast<std::uint64_t>(start));
      const auto all = whole.to_doubles(), tail = part.to_doubles();
      CHECK(std::equal(tail.begin(), tail.end(), all.begin() + start));
    }
  }
}

TEST_CASE("rng/fill/pitched_rows_hold_the_dense_sequence") {
  Tensor dense = Tensor::empty({39}), pitched = Tensor::zeros({13, 3});
  fill_normal(dense, {.seed = 8});
  fill_normal(pitched, {.seed = 8});
  CHECK(dense.to_doubles() == pitched.to_doubles());
  CHECK(gaps_are_zero(pitched));
  Tensor empty = Tensor::empty({0, 3});
  fill_normal(empty, {});
}

TEST_CASE("rng/fill/streams_differ") {
  const auto first = [](RngKey key) {
    Tensor t = Tensor::empty({4});
    fill_normal(t, key);
    return t.to_doubles();
  };
  const auto base = first({.seed = 1, .purpose = RngPurpose::test, .step = 1});
  CHECK(base != first({.seed = 2, .purpose = RngPurpose::test, .step = 1}));
  CHECK(base != first({.seed = 1, .purpose = RngPurpose::eval_noise, .step = 1}));
  CHECK(base != first({.seed = 1, .purpose = RngPurpose::test, .step = 2}));
}

TEST_CASE("rng/fill_uniform/values_and_bounds") {
  const RngKey key{.seed = 6};
  Tensor t = Tensor::empty({100, 3}), wide = Tensor::empty({100, 3}, DType::f64);
  fill_uniform(t, key, -0.5, 1.5);
  fill_uniform(wide, key, -0.5, 1.5);
  CHECK(max_abs_diff(t, wide) < 1e-7);
  const auto values = wide.to_doubles();
  for (std::size_t e = 0; e < values.size(); ++e) CHECK(values[e] == -0.5 + 2.0 * random_uniform(key, e));
  // One ulp wide: rounding must not reach the upper bound.
  const float high = std::nextafter(1e6f, 2e6f);
  fill_uniform(t, key, 1e6, high);
  for (double v : t.to_doubles()) CHECK(v == 1e6);
}

TEST_CASE("rng/fill/errors") {
  Tensor ids = Tensor::zeros({3}, DType::i64), t = Tensor::zeros({3}), none;
  CHECK_THROWS_WITH_AS(fill_normal(ids, {}), "fill_normal: t: expected f32 or f64, got i64 [3]", DTypeError);
  CHECK_THROWS_AS(fill_normal(none, {}), DTypeError);
  CHECK_THROWS_WITH_AS(fill_uniform(t, {}, 1, 1), "fill_uniform: expected low < high, got [1, 1)", Error);
}
