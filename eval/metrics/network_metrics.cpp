// eval/metrics/network_metrics.cpp -- which frames enter which network, in which batches (metrics.md 1.1, 6, 7)
#include "eval/metrics/network_metrics.h"

#include <algorithm>

#include "eval/metrics/frechet_bootstrap.h"
#include "eval/metrics/procgen_distance.h"
#include "eval/metrics/resize.h"
#include "eval/metrics/weight_files.h"
#include "models/i3d_features.h"
#include "models/inception_features.h"
#include "tensor/error.h"
#include "tensor/io/json.h"

namespace avid::eval {
namespace {

// The original's batches, which fid_ref depends on: updates of 16 videos, the network sees 128 images at a time.
constexpr std::int64_t kUpdateClips = 16, kBatchImages = 128;

// Without being asked: so many resamples, if all of them take no more operations than this (minutes on two cores).
constexpr std::int64_t kResamples = 200;
constexpr double kCheapFlop = 1e12;

bool is_frechet(NetworkMetric m) { return m != NetworkMetric::lpips; }
bool is_i3d(NetworkMetric m) { return m == NetworkMetric::fvd_i3d || m == NetworkMetric::fvd_i3d_tf; }
bool is_procgen(NetworkMetric m) { return m == NetworkMetric::fid_procgen || m == NetworkMetric::fvd_procgen; }

/// [N,T,H,W,3] -> [N*T,H,W,3], all frames of the first video first.
Tensor images_of(const Tensor& videos) {
  return videos.reshape({videos.dim(0) * videos.dim(1), videos.dim(2), videos.dim(3), videos.dim(4)});
}

/// The rows of every second clip of [N*rows,D], from clip `first` on.
Tensor every_other_clip(const Tensor& features, std::int64_t num_clips, std::int64_t first) {
  const std::int64_t rows = features.dim(0) / num_clips, count = (num_clips - first + 1) / 2;
  Tensor out = Tensor::empty({count * rows, features.dim(1)}, features.dtype());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t clip = first + 2 * i;
    out.slice(i * rows, (i + 1) * rows).copy_from(features.slice(clip * rows, (clip + 1) * rows));
  }
  return out;
}

/// The frames of `first` followed in time by those of `second`, u8.
Tensor joined_in_time(const Tensor& first, const Tensor& second) {
  Tensor out = Tensor::empty(
      {second.dim(0), first.dim(1) + second.dim(1), second.dim(2), second.dim(3), second.dim(4)}, DType::u8);
  const std::int64_t a = first.numel() / first.dim(0), b = second.numel() / second.dim(0);
  for (std::int64_t n = 0; n < second.dim(0); ++n) {
    std::uint8_t* to = out.data<std::uint8_t>() + n * (a + b);
    std::copy_n(first.data<std::uint8_t>() + n * a, a, to);
    std::copy_n(second.data<std::uint8_t>() + n * b, b, to + a);
  }
  return out;
}

}  // namespace

const char* name_of(NetworkMetric metric) {
  switch (metric) {
    case NetworkMetric::lpips: return "lpips";
    case NetworkMetric::fid: return "fid";
    case NetworkMetric::fid_ref: return "fid_ref";
    case NetworkMetric::fvd_i3d: return "fvd_i3d";
    case NetworkMetric::fvd_i3d_tf: return "fvd_i3d_tf";
    case NetworkMetric::fid_procgen: return "fid_procgen";
    case NetworkMetric::fvd_procgen: return "fvd_procgen";
  }
  return "?";
}

std::optional<NetworkMetric> find_network_metric(const std::string& word) {
  for (const NetworkMetric m : kNetworkMetrics)
    if (word == name_of(m)) return m;
  return std::nullopt;
}

const char* network_of(NetworkMetric metric) {
  if (metric == NetworkMetric::lpips) return Lpips::kNetwork;
  if (is_procgen(metric)) return ClipEncoder::kNetwork;
  return is_i3d(metric) ? I3dFeatures::kNetwork : InceptionFeatures::kNetwork;
}

bool sees_clips(NetworkMetric metric) { return is_i3d(metric) || metric == NetworkMetric::fvd_procgen; }

std::vector<double> lpips_per_clip(const NetworkScores& scores) {
  std::vector<double> means(static_cast<std::size_t>(scores.num_clips), 0.0);
  for (std::size_t i = 0; i < scores.lpips.size(); ++i)
    means[i / static_cast<std::size_t>(scores.num_frames)] += scores.lpips[i] / static_cast<double>(scores.num_frames);
  return means;
}

struct NetworkScorer::Networks {
  std::map<std::string, WeightStatus> status;
  std::unique_ptr<Lpips> lpips;
  std::map<NetworkMetric, std::unique_ptr<InceptionFeatures>> inception;
  std::map<NetworkMetric, std::unique_ptr<I3dFeatures>> i3d;
  ProcgenEncoder procgen;
};

NetworkScorer::NetworkScorer(std::vector<NetworkMetric> metrics, NetworkMetricOptions options)
    : options_(std::move(options)), networks_(std::make_unique<Networks>()) {
  for (const NetworkMetric m : metrics) {
    if (uses(m)) continue;
    try {
      load(m);
      metrics_.push_back(m);
    } catch (const FileError& error) {
      unavailable_[name_of(m)] = error.what();
    }
  }
}

NetworkScorer::~NetworkScorer() = default;

bool NetworkScorer::uses(NetworkMetric metric) const {
  return std::find(metrics_.begin(), metrics_.end(), metric) != metrics_.end();
}

void NetworkScorer::load(NetworkMetric metric) {
  if (is_procgen(metric)) {
    if (!networks_->procgen.network)
      networks_->procgen = load_procgen_encoder(options_.procgen_encoder, name_of(metric));
    return;
  }
  const NetworkWeights weights =
      load_network_weights(options_.weights, network_of(metric), name_of(metric), options_.allow_unofficial);
  const features::WeightReader reader(weights.tensors, weights.status.file.string(), network_of(metric));
  if (metric == NetworkMetric::lpips) {
    networks_->lpips = std::make_unique<Lpips>(reader, options_.lpips_norm);
  } else if (is_i3d(metric)) {
    networks_->i3d[metric] = std::make_unique<I3dFeatures>(
        reader, metric == NetworkMetric::fvd_i3d ? I3dFeatures::kPaperEps : I3dFeatures::kTrainedEps);
  } else {
    networks_->inception[metric] = std::make_unique<InceptionFeatures>(
        reader, metric == NetworkMetric::fid ? InceptionFeatures::Norm::stored : InceptionFeatures::Norm::batch);
  }
  networks_->status[network_of(metric)] = weights.status;
}

Tensor NetworkScorer::frame_features(NetworkMetric metric, const Tensor& videos) const {
  const InceptionFeatures& network = *networks_->inception.at(metric);
  constexpr std::int64_t kSize = InceptionFeatures::kSize;
  const std::int64_t num_clips = videos.dim(0), frames = videos.dim(1);
  const Tensor images = images_of(videos);
  Tensor out = Tensor::empty({num_clips * frames, InceptionFeatures::kFeatures});
  for (std::int64_t clip = 0; clip < num_clips; clip += kUpdateClips) {
    const std::int64_t last = std::min(clip + kUpdateClips, num_clips) * frames;
    for (std::int64_t begin = clip * frames; begin < last; begin += kBatchImages) {
      const std::int64_t end = std::min(begin + kBatchImages, last);
      out.slice(begin, end).copy_from(network.features(resize_bilinear_u8(images.slice(begin, end), kSize, kSize)));
    }
  }
  return out;
}

Tensor NetworkScorer::clip_features(NetworkMetric metric, const Tensor& videos) const {
  const I3dFeatures& network = *networks_->i3d.at(metric);
  constexpr std::int64_t kSize = I3dFeatures::kSize;
  Tensor out = Tensor::empty({videos.dim(0), I3dFeatures::kFeatures});
  constexpr std::int64_t kClips = 16;  // as many are resized at a time
  for (std::int64_t begin = 0; begin < videos.dim(0); begin += kClips) {
    const std::int64_t end = std::min(begin + kClips, videos.dim(0));
    Tensor clips = videos.slice(begin, end);
    if (cond_.defined()) clips = joined_in_time(cond_.slice(begin, end), clips);
    out.slice(begin, end).copy_from(network.features(resize_bilinear_u8(clips, kSize, kSize)));
  }
  return out;
}

Tensor NetworkScorer::procgen_features(NetworkMetric metric, const Tensor& videos) const {
  const ClipEncoder& network = *networks_->procgen.network;
  if (metric == NetworkMetric::fid_procgen) return network.frame_features(procgen_frames(images_of(videos)));
  return network.clip_features(procgen_frames(cond_.defined() ? joined_in_time(cond_, videos) : videos));
}

Tensor NetworkScorer::set_features(NetworkMetric metric, const Tensor& videos) const {
  if (is_procgen(metric)) return procgen_features(metric, videos);
  return is_i3d(metric) ? clip_features(metric, videos) : frame_features(metric, videos);
}

const Tensor& NetworkScorer::real_features(NetworkMetric metric) {
  const auto found = real_features_.find(metric);
  if (found != real_features_.end()) return found->second;
  const Tensor& features = real_features_[metric] = set_features(metric, real_);
  const std::int64_t num_clips = real_.dim(0);
  if (is_procgen(metric) && num_clips >= 4)
    real_halves_[metric] = frechet_distance(
        every_other_clip(features, num_clips, 0), every_other_clip(features, num_clips, 1), Covariance::unbiased);
  return features;
}

void NetworkScorer::set_real(const Tensor& real, const Tensor& cond) {
  check_rank(real, 5, "metrics", "real");
  check_dtype(real, DType::u8, "metrics", "real");
  if (cond.defined()) {
    check_shape(cond, {real.dim(0), cond.dim(1), real.dim(2), real.dim(3), 3}, "metrics", "cond");
    check_dtype(cond, DType::u8, "metrics", "cond");
  }
  real_ = real;
  cond_ = cond.defined() && cond.dim(1) > 0 ? cond : Tensor{};
  real_features_.clear();
  real_halves_.clear();
  const std::int64_t clip_frames = real.dim(1) + (cond_.defined() ? cond_.dim(1) : 0);
  std::erase_if(metrics_, [&](NetworkMetric m) {
    try {
      if (is_i3d(m)) I3dFeatures::check_frames(clip_frames);
      if (m == NetworkMetric::fvd_procgen) ClipEncoder::check_frames(clip_frames);
      if (is_procgen(m)) check_procgen_frames(real.dim(2), real.dim(3), name_of(m));
      const std::int64_t samples = sees_clips(m) ? real.dim(0) : real.dim(0) * real.dim(1);
      check<ShapeError>(
          !is_frechet(m) || samples >= 2, "{}: expected at least 2 samples, got {} | score more clips", name_of(m),
          samples);
      check<ShapeError>(
          m != NetworkMetric::lpips || (real.dim(2) >= 16 && real.dim(3) >= 16),
          "lpips: expected frames of at least 16x16 pixels, got {}x{}", real.dim(2), real.dim(3));
      return false;
    } catch (const ShapeError& error) {
      unavailable_[name_of(m)] = error.what();
      return true;
    }
  });
}

NetworkScores NetworkScorer::score(const Tensor& generated) {
  check<Error>(real_.defined(), "metrics: set_real must come before score");
  check_shape(generated, real_.shape(), "metrics", "generated");
  check_dtype(generated, DType::u8, "metrics", "generated");
  NetworkScores scores;
  scores.num_clips = real_.dim(0);
  scores.num_frames = real_.dim(1);
  for (const NetworkMetric m : metrics_) {
    if (m == NetworkMetric::lpips) {
      scores.lpips = networks_->lpips->distances(images_of(generated), images_of(real_));
      continue;
    }
    const Tensor& real = real_features(m);
    const Tensor features = set_features(m, generated);
    const std::string name = name_of(m);
    if (const std::int64_t count = num_resamples(m); count > 0) {
      BootstrapOptions bootstrap = options_.bootstrap;
      bootstrap.resamples = count;
      scores.resamples[name] = resample_frechet(
                                   real, features, sees_clips(m) ? 1 : real_.dim(1),
                                   is_i3d(m) ? options_.fvd_covariance : Covariance::unbiased, bootstrap)
                                   .resamples;
    }
    if (!is_i3d(m)) {
      scores.distances[name] = frechet_distance(real, features, Covariance::unbiased);
      if (real_halves_.contains(m)) scores.distances[name + ".real_halves"] = real_halves_[m];
      continue;
    }
    const double biased = frechet_distance(real, features, Covariance::biased),
                 unbiased = frechet_distance(real, features, Covariance::unbiased);
    scores.distances[name] = options_.fvd_covariance == Covariance::biased ? biased : unbiased;
    scores.distances[name + ".biased"] = biased;
    scores.distances[name + ".unbiased"] = unbiased;
  }
  return scores;
}

std::int64_t NetworkScorer::num_features(NetworkMetric metric) const {
  return is_procgen(metric) ? networks_->procgen.network->config().features
         : is_i3d(metric)   ? I3dFeatures::kFeatures
                            : InceptionFeatures::kFeatures;
}

std::int64_t NetworkScorer::num_resamples(NetworkMetric metric) const {
  if (options_.bootstrap.resamples >= 0) return options_.bootstrap.resamples;
  const std::int64_t samples = sees_clips(metric) ? real_.dim(0) : real_.dim(0) * real_.dim(1);
  return kResamples * frechet_resample_flop(samples, num_features(metric)) <= kCheapFlop ? kResamples : 0;
}

std::vector<std::string> NetworkScorer::warnings() const {
  std::vector<std::string> list;
  for (const NetworkMetric m : metrics_) {
    if (!real_.defined() || !is_frechet(m)) continue;
    const std::int64_t features = num_features(m);
    const std::int64_t samples = sees_clips(m) ? real_.dim(0) : real_.dim(0) * real_.dim(1);
    if (samples <= features)
      list.push_back(fmt::format(
          "{}: {} {} for {} features: biased upwards, comparable only with values of exactly as many | score more "
          "clips",
          name_of(m), samples, sees_clips(m) ? "clips" : "frames", features));
    if (options_.bootstrap.resamples < 0 && num_resamples(m) == 0)
      list.push_back(fmt::format(
          "{}: no interval: {} resamples would take {:.0e} operations | ask for them with --frechet-resamples N",
          name_of(m), kResamples, kResamples * frechet_resample_flop(samples, features)));
  }
  for (const auto& [network, status] : networks_->status)
    if (status.state != WeightStatus::State::official)
      list.push_back(fmt::format(
          "{}: unofficial weights: these scores are not comparable with published ones", status.file.string()));
  if (const ProcgenEncoder& own = networks_->procgen; own.network && !own.shipped)
    list.push_back(fmt::format(
        "{}: another encoder than the shipped one: fid_procgen and fvd_procgen compare only with scores of this file",
        own.file.string()));
  return list;
}

std::vector<std::string> NetworkScorer::notes() const {
  std::vector<std::string> keys;
  for (const NetworkMetric m : metrics_)
    if (is_procgen(m)) keys.push_back(name_of(m));
  if (keys.empty()) return {};
  return {fmt::format(
      "{}: distances on features of this project's own encoder ({}, sha256 {}...); not FID or FVD, comparable only "
      "with values of the same encoder, number of clips and frame size",
      fmt::join(keys, ", "), networks_->procgen.file.filename().string(), networks_->procgen.sha256.substr(0, 12))};
}

Json NetworkScorer::weights_record() const {
  Json record = Json::object();
  for (const auto& [network, status] : networks_->status)
    record[network] = {
        {"file", status.file.string()},
        {"sha256", status.sha256},
        {"source_sha256", status.source_sha256},
        {"state", name_of(status.state)}};
  if (const ProcgenEncoder& own = networks_->procgen; own.network)
    record[ClipEncoder::kNetwork] = {
        {"file", own.file.string()}, {"sha256", own.sha256}, {"state", own.shipped ? "shipped" : "own"}};
  return record;
}

Json NetworkScorer::switches() const {
  Json record = Json::object();
  if (uses(NetworkMetric::lpips))
    record["lpips.norm"] = options_.lpips_norm == LpipsNorm::torchmetrics ? "torchmetrics" : "original";
  if (uses(NetworkMetric::fid)) record["fid.bn"] = "eval";
  if (uses(NetworkMetric::fid_ref))
    record["fid_ref.bn"] = fmt::format("batch, {} images of updates of {} clips", kBatchImages, kUpdateClips);
  if (uses(NetworkMetric::fvd_i3d)) record["fvd_i3d.bn_eps"] = I3dFeatures::kPaperEps;
  if (uses(NetworkMetric::fvd_i3d_tf)) record["fvd_i3d_tf.bn_eps"] = I3dFeatures::kTrainedEps;
  if (uses(NetworkMetric::fvd_i3d) || uses(NetworkMetric::fvd_i3d_tf)) {
    record["fvd.backbone"] = "i3d";
    record["fvd.cov"] = options_.fvd_covariance == Covariance::biased ? "biased" : "unbiased";
  }
  if (uses(NetworkMetric::fid_procgen) || uses(NetworkMetric::fvd_procgen)) {
    record["procgen.size"] = ClipEncoder::kSize;
    record["procgen.cov"] = "unbiased";
  }
  return record;
}

}  // namespace avid::eval
