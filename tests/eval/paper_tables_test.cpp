// tests/eval/paper_tables_test.cpp -- the paper's tables: cells, bounds, normalised scores, ranks
#include "eval/paper_tables.h"

#include <set>

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

const std::filesystem::path kTables = std::string(AVID_SOURCE_DIR) + "/configs/paper/tables.json";

const PaperRow& row(const std::vector<PaperTable>& tables, int number, const std::string& key) {
  for (const PaperTable& table : tables)
    for (const PaperRow& r : table.rows)
      if (table.number == number && r.key == key) return r;
  FAIL("no row " << key);
  return tables[0].rows[0];
}

}  // namespace

TEST_CASE("paper_tables/rows/every_coinrun_row_has_its_key") {
  const auto tables = load_paper_tables(kTables);
  REQUIRE(tables.size() == 5);
  const std::size_t counts[] = {13, 3, 8, 8, 6};
  for (std::size_t i = 0; i < 5; ++i) CHECK(tables[i].rows.size() == counts[i]);
  const PaperRow& avid = row(tables, 1, "avid_71m");
  CHECK(avid.id() == "coinrun500k__avid_71m");
  CHECK(*at(avid.values, PaperMetric::fvd) == 23.1);
  CHECK(avid.printed[5] == "23.8");
  CHECK(row(tables, 1, "classifier_guidance").params == "");
  for (const PaperTable& table : tables) {
    std::set<std::string> ids;
    for (const PaperRow& r : table.rows) CHECK(ids.insert(r.id()).second);
  }
  CHECK_THROWS_AS(method_key("IRASim", ""), FileError);
}

TEST_CASE("paper_tables/property_45/bounds_and_normalised_score") {
  const auto tables = load_paper_tables(kTables);
  std::vector<PaperValues> pool;
  for (const PaperTable& table : tables)
    if (table.number == 1 || table.number == 4 || table.number == 5)
      for (const PaperRow& r : table.rows)
        if (in_normalisation_pool(r)) pool.push_back(r.values);
  CHECK(pool.size() == 18);
  const MetricBounds bounds = bounds_of(pool);
  // Table 11 is the smallest and largest value of the pooled rows.
  const auto json = nlohmann::json::parse(read_text(kTables))["table11"]["rows"];
  for (std::size_t i = 0; i < kPaperMetrics.size(); ++i) {
    CHECK(*bounds.low[i] == json[0]["values"][i].get<double>());
    CHECK(*bounds.high[i] == json[1]["values"][i].get<double>());
  }
  // Best in everything scores 1, worst 0.
  PaperValues best, worst;
  for (const PaperMetric m : kPaperMetrics) {
    at(best, m) = higher_is_better(m) ? *at(bounds.high, m) : *at(bounds.low, m);
    at(worst, m) = higher_is_better(m) ? *at(bounds.low, m) : *at(bounds.high, m);
  }
  CHECK(*normalised_score(best, bounds) == doctest::Approx(1));
  CHECK(*normalised_score(worst, bounds) == doctest::Approx(0));
  CHECK(*normalised_score(row(tables, 1, "avid_71m").values, bounds) == doctest::Approx(0.85054).epsilon(1e-5));
  CHECK(*normalised_score(row(tables, 1, "scratch_71m").values, bounds) == doctest::Approx(0.64857).epsilon(1e-5));
  // Rows outside the pool may leave [0,1].
  CHECK(*normalised_score(row(tables, 1, "cfg_22m").values, bounds) < 0);
}

TEST_CASE("paper_tables/bounds/a_metric_that_a_row_lacks_does_not_count") {
  PaperValues a, b;
  at(a, PaperMetric::psnr) = 20;
  at(b, PaperMetric::psnr) = 30;
  at(a, PaperMetric::ssim) = 0.5;
  const MetricBounds bounds = bounds_of({a, b});
  CHECK_FALSE(at(bounds.low, PaperMetric::ssim).has_value());
  CHECK(*normalised_score(b, bounds) == 1);
  CHECK_FALSE(normalised_score(PaperValues{}, bounds).has_value());
  CHECK_FALSE(normalised_score(a, bounds_of({})).has_value());
  CHECK_FALSE(normalised_score(a, bounds_of({a})).has_value());  // one row alone has no range
}

TEST_CASE("paper_tables/kendall_tau/by_hand") {
  CHECK(*kendall_tau({1, 2, 3}, {10, 20, 30}) == doctest::Approx(1));
  CHECK(*kendall_tau({1, 2, 3}, {3, 2, 1}) == doctest::Approx(-1));
  CHECK(*kendall_tau({1, 2, 3, 4}, {1, 3, 2, 4}) == doctest::Approx(4.0 / 6));
  CHECK(*kendall_tau({1, 1, 2}, {1, 2, 3}) == doctest::Approx(2 / std::sqrt(2.0 * 3)));
  CHECK_FALSE(kendall_tau({1}, {2}).has_value());
  CHECK_FALSE(kendall_tau({1, 1}, {2, 3}).has_value());
  CHECK_THROWS_AS(kendall_tau({1, 2}, {1}), ShapeError);
}

}  // namespace avid::eval
