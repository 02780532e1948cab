// tests/models/sizes_test.cpp -- names, shapes, parameter counts and FLOPs of the real configurations
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "models/action_classifier.h"
#include "models/avid.h"
#include "models/controlnet.h"
#include "models/cost.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

// pixel.md 2.1
Unet3dConfig unet(std::int64_t dim, std::int64_t heads, std::int64_t head_dim) {
  return {.dim = dim, .dim_mults = {1, 2, 4, 8}, .heads = heads, .head_dim = head_dim};
}
Unet3dConfig base_97m() { return unet(100, 8, 64); }
Unet3dConfig unet_71m() { return unet(90, 6, 50); }
Unet3dConfig unet_22m() { return unet(50, 4, 50); }

ControlNetConfig controlnet() { return {.dim = 100, .dim_mults = {1, 2, 4, 8}, .heads = 8, .head_dim = 64}; }
ControlNetConfig controlnet_smaller() {
  return {.dim = 52, .dim_mults = {1, 2, 4, 8}, .heads = 8, .head_dim = 64, .base_dim = 100};
}
ActionClassifierConfig evaluation_classifier() { return {}; }
ActionClassifierConfig guidance_classifier() { return {.dim = 80, .heads = 8}; }

// Scalars of a module by the first part of the names ("downs.0", "init_conv"), constants once.
std::map<std::string, std::int64_t> count_by_block(const nn::Module& module) {
  std::map<std::string, std::int64_t> counts;
  bool rotary_counted = false;
  for (const nn::CheckpointEntry& entry : module.tensor_list()) {
    if (entry.constant && std::exchange(rotary_counted, true)) continue;
    std::size_t end = entry.name.find('.');
    for (const char* numbered : {"downs.", "ups.", "zero_convs.", "projection_layers."})
      if (entry.name.starts_with(numbered)) end = entry.name.find('.', end + 1);
    counts[entry.name.substr(0, end)] += entry.plain_shape.numel();
  }
  return counts;
}

// One section of tests/golden/pixel/tensors.tsv: "name [shape]" lines.
std::vector<std::string> section(const std::string& heading) {
  std::ifstream file(test::golden("pixel/tensors.tsv"));
  std::vector<std::string> lines;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("# section: ")) {
      inside = line.starts_with("# section: " + heading);
    } else if (inside) {
      const std::size_t tab = line.find('\t');
      lines.push_back(line.substr(0, tab) + " [" + line.substr(tab + 1) + "]");
    }
  }
  return lines;
}

std::vector<std::string> names_and_shapes(const nn::Module& module) {
  std::vector<std::string> lines;
  for (const nn::CheckpointEntry& entry : module.tensor_list())
    lines.push_back(entry.name + " " + entry.plain_shape.to_string());
  return lines;
}

// "" or the first line that differs.
std::string first_difference(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const std::string left = i < a.size() ? a[i] : "(end)", right = i < b.size() ? b[i] : "(end)";
    if (left != right) return left + " != " + right;
  }
  return "";
}

}  // namespace

TEST_CASE("sizes/property_25/tensor_list_of_the_original") {
  REQUIRE(section("base model").size() == 268);
  CHECK(first_difference(names_and_shapes(Unet3d(base_97m())), section("base model")) == "");
  const Avid avid(make_avid_config(AvidVariant::mask, unet_22m()));
  CHECK(first_difference(names_and_shapes(avid.adapter()), section("22M AVID adapter")) == "");
  CHECK(
      first_difference(
          names_and_shapes(ActionClassifier(evaluation_classifier())), section("evaluation action classifier")) == "");

  const auto mixing = [](AvidVariant variant) {
    std::vector<std::string> lines = names_and_shapes(Avid(make_avid_config(variant, unet(8, 1, 32))));
    return std::vector<std::string>(lines.end() - 2, lines.end());
  };
  CHECK(first_difference(mixing(AvidVariant::mask), section("AVID mixing layer, learnt mask")) == "");
  CHECK(first_difference(mixing(AvidVariant::no_mask), section("AVID mixing layer, No Mask")) == "");
}

TEST_CASE("sizes/property_25/tensor_list_of_controlnets") {
  const auto check_extra = [](const ControlNetConfig& config, const std::string& heading) {
    // Everything that is not an encoder tensor, as a set: the list file gives no order between the two.
    const Unet3d base(Unet3dConfig{
        .dim = config.dim, .dim_mults = config.dim_mults, .heads = config.heads, .head_dim = config.head_dim});
    std::vector<std::string> expected = section(heading);
    for (const std::string& line : names_and_shapes(base))
      if (!line.starts_with("ups.") && !line.starts_with("final_conv.")) expected.push_back(line);
    std::vector<std::string> ours = names_and_shapes(ControlNet(config));
    std::sort(expected.begin(), expected.end());
    std::sort(ours.begin(), ours.end());
    CHECK(first_difference(ours, expected) == "");
  };
  check_extra(controlnet(), "full ControlNet");
  check_extra(controlnet_smaller(), "ControlNetSmaller");
}

TEST_CASE("sizes/property_25/parameter_counts_of_unets") {
  struct Row {
    const char* block;
    std::int64_t base, m71, m71_avid, m22, m22_avid;
  };
  const std::vector<Row> table{
      {"null_action_emb", 100, 90, 90, 50, 50},
      {"time_rel_pos_bias", 256, 192, 192, 128, 128},
      {"init_conv", 44200, 39780, 53010, 22100, 29450},
      {"init_temporal_attn", 204916, 108106, 108106, 40066, 40066},
      {"time_mlp", 200800, 162720, 162720, 50400, 50400},
      {"action_emb", 1500, 1350, 1350, 750, 750},
      {"action_mlp", 200800, 162720, 162720, 50400, 50400},
      {"downs.0", 1148800, 858960, 858960, 276400, 276400},
      {"downs.1", 3177800, 2430900, 2430900, 772900, 772900},
      {"downs.2", 10195600, 7972200, 7972200, 2505800, 2505800},
      {"downs.3", 25510400, 20090880, 20090880, 6291200, 6291200},
      {"mid_block1", 12804800, 10372320, 10372320, 3202400, 3202400},
      {"mid_spatial_attn", 820000, 553680, 553680, 205200, 205200},
      {"mid_temporal_attn", 1639200, 864720, 864720, 320400, 320400},
      {"mid_block2", 12804800, 10372320, 10372320, 3202400, 3202400},
      {"ups.0", 15795600, 12508200, 12508200, 3905800, 3905800},
      {"ups.1", 4577800, 3564900, 3564900, 1122900, 1122900},
      {"ups.2", 1458900, 1110150, 1110150, 353950, 353950},
      {"ups.3", 1098800, 818460, 818460, 263900, 263900},
      {"final_conv", 290803, 235623, 235714, 72903, 72954},
  };
  const auto check_column = [&](const Unet3dConfig& config, std::int64_t Row::*column, std::int64_t total) {
    const Unet3d network(config);
    auto counts = count_by_block(network);
    CHECK(counts.size() == table.size());
    for (const Row& row : table) CHECK_MESSAGE(counts[row.block] == row.*column, row.block);
    CHECK(network.num_parameters() == total);
    CHECK(network.num_trainable() == total - 16);
  };
  check_column(base_97m(), &Row::base, 91975875);
  check_column(unet_71m(), &Row::m71, 72228271);
  check_column(make_avid_config(AvidVariant::mask, unet_71m()).adapter, &Row::m71_avid, 72241592);
  check_column(unet_22m(), &Row::m22, 22660047);
  check_column(make_avid_config(AvidVariant::mask, unet_22m()).adapter, &Row::m22_avid, 22667448);
}

TEST_CASE("sizes/property_25/parameter_counts_of_avid_and_tiny_networks") {
  const auto count = [](AvidVariant variant, const Unet3dConfig& config) {
    return Avid(make_avid_config(variant, config)).num_parameters();
  };
  CHECK(count(AvidVariant::mask, unet_71m()) == 72241592 + 2);
  CHECK(count(AvidVariant::no_mask, unet_71m()) == 72241501 + 12);
  CHECK(count(AvidVariant::no_conditioning, unet_71m()) == 72228362 + 2);
  CHECK(count(AvidVariant::no_mask, unet_22m()) == 22667397 + 12);
  CHECK(count(AvidVariant::no_conditioning, unet_22m()) == 22660098 + 2);
  CHECK(Avid(make_avid_config(AvidVariant::mask, unet_22m())).num_trainable() == 22667432 + 2);

  Unet3dConfig tiny = unet(16, 2, 32);
  CHECK(Unet3d(tiny).num_parameters() == 2376787);
  tiny.head_dim = 40, tiny.in_channels = 12, tiny.out_channels = 4;
  CHECK(Unet3d(tiny).num_parameters() == 2411924);
  CHECK(Unet3d(Unet3dConfig{.dim = 8, .dim_mults = {1, 2}, .heads = 1, .head_dim = 32}).num_parameters() == 67955);
}

TEST_CASE("sizes/property_25/parameter_counts_of_controlnets_and_classifiers") {
  const auto check_counts = [](const nn::Module& module, std::int64_t total,
                               const std::map<std::string, std::int64_t>& expected) {
    auto counts = count_by_block(module);
    CHECK(counts.size() == expected.size());
    for (const auto& [block, number] : expected) CHECK_MESSAGE(counts[block] == number, block);
    CHECK(module.num_parameters() == total);
    CHECK(module.num_trainable() == total - 16);
  };
  check_counts(ControlNet(controlnet()), 71047472, {{"null_action_emb", 100},       {"time_rel_pos_bias", 256},
                                                    {"init_conv", 44200},           {"init_temporal_attn", 204916},
                                                    {"time_mlp", 200800},           {"action_emb", 1500},
                                                    {"action_mlp", 200800},         {"zero_linear_action_mlp", 160400},
                                                    {"downs.0", 1148800},           {"downs.1", 3177800},
                                                    {"downs.2", 10195600},          {"downs.3", 25510400},
                                                    {"zero_convs.0", 10100},        {"zero_convs.1", 40200},
                                                    {"zero_convs.2", 160400},       {"zero_convs.3", 640800},
                                                    {"mid_block1", 12804800},       {"mid_spatial_attn", 820000},
                                                    {"mid_temporal_attn", 1639200}, {"mid_block_1_out", 640800},
                                                    {"mid_block_2_out", 640800},    {"mid_block2", 12804800}});
  check_counts(
      ControlNet(controlnet_smaller()), 22158492,
      {{"null_action_emb", 52},
       {"time_rel_pos_bias", 256},
       {"init_conv", 22984},
       {"init_temporal_attn", 106564},
       {"time_mlp", 54496},
       {"action_emb", 780},
       {"action_mlp", 54496},
       {"zero_linear_action_mlp", 43472},
       {"downs.0", 387712},
       {"downs.1", 1013480},
       {"downs.2", 3065296},
       {"downs.3", 7514624},
       {"zero_convs.0", 2756},
       {"zero_convs.1", 10920},
       {"zero_convs.2", 43472},
       {"zero_convs.3", 173472},
       {"mid_block1", 3463616},
       {"mid_spatial_attn", 426400},
       {"mid_temporal_attn", 852384},
       {"mid_block_1_out", 173472},
       {"mid_block_2_out", 173472},
       {"mid_block2", 3463616},
       {"projection_layers.0", 5300},
       {"projection_layers.1", 21000},
       {"projection_layers.2", 83600},
       {"projection_layers.3", 333600},
       {"projection_layers.4", 333600},
       {"projection_layers.5", 333600}});
  check_counts(
      ActionClassifier(evaluation_classifier()), 39699359,
      {{"time_rel_pos_bias", 192},
       {"init_conv", 9472},
       {"init_temporal_attn", 98384},
       {"time_mlp", 82432},
       {"downs.0", 427008},
       {"downs.1", 1214592},
       {"downs.2", 4002048},
       {"downs.3", 10100736},
       {"mid_block1", 4983808},
       {"mid_spatial_attn", 393728},
       {"mid_temporal_attn", 786944},
       {"mid_block2", 4983808},
       {"final_down", 4194816},
       {"out_mlp", 8421391}});
  check_counts(
      ActionClassifier(guidance_classifier()), 59747471,
      {{"time_rel_pos_bias", 256},
       {"init_conv", 11840},
       {"init_temporal_attn", 163936},
       {"time_mlp", 128640},
       {"downs.0", 682240},
       {"downs.1", 1927840},
       {"downs.2", 6313280},
       {"downs.3", 15902720},
       {"mid_block1", 7786240},
       {"mid_spatial_attn", 656000},
       {"mid_temporal_attn", 1311360},
       {"mid_block2", 7786240},
       {"final_down", 6554240},
       {"out_mlp", 10522639}});
}

TEST_CASE("sizes/flops/exact_totals") {
  CHECK(forward_cost(base_97m(), {}).total == 299125231232);
  CHECK(forward_cost(unet_71m(), {}).total == 221989451424);
  CHECK(forward_cost(make_avid_config(AvidVariant::mask, unet_71m()).adapter, {}).total == 222862390944);
  CHECK(forward_cost(unet_22m(), {}).total == 73250255776);
  CHECK(forward_cost(make_avid_config(AvidVariant::mask, unet_22m()).adapter, {}).total == 73735222176);
  CHECK(forward_cost(controlnet(), {}).total == 181316017792);
  CHECK(forward_cost(controlnet_smaller(), {}).total == 67177237120);
  CHECK(forward_cost(evaluation_classifier(), {}).total == 97730838528);
  CHECK(forward_cost(guidance_classifier(), {}).total == 155125442560);
  CHECK(forward_cost(base_97m(), {.batch = 3}).total == 3 * 299125231232);
}

TEST_CASE("sizes/flops/by_kind_and_block") {
  const auto gflop = [](const std::map<std::string, std::int64_t>& parts, const char* name) {
    return parts.at(name) / 1e9;
  };
  const ForwardCost base = forward_cost(base_97m(), {}),
                    adapter = forward_cost(make_avid_config(AvidVariant::mask, unet_71m()).adapter, {});
  const auto close = [](double value, double expected) { return std::abs(value - expected) < 6e-5; };
  CHECK(close(gflop(base.by_kind, "ResNet 3x3 conv"), 187.2691));
  CHECK(close(gflop(base.by_kind, "linear-attn einsums"), 2.8521));
  CHECK(close(gflop(base.by_kind, "temporal attn proj"), 59.5591));
  CHECK(close(gflop(adapter.by_kind, "init conv 7x7"), 3.4682));
  CHECK(close(gflop(adapter.by_kind, "temporal attn matmuls"), 1.1551));
  CHECK(close(gflop(base.by_block, "downs.2"), 28.7473));
  CHECK(close(gflop(base.by_block, "ups.3"), 52.5503));
  CHECK(close(gflop(adapter.by_block, "mid_spatial_attn"), 0.5914));
  std::int64_t by_kind = 0, by_block = 0;
  for (const auto& [kind, flops] : base.by_kind) by_kind += flops;
  for (const auto& [block, flops] : base.by_block) by_block += flops;
  CHECK(by_kind == base.total);
  CHECK(by_block == base.total);
}

}  // namespace avid
