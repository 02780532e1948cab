// tests/tensor/tensor_test.cpp -- layout, views, copies, conversions, printing
#include "tensor/tensor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::gaps_are_zero;

namespace {

constexpr DType kAllTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8};

// 0, 1, 2, ... in any type (exact up to 256 even in bf16).
Tensor counting(const Shape& shape, DType dtype = DType::f32) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0.0);
  return Tensor::from_values(values, shape).to(dtype);
}

std::vector<double> range(double begin, double end) {
  std::vector<double> values;
  for (double v = begin; v < end; ++v) values.push_back(v);
  return values;
}

}  // namespace

TEST_CASE("tensor/layout/pitched_rows_with_zero_gaps_for_every_type") {
  for (const DType dtype : kAllTypes) {
    for (const Shape& shape :
         {Shape{2, 3, 5}, Shape{4, 1}, Shape{3, 16}, Shape{7}, Shape{}, Shape{0, 5}, Shape{5, 0}}) {
      const Tensor t = counting(shape, dtype);
      CAPTURE(t.describe());
      CHECK(t.pitch() == row_pitch(shape, dtype));
      CHECK(gaps_are_zero(t));
      CHECK(t.num_bytes() == static_cast<std::size_t>(t.rows() * t.pitch()) * size_of(dtype));
      CHECK(t.to_doubles() == range(0, static_cast<double>(shape.numel())));
      CHECK(reinterpret_cast<std::uintptr_t>(t.raw_data()) % 64 == 0);
      CHECK(test::same_bits(Tensor::from_dense_bytes(t.to_dense_bytes(), shape, dtype), t));
    }
  }
}

TEST_CASE("tensor/layout/reused_pool_memory_gets_clean_gaps") {
  for (int i = 0; i < 3; ++i) {
    Tensor dirty = Tensor::full({8, 8}, 7);  // the same size class as the pitched tensor below
    dirty = Tensor();
    CHECK(gaps_are_zero(Tensor::empty({8, 5})));
    Tensor filled = Tensor::empty({8, 5});
    filled.fill(3);
    CHECK(gaps_are_zero(filled));
  }
}

TEST_CASE("tensor/create/zeros_full_scalar_from_values") {
  CHECK(Tensor::zeros({2, 3}).to_doubles() == std::vector<double>(6, 0));
  CHECK(Tensor::full({3}, -1.5, DType::f16).to_doubles() == std::vector<double>(3, -1.5));
  CHECK(Tensor::scalar(2.25).item() == 2.25);
  CHECK(Tensor::scalar(2.25).rank() == 0);
  CHECK(Tensor::from_values(std::vector<std::int32_t>{1, 2}, {2}).dtype() == DType::i32);
  CHECK_THROWS_AS(Tensor::from_values(std::vector<float>{1, 2, 3}, {2, 2}), ShapeError);
  CHECK_THROWS_AS(Tensor::from_dense_bytes(std::vector<std::byte>(7), {2}, DType::f32), ShapeError);
}

TEST_CASE("tensor/undefined/every_use_is_an_error") {
  Tensor t;
  CHECK(!t.defined());
  CHECK(t.to_string() == "undefined tensor");
  CHECK_THROWS_AS(t.device(), Error);
  CHECK_THROWS_AS(t.raw_data(), Error);
  CHECK_THROWS_AS(t.data<float>(), Error);
  CHECK_THROWS_AS(t.clone(), Error);
  CHECK_THROWS_AS(t.fill(1), Error);
  CHECK(t.version() == 0);
  CHECK(!t.shares_storage_with(t));
}

TEST_CASE("tensor/data/the_type_must_match") {
  Tensor t = Tensor::zeros({2});
  CHECK_NOTHROW(t.data<float>());
  CHECK_THROWS_WITH_AS(t.data<double>(), "tensor: expected f64, got f32 [2]", DTypeError);
  CHECK_THROWS_AS(t.to_values<std::int32_t>(), DTypeError);
}

TEST_CASE("tensor/slice/shares_storage_and_sees_the_right_rows") {
  Tensor t = counting({4, 2, 3});
  Tensor s = t.slice(1, 3);
  CHECK(s.shape() == Shape{2, 2, 3});
  CHECK(s.shares_storage_with(t));
  CHECK(s.to_doubles() == range(6, 18));
  CHECK(gaps_are_zero(s));
  s.fill(-1);
  CHECK(t.to_doubles()[5] == 5);
  CHECK(t.to_doubles()[6] == -1);
  CHECK(t.to_doubles()[17] == -1);
  CHECK(t.to_doubles()[18] == 18);
  CHECK(gaps_are_zero(t));
  CHECK(t.slice(2, 2).numel() == 0);
  CHECK(t.slice(0, 4).to_doubles() == t.to_doubles());
  CHECK(t.slice(1, 4).slice(1, 2).raw_data() == t.slice(2, 3).raw_data());
  CHECK_THROWS_AS(t.slice(-1, 2), ShapeError);
  CHECK_THROWS_AS(t.slice(3, 2), ShapeError);
  CHECK_THROWS_AS(t.slice(0, 5), ShapeError);
  CHECK_THROWS_AS(Tensor::scalar(1).slice(0, 1), ShapeError);
}

TEST_CASE("tensor/slice/of_a_vector_has_no_gap_of_its_own") {
  Tensor v = counting({10});
  Tensor s = v.slice(2, 5);
  CHECK(s.to_doubles() == range(2, 5));
  CHECK(gaps_are_zero(s));  // elements 5, 6, ... belong to v and are no gap of s
  s.fill(0);
  CHECK(v.to_doubles() == std::vector<double>{0, 1, 0, 0, 0, 5, 6, 7, 8, 9});
  CHECK(test::same_bits(s.clone(), Tensor::zeros({3})));
}

TEST_CASE("tensor/select/drops_the_first_dimension") {
  const Tensor t = counting({3, 2, 5});
  CHECK(t.select(2).shape() == Shape{2, 5});
  CHECK(t.select(2).to_doubles() == range(20, 30));
  CHECK(t.select(1).select(1).shape() == Shape{5});
  CHECK(t.select(1).select(1).to_doubles() == range(15, 20));
  CHECK_THROWS_AS(t.select(3), ShapeError);
  CHECK_THROWS_AS(counting({4}).select(0), ShapeError);
}

TEST_CASE("tensor/reshape/views_where_rows_stay_whole") {
  const Tensor t = counting({4, 6, 3});
  for (const Shape& shape : {Shape{24, 3}, Shape{2, 2, 6, 3}, Shape{1, 24, 1, 3}, Shape{4, 6, 3}}) {
    const Tensor r = t.reshape(shape);
    CHECK(r.shares_storage_with(t));
    CHECK(r.shape() == shape);
    CHECK(r.to_doubles() == range(0, 72));
    CHECK(gaps_are_zero(r));
  }
}

TEST_CASE("tensor/reshape/refuses_to_copy_silently") {
  const Tensor t = counting({4, 6, 3});  // rows of 3 lie 4 apart
  CHECK_THROWS_WITH_AS(t.reshape({72}), doctest::Contains("use dense_reshape"), ShapeError);
  CHECK_THROWS_AS(t.reshape({4, 18}), ShapeError);
  CHECK_THROWS_AS(t.reshape({8, 9}), ShapeError);
  CHECK_THROWS_AS(t.reshape({4, 6, 3, 1}), ShapeError);
  CHECK_THROWS_WITH_AS(t.reshape({71}), "reshape: [4,6,3] has 72 elements, [71] has 71", ShapeError);
  const Tensor d = t.dense_reshape({8, 9});
  CHECK(!d.shares_storage_with(t));
  CHECK(d.to_doubles() == range(0, 72));
  CHECK(gaps_are_zero(d));
}

TEST_CASE("tensor/reshape/dense_tensors_are_cut_anew_only_where_no_gap_is_needed") {
  const Tensor t = counting({6, 8});
  CHECK(t.reshape({12, 4}).to_doubles() == range(0, 48));
  CHECK(t.reshape({12, 4}).shares_storage_with(t));
  CHECK(t.reshape({48}).to_doubles() == range(0, 48));
  CHECK_THROWS_AS(t.reshape({16, 3}), ShapeError);
  const Tensor ids = counting({6, 5}, DType::i64);  // integers are dense: always a view
  CHECK(ids.reshape({10, 3}).to_doubles() == range(0, 30));
  CHECK(counting({1}).reshape({}).item() == 0);
  CHECK(Tensor::scalar(3).reshape({1, 1}).to_doubles() == std::vector<double>{3});
  CHECK(Tensor::zeros({0, 3}).reshape({0, 5}).numel() == 0);
}

TEST_CASE("tensor/copy/clone_and_copy_from_keep_the_target_layout") {
  const Tensor t = counting({3, 5});
  Tensor c = t.clone();
  CHECK(!c.shares_storage_with(t));
  CHECK(test::same_bits(c, t));
  Tensor target = Tensor::zeros({4, 5});
  Tensor part = target.slice(1, 4);
  part.copy_from(t);
  CHECK(target.slice(0, 1).to_doubles() == std::vector<double>(5, 0));
  CHECK(part.to_doubles() == range(0, 15));
  CHECK(gaps_are_zero(target));
  CHECK_THROWS_AS(c.copy_from(counting({5, 3})), ShapeError);
  Tensor wide = Tensor::zeros({3, 5}, DType::f64);
  wide.copy_from(t);
  CHECK(wide.to_doubles() == range(0, 15));
}

TEST_CASE("tensor/convert/every_pair_of_types") {
  for (const DType from : kAllTypes)
    for (const DType to : kAllTypes) {
      const Tensor t = counting({3, 5}, from).to(to);
      CHECK(t.dtype() == to);
      CHECK(t.to_doubles() == range(0, 15));
      CHECK(gaps_are_zero(t));
    }
}

TEST_CASE("tensor/convert/rounding_truncation_and_special_values") {
  const auto convert = [](double v, DType to) { return Tensor::scalar(v, DType::f64).to(to).item(); };
  CHECK(convert(1.7, DType::i32) == 1);
  CHECK(convert(-1.7, DType::i64) == -1);
  CHECK(convert(254.999, DType::u8) == 254);
  CHECK(convert(1.00390625, DType::bf16) == 1.0);  // halfway between 1 and 1 + 2^-7: to even
  CHECK(convert(2049, DType::f16) == 2048);        // halfway: to even
  CHECK(convert(2051, DType::f16) == 2052);
  CHECK(convert(70000, DType::f16) == std::numeric_limits<double>::infinity());
  CHECK(convert(0.1, DType::f32) == static_cast<double>(0.1f));
  CHECK(std::isnan(convert(std::numeric_limits<double>::quiet_NaN(), DType::bf16)));
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  CHECK(Tensor::from_values(std::vector<std::int64_t>{large}, {1}).clone().to_values<std::int64_t>()[0] == large);
}

TEST_CASE("tensor/convert/empty_tensors_with_very_many_empty_rows_are_quick") {
  const Shape shape{std::int64_t{1} << 50, 0};
  Tensor t = Tensor::zeros(shape);
  CHECK(t.to(DType::f64).numel() == 0);
  CHECK(t.to_doubles().empty());
  CHECK(test::same_bits(t.clone(), t));
  t.fill(1);
}

TEST_CASE("tensor/version/counts_changes_in_place_and_is_shared_by_views") {
  Tensor t = Tensor::zeros({4, 2});
  Tensor view = t.slice(1, 2);
  const auto before = t.version();
  view.fill(1);
  CHECK(t.version() == before + 1);
  view.copy_from(Tensor::zeros({1, 2}));
  CHECK(t.version() == before + 2);
  t.bump_version();
  CHECK(view.version() == before + 3);
  CHECK(t.clone().version() != 0);
  CHECK(t.use_count() == 2);
}

TEST_CASE("tensor/item/needs_exactly_one_element") {
  CHECK(counting({1, 1}).item() == 0);
  CHECK_THROWS_AS(counting({2}).item(), ShapeError);
  CHECK_THROWS_AS(counting({0}).item(), ShapeError);
}

TEST_CASE("tensor/print/type_shape_device_and_values") {
  CHECK(counting({2, 3}).describe() == "f32 [2,3]");
  const std::string text = Tensor::from_values(std::vector<float>{1, 2.5f, -3, 0}, {2, 2}).to_string();
  CHECK(text.starts_with("f32 [2,2] cpu\n"));
  CHECK(text.find("2.5") != std::string::npos);
  CHECK(text.find("-3") != std::string::npos);
  CHECK(std::count(text.begin(), text.end(), '\n') == 3);
  CHECK(counting({}, DType::i64).to_string().find("0") != std::string::npos);
  CHECK(Tensor::zeros({0, 2}).to_string() == "f32 [0,2] cpu\n");
}

TEST_CASE("tensor/print/large_tensors_show_their_edges") {
  const std::string text = counting({100, 200}, DType::i32).to_string();
  CHECK(text.size() < 1000);
  CHECK(text.find("... 94 rows ...") != std::string::npos);
  CHECK(text.find("19999") != std::string::npos);  // the last element
  CHECK(text.find("10000") == std::string::npos);
}

TEST_CASE("tensor/check/messages_name_op_argument_expected_and_got") {
  const Tensor t = Tensor::zeros({2, 3});
  CHECK_NOTHROW(check_shape(t, {2, 3}, "op", "x"));
  CHECK_THROWS_WITH_AS(check_shape(t, {2, 4}, "op", "x"), "op: x: expected [2,4], got f32 [2,3]", ShapeError);
  CHECK_THROWS_WITH_AS(
      check_shape(Tensor(), {2, 4}, "op", "x"), "op: x: expected [2,4], got undefined tensor", ShapeError);
  CHECK_THROWS_WITH_AS(check_rank(t, 3, "op", "x"), "op: x: expected rank 3, got f32 [2,3]", ShapeError);
  CHECK_THROWS_WITH_AS(check_dtype(t, DType::i64, "op", "x"), "op: x: expected i64, got f32 [2,3]", DTypeError);
}

TEST_CASE("tensor/view/from_storage_must_fit") {
  const auto storage = Storage::allocate(64, {});
  CHECK_NOTHROW(Tensor::from_storage(storage, 0, {4, 4}, DType::f32, 4));
  CHECK_THROWS_AS(Tensor::from_storage(storage, 16, {4, 4}, DType::f32, 4), ShapeError);
  CHECK_THROWS_AS(Tensor::from_storage(storage, 0, {4, 4}, DType::f32, 3), ShapeError);
}
