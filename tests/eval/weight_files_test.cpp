// tests/eval/weight_files_test.cpp -- where weights lie, what is refused, and the conversion of official files
#include "eval/metrics/weight_files.h"

#include "eval/metrics/weight_conversion.h"
#include "models/i3d_features.h"
#include "models/lpips.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"
#include "tests/doctest.h"
#include "tests/metric_weights.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

using State = WeightStatus::State;

const OfficialFile& official(const char* file_name) {
  for (const OfficialFile& file : official_files())
    if (std::string(file.file_name) == file_name) return file;
  FAIL("no official file " << file_name);
  return official_files()[0];
}

void save_one(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) {
  save_safetensors(path, {{"t", Tensor::zeros({2})}}, metadata);
}

}  // namespace

TEST_CASE("weight_files/status/missing_official_unofficial_damaged") {
  const test::TempDir dir;
  CHECK(weight_status(dir.path(), "i3d-k400").state == State::missing);
  const auto path = dir / "i3d-k400.safetensors";
  const std::string source = official("i3d_torchscript.pt").sha256;
  save_one(path, {{"arch", "i3d-k400"}, {"source_sha256", source}});
  const WeightStatus good = weight_status(dir.path(), "i3d-k400");
  CHECK(good.state == State::official);
  CHECK(good.source_sha256 == source);
  CHECK(good.sha256 == sha256_of_file(path));
  save_one(path, {{"arch", "i3d-k400"}, {"source_sha256", official("rgb_imagenet.pt").sha256}});
  CHECK(weight_status(dir.path(), "i3d-k400").state == State::unofficial);  // the same shapes, other weights
  save_one(path, {{"arch", "i3d-k400"}, {"source_sha256", official("vgg.pth").sha256}});
  CHECK(weight_status(dir.path(), "i3d-k400").state == State::unofficial);
  save_one(path, {});
  CHECK(weight_status(dir.path(), "i3d-k400").state == State::unofficial);
  save_one(path, {{"arch", "fid-inception"}, {"source_sha256", source}});
  CHECK(weight_status(dir.path(), "i3d-k400").state == State::damaged);
  write_text_atomic(path, "not tensors");
  CHECK(weight_status(dir.path(), "i3d-k400").state == State::damaged);
  // Two parts, both official and of this network.
  const std::string both = std::string(official("vgg16-397923af.pth").sha256) + "+" + official("vgg.pth").sha256;
  save_one(dir / "lpips-vgg.safetensors", {{"arch", "lpips-vgg"}, {"source_sha256", both}});
  CHECK(weight_status(dir.path(), "lpips-vgg").state == State::official);
  save_one(dir / "lpips-vgg.safetensors", {{"arch", "lpips-vgg"}, {"source_sha256", both + "+" + source}});
  CHECK(weight_status(dir.path(), "lpips-vgg").state == State::unofficial);
  // The JAX edition has both parts in one file.
  save_one(dir / "lpips-vgg.safetensors", {{"arch", "lpips-vgg"}, {"source_sha256", official("vgg16.ckpt").sha256}});
  CHECK(weight_status(dir.path(), "lpips-vgg").state == State::official);
}

TEST_CASE("weight_files/load/unavailable_says_what_to_do") {
  const test::TempDir dir;
  CHECK_THROWS_WITH_AS(
      load_network_weights(dir.path(), "fid-inception", "fid", false), doctest::Contains("fid: unavailable: no "),
      FileError);
  CHECK_THROWS_WITH_AS(
      load_network_weights(dir.path(), "fid-inception", "fid", false),
      doctest::Contains("avid weights convert pt_inception-2015-12-05-6726825d.pth"), FileError);
  save_one(dir / "fid-inception.safetensors", {});
  CHECK_THROWS_WITH_AS(
      load_network_weights(dir.path(), "fid-inception", "fid", false), doctest::Contains("--allow-unofficial"),
      FileError);
  CHECK(load_network_weights(dir.path(), "fid-inception", "fid", true).tensors.size() == 1);
  // Another network's weights under this name, even if its files were official.
  save_one(
      dir / "fid-inception.safetensors",
      {{"arch", "i3d-k400"}, {"source_sha256", official("i3d_torchscript.pt").sha256}});
  CHECK_THROWS_WITH_AS(
      load_network_weights(dir.path(), "fid-inception", "fid", true),
      doctest::Contains("holds the weights of 'i3d-k400' | convert the official files again"), FileError);
}

TEST_CASE("weight_conversion/i3d/torchscript_names_become_those_of_the_state_dict") {
  nn::TensorMap tensors;
  for (const char* name :
       {"net.conv3d_1a_7x7.conv3d.weight", "net.conv3d_1a_7x7.batch3d.running_var", "net.conv3d_0c_1x1.conv3d.bias",
        "net.mixed_3b.branch_0.conv3d.weight", "net.mixed_4f.branch_1.0.batch3d.bias",
        "net.mixed_4f.branch_1.1.batch3d.bias", "net.mixed_5c.branch_2.0.conv3d.weight",
        "net.mixed_5c.branch_2.1.conv3d.weight", "net.mixed_5c.branch_3.1.conv3d.weight", "other"})
    tensors.emplace(name, Tensor::zeros({1}));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : rename_torchscript_i3d(tensors)) names.push_back(name);
  CHECK(
      names == std::vector<std::string>{
                   "Conv3d_1a_7x7.bn.running_var", "Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b0.conv3d.weight",
                   "Mixed_4f.b1a.bn.bias", "Mixed_4f.b1b.bn.bias", "Mixed_5c.b2a.conv3d.weight",
                   "Mixed_5c.b2b.conv3d.weight", "Mixed_5c.b3b.conv3d.weight", "logits.conv3d.bias"});
  const nn::TensorMap plain{{"Mixed_3b.b0.conv3d.weight", Tensor::zeros({1})}};
  CHECK(rename_torchscript_i3d(plain).size() == 1);
}

TEST_CASE("weight_conversion/jax/names_and_axes_become_those_of_the_state_dicts") {
  const auto names_of = [](const nn::TensorMap& tensors) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors) names.push_back(name);
    return names;
  };
  nn::TensorMap i3d;
  for (const char* name :
       {"params.Conv3d_2c_3x3.BatchNorm_0.bias", "batch_stats.Conv3d_2c_3x3.BatchNorm_0.mean",
        "batch_stats.Conv3d_2c_3x3.BatchNorm_0.var", "params.Logits/Conv3d_0c_1x1.Conv_0.bias",
        "params.Logits/Conv3d_0c_1x1.Conv_0.kernel", "params.Mixed_3b.Branch_0/Conv3d_0a_1x1.Conv_0.kernel",
        "params.Mixed_3b.Branch_1/Conv3d_0a_1x1.Conv_0.kernel", "params.Mixed_3b.Branch_1/Conv3d_0b_3x3.Conv_0.kernel",
        "params.Mixed_5c.Branch_2/Conv3d_0a_1x1.Conv_0.kernel", "params.Mixed_5c.Branch_2/Conv3d_0b_3x3.Conv_0.kernel",
        "batch_stats.Mixed_5c.Branch_3/Conv3d_0b_1x1.BatchNorm_0.var"})
    i3d.emplace(name, Tensor::full({1, 1, 1, 1, 1}, 3));
  const nn::TensorMap renamed = rename_flax(i3d);
  CHECK(
      names_of(renamed) == std::vector<std::string>{
                               "Conv3d_2c_3x3.bn.bias", "Conv3d_2c_3x3.bn.running_mean", "Conv3d_2c_3x3.bn.running_var",
                               "Conv3d_2c_3x3.bn.weight", "Mixed_3b.b0.conv3d.weight", "Mixed_3b.b1a.conv3d.weight",
                               "Mixed_3b.b1b.conv3d.weight", "Mixed_5c.b2a.conv3d.weight", "Mixed_5c.b2b.conv3d.weight",
                               "Mixed_5c.b3b.bn.running_var", "Mixed_5c.b3b.bn.weight", "logits.conv3d.bias",
                               "logits.conv3d.weight"});
  CHECK(renamed.at("Conv3d_2c_3x3.bn.weight").item() == 1);  // the norms there have no scale
  CHECK(renamed.at("Conv3d_2c_3x3.bn.running_var").item() == 3);
  CHECK(renamed.at("Conv3d_2c_3x3.bn.running_var").shape() == Shape{1});
  CHECK(renamed.at("Mixed_3b.b0.conv3d.weight").shape() == Shape{1, 1, 1, 1, 1});

  const nn::TensorMap vgg = rename_flax(
      {{"VGG16_0.Conv_0.bias", Tensor::zeros({2})},
       {"VGG16_0.Conv_2.kernel", Tensor::zeros({3, 3, 4, 2})},
       {"VGG16_0.Conv_12.kernel", test::random_tensor({2, 3, 4, 5}, DType::f32, 1)},
       {"NetLinLayer_4.Conv_0.kernel", Tensor::zeros({1, 1, 8, 1})}});
  CHECK(
      names_of(vgg) ==
      std::vector<std::string>{"features.0.bias", "features.28.weight", "features.5.weight", "lin4.model.1.weight"});
  CHECK(vgg.at("features.5.weight").shape() == Shape{2, 4, 3, 3});
  CHECK(vgg.at("lin4.model.1.weight").shape() == Shape{1, 8, 1, 1});
  const std::vector<double> from = test::random_tensor({2, 3, 4, 5}, DType::f32, 1).to_doubles(),
                            to = vgg.at("features.28.weight").to_doubles();
  REQUIRE(vgg.at("features.28.weight").shape() == Shape{5, 4, 2, 3});
  for (std::size_t y = 0; y < 2; ++y)
    for (std::size_t x = 0; x < 3; ++x)
      for (std::size_t in = 0; in < 4; ++in)
        for (std::size_t out = 0; out < 5; ++out)
          CHECK(to[((out * 4 + in) * 2 + y) * 3 + x] == from[((y * 3 + x) * 4 + in) * 5 + out]);

  const nn::TensorMap other{{"VGG16_0.Conv_13.kernel", Tensor::zeros({2, 3})}};  // there are 13, from 0
  CHECK(names_of(rename_flax(other)) == std::vector<std::string>{"VGG16_0.Conv_13.kernel"});
}

TEST_CASE("weight_conversion/lpips/two_files_become_one_with_its_record") {
  const test::TempDir dir;
  NamedTensors asked, trunk, heads;
  Lpips(test::hash_reader("lpips.", &asked));
  for (const auto& [name, tensor] : asked) (name.starts_with("lin") ? heads : trunk).emplace_back(name, tensor);
  trunk.emplace_back("classifier.0.weight", Tensor::zeros({3, 3}));  // torchvision's file goes on; not needed
  save_safetensors(dir / "trunk.safetensors", trunk);
  save_safetensors(dir / "heads.safetensors", heads);
  const std::vector<std::filesystem::path> files{dir / "heads.safetensors", dir / "trunk.safetensors"};
  CHECK_THROWS_WITH_AS(
      convert_weights(files, dir / "out", false), doctest::Contains("is not that of an official weight file"),
      FileError);
  CHECK_THROWS_WITH_AS(
      convert_weights({files[1]}, dir / "out", true), doctest::Contains("trunk and the heads together"), FileError);
  const ConvertedWeights made = convert_weights(files, dir / "out", true);
  CHECK(made.network == "lpips-vgg");
  CHECK(!made.official);
  CHECK(made.num_tensors == 31);
  CHECK(made.source_sha256 == sha256_of_file(files[1]) + "+" + sha256_of_file(files[0]));
  const SafetensorsFile file(made.file);
  CHECK(file.metadata().at("arch") == "lpips-vgg");
  CHECK(file.metadata().at("source_sha256") == made.source_sha256);
  CHECK(!file.contains("classifier.0.weight"));
  CHECK(test::same_bits(
      file.load("features.28.weight"), test::hash_tensor("lpips.", "features.28.weight", {512, 512, 3, 3})));
  CHECK(weight_status(dir / "out", "lpips-vgg").state == State::unofficial);
}

TEST_CASE("weight_conversion/errors/files_of_no_network_and_missing_tensors") {
  const test::TempDir dir;
  save_safetensors(dir / "other.safetensors", {{"a.weight", Tensor::zeros({2})}});
  CHECK_THROWS_WITH_AS(
      convert_weights({dir / "other.safetensors"}, dir / "out", true), doctest::Contains("no metric network"),
      FileError);
  save_safetensors(dir / "part.safetensors", {{"Mixed_5c.b3b.conv3d.weight", Tensor::zeros({128, 832, 1, 1, 1})}});
  CHECK_THROWS_WITH_AS(
      convert_weights({dir / "part.safetensors"}, dir / "out", true),
      doctest::Contains("i3d-k400: no tensor 'Conv3d_1a_7x7.bn.weight'"), FileError);
  CHECK(!std::filesystem::exists(dir / "out"));
}

}  // namespace avid::eval
