// diffusion/schedule.h -- noise schedules and the tables derived from them
//
// Index t = 0..N-1 (noisiest). abar_t = prod_{j<=t} (1 - beta_j), abar_{-1} = 1, x_t = sqrt(abar) x_0 + sqrt(1-abar) n.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "diffusion/objective.h"
#include "tensor/tensor.h"

namespace avid::diffusion {

enum class ScheduleKind { linear, cosine, sigmoid };

const char* name_of(ScheduleKind kind);
/// Reads "linear", "cosine", "sigmoid". Throws ConfigError listing the valid names.
ScheduleKind parse_schedule(std::string_view text);

/// One value per t; every vector has N elements.
template <class Elem>
struct ScheduleTables {
  std::vector<Elem> beta;
  std::vector<Elem> abar;
  std::vector<Elem> abar_prev;  ///< abar_{t-1}
  std::vector<Elem> sqrt_abar;
  std::vector<Elem> sqrt_one_minus_abar;
  std::vector<Elem> log_one_minus_abar;
  std::vector<Elem> sqrt_recip_abar;         ///< sqrt(1 / abar)
  std::vector<Elem> sqrt_recipm1_abar;       ///< sqrt(1 / abar - 1)
  std::vector<Elem> posterior_variance;      ///< v_t = beta_t (1 - abar_{t-1}) / (1 - abar_t)
  std::vector<Elem> posterior_log_variance;  ///< log max(v_t, 1e-20)
  std::vector<Elem> posterior_c1;            ///< of x_0 in the posterior mean: beta_t sqrt(abar_{t-1}) / (1 - abar_t)
  std::vector<Elem> posterior_c2;            ///< weight of x_t: (1 - abar_{t-1}) sqrt(1 - beta_t) / (1 - abar_t)
  std::vector<Elem> snr;                     ///< abar / (1 - abar)
};

/// One number per diffusion time, as a tensor on every device that asks for it; copied there once.
class TimeTable {
 public:
  TimeTable() = default;
  explicit TimeTable(std::vector<double> values);
  bool defined() const { return copies_ != nullptr; }
  /// [N]: f64 on the CPU, f32 on another device.
  const Tensor& on(Device device) const;

 private:
  struct Copies;
  std::shared_ptr<Copies> copies_;  // shared by copies of this table
};

/// The tables that videos are multiplied with; the f32 values.
struct TimeTables {
  TimeTable sqrt_abar, sqrt_one_minus_abar, sqrt_recip_abar, sqrt_recipm1_abar, posterior_c1, posterior_c2;
};

/// The tables of one schedule, computed in f64 and rounded once to f32.
///
/// Range    N >= 1. Betas of cosine and sigmoid are clipped to [0, 0.999].
/// Exact    the f32 tables are bitwise those of the original code.
/// Source   pixel.md 1.2. Linear: Ho et al. 2020; cosine: Nichol and Dhariwal 2021; sigmoid: Jabri et al. 2022.
class Schedule {
 public:
  /// Throws ConfigError if num_steps < 1 (or <= 20 for linear: its last beta is 20 / num_steps).
  Schedule(ScheduleKind kind, std::int64_t num_steps);

  ScheduleKind kind() const { return kind_; }
  std::int64_t num_steps() const { return num_steps_; }
  /// What training and sampling use.
  const ScheduleTables<float>& f32() const { return f32_; }
  const ScheduleTables<double>& f64() const { return f64_; }
  /// Those of f32() that act on videos, for tensor/ops/clip_mix.h.
  const TimeTables& tables() const { return tables_; }

  /// w_t of every t (pixel.md 1.4), computed in f64 and rounded once.
  std::vector<float> loss_weights(Objective objective, LossWeight weight) const;
  /// The same, for tensor/ops/clip_mix.h.
  const TimeTable& loss_weight_table(Objective objective, LossWeight weight) const;

 private:
  ScheduleKind kind_;
  std::int64_t num_steps_;
  ScheduleTables<double> f64_;
  ScheduleTables<float> f32_;
  TimeTables tables_;
  struct LossTables;
  std::shared_ptr<LossTables> loss_tables_;  // filled when asked for; shared by copies of this schedule
};

/// A pair of neighbouring times of a DDIM path; `next` = -1 ends it.
struct TimePair {
  std::int64_t t = 0, next = -1;
  friend bool operator==(const TimePair&, const TimePair&) = default;
};

/// The DDIM grid: num_sample_steps + 1 evenly spaced f32 points from -1 to num_steps - 1, truncated towards zero,
/// reversed, in consecutive pairs. Throws ConfigError unless 1 <= num_sample_steps <= num_steps.
std::vector<TimePair> ddim_times(std::int64_t num_steps, std::int64_t num_sample_steps);

}  // namespace avid::diffusion
