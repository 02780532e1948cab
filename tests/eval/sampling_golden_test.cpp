// tests/eval/sampling_golden_test.cpp -- whole sampling paths of an AVID model against the reference case
#include "diffusion/sampler.h"
#include "models/avid.h"
#include "models/checkpoint.h"
#include "models/pixel_denoiser.h"
#include "models/video_layout.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

using diffusion::SamplerKind;

/// Video i of a stack [n,B,C,T,H,W], channels last.
Tensor video(const Tensor& stack, std::int64_t i, DType dtype) { return to_channels_last(stack.select(i)).to(dtype); }

/// The case `ddpm`: an AVID model, 8 steps, with all noise given.
struct SamplingCase {
  explicit SamplingCase(DType type)
      : dtype(type),
        base_unet(load_unet3d(test::golden("pixel/ddpm/base.safetensors"), type)),
        avid(load_avid(test::golden("pixel/ddpm/adapter.safetensors"), type, 2)),
        base(*base_unet, diffusion::Objective::pred_x0, PixelDenoiser::Actions::ignore),
        model(base, *avid),
        cond(to_channels_last(in.load("cond")).to(type)) {}

  Tensor run(
      SamplerKind kind, std::int64_t steps, double eta, const char* noise_name,
      std::function<void(const diffusion::StepReport&)> on_step) {
    diffusion::SamplerOptions options{.kind = kind, .num_steps = steps, .eta = eta};
    options.noise = [&](std::int64_t draw, const Shape&, DType) {
      return draw == 0 ? to_channels_last(in.load("x_T")).to(dtype) : video(in.load(noise_name), draw - 1, dtype);
    };
    options.on_step = std::move(on_step);
    return diffusion::sample(model, schedule, cond, in.load("actions"), 4, options);
  }

  DType dtype;
  SafetensorsFile in{test::golden("pixel/ddpm/input.safetensors")},
      out{test::golden("pixel/ddpm/expected.safetensors")};
  diffusion::Schedule schedule{diffusion::ScheduleKind::sigmoid, 8};
  std::unique_ptr<Unet3d> base_unet;
  std::unique_ptr<Avid> avid;
  PixelDenoiser base;
  AvidDenoiser model;
  Tensor cond;
};

/// What the case's README allows: 1e-4 in f32; the file itself is f32, so f64 is compared to 1e-6.
double tolerance(DType dtype) { return dtype == DType::f32 ? 1e-4 : 1e-6; }

/// The f64 path runs reference loops and takes seconds.
std::vector<DType> dtypes() {
  return test::full_level() ? std::vector{DType::f32, DType::f64} : std::vector{DType::f32};
}

}  // namespace

TEST_CASE("sampling_golden/ddpm/path_estimates_and_masks") {
  for (const DType dtype : dtypes()) {
    SamplingCase c(dtype);
    const Tensor x = c.out.load("ddpm_x"), x0_hat = c.out.load("ddpm_x0hat");
    const auto mask_mean = c.out.load("ddpm_mask_mean").to_doubles();
    diffusion::MaskTrace trace;
    const Tensor sample = c.run(SamplerKind::ddpm, 0, 0, "step_noise", [&](const diffusion::StepReport& step) {
      CAPTURE(step.t);
      CHECK(test::max_abs_diff(step.x, video(x, step.index + 1, dtype)) < tolerance(dtype));
      CHECK(test::max_abs_diff(step.x0_hat, video(x0_hat, step.index, dtype)) < tolerance(dtype));
      trace.add(step);
    });
    CHECK(test::max_abs_diff(sample, to_channels_last(c.out.load("sample")).to(dtype)) < tolerance(dtype));
    REQUIRE(trace.points().size() == 8);
    for (std::size_t i = 0; i < 8; ++i) CHECK(trace.points()[i].mean == doctest::Approx(mask_mean[i]).epsilon(1e-6));
  }
}

TEST_CASE("sampling_golden/ddim/path_with_and_without_noise") {
  const struct {
    double eta;
    const char* name;
  } cases[] = {{0, "ddim_eta0_x"}, {1, "ddim_eta1_x"}};
  for (const DType dtype : dtypes())
    for (const auto& [eta, name] : cases) {
      CAPTURE(name);
      SamplingCase c(dtype);
      const Tensor x = c.out.load(name);
      const auto times = c.in.load("ddim_times").to_values<std::int64_t>();
      c.run(SamplerKind::ddim, 4, eta, "ddim_noise", [&](const diffusion::StepReport& step) {
        CHECK(step.t == times[static_cast<std::size_t>(step.index)]);
        CHECK(test::max_abs_diff(step.x, video(x, step.index + 1, dtype)) < tolerance(dtype));
      });
    }
}

}  // namespace avid
