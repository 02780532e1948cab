// diffusion/schedule.cpp -- noise schedules and the tables derived from them
#include "diffusion/schedule.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <mutex>
#include <numbers>
#include <utility>

#include "tensor/error.h"

namespace avid::diffusion {
namespace {

constexpr double kMaxBeta = 0.999;
constexpr double kMinPosteriorVariance = 1e-20;
constexpr double kMinSnrGamma = 5.0;

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// `count` evenly spaced numbers, both ends included. The upper half is counted from the end, as PyTorch's linspace is:
/// the two halves round differently, and the tables must agree in every bit.
template <class Elem>
std::vector<Elem> linspace(Elem first, Elem last, std::int64_t count) {
  std::vector<Elem> out(static_cast<std::size_t>(count));
  const Elem step = count > 1 ? (last - first) / static_cast<Elem>(count - 1) : Elem{0};
  for (std::int64_t i = 0; i < count; ++i)
    out[static_cast<std::size_t>(i)] =
        i < count / 2 ? first + step * static_cast<Elem>(i) : last - step * static_cast<Elem>(count - 1 - i);
  return out;
}

/// The cumulative curve g of a schedule at s = i / N.
double cumulative_curve(ScheduleKind kind, double s) {
  if (kind == ScheduleKind::cosine) {
    const double c = std::cos((s + 0.008) / 1.008 * std::numbers::pi * 0.5);
    return c * c;
  }
  // The end values are taken in f32 and used in f64: all trained checkpoints were made with that (pixel.md 1.2).
  constexpr double kBegin = -3, kEnd = 3;
  const float low = static_cast<float>(sigmoid(kBegin)), high = static_cast<float>(sigmoid(kEnd));
  return (static_cast<double>(high) - sigmoid(s * (kEnd - kBegin) + kBegin)) / static_cast<double>(high - low);
}

std::vector<double> make_betas(ScheduleKind kind, std::int64_t n) {
  if (kind == ScheduleKind::linear) {
    const double scale = 1000.0 / static_cast<double>(n);
    return linspace(scale * 0.0001, scale * 0.02, n);
  }
  std::vector<double> betas(static_cast<std::size_t>(n));
  const double first = cumulative_curve(kind, 0);
  double previous = 1;
  for (std::int64_t t = 0; t < n; ++t) {
    const double g = cumulative_curve(kind, static_cast<double>(t + 1) / static_cast<double>(n)) / first;
    betas[static_cast<std::size_t>(t)] = std::clamp(1.0 - g / previous, 0.0, kMaxBeta);
    previous = g;
  }
  return betas;
}

ScheduleTables<double> make_tables(std::vector<double> betas) {
  ScheduleTables<double> out;
  double abar = 1;
  for (const double beta : betas) {
    const double alpha = 1 - beta, abar_prev = abar;
    abar *= alpha;
    const double variance = beta * (1 - abar_prev) / (1 - abar);
    out.abar.push_back(abar);
    out.abar_prev.push_back(abar_prev);
    out.sqrt_abar.push_back(std::sqrt(abar));
    out.sqrt_one_minus_abar.push_back(std::sqrt(1 - abar));
    out.log_one_minus_abar.push_back(std::log(1 - abar));
    out.sqrt_recip_abar.push_back(std::sqrt(1 / abar));
    out.sqrt_recipm1_abar.push_back(std::sqrt(1 / abar - 1));
    out.posterior_variance.push_back(variance);
    out.posterior_log_variance.push_back(std::log(std::max(variance, kMinPosteriorVariance)));
    out.posterior_c1.push_back(beta * std::sqrt(abar_prev) / (1 - abar));
    out.posterior_c2.push_back((1 - abar_prev) * std::sqrt(alpha) / (1 - abar));
    out.snr.push_back(abar / (1 - abar));
  }
  out.beta = std::move(betas);
  return out;
}

std::vector<float> rounded(const std::vector<double>& values) { return {values.begin(), values.end()}; }

ScheduleTables<float> rounded(const ScheduleTables<double>& t) {
  return {
      .beta = rounded(t.beta),
      .abar = rounded(t.abar),
      .abar_prev = rounded(t.abar_prev),
      .sqrt_abar = rounded(t.sqrt_abar),
      .sqrt_one_minus_abar = rounded(t.sqrt_one_minus_abar),
      .log_one_minus_abar = rounded(t.log_one_minus_abar),
      .sqrt_recip_abar = rounded(t.sqrt_recip_abar),
      .sqrt_recipm1_abar = rounded(t.sqrt_recipm1_abar),
      .posterior_variance = rounded(t.posterior_variance),
      .posterior_log_variance = rounded(t.posterior_log_variance),
      .posterior_c1 = rounded(t.posterior_c1),
      .posterior_c2 = rounded(t.posterior_c2),
      .snr = rounded(t.snr)};
}

TimeTable time_table(const std::vector<float>& values) { return TimeTable({values.begin(), values.end()}); }

}  // namespace

/// A handful of entries at most: the CPU and the device in use.
struct TimeTable::Copies {
  std::vector<double> values;
  std::mutex mutex;
  std::deque<std::pair<Device, Tensor>> on_device;  // a deque: references stay good
};

TimeTable::TimeTable(std::vector<double> values) : copies_(std::make_shared<Copies>()) {
  copies_->values = std::move(values);
}

const Tensor& TimeTable::on(Device device) const {
  check(defined(), "time table: used before it was filled");
  const std::lock_guard lock(copies_->mutex);
  for (const auto& [where, table] : copies_->on_device)
    if (where == device) return table;
  Tensor table = Tensor::from_values(copies_->values, {static_cast<std::int64_t>(copies_->values.size())});
  if (device.is_gpu()) table = table.to(DType::f32).to(device);
  return copies_->on_device.emplace_back(device, std::move(table)).second;
}

const char* name_of(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::linear: return "linear";
    case ScheduleKind::cosine: return "cosine";
    case ScheduleKind::sigmoid: return "sigmoid";
  }
  return "?";
}

ScheduleKind parse_schedule(std::string_view text) {
  for (const ScheduleKind k : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::sigmoid})
    if (text == name_of(k)) return k;
  fail<ConfigError>("schedule: expected linear, cosine or sigmoid, got '{}'", text);
}

struct Schedule::LossTables {
  std::mutex mutex;
  TimeTable table[3][3];  // objective, weight
};

Schedule::Schedule(ScheduleKind kind, std::int64_t num_steps) : kind_(kind), num_steps_(num_steps) {
  check<ConfigError>(
      num_steps >= 1 && num_steps <= 1'000'000, "schedule: timesteps: expected 1 to 1000000, got {}", num_steps);
  if (kind == ScheduleKind::linear)  // its last beta is 20 / N
    check<ConfigError>(
        num_steps > 20, "schedule: timesteps: the linear schedule needs more than 20, got {} | use sigmoid or cosine",
        num_steps);
  f64_ = make_tables(make_betas(kind, num_steps));
  f32_ = rounded(f64_);
  tables_ = {
      .sqrt_abar = time_table(f32_.sqrt_abar),
      .sqrt_one_minus_abar = time_table(f32_.sqrt_one_minus_abar),
      .sqrt_recip_abar = time_table(f32_.sqrt_recip_abar),
      .sqrt_recipm1_abar = time_table(f32_.sqrt_recipm1_abar),
      .posterior_c1 = time_table(f32_.posterior_c1),
      .posterior_c2 = time_table(f32_.posterior_c2)};
  loss_tables_ = std::make_shared<LossTables>();
}

std::vector<float> Schedule::loss_weights(Objective objective, LossWeight weight) const {
  const auto weight_at = [&](double snr) {
    if (weight == LossWeight::none) return 1.0;
    const double capped = weight == LossWeight::min_snr ? std::min(snr, kMinSnrGamma) : snr;
    switch (objective) {
      case Objective::pred_noise: return capped / snr;
      case Objective::pred_x0: return capped;
      case Objective::pred_v: return capped / (snr + 1);
    }
    fail<ConfigError>("loss weight: unknown objective {}", static_cast<int>(objective));
  };
  std::vector<float> out;
  for (const double snr : f64_.snr) out.push_back(static_cast<float>(weight_at(snr)));
  return out;
}

const TimeTable& Schedule::loss_weight_table(Objective objective, LossWeight weight) const {
  const std::lock_guard lock(loss_tables_->mutex);
  TimeTable& table = loss_tables_->table[static_cast<int>(objective)][static_cast<int>(weight)];
  if (!table.defined()) table = time_table(loss_weights(objective, weight));
  return table;
}

std::vector<TimePair> ddim_times(std::int64_t num_steps, std::int64_t num_sample_steps) {
  check<ConfigError>(
      num_sample_steps >= 1 && num_sample_steps <= num_steps,
      "sampler: steps: expected 1 to {} (the schedule's steps), got {}", num_steps, num_sample_steps);
  const auto grid = linspace(-1.0f, static_cast<float>(num_steps - 1), num_sample_steps + 1);
  std::vector<TimePair> pairs;
  for (std::size_t i = grid.size() - 1; i > 0; --i)
    pairs.push_back({static_cast<std::int64_t>(grid[i]), static_cast<std::int64_t>(grid[i - 1])});
  return pairs;
}

}  // namespace avid::diffusion
