// tests/models/checkpoint_test.cpp -- networks from files: prefixes, round trips, reports
#include "models/checkpoint.h"

#include <fstream>

#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

const Unet3dConfig kTiny{.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8};

template <class E = Error, class F>
std::string message_of(F&& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  return "(nothing thrown)";
}

bool same_weights(const nn::Module& a, const nn::Module& b) {
  const NamedTensors x = a.export_tensors(), y = b.export_tensors();
  if (x.size() != y.size()) return false;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (x[i].first != y[i].first || !test::same_bits(x[i].second, y[i].second)) return false;
  return true;
}

void append(NamedTensors& to, const NamedTensors& from) { to.insert(to.end(), from.begin(), from.end()); }

// A checkpoint as the original's training leaves it: four copies of base, adapter, mixing layer and buffers.
struct OriginalLayout {
  OriginalLayout()
      : online_base(kTiny),
        averaged_base(kTiny),
        online(make_avid_config(AvidVariant::mask, kTiny)),
        averaged(online.config()) {
    online_base.initialize(1), averaged_base.initialize(2), online.initialize(3), averaged.initialize(4);
  }
  NamedTensors tensors(const std::string& wrapper = "") const {
    NamedTensors all;
    for (const std::string copy : {"diffusion_model.", "ema.online_model.", "ema.ema_model.", "eval_model."}) {
      const bool is_online = copy.find("online") != std::string::npos || copy == "diffusion_model.";
      append(all, (is_online ? online_base : averaged_base).export_tensors(wrapper + copy + "model."));
      append(all, (is_online ? online : averaged).export_tensors(wrapper + copy));
      for (const char* buffer : {"betas", "alphas_cumprod", "loss_weight"})
        all.emplace_back(wrapper + copy + buffer, Tensor::zeros({200}));
    }
    all.emplace_back(wrapper + "ema.initted", Tensor::scalar(1));
    all.emplace_back(wrapper + "ema.step", Tensor::scalar(520000));
    return all;
  }
  Unet3d online_base, averaged_base;
  Avid online, averaged;
};

}  // namespace

TEST_CASE("checkpoint/original_layout/averaged_by_default") {
  const OriginalLayout original;
  const test::TempDir dir;
  for (const std::string wrapper : {"", "state_dict."}) {
    const auto path = dir / (wrapper + "run.safetensors");
    save_safetensors(path, original.tensors(wrapper), {{"origin", "test"}});
    CHECK(same_weights(*load_unet3d(path), original.averaged_base));
    CHECK(same_weights(*load_avid(path), original.averaged));
    CHECK(same_weights(*load_unet3d(path, DType::f32, WeightSet::online), original.online_base));
    CHECK(same_weights(*load_avid(path, DType::f32, 2, WeightSet::online), original.online));
    const NetworkTensors found = read_network(path, NetworkKind::avid);
    CHECK(found.prefix == wrapper + "ema.ema_model.");
    CHECK(found.metadata.at("origin") == "test");
    CHECK_FALSE(found.tensors.contains("betas"));
  }
}

TEST_CASE("checkpoint/round_trip/own_files") {
  const test::TempDir dir;
  Unet3d unet(kTiny);
  unet.initialize(7);
  save_safetensors(dir / "unet.safetensors", unet.export_tensors(), {{"note", "hello"}});
  const auto loaded = load_unet3d(dir / "unet.safetensors");
  CHECK(loaded->config() == kTiny);
  CHECK(same_weights(*loaded, unet));
  save_safetensors(dir / "again.safetensors", loaded->export_tensors(), {{"note", "hello"}});
  const auto bytes = [&](const char* name) {
    std::ifstream file(dir / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  CHECK(bytes("unet.safetensors") == bytes("again.safetensors"));
  CHECK(load_unet3d(dir / "unet.safetensors", DType::f64)->dtype() == DType::f64);

  ControlNet control({.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8, .base_dim = 6});
  control.initialize(1);
  save_safetensors(dir / "control.safetensors", control.export_tensors("diffusion_model.control_net."));
  CHECK(load_controlnet(dir / "control.safetensors")->config() == control.config());
  CHECK(same_weights(*load_controlnet(dir / "control.safetensors"), control));

  ActionClassifier classifier(
      {.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8, .num_actions = 5, .mlp_dim = 6, .image_size = 12});
  classifier.initialize(1);
  save_safetensors(dir / "classifier.safetensors", classifier.export_tensors("classifier.model."));
  CHECK(load_action_classifier(dir / "classifier.safetensors")->config() == classifier.config());
  CHECK(same_weights(*load_action_classifier(dir / "classifier.safetensors"), classifier));
}

TEST_CASE("checkpoint/classifier/the frames it was trained on") {
  const test::TempDir dir;
  ActionClassifier classifier(
      {.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8, .num_actions = 5, .mlp_dim = 6, .image_size = 12});
  classifier.initialize(1);
  const auto frames_of = [&](const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
    save_safetensors(dir / "c.safetensors", tensors, metadata);
    return classifier_frames(dir / "c.safetensors");
  };
  const NamedTensors bare = classifier.export_tensors();
  CHECK(frames_of(bare, {}) == ClassifierFrames::unknown);
  CHECK(frames_of(bare, {{"avid.kind", "classifier"}}) == ClassifierFrames::clean);
  CHECK(frames_of(bare, {{"avid.kind", "noisy_classifier"}}) == ClassifierFrames::noisy);
  // The research code's checkpoints: with the tables of a schedule, and without.
  for (const std::string wrapper : {"", "state_dict."}) {
    NamedTensors original = classifier.export_tensors(wrapper + "classifier.model.");
    CHECK(frames_of(original, {}) == ClassifierFrames::clean);
    original.emplace_back(wrapper + "classifier.sqrt_alphas_cumprod", Tensor::zeros({200}));
    CHECK(frames_of(original, {}) == ClassifierFrames::noisy);
  }
}

TEST_CASE("checkpoint/errors/another_model") {
  const test::TempDir dir;
  Unet3d unet(kTiny);
  unet.initialize(7);
  save_safetensors(dir / "unet.safetensors", unet.export_tensors());
  const std::string path = (dir / "unet.safetensors").string();
  CHECK(message_of<FileError>([&] {
          load_avid(path);
        }).starts_with(path + ": expected an AVID adapter (a tensor mixture_conv.weight"));
  CHECK(message_of<FileError>([&] { load_controlnet(path); }).find("expected a ControlNet") != std::string::npos);
  CHECK(message_of<FileError>([&] {
          load_action_classifier(path);
        }).find("expected an action classifier") != std::string::npos);
  CHECK_THROWS_AS(load_unet3d(dir / "absent.safetensors"), FileError);
  // A classifier is no U-Net.
  CHECK_THROWS_AS(load_unet3d(test::golden("pixel/classifier/classifier.safetensors")), FileError);
  CHECK_THROWS_AS(load_unet3d(test::golden("pixel/avid_mask/input.safetensors")), FileError);
}

TEST_CASE("checkpoint/errors/one_grouped_report") {
  const test::TempDir dir;
  const NamedTensors whole = open_tensor_file(test::golden("pixel/avid_mask/base.safetensors"))->load_all();
  const auto error_with = [&](const char* removed, const char* added, const char* reshaped) {
    NamedTensors changed;
    for (const auto& [name, tensor] : whole) {
      if (name == removed) continue;
      changed.emplace_back(name, name == reshaped ? Tensor::zeros({3}) : tensor);
    }
    if (*added != '\0') changed.emplace_back(added, Tensor::zeros({1}));
    save_safetensors(dir / "changed.safetensors", changed);
    return message_of<ShapeError>([&] { load_unet3d(dir / "changed.safetensors"); });
  };
  CHECK(error_with("", "", "") == "(nothing thrown)");
  const std::string all = error_with("mid_block1.block1.proj.bias", "downs.7.extra", "ups.0.4.bias");
  CHECK(all.find("1 missing (mid_block1.block1.proj.bias)") != std::string::npos);
  CHECK(all.find("1 not known (downs.7.extra [1])") != std::string::npos);
  CHECK(all.find("1 of another shape (ups.0.4.bias: expected [16], got [3])") != std::string::npos);
  CHECK(all.find("nothing was loaded") != std::string::npos);
  // Tensors that the sizes are read from.
  CHECK(error_with("init_conv.weight", "", "").find("tensor init_conv.weight is missing") != std::string::npos);
  CHECK(
      error_with("", "", "time_rel_pos_bias.relative_attention_bias.weight").find("expected 2 dimensions, got [3]") !=
      std::string::npos);
  CHECK(error_with("action_emb.weight", "", "").find("tensor action_emb.weight is missing") != std::string::npos);
}

TEST_CASE("checkpoint/all_reference_files/load") {
  for (const char* name :
       {"avid_mask/base", "controlnet_small/base", "ddpm/base", "mixed/base", "mixed/action_model", "train3/base"})
    CHECK(load_unet3d(test::golden(std::string("pixel/") + name + ".safetensors"))->config().cond_frames == 2);
  for (const char* name : {"avid_mask/adapter", "ddpm/adapter", "train3/adapter", "train3/ema_3"})
    CHECK(
        load_avid(test::golden(std::string("pixel/") + name + ".safetensors"))->config().variant == AvidVariant::mask);
  const auto base = load_unet3d(test::golden("pixel/avid_mask/base.safetensors"));
  CHECK(base->config() == Unet3dConfig{.dim = 16, .dim_mults = {1, 2}, .heads = 2, .head_dim = 32});
  CHECK(base->num_parameters() == 262227);
  CHECK(load_avid(test::golden("pixel/avid_mask/adapter.safetensors"))->adapter().num_parameters() == 228660);
  CHECK(load_controlnet(test::golden("pixel/controlnet_small/controlnet.safetensors"))->num_parameters() == 91078);
  CHECK(load_action_classifier(test::golden("pixel/classifier/classifier.safetensors"))->num_parameters() == 191759);
}

}  // namespace avid
