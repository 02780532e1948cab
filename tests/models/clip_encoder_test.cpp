// tests/models/clip_encoder_test.cpp -- the encoder of fid_procgen and fvd_procgen against loops, and its loss by hand
#include "models/clip_encoder.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "autograd/ops/elementwise.h"
#include "tensor/error.h"
#include "tensor/io/safetensors.h"
#include "tensor/ops/frames.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"
#include "tests/support.h"

namespace avid {
namespace {

const ClipEncoderConfig kTiny{.width = 2, .features = 5};

/// One frame in f64, [H][W][C] in a row.
struct Plane {
  std::int64_t size = 0, channels = 0;
  std::vector<double> values;
  double at(std::int64_t y, std::int64_t x, std::int64_t c) const {
    if (y < 0 || x < 0 || y >= size || x >= size) return 0;
    return values[static_cast<std::size_t>((y * size + x) * channels + c)];
  }
};

Plane beside(const Plane& a, const Plane& b) {
  Plane out{a.size, a.channels + b.channels, {}};
  for (std::int64_t i = 0; i < a.size * a.size; ++i) {
    for (std::int64_t c = 0; c < a.channels; ++c)
      out.values.push_back(a.values[static_cast<std::size_t>(i * a.channels + c)]);
    for (std::int64_t c = 0; c < b.channels; ++c)
      out.values.push_back(b.values[static_cast<std::size_t>(i * b.channels + c)]);
  }
  return out;
}

/// The network as the equations of clip_encoder.h say, frame by frame, from tensors by name.
class Naive {
 public:
  explicit Naive(const ClipEncoder& encoder) {
    for (auto& [name, tensor] : encoder.export_tensors()) tensors_[name] = tensor;
  }

  Plane conv(const std::string& name, const Plane& in, std::int64_t stride, std::int64_t pad) const {
    const Tensor& w = tensors_.at(name + ".weight");  // [O,I,1,k,k]
    const std::vector<double> weight = w.to_doubles(), bias = tensors_.at(name + ".bias").to_doubles();
    const std::int64_t O = w.dim(0), I = w.dim(1), k = w.dim(3), side = (in.size + 2 * pad - k) / stride + 1;
    REQUIRE(I == in.channels);
    Plane out{side, O, {}};
    for (std::int64_t y = 0; y < side; ++y)
      for (std::int64_t x = 0; x < side; ++x)
        for (std::int64_t o = 0; o < O; ++o) {
          double sum = bias[static_cast<std::size_t>(o)];
          for (std::int64_t i = 0; i < I; ++i)
            for (std::int64_t ky = 0; ky < k; ++ky)
              for (std::int64_t kx = 0; kx < k; ++kx)
                sum += weight[static_cast<std::size_t>(((o * I + i) * k + ky) * k + kx)] *
                       in.at(y * stride - pad + ky, x * stride - pad + kx, i);
          out.values.push_back(sum);
        }
    return out;
  }
  Plane unit(const std::string& name, const Plane& in, std::int64_t stride) const {
    Plane out = conv(name, in, stride, 1);
    const std::vector<double> gamma = tensors_.at(name + ".gamma").to_doubles();
    const auto C = static_cast<std::size_t>(out.channels);
    for (std::size_t p = 0; p < out.values.size(); p += C) {
      double square = 0;
      for (std::size_t c = 0; c < C; ++c) square += out.values[p + c] * out.values[p + c];
      for (std::size_t c = 0; c < C; ++c) {
        const double z = out.values[p + c] / std::sqrt(square) * std::sqrt(static_cast<double>(C)) * gamma[c];
        out.values[p + c] = z / (1 + std::exp(-z));
      }
    }
    return out;
  }
  Plane trunk(const Plane& frame) const {
    Plane y = conv("stem", frame, 2, 1);
    for (double& v : y.values) v = v / (1 + std::exp(-v));
    return unit("down", unit("fine", y, 1), 2);
  }
  std::vector<double> frame_feature(const Plane& frame) const {
    return normalised(conv("frames.out", unit("frames.down", unit("frames.mid", trunk(frame), 1), 2), 1, 0).values);
  }
  std::vector<double> window(const Plane& a, const Plane& b, const Plane& c) const {
    const Plane first = unit("clips.pairs", beside(trunk(a), trunk(b)), 1),
                second = unit("clips.pairs", beside(trunk(b), trunk(c)), 1);
    return conv("clips.out", unit("clips.triples", beside(first, second), 2), 1, 0).values;
  }
  static std::vector<double> normalised(std::vector<double> v) {
    const auto n = static_cast<double>(v.size());
    double mean = 0, square = 0;
    for (const double x : v) mean += x / n;
    for (const double x : v) square += (x - mean) * (x - mean) / n;
    for (double& x : v) x = (x - mean) / std::sqrt(square + 1e-5);
    return v;
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

Tensor random_clips(std::int64_t count, std::int64_t frames) {
  return frames_to_u8(test::random_tensor({count, frames, 32, 32, 3}, DType::f32, 7));
}

std::vector<double> tensor_of(const ClipEncoder& encoder, const std::string& name) {
  for (auto& [found, tensor] : encoder.export_tensors())
    if (found == name) return tensor.to_doubles();
  FAIL("no tensor " << name);
  return {};
}

Plane plane_of(const Tensor& frame) { return {32, 3, frames_from_u8(frame).to_doubles()}; }

void check_close(const Tensor& got, const std::vector<double>& want) {
  const std::vector<double> values = got.to_doubles();
  REQUIRE(values.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(values[i] == doctest::Approx(want[i]).epsilon(1e-4));
}

}  // namespace

TEST_CASE("clip_encoder/forward/is_what_the_equations_say") {
  ClipEncoder encoder(kTiny);
  encoder.initialize(3);
  for (const nn::NamedParameter& p : encoder.parameters()) {  // gammas of one would hide that they are used
    if (!p.name.ends_with("gamma")) continue;
    Var gamma = p.var();
    gamma.mutable_value() = test::random_tensor(gamma.shape(), DType::f32, 11, 2.0);
  }
  const Naive naive(encoder);
  const Tensor clip = random_clips(1, 4);
  std::vector<Plane> frames;
  for (std::int64_t t = 0; t < 4; ++t) frames.push_back(plane_of(clip.select(0).select(t)));
  check_close(encoder.frame_features(clip.select(0).slice(2, 3)), naive.frame_feature(frames[2]));
  const std::vector<double> a = naive.window(frames[0], frames[1], frames[2]),
                            b = naive.window(frames[1], frames[2], frames[3]);
  std::vector<double> mean;
  for (std::size_t i = 0; i < a.size(); ++i) mean.push_back((a[i] + b[i]) / 2);
  check_close(encoder.clip_features(clip), Naive::normalised(mean));
}

TEST_CASE("clip_encoder/features/do_not_depend_on_the_batch") {
  ClipEncoder encoder({.width = 4, .features = 8});
  encoder.initialize(3);
  const Tensor clips = random_clips(9, 5);
  const Tensor together = encoder.clip_features(clips);
  const Tensor frames = clips.reshape({45, 32, 32, 3}), frames_together = encoder.frame_features(frames);
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{4}, std::int64_t{8}}) {
    CHECK(test::max_abs_diff(encoder.clip_features(clips.slice(n, n + 1)), together.slice(n, n + 1)) < 1e-5);
    CHECK(test::max_abs_diff(encoder.frame_features(frames.slice(n, n + 1)), frames_together.slice(n, n + 1)) < 1e-5);
  }
  // Frames and order matter to a clip's features.
  Tensor reversed = clips.slice(0, 1).clone();
  for (std::int64_t t = 0; t < 5; ++t) {
    Tensor frame = reversed.select(0).select(t);
    frame.copy_from(clips.select(0).select(4 - t));
  }
  CHECK(test::max_abs_diff(encoder.clip_features(reversed), together.slice(0, 1)) > 1e-3);
}

TEST_CASE("clip_encoder/loss/by_hand_from_the_features") {
  ClipEncoder encoder(kTiny);
  encoder.initialize(5);
  encoder.set_trainable(false);
  const std::int64_t T = 10;
  const Tensor clips = random_clips(3, T);
  const ClipEncoderLoss loss = clip_encoder_loss(encoder, encoder.trunk(Var(frames_from_u8(clips))));

  // Matching: cosines of features, a softmax over the batch.
  const auto match = [&](const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
    double total = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      std::vector<double> logits;
      for (std::size_t j = 0; j < 3; ++j) {
        double dot = 0;
        for (std::size_t f = 0; f < 5; ++f) dot += a[i][f] * b[j][f];
        logits.push_back(dot / 5 / 0.1);
      }
      double sum = 0;
      for (const double l : logits) sum += std::exp(l - logits[i]);
      total += std::log(sum) / 3;
    }
    return total;
  };
  const Naive naive(encoder);
  const auto speed_weights = tensor_of(encoder, "speed.weight"), speed_bias = tensor_of(encoder, "speed.bias");
  std::vector<std::vector<double>> first, last, early, late;
  double speed = 0, right = 0;
  for (std::int64_t b = 0; b < 3; ++b) {
    std::vector<Plane> frames;
    for (std::int64_t t = 0; t < T; ++t) frames.push_back(plane_of(clips.select(b).select(t)));
    first.push_back(naive.frame_feature(frames.front()));
    last.push_back(naive.frame_feature(frames.back()));
    const auto mean = [&](std::size_t begin, std::size_t end) {  // of windows begin .. end - 1
      std::vector<double> out(5, 0.0);
      for (std::size_t s = begin; s < end; ++s) {
        const std::vector<double> w = naive.window(frames[s], frames[s + 1], frames[s + 2]);
        for (std::size_t f = 0; f < 5; ++f) out[f] += w[f] / static_cast<double>(end - begin);
      }
      return Naive::normalised(out);
    };
    early.push_back(mean(0, 4));
    late.push_back(mean(4, 8));
    // Windows of every k-th frame in the middle of the clip: 3 4 5; 2 4 6; 1 4 7; 0 4 8.
    for (std::size_t k = 1; k <= 4; ++k) {
      const std::vector<double> w = Naive::normalised(naive.window(frames[4 - k], frames[4], frames[4 + k]));
      std::vector<double> logits;
      for (std::size_t c = 0; c < 4; ++c) {
        logits.push_back(speed_bias[c]);
        for (std::size_t f = 0; f < 5; ++f) logits.back() += speed_weights[c * 5 + f] * w[f];
      }
      double sum = 0;
      for (const double l : logits) sum += std::exp(l - logits[k - 1]);
      speed += std::log(sum) / 12;
      right += *std::max_element(logits.begin(), logits.end()) == logits[k - 1] ? 1.0 / 12 : 0.0;
    }
  }
  CHECK(loss.match_frames == doctest::Approx(match(first, last)).epsilon(1e-4));
  CHECK(loss.match_clips == doctest::Approx(match(early, late)).epsilon(1e-4));
  CHECK(loss.speed == doctest::Approx(speed).epsilon(1e-4));
  CHECK(loss.accuracy == doctest::Approx(right));
  CHECK(loss.total.value().item() == doctest::Approx(loss.match_frames + loss.match_clips + loss.speed).epsilon(1e-5));
}

TEST_CASE("clip_encoder/windows/three_neighbours_are_a_window_of_any_three") {
  ClipEncoder encoder(kTiny);
  encoder.initialize(5);
  const Var trunk = encoder.trunk(Var(frames_from_u8(random_clips(2, 5))));
  const Tensor all = encoder.window_head(trunk).value();
  CHECK(all.shape() == Shape({2, 3, 5}));
  const auto at = [&](std::int64_t t) { return slice_frames(trunk, t, t + 1); };
  for (std::int64_t s = 0; s < 3; ++s) {
    const Tensor one = encoder.window(at(s), at(s + 1), at(s + 2)).value();
    for (std::int64_t b = 0; b < 2; ++b) CHECK(test::max_abs_diff(one.select(b), all.select(b).slice(s, s + 1)) < 1e-5);
  }
}

TEST_CASE("clip_encoder/loss/gradients_of_every_parameter") {
  ClipEncoder encoder({.width = 2, .features = 4});
  encoder.initialize(9, DType::f64);
  encoder.set_trainable(true);
  const Tensor clips = test::random_tensor({2, 9, 32, 32, 3}, DType::f64, 4);
  const auto loss = [&] { return clip_encoder_loss(encoder, encoder.trunk(Var(clips))).total; };
  loss().backward();
  for (const nn::NamedParameter& p : encoder.parameters()) {
    CAPTURE(p.name);
    REQUIRE(p.var().grad().defined());
    const std::vector<double> gradient = p.var().grad().to_doubles();
    const Tensor start = p.var().value().clone(), direction = test::random_tensor(start.shape(), DType::f64, 21);
    const std::vector<double> u = direction.to_doubles(), x = start.to_doubles();
    double analytic = 0, size = 0;
    for (std::size_t i = 0; i < u.size(); ++i) analytic += gradient[i] * u[i], size += gradient[i] * gradient[i];
    const auto at = [&](double h) {
      std::vector<double> moved = x;
      for (std::size_t i = 0; i < u.size(); ++i) moved[i] += h * u[i];
      Var var = p.var();
      var.mutable_value() = Tensor::from_values(moved, start.shape());
      const NoGrad no_grad;
      return loss().value().item();
    };
    const double numeric = (at(2e-6) - at(-2e-6)) / 4e-6;  // small: the curvature of RMSNorm is large where x is small
    Var var = p.var();
    var.mutable_value() = start;
    CHECK(
        std::abs(analytic - numeric) <=
        1e-6 * (std::abs(numeric) + std::sqrt(size)) + 1e-8);  // 1e-8: rounding of the loss over the step
  }
}

TEST_CASE("clip_encoder/files/round_trip_and_mistakes") {
  const test::TempDir dir;
  ClipEncoder encoder(kTiny);
  encoder.initialize(2);
  save_safetensors(dir / "encoder.safetensors", encoder.export_tensors());
  const auto loaded = load_clip_encoder(dir / "encoder.safetensors");
  CHECK(loaded->config() == kTiny);
  const Tensor clips = random_clips(2, 4);
  CHECK(test::same_bits(loaded->clip_features(clips), encoder.clip_features(clips)));
  CHECK_THROWS_WITH_AS(
      load_clip_encoder(test::golden("pixel/classifier/classifier.safetensors")), doctest::Contains("stem.weight"),
      ShapeError);
  CHECK_THROWS_WITH_AS(encoder.clip_features(random_clips(1, 3)), doctest::Contains("at least 4 frames"), ShapeError);
  CHECK_THROWS_AS(encoder.clip_features(Tensor::zeros({1, 4, 64, 64, 3}, DType::u8)), ShapeError);
  CHECK_THROWS_AS(encoder.frame_features(Tensor::zeros({1, 32, 32, 3})), DTypeError);
  CHECK_THROWS_WITH_AS(
      clip_encoder_loss(encoder, encoder.trunk(Var(Tensor::zeros({2, 8, 32, 32, 3})))),
      doctest::Contains("at least 9 frames in training"), ShapeError);
}

}  // namespace avid
