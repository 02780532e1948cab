// tests/sim/embedding_test.cpp -- the device kernels in the simulator against the CPU's
#include "kernels/embedding.h"

#include <array>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

std::vector<std::int64_t> some_ids(std::int64_t num_ids, std::int64_t num_rows, bool with_null) {
  std::mt19937 engine(7);
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < num_ids; ++i)
    ids.push_back(
        static_cast<std::int64_t>(engine() % static_cast<unsigned>(num_rows + (with_null ? 1 : 0))) -
        (with_null ? 1 : 0));
  return ids;
}

}  // namespace

TEST_CASE("embedding/sim/equals_the_cpu") {
  for_each_order([] {
    for (const auto& [num_ids, num_rows, width] : {std::array{1, 1, 1}, {13, 3, 5}, {40, 15, 50}, {5, 2, 300}}) {
      for (const bool with_null : {false, true}) {
        CAPTURE(num_ids);
        CAPTURE(width);
        const std::vector<std::int64_t> ids = some_ids(num_ids, num_rows, with_null);
        const Pitched<float> table = random_rows<float>(num_rows, width, 1), null_row = random_rows<float>(1, width, 2);
        const Pitched<float> d_out = random_rows<float>(num_ids, width, 3);
        const float* null_data = with_null ? null_row.values.data() : nullptr;
        Pitched<float> out(num_ids, width), want(num_ids, width);
        const kernels::EmbeddingDeviceSizes size{.num_ids = num_ids, .num_rows = num_rows, .width = width};
        kernels::embedding_fwd<Sim, float>(Stream{}, size, table.view(), null_data, ids.data(), out.view());
        kernels::embedding_fwd<float>(table.view(), null_data, ids.data(), num_ids, width, want.view());
        CHECK(same_bits(out, want));
        Pitched<float> d_table(num_rows, width), d_null(1, width), want_table(num_rows, width), want_null(1, width);
        kernels::embedding_bwd<Sim, float>(
            Stream{}, size, d_out.view(), ids.data(), d_table.view(), with_null ? d_null.values.data() : nullptr);
        kernels::embedding_bwd<float>(
            d_out.view(), ids.data(), num_ids, num_rows, width, want_table.view(),
            with_null ? want_null.values.data() : nullptr);
        CHECK(same_bits(d_table, want_table));  // both add in order of the ids
        CHECK(same_bits(d_null, want_null));
      }
    }
  });
}

TEST_CASE("embedding/sim/ids_outside_the_table_give_nan") {
  const Pitched<float> table = random_rows<float>(3, 5, 1);
  const std::vector<std::int64_t> ids{0, 3, -1, -2, 2};
  Pitched<float> out(5, 5);
  kernels::embedding_fwd<Sim, float>(
      Stream{}, {.num_ids = 5, .num_rows = 3, .width = 5}, table.view(), nullptr, ids.data(), out.view());
  for (std::int64_t i = 0; i < 5; ++i)
    for (std::int64_t e = 0; e < 5; ++e) CHECK(std::isnan(out(i, e)) == (i >= 1 && i <= 3));
}

TEST_CASE("embedding/sim/absent_gradients_and_no_ids") {
  const std::vector<std::int64_t> ids{1, -1, 1};
  const Pitched<float> d_out = random_rows<float>(3, 4, 1);
  Pitched<float> d_null = poisoned_rows<float>(1, 4), d_table = poisoned_rows<float>(2, 4);
  const kernels::EmbeddingDeviceSizes size{.num_ids = 3, .num_rows = 2, .width = 4};
  kernels::embedding_bwd<Sim, float>(Stream{}, size, d_out.view(), ids.data(), {}, d_null.values.data());
  for (std::int64_t e = 0; e < 4; ++e) CHECK(d_null(0, e) == d_out(1, e));
  kernels::embedding_bwd<Sim, float>(
      Stream{}, {.num_ids = 0, .num_rows = 2, .width = 4}, d_out.view(), ids.data(), d_table.view(), nullptr);
  for (std::int64_t e = 0; e < 4; ++e) CHECK(d_table(1, e) == 0);
}

TEST_CASE("embedding/sim/tables_of_more_rows_than_a_grid_is_high") {
  const std::vector<std::int64_t> ids{69999, 65536, 69999};
  const Pitched<float> d_out = random_rows<float>(3, 1, 1);
  Pitched<float> d_table = poisoned_rows<float>(70000, 1);
  kernels::embedding_bwd<Sim, float>(
      Stream{}, {.num_ids = 3, .num_rows = 70000, .width = 1}, d_out.view(), ids.data(), d_table.view(), nullptr);
  CHECK(d_table(69999, 0) == d_out(0, 0) + d_out(2, 0));
  CHECK(d_table(65536, 0) == d_out(1, 0));
  CHECK(d_table(65535, 0) == 0);
}
