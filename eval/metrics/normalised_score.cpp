// eval/metrics/normalised_score.cpp -- ranges of the paper's methods (metrics.md 9)
#include "eval/metrics/normalised_score.h"

#include "tensor/error.h"

namespace avid::eval {
namespace {

struct Ranges {
  const char* dataset;
  SixMetrics low, high;
};
// Over Action-Conditioned Diffusion, AVID and ControlNet, all model sizes (and, for Coinrun, all data set sizes).
constexpr Ranges kRanges[] = {
    {"rt1", {1.384, 24.9, 3.375, 0.767, 0.142, 22.9}, {2.640, 80.4, 5.329, 0.842, 0.226, 25.3}},
    {"coinrun", {1.154, 14.5, 6.44, 0.487, 0.120, 17.2}, {1.574, 65.6, 11.82, 0.760, 0.365, 25.7}}};

}  // namespace

NormalisedScore normalised_score(const SixMetrics& v, const std::string& dataset) {
  for (const Ranges& r : kRanges) {
    if (dataset != r.dataset) continue;
    const auto rising = [](double value, double low, double high) { return (value - low) / (high - low); };
    const auto falling = [&](double value, double low, double high) { return 1 - rising(value, low, high); };
    NormalisedScore result;
    result.parts = {falling(v.aer, r.low.aer, r.high.aer),       falling(v.fvd, r.low.fvd, r.high.fvd),
                    falling(v.fid, r.low.fid, r.high.fid),       rising(v.ssim, r.low.ssim, r.high.ssim),
                    falling(v.lpips, r.low.lpips, r.high.lpips), rising(v.psnr, r.low.psnr, r.high.psnr)};
    for (const double part : result.parts) result.score += part / 6;
    return result;
  }
  fail<UsageError>("normalised score: expected coinrun or rt1, got '{}'", dataset);
}

}  // namespace avid::eval
