// diffusion/sampler.h -- DDPM and DDIM: from noise and conditioning frames to a video
//
// Shapes   B clips, T generated frames, K conditioning frames, H x W pixels, 3 colours; channels-last.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "diffusion/denoiser.h"
#include "diffusion/schedule.h"
#include "tensor/device_graph.h"
#include "tensor/ops/clip_mix.h"

namespace avid::diffusion {

enum class SamplerKind { ddpm, ddim };
const char* name_of(SamplerKind kind);
/// Reads "ddpm" or "ddim". Throws ConfigError.
SamplerKind parse_sampler(std::string_view text);

/// What a sampler reports after every step. The tensors are those of the batch now in work; the next step may overwrite
/// them.
struct StepReport {
  std::int64_t index = 0, num_steps = 0;       ///< step 0 .. num_steps - 1 of this batch
  std::int64_t t = 0;                          ///< the diffusion time the network was asked at
  std::int64_t first_clip = 0, num_clips = 0;  ///< the batch, and the clips of the whole call
  Tensor x;                                    ///< [B,T,H,W,3] after the step
  Tensor x0_hat;                               ///< [B,T,H,W,3] clamped estimate of the clean video
  Tensor mask;                                 ///< [B,T,H,W,1], or undefined
  std::int64_t graph_steps = 0;                ///< launches, copies, fills of the recorded step that was repeated; or 0
};

/// Classifier guidance (pixel.md 5.8): mean += weight * v_t * gradient(x_t, t) for t >= first_t. DDPM only.
struct Guidance {
  /// d/dx_t of the sum over clips and frames of log p(action | x_t, t); [B,T,H,W,3]. Empty: no guidance.
  std::function<Tensor(const DenoiserInput&)> gradient = {};
  double weight = 0;
  std::int64_t first_t = 0;
};

struct SamplerOptions {
  SamplerKind kind = SamplerKind::ddim;
  std::int64_t num_steps = 0;  ///< 0: as many as the schedule has. DDPM takes no other number.
  double eta = 0;              ///< DDIM: 0 deterministic, 1 as random as DDPM
  std::uint64_t seed = 0;
  std::int64_t first_clip = 0;   ///< position of clip 0 of this call in the whole set: its noise belongs to this number
  std::int64_t batch_clips = 0;  ///< clips evaluated at once; 0: all. Does not change the noise.
  /// Draw 0 is x_T, draw 1 + i the z of step i, [B,T,H,W,3] standard normal. Empty: Philox (seed, sample_noise, draw).
  std::function<Tensor(std::int64_t draw, const Shape& shape, DType dtype)> noise = {};
  Guidance guidance = {};
  std::function<void(const StepReport&)> on_step = {};
  /// On a device: the first step of a batch runs as it is, the second is recorded, and then that is repeated with other
  /// times and noise. Batches of one shape share the recording. Not with guidance.
  UseGraph graph = UseGraph::off;
  std::function<void(const std::string&)> say = {};  ///< why steps are not recorded, with UseGraph::automatic
};

/// Samples videos.
///
///   DDPM  for t = N-1 .. 0:  x0hat = clamp(x0(o)); x <- c1_t x0hat + c2_t x + exp(0.5 log v_t) z   (z = 0 at t = 0)
///   DDIM  for pairs (t,t'):  x0hat = clamp(x0(o)), nhat from x0hat;  x <- x0hat if t' < 0, else
///         sqrt(abar_t') x0hat + sqrt(1 - abar_t' - sigma^2) nhat + sigma z,
///         sigma = eta sqrt((1 - abar_t/abar_t') (1 - abar_t') / (1 - abar_t))
///
/// Shapes   cond [B,K,H,W,3]; actions [B,num_frames] i64 or undefined; returns [B,num_frames,H,W,3] in [-1,1].
/// Dtypes   f32 or f64: that of cond.
/// Errors   ConfigError (steps, eta, guidance with DDIM, graph = on where nothing can be recorded), ShapeError, Error
///          when a step's result is not finite: on the CPU after that step, on a device, which is not waited for, after
//           the last.
/// Exact    the noise of a clip depends on seed and clip number only, not on batch_clips or threads.
/// Source   pixel.md 1.5, 1.6 (Ho et al. 2020; Song et al. 2021). Deviations: none.
Tensor sample(
    Denoiser& denoiser, const Schedule& schedule, const Tensor& cond, const Tensor& actions, std::int64_t num_frames,
    const SamplerOptions& options = {});

/// The (t, next t) pairs that sample() visits.
std::vector<TimePair> sampling_times(const Schedule& schedule, const SamplerOptions& options);

/// Why sample() cannot record steps on this device, or null: options.graph = on is then refused.
const char* why_no_graph(const SamplerOptions& options, Device device);

/// sigma of one DDIM step; 0 when next < 0. That of DDPM is exp(0.5 log v_t).
double ddim_sigma(const Schedule& schedule, TimePair pair, double eta);
double ddpm_sigma(const Schedule& schedule, std::int64_t t);

/// What a DDIM step multiplies with: numbers, or tables over the steps.
struct DdimFactors {
  ClipFactor next_root, direction, sigma;  // sqrt(abar_t'), sqrt(1 - abar_t' - sigma^2), sigma
};
DdimFactors ddim_factors(const Schedule& schedule, TimePair pair, double eta);

/// One step: from x_t and the clamped estimate of x_0 to x at the next time, which is not the end.
///
/// Shapes   x0_hat, x_t, z [B,T,H,W,C] of one float type; t, row [B] i64 or i32
/// z        undefined: no noise is added
/// row      where in the factors' tables a clip's are; undefined for plain numbers
Tensor ddpm_step(
    const Schedule& schedule, const ClipFactor& sigma, const Tensor& x0_hat, const Tensor& x_t, const Tensor& t,
    const Tensor& z, const Tensor& row = {});
Tensor ddim_step(
    const Schedule& schedule, const DdimFactors& factors, const Tensor& x0_hat, const Tensor& x_t, const Tensor& t,
    const Tensor& z, const Tensor& row = {});

/// Mean of the mask at every diffusion time, collected over all batches of one or more sample() calls.
class MaskTrace {
 public:
  void add(const StepReport& report);
  struct Point {
    std::int64_t t;
    double mean;
  };
  /// From the noisiest time down; empty for models without a mask.
  std::vector<Point> points() const;

 private:
  struct Sum {
    std::int64_t t;
    double sum;
    std::int64_t count;
  };
  std::vector<Sum> sums_;
};

}  // namespace avid::diffusion
