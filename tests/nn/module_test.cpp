// tests/nn/module_test.cpp -- names, layouts, initial values, import with its grouped report
#include "nn/module.h"

#include <cmath>

#include "nn/blocks.h"
#include "nn/init.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::nn {
namespace {

// A module with every kind of tensor.
struct Small : Module {
  explicit Small(bool other_order = false) : conv(3, 5, {1, 3, 3}, {.padding = {0, 1, 1}}), up(4), block(6, 4, 8) {
    if (other_order) add_child("block", block);
    add_child("conv", conv);
    add_child("up", up);
    add_constant("freqs", freqs);
    add_constant("again.freqs", freqs);
    if (!other_order) add_child("block", block);
    table = add_parameter({.name = "table", .shape = {32, 64}, .plain_shape = {32, 64}, .init = Init::normal});
  }
  Conv conv;
  Upsample up;
  ResNetBlock block;
  Tensor freqs = rotary_frequencies(32);
  Parameter* table;
};

TensorMap as_map(const NamedTensors& tensors) { return {tensors.begin(), tensors.end()}; }

std::string import_error(Module& module, const TensorMap& tensors) {
  try {
    module.import_tensors(tensors, "file.safetensors");
  } catch (const ShapeError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("module/plain_layout/convolution") {
  // plain [O,I,kt,kh,kw] value 100 o + 10 i + k  ->  ours [O,kt,kh,kw,I]
  std::vector<float> plain;
  for (int o = 0; o < 2; ++o)
    for (int i = 0; i < 3; ++i)
      for (int k = 0; k < 4; ++k) plain.push_back(static_cast<float>(100 * o + 10 * i + k));
  const Tensor ours = from_plain(Tensor::from_values(plain, {2, 3, 1, 2, 2}), {2, 1, 2, 2, 3});
  const std::vector<float> values = ours.to_values<float>();
  std::size_t at = 0;
  for (int o = 0; o < 2; ++o)
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 3; ++i) CHECK(values[at++] == static_cast<float>(100 * o + 10 * i + k));
  CHECK(to_plain(ours, {2, 3, 1, 2, 2}).to_values<float>() == plain);
  CHECK(test::gaps_are_zero(ours));
}

TEST_CASE("module/plain_layout/round_trip_of_all_kinds") {
  struct Kind {
    Shape plain, ours;
  };
  for (const Kind& kind : std::vector<Kind>{
           {{5, 7, 1, 3, 3}, {5, 1, 3, 3, 7}},
           {{5, 7, 1, 1, 1}, {5, 7}},
           {{5, 7, 1, 1}, {5, 7}},
           {{5, 7}, {5, 7}},
           {{7}, {7}},
           {{7, 1, 1, 1}, {7}},
           {{1, 7, 1, 1, 1}, {7}},
           {{1, 1, 1, 1, 1}, {1, 1}},
           {{1, 3, 2, 1, 3}, {1, 2, 1, 3, 3}}}) {
    const Tensor plain = test::random_tensor(kind.plain, DType::f64, 3);
    CHECK(test::same_bits(to_plain(from_plain(plain, kind.ours), kind.plain), plain));
  }
  CHECK_THROWS_AS(from_plain(Tensor::zeros({2, 3}), {7}), ShapeError);
}

TEST_CASE("module/names/in_declaration_order") {
  const Small module;
  std::string names;
  for (const CheckpointEntry& entry : module.tensor_list("x.")) names += entry.name + (entry.constant ? "* " : " ");
  CHECK(
      names ==
      "x.conv.weight x.conv.bias x.up.weight x.up.bias x.freqs* x.again.freqs* x.block.mlp.1.weight x.block.mlp.1.bias "
      "x.block.block1.proj.weight x.block.block1.proj.bias x.block.block1.norm.gamma x.block.block2.proj.weight "
      "x.block.block2.proj.bias x.block.block2.norm.gamma x.block.res_conv.weight x.block.res_conv.bias x.table ");
  CHECK(module.num_parameters() == module.num_trainable() + 16);  // the constant has two names and counts once
}

TEST_CASE("module/values/none_before_initialize") {
  Small module;
  CHECK_FALSE(module.has_values());
  CHECK_THROWS_WITH(module.table->var(), doctest::Contains("call initialize()"));
  module.initialize(1);
  CHECK(module.has_values());
  CHECK(module.dtype() == DType::f32);
  CHECK(module.table->var().requires_grad());
  CHECK(module.table->var().name() == "table");
}

TEST_CASE("module/init/property_28") {
  Small module;
  module.initialize(7);
  for (const NamedParameter& p : module.parameters()) {
    CAPTURE(p.name);
    const ParameterSpec& spec = p.parameter->spec();
    const std::vector<double> values = p.var().value().to_doubles();
    double largest = 0, sum = 0, squares = 0;
    for (const double v : values) largest = std::max(largest, std::abs(v)), sum += v, squares += v * v;
    const auto n = static_cast<double>(values.size());
    if (spec.init == Init::uniform) {
      const double bound = largest * std::sqrt(static_cast<double>(spec.fan));
      CHECK(bound <= 1);
      if (n >= 100) CHECK(bound > 0.95);
      CHECK(std::abs(sum / n) * std::sqrt(static_cast<double>(spec.fan)) < 4 / std::sqrt(3 * n));
    } else if (spec.init == Init::ones) {
      for (const double v : values) CHECK(v == 1);
    } else if (spec.init == Init::normal) {
      CHECK(std::abs(std::sqrt(squares / n) - 1) < 0.06);  // 2048 values: about 4 standard errors
    }
  }
  // Fans as the original computes them: the product of all stored dimensions but the first.
  CHECK(module.parameters()[0].parameter->spec().fan == 27);
  CHECK(module.parameters()[1].parameter->spec().fan == 27);
  CHECK(module.parameters()[2].parameter->spec().fan == 16 * 4);
}

TEST_CASE("module/init/depends_on_seed_and_name_only") {
  Small a, b(true), c;
  a.initialize(5);
  b.initialize(5);
  c.initialize(6);
  const auto from_a = as_map(a.export_tensors()), from_b = as_map(b.export_tensors()),
             from_c = as_map(c.export_tensors());
  for (const auto& [name, tensor] : from_a) CHECK_MESSAGE(test::same_bits(tensor, from_b.at(name)), name);
  CHECK_FALSE(test::same_bits(from_a.at("conv.weight"), from_c.at("conv.weight")));

  Small prefixed, wide;
  prefixed.initialize(5, DType::f32, "adapter.");
  CHECK_FALSE(test::same_bits(as_map(prefixed.export_tensors()).at("conv.weight"), from_a.at("conv.weight")));
  wide.initialize(5, DType::f64);
  CHECK(test::rel_l2(as_map(wide.export_tensors()).at("conv.weight"), from_a.at("conv.weight").to(DType::f64)) < 1e-7);
}

TEST_CASE("module/import/round_trip") {
  Small a, b, c;
  a.initialize(5);
  b.import_tensors(as_map(a.export_tensors()), "a");
  const auto expected = a.export_tensors(), got = b.export_tensors();
  REQUIRE(expected.size() == got.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(expected[i].first == got[i].first);
    CHECK(test::same_bits(expected[i].second, got[i].second));
  }
  c.import_tensors(as_map(a.export_tensors()), "a", DType::f64);
  CHECK(c.dtype() == DType::f64);
}

TEST_CASE("module/import/one_grouped_report_and_nothing_loaded") {
  Small a, b;
  a.initialize(5);
  b.initialize(6);
  TensorMap tensors = as_map(a.export_tensors());
  const auto before = b.export_tensors();
  tensors.erase("conv.bias");
  tensors.erase("block.block1.norm.gamma");
  tensors["surplus"] = Tensor::zeros({2});
  tensors["up.weight"] = Tensor::zeros({4, 4, 1, 4, 3});
  const std::string error = import_error(b, tensors);
  CHECK(error.find("2 missing (conv.bias, block.block1.norm.gamma)") != std::string::npos);
  CHECK(error.find("1 not known (surplus [2])") != std::string::npos);
  CHECK(error.find("1 of another shape (up.weight: expected [4,4,1,4,4], got [4,4,1,4,3])") != std::string::npos);
  CHECK(error.find("file.safetensors") == 0);
  CHECK(error.find('\n') == std::string::npos);
  const auto after = b.export_tensors();
  for (std::size_t i = 0; i < before.size(); ++i) CHECK(test::same_bits(before[i].second, after[i].second));
}

TEST_CASE("module/import/refuses_other_constants_and_integers") {
  Small a, b;
  a.initialize(5);
  TensorMap tensors = as_map(a.export_tensors());
  tensors["freqs"] = Tensor::full({16}, 0.5);
  CHECK(import_error(b, tensors).find("freqs: expected the constant 1 at 0, got 0.5") != std::string::npos);
  tensors["freqs"] = a.freqs.to(DType::f16);  // a half-precision copy of the right ones is fine
  CHECK(import_error(b, tensors) == "");
  tensors["table"] = Tensor::zeros({32, 64}, DType::i32);
  CHECK(import_error(b, tensors).find("table: expected a float type, got i32") != std::string::npos);
  CHECK_THROWS_AS(b.import_tensors(as_map(a.export_tensors()), "a", DType::bf16), DTypeError);
}

TEST_CASE("module/trainable/off_and_on") {
  Small module;
  module.initialize(1);
  module.set_trainable(false);
  for (const NamedParameter& p : module.parameters()) CHECK_FALSE(p.var().requires_grad());
  const Var x(test::random_tensor({1, 1, 4, 4, 3}, DType::f32, 2));
  CHECK_FALSE(module.conv.forward(x).requires_grad());
  module.set_trainable(true);
  const Var y = module.conv.forward(x);
  y.backward(Tensor::full(y.shape(), 1.0));
  const auto gradients = module.export_gradients("grad.");
  REQUIRE(gradients.size() == 2);
  CHECK(gradients[0].first == "grad.conv.weight");
  CHECK(gradients[0].second.shape() == Shape({5, 3, 1, 3, 3}));
  CHECK(gradients[1].second.to_doubles()[0] == 16);  // d_bias of a sum over 16 positions
  module.zero_grad();
  CHECK(module.export_gradients().empty());
}

}  // namespace avid::nn
