// kernels/attention_block_channel_major.cpp -- chunk loop, projections and weight gradients of the f32 blocks
#include "kernels/attention_block_channel_major.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "kernels/small_gemm.h"

namespace avid::kernels::channel_major {
namespace {

constexpr std::int64_t kMaxSlots = 16;
constexpr std::int64_t kMaxSlotFloats = std::int64_t{1} << 23;  // 32 MB of partial weight gradients

struct FreeAligned {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], FreeAligned>;

Buffer allocate(std::int64_t num_floats) {
  const std::size_t bytes = static_cast<std::size_t>((num_floats + 15) / 16 * 16) * sizeof(float);
  auto* p = static_cast<float*>(std::aligned_alloc(64, std::max<std::size_t>(bytes, 64)));
  if (p == nullptr) throw std::bad_alloc();
  return Buffer(p);
}

/// Working memory of the calling thread, kept between calls: fresh pages cost more than some of the work done in them.
float* caller_scratch(std::int64_t num_floats) {
  thread_local Buffer buffer;
  thread_local std::int64_t size = 0;
  if (size < num_floats) {
    buffer.reset();
    size = 0;
    buffer = allocate(num_floats);
    size = num_floats;
  }
  return buffer.get();
}

/// Hands out aligned pieces of one allocation.
struct Pieces {
  std::int64_t used = 0;
  float* base = nullptr;  ///< null while only counting
  float* take(std::int64_t num_floats) {
    float* p = base != nullptr ? base + used : nullptr;
    used += (num_floats + 15) / 16 * 16;
    return p;
  }
};

/// w[n][part * D + d][c] = w_qkv[part * N * D + n * D + d, c] * gamma[c] (* q_scale for q)
Buffer fold_weights(const AttentionBlockArgs& p, float q_scale) {
  Buffer folded = allocate(3 * p.N * p.D * p.C);
  const auto* w = static_cast<const float*>(p.w_qkv);
  const auto* gamma = static_cast<const float*>(p.gamma);
  for (std::int64_t part = 0; part < 3; ++part) {
    const float scale = part == 0 ? q_scale : 1.0f;
    for (std::int64_t nd = 0; nd < p.N * p.D; ++nd) {
      const float* from = w + (part * p.N * p.D + nd) * p.w_qkv_pitch;
      float* to = folded.get() + ((nd / p.D * 3 + part) * p.D + nd % p.D) * p.C;
      for (std::int64_t c = 0; c < p.C; ++c) to[c] = from[c] * gamma[c] * scale;
    }
  }
  return folded;
}

/// The inverse walk: d_w_qkv and d_gamma from the gradient of the folded weights.
void unfold_weight_grads(
    const AttentionBlockArgs& p, const AttentionBlockGrads& g, float q_scale, const float* folded) {
  const auto* w = static_cast<const float*>(p.w_qkv);
  const auto* gamma = static_cast<const float*>(p.gamma);
  std::vector<double> d_gamma(static_cast<std::size_t>(p.C), 0.0);
  for (std::int64_t part = 0; part < 3; ++part) {
    const float scale = part == 0 ? q_scale : 1.0f;
    for (std::int64_t nd = 0; nd < p.N * p.D; ++nd) {
      const std::int64_t row = part * p.N * p.D + nd;
      const float* from = folded + ((nd / p.D * 3 + part) * p.D + nd % p.D) * p.C;
      if (g.d_w_qkv != nullptr) {
        float* to = static_cast<float*>(g.d_w_qkv) + row * g.d_w_qkv_pitch;
        for (std::int64_t c = 0; c < p.C; ++c) to[c] = from[c] * gamma[c] * scale;
      }
      for (std::int64_t c = 0; c < p.C; ++c) {
        d_gamma[static_cast<std::size_t>(c)] += static_cast<double>(from[c]) * (w[row * p.w_qkv_pitch + c] * scale);
      }
    }
  }
  if (g.d_gamma != nullptr) {
    for (std::int64_t c = 0; c < p.C; ++c) {
      static_cast<float*>(g.d_gamma)[c] = static_cast<float>(d_gamma[static_cast<std::size_t>(c)]);
    }
  }
}

/// Columns of the largest chunk, with one register between rows: a power-of-two stride would put a whole channel
/// column into a few cache sets.
std::int64_t leading_stride(const Core& core) { return (core.max_blocks() + (core.max_blocks() % 2 == 0)) * kLanes; }

std::int64_t count_valid(const std::vector<ColumnBlock>& blocks) {
  std::int64_t valid = 0;
  for (const ColumnBlock& block : blocks) valid += block.valid;
  return valid;
}

struct FwdBuffers {
  float *xhat, *y, *qkv, *a, *scratch;
  FwdBuffers(Pieces& pieces, const AttentionBlockArgs& p, const Core& core, std::int64_t ld)
      : xhat(pieces.take(p.C * ld)),
        y(pieces.take(p.C * ld)),
        qkv(pieces.take(3 * p.D * ld)),
        a(pieces.take(p.D * ld)),
        scratch(pieces.take(core.scratch_floats(ld))) {}
};

struct BwdBuffers {
  float *xhat, *d_y, *d_xhat, *rstd, *qkv, *d_qkv, *a, *d_a, *scratch;
  BwdBuffers(Pieces& pieces, const AttentionBlockArgs& p, const Core& core, std::int64_t ld)
      : xhat(pieces.take(p.C * ld)),
        d_y(pieces.take(p.C * ld)),
        d_xhat(pieces.take(p.C * ld)),
        rstd(pieces.take(ld)),
        qkv(pieces.take(3 * p.D * ld)),
        d_qkv(pieces.take(3 * p.D * ld)),
        a(pieces.take(p.D * ld)),
        d_a(pieces.take(p.D * ld)),
        scratch(pieces.take(core.scratch_floats(ld))) {}
};

/// One slot of partial gradients.
struct Slot {
  float *w_qkv, *w_out, *b_out, *extra;
  Slot(Pieces& pieces, const AttentionBlockArgs& p, const Core& core)
      : w_qkv(pieces.take(3 * p.N * p.D * p.C)),
        w_out(pieces.take(p.C * p.N * p.D)),
        b_out(pieces.take(p.C)),
        extra(pieces.take(core.extra_grad_floats())) {}
};

/// One set of Buffers for each thread of the team, allocated before the team starts: no exception inside it.
template <class Buffers>
class Workspace {
 public:
  Workspace(const AttentionBlockArgs& p, const Core& core, std::int64_t ld) : p_(p), core_(core), ld_(ld) {
    Pieces count;
    Buffers(count, p, core, ld);
    floats_per_thread_ = count.used;
    base_ = caller_scratch(floats_per_thread_ * omp_get_max_threads());
  }
  Buffers of_this_thread() const {
    Pieces pieces;
    pieces.base = base_ + omp_get_thread_num() * floats_per_thread_;
    return Buffers(pieces, p_, core_, ld_);
  }

 private:
  const AttentionBlockArgs& p_;
  const Core& core_;
  std::int64_t ld_, floats_per_thread_ = 0;
  float* base_ = nullptr;
};

}  // namespace

void attention_block_fwd(const AttentionBlockArgs& p, const Core& core) {
  const std::int64_t num_chunks = core.num_chunks(), ld = leading_stride(core);
  const Buffer w = fold_weights(p, core.q_scale());
  const auto* w_out = static_cast<const float*>(p.w_out);
  const auto* b_out = static_cast<const float*>(p.b_out);
  const Workspace<FwdBuffers> workspace(p, core, ld);
#pragma omp parallel if (num_chunks > 1)
  {
    const FwdBuffers buf = workspace.of_this_thread();
    std::vector<ColumnBlock> blocks;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
      core.fill_blocks(chunk, blocks);
      const std::int64_t cols = static_cast<std::int64_t>(blocks.size()) * kLanes;
      load_columns(static_cast<const float*>(p.x), p.x_pitch, p.C, blocks, buf.xhat, ld);
      normalize_columns(buf.xhat, p.C, cols, ld, nullptr);
      for (std::int64_t n = 0; n < p.N; ++n) {
        gemm_columns(3 * p.D, cols, p.C, w.get() + n * 3 * p.D * p.C, p.C, 1, buf.xhat, ld, buf.qkv, ld, false);
        core.fwd(
            {n, cols, count_valid(blocks), ld, buf.qkv, buf.qkv + p.D * ld, buf.qkv + 2 * p.D * ld, buf.scratch},
            buf.a);
        gemm_columns(p.C, cols, p.D, w_out + n * p.D, p.w_out_pitch, 1, buf.a, ld, buf.y, ld, n > 0);
      }
      for (std::int64_t c = 0; b_out != nullptr && c < p.C; ++c) {
        for (std::int64_t s = 0; s < cols; s += kLanes)
          store_vec(buf.y + c * ld + s, load_vec(buf.y + c * ld + s) + b_out[c]);
      }
      store_columns(
          buf.y, ld, p.C, blocks, static_cast<const float*>(p.x), p.x_pitch, static_cast<float*>(p.y), p.y_pitch);
    }
  }
}

std::vector<float> attention_block_bwd(
    const AttentionBlockArgs& p, const AttentionBlockGrads& g, const Core& core, bool need_extra) {
  const std::int64_t num_chunks = core.num_chunks(), ld = leading_stride(core), width = p.N * p.D;
  const bool need_w_qkv = g.d_w_qkv != nullptr || g.d_gamma != nullptr;
  const bool need_d_qkv = need_w_qkv || g.d_x != nullptr || need_extra;
  const Buffer w = fold_weights(p, core.q_scale());
  const auto* w_out = static_cast<const float*>(p.w_out);

  Pieces slot_size;
  Slot(slot_size, p, core);
  const std::int64_t num_slots =
      std::clamp<std::int64_t>(kMaxSlotFloats / slot_size.used, 2, std::clamp<std::int64_t>(num_chunks, 2, kMaxSlots));
  const Buffer slot_memory = allocate(num_slots * slot_size.used);
  const auto slot_at = [&](std::int64_t i) {
    Pieces pieces;
    pieces.base = slot_memory.get() + i * slot_size.used;
    return Slot(pieces, p, core);
  };

  const Workspace<BwdBuffers> workspace(p, core, ld);
#pragma omp parallel if (num_chunks > 1)
  {
    const BwdBuffers buf = workspace.of_this_thread();
    std::vector<ColumnBlock> blocks;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t s = 0; s < num_slots; ++s) {
      std::fill_n(slot_memory.get() + s * slot_size.used, slot_size.used, 0.0f);
      const Slot slot = slot_at(s);
      for (std::int64_t chunk = s * num_chunks / num_slots; chunk < (s + 1) * num_chunks / num_slots; ++chunk) {
        core.fill_blocks(chunk, blocks);
        const std::int64_t cols = static_cast<std::int64_t>(blocks.size()) * kLanes;
        load_columns(static_cast<const float*>(p.x), p.x_pitch, p.C, blocks, buf.xhat, ld);
        load_columns(static_cast<const float*>(g.d_y), g.d_y_pitch, p.C, blocks, buf.d_y, ld);
        normalize_columns(buf.xhat, p.C, cols, ld, buf.rstd);
        for (std::int64_t n = 0; n < p.N; ++n) {
          const float* w_head = w.get() + n * 3 * p.D * p.C;
          gemm_columns(3 * p.D, cols, p.C, w_head, p.C, 1, buf.xhat, ld, buf.qkv, ld, false);
          const HeadView head{
              n, cols, count_valid(blocks), ld, buf.qkv, buf.qkv + p.D * ld, buf.qkv + 2 * p.D * ld, buf.scratch};
          core.fwd(head, g.d_w_out != nullptr ? buf.a : nullptr);
          if (g.d_w_out != nullptr)
            gemm_over_columns(p.C, p.D, cols, buf.d_y, ld, buf.a, ld, slot.w_out + n * p.D, width);
          if (!need_d_qkv) continue;
          gemm_columns(p.D, cols, p.C, w_out + n * p.D, 1, p.w_out_pitch, buf.d_y, ld, buf.d_a, ld, false);
          core.bwd(head, buf.d_a, buf.d_qkv, buf.d_qkv + p.D * ld, buf.d_qkv + 2 * p.D * ld, slot.extra);
          if (need_w_qkv) {
            gemm_over_columns(3 * p.D, p.C, cols, buf.d_qkv, ld, buf.xhat, ld, slot.w_qkv + n * 3 * p.D * p.C, p.C);
          }
          if (g.d_x != nullptr) gemm_columns(p.C, cols, 3 * p.D, w_head, 1, p.C, buf.d_qkv, ld, buf.d_xhat, ld, n > 0);
        }
        if (g.d_b_out != nullptr) {
          for (std::int64_t c = 0; c < p.C; ++c) {
            Vec sum = {};
            for (std::int64_t i = 0; i < cols; i += kLanes) sum += load_vec(buf.d_y + c * ld + i);
            slot.b_out[c] += sum_lanes(sum, sum, sum, sum)[0];
          }
        }
        if (g.d_x != nullptr) {
          normalize_columns_bwd(buf.xhat, buf.rstd, buf.d_y, buf.d_xhat, p.C, cols, ld);
          store_columns(buf.d_xhat, ld, p.C, blocks, nullptr, 0, static_cast<float*>(g.d_x), g.d_x_pitch);
        }
      }
    }
    // Sum the slots into the first one, in order; threads share the elements.
    float* sum = slot_memory.get();
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < slot_size.used; ++i) {
      for (std::int64_t s = 1; s < num_slots; ++s) sum[i] += sum[s * slot_size.used + i];
    }
  }

  const Slot total = slot_at(0);
  if (need_w_qkv) unfold_weight_grads(p, g, core.q_scale(), total.w_qkv);
  for (std::int64_t c = 0; g.d_w_out != nullptr && c < p.C; ++c) {
    std::copy_n(total.w_out + c * width, width, static_cast<float*>(g.d_w_out) + c * g.d_w_out_pitch);
  }
  if (g.d_b_out != nullptr) std::copy_n(total.b_out, p.C, static_cast<float*>(g.d_b_out));
  return need_extra ? std::vector<float>(total.extra, total.extra + core.extra_grad_floats()) : std::vector<float>();
}

}  // namespace avid::kernels::channel_major
