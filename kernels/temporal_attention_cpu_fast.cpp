// kernels/temporal_attention_cpu_fast.cpp -- f32 temporal attention, kLanes pixels at once
//
// Layout     A chunk holds whole pixels of all T frames. Column order: group of kLanes pixels, frame, pixel; so one
//            register is one channel of kLanes pixels at one frame, and the T x T attention of kLanes pixels runs in
//            the lanes without a shuffle, whatever T and D are.
// Scratch    probabilities [groups][T][T][kLanes], their gradient [T][T][kLanes]
#include <algorithm>
#include <cmath>

#include "kernels/attention_block_channel_major.h"
#include "kernels/relative_bias.h"
#include "kernels/simd.h"
#include "kernels/small_gemm.h"
#include "kernels/temporal_attention.h"

namespace avid::kernels {
namespace {

using channel_major::ColumnBlock;
using channel_major::HeadView;

constexpr std::int64_t kChunkFloats = 120 * 1024;  // 480 KB of a core's 1 MB L2; 320 to 960 KB measure alike

class TemporalCore final : public channel_major::Core {
 public:
  explicit TemporalCore(const TemporalAttentionArgs& p) : p_(p) {
    const std::int64_t floats_per_group = p.T * kLanes * (3 * p.C + 8 * p.D + p.T);
    num_groups_ = (p.B * p.S + kLanes - 1) / kLanes;
    groups_per_chunk_ = std::clamp<std::int64_t>(
        kChunkFloats / std::max<std::int64_t>(floats_per_group, 1), 1, std::max<std::int64_t>(num_groups_ / 8, 1));
    if (p.T == 0) num_groups_ = 0;
    for (std::int64_t t = 0; t < p.T; ++t) {
      for (std::int64_t r = 0; r < p.R; ++r) {
        const double angle = static_cast<double>(t) * static_cast<double>(p.rotary_freqs[r]);
        cos_.push_back(static_cast<float>(std::cos(angle)));
        sin_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }

  std::int64_t num_chunks() const override { return (num_groups_ + groups_per_chunk_ - 1) / groups_per_chunk_; }
  std::int64_t max_blocks() const override { return groups_per_chunk_ * p_.T; }
  float q_scale() const override { return 1.0f / std::sqrt(static_cast<float>(p_.D)); }
  std::int64_t scratch_floats(std::int64_t) const override { return (groups_per_chunk_ + 1) * logit_floats(); }
  std::int64_t extra_grad_floats() const override { return p_.N * logit_floats(); }

  void fill_blocks(std::int64_t chunk, std::vector<ColumnBlock>& blocks) const override {
    blocks.clear();
    const std::int64_t end = std::min(num_groups_, (chunk + 1) * groups_per_chunk_);
    for (std::int64_t group = chunk * groups_per_chunk_; group < end; ++group) {
      const std::int64_t first = group * kLanes;  // pixels are counted over all clips
      for (std::int64_t t = 0; t < p_.T; ++t) {
        ColumnBlock block;
        block.valid = static_cast<int>(std::min<std::int64_t>(kLanes, p_.B * p_.S - first));
        for (int lane = 0; lane < block.valid; ++lane) {
          const std::int64_t pixel = first + lane;
          block.rows[lane] = (pixel / p_.S * p_.T + t) * p_.S + pixel % p_.S;
        }
        blocks.push_back(block);
      }
    }
  }

  void fwd(const HeadView& h, float* a) const override {
    const std::int64_t T = p_.T;
    for (std::int64_t first = 0, group = 0; first < h.cols; first += T * kLanes, ++group) {
      rotate(h.q + first, h.ld, +1.0f);
      rotate(h.k + first, h.ld, +1.0f);
      float* prob = h.scratch + group * logit_floats();
      gemm_per_lane(T, T, p_.D, h.q + first, kLanes, h.ld, h.k + first, h.ld, kLanes, prob, T * kLanes, kLanes);
      softmax_over_keys(prob, h.n);
      if (a == nullptr) continue;
      gemm_per_lane(p_.D, T, T, h.v + first, h.ld, kLanes, prob, kLanes, T * kLanes, a + first, h.ld, kLanes);
    }
  }

  void bwd(const HeadView& h, const float* d_a, float* d_q, float* d_k, float* d_v, float* d_logit_sum) const override {
    const std::int64_t T = p_.T, D = p_.D, L = kLanes, ld = h.ld;
    float* d_logit = h.scratch + groups_per_chunk_ * logit_floats();
    for (std::int64_t first = 0, group = 0; first < h.cols; first += T * L, ++group) {
      const float* prob = h.scratch + group * logit_floats();
      gemm_per_lane(T, T, D, d_a + first, L, ld, h.v + first, ld, L, d_logit, T * L, L);  // so far d_p
      gemm_per_lane(D, T, T, d_a + first, ld, L, prob, T * L, L, d_v + first, ld, L);
      softmax_over_keys_bwd(prob, d_logit, d_logit_sum + h.n * logit_floats());
      gemm_per_lane(D, T, T, h.k + first, ld, L, d_logit, L, T * L, d_q + first, ld, L);
      gemm_per_lane(D, T, T, h.q + first, ld, L, d_logit, T * L, L, d_k + first, ld, L);
      rotate(d_q + first, ld, -1.0f);
      rotate(d_k + first, ld, -1.0f);
    }
  }

  /// d_table [32,N] from the summed gradients of the logits [N][T][T][kLanes].
  void table_grads(const std::vector<float>& d_logit_sum, const TemporalAttentionGrads& g) const {
    for (std::int64_t n = 0; n < p_.N; ++n) {
      double sums[kRelativeBiasBuckets] = {};
      for (std::int64_t i = 0; i < p_.T; ++i) {
        for (std::int64_t j = 0; j < p_.T; ++j) {
          for (std::int64_t lane = 0; lane < kLanes; ++lane) {
            const std::int64_t at = n * logit_floats() + (i * p_.T + j) * kLanes + lane;
            sums[relative_bias_bucket(j - i)] += static_cast<double>(d_logit_sum[static_cast<std::size_t>(at)]);
          }
        }
      }
      for (std::int64_t row = 0; row < kRelativeBiasBuckets; ++row) {
        static_cast<float*>(g.d_bias_table)[row * g.d_bias_table_pitch + n] = static_cast<float>(sums[row]);
      }
    }
  }

 private:
  std::int64_t logit_floats() const { return p_.T * p_.T * kLanes; }

  /// Turns channels 2r, 2r+1 of the T tokens at `columns` by direction * t * freq_r.
  void rotate(float* columns, std::int64_t ld, float direction) const {
    for (std::int64_t r = 0; r < p_.R; ++r) {
      float* even = columns + 2 * r * ld;
      float* odd = even + ld;
      for (std::int64_t t = 1; t < p_.T; ++t) {  // t = 0 stays
        const float cosine = cos_[static_cast<std::size_t>(t * p_.R + r)];
        const float sine = direction * sin_[static_cast<std::size_t>(t * p_.R + r)];
        const Vec a = load_vec(even + t * kLanes), b = load_vec(odd + t * kLanes);
        store_vec(even + t * kLanes, a * cosine - b * sine);
        store_vec(odd + t * kLanes, b * cosine + a * sine);
      }
    }
  }

  /// logits [T][T][kLanes] + bias of head n -> probabilities, in place.
  void softmax_over_keys(float* logits, std::int64_t n) const {
    const auto* table = static_cast<const float*>(p_.bias_table);
    for (std::int64_t i = 0; i < p_.T; ++i) {
      float* row = logits + i * p_.T * kLanes;
      Vec largest = load_vec(row) + table[relative_bias_bucket(-i) * p_.bias_table_pitch + n];
      for (std::int64_t j = 0; j < p_.T; ++j) {
        const Vec logit = load_vec(row + j * kLanes) + table[relative_bias_bucket(j - i) * p_.bias_table_pitch + n];
        store_vec(row + j * kLanes, logit);
        largest = max_vec(largest, logit);
      }
      Vec sum = {};
      for (std::int64_t j = 0; j < p_.T; ++j) {
        const Vec e = exp_vec(load_vec(row + j * kLanes) - largest);
        store_vec(row + j * kLanes, e);
        sum += e;
      }
      const Vec inverse = 1.0f / sum;
      for (std::int64_t j = 0; j < p_.T; ++j) store_vec(row + j * kLanes, load_vec(row + j * kLanes) * inverse);
    }
  }

  /// d_p -> d_logit = p (d_p - sum_j p d_p), in place, and added to the sum over pixels.
  void softmax_over_keys_bwd(const float* prob, float* d, float* d_sum) const {
    for (std::int64_t i = 0; i < p_.T; ++i) {
      const std::int64_t row = i * p_.T * kLanes;
      Vec dot = {};
      for (std::int64_t j = 0; j < p_.T; ++j) dot += load_vec(prob + row + j * kLanes) * load_vec(d + row + j * kLanes);
      for (std::int64_t j = 0; j < p_.T; ++j) {
        const std::int64_t at = row + j * kLanes;
        const Vec d_logit = load_vec(prob + at) * (load_vec(d + at) - dot);
        store_vec(d + at, d_logit);
        store_vec(d_sum + at, load_vec(d_sum + at) + d_logit);
      }
    }
  }

  const TemporalAttentionArgs& p_;
  std::int64_t num_groups_ = 0, groups_per_chunk_ = 1;
  std::vector<float> cos_, sin_;  // [T][R]
};

}  // namespace

void temporal_attention_fwd_channel_major(const TemporalAttentionArgs& p) {
  channel_major::attention_block_fwd(p, TemporalCore(p));
}

void temporal_attention_bwd_channel_major(const TemporalAttentionArgs& p, const TemporalAttentionGrads& g) {
  const TemporalCore core(p);
  const auto d_logit_sum = channel_major::attention_block_bwd(p, g, core, g.d_bias_table != nullptr);
  if (g.d_bias_table != nullptr) core.table_grads(d_logit_sum, g);
}

}  // namespace avid::kernels
