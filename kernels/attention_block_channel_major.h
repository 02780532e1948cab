// kernels/attention_block_channel_major.h -- f32 attention blocks on the CPU: cache-sized chunks, channels by rows
//
// Idea       Work is cut into chunks of "columns" (positions) that fit in L2, one chunk per thread at a time. Inside
//            a chunk everything is stored channel by channel, [channel][column], so that norms, softmax over channels,
//            rotary code and every matrix product run along columns in full SIMD registers, whatever C, N, D, T are.
//            Only x is read and only y is written; q, k, v, probabilities and the attention output stay in the cache.
// Weights    gamma, and for q the scale, are multiplied into a copy of w_qkv once per call:
//              w[n][o][c] = w_qkv[o,c] * gamma[c] * scale_o,  head-major [N][3D][C],  q k v = w xhat
//            Its gradient G = sum over columns of d_qkv xhat^T gives both
//              d_w_qkv[o,c] = G * gamma[c] * scale_o   and   d_gamma[c] = sum_o G * w_qkv[o,c] * scale_o
// Backward   recomputes the chunk from x. Gradients of weights are summed in a fixed number of slots, each a fixed
//            run of chunks, and the slots in order: the same bits for any number of threads.
//            Keeping q, k, v instead would cost more than it saves: at B=8 T=8 32x32x24, 2 heads of 64, they are
//            101 MB, 5.1 ms to write on two cores; computing them again is 1.2 GFLOP, 2.5 ms.
// Padding    Columns are padded to whole registers; padded x and d_y are zero, which makes every padded gradient zero.
// Measured   AMD EPYC (Zen 5), 2 cores, 2 threads, f32, best of 15 | B=8 T=8 | fwd ms | fwd+bwd ms | PyTorch 2 threads
//            temporal 32x32x24, 2 heads of 64      5.1    20.1    143    320
//            temporal 32x32x16, 2 heads of 32      2.3     8.5     60    148
//            temporal 16x16x48, 2 heads of 64      2.2     9.1     23     55
//            temporal  8x8x96,  2 heads of 64      1.0     4.2    6.3     16
//            linear   32x32x24, 2 heads of 32      5.8    18.7     75    157
//            linear   16x16x48, 2 heads of 32      2.0     6.6    8.6     20
//            spatial   8x8x96,  2 heads of 32      0.8     3.1    3.8    9.8
//            (PyTorch: the same block in torch ops, channels first as in the original, default allocator)
// Oracle     kernels/<op>_cpu.cpp in f64, compared in tests/kernels/<op>_test.cpp
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_block.h"
#include "kernels/channel_columns.h"

namespace avid::kernels::channel_major {

/// One head of one chunk. Matrices are [D][ld], of which the first `cols` columns are in use (a multiple of kLanes).
struct HeadView {
  std::int64_t n = 0;  ///< which head
  std::int64_t cols = 0, valid_cols = 0, ld = 0;
  float* q = nullptr;  ///< scaled if the core asked for it; the core may change q and k in place
  float* k = nullptr;
  float* v = nullptr;
  float* scratch = nullptr;  ///< core.scratch_floats() floats, kept from forward to backward of the same head
};

/// Attention proper; the blocks derive from this.
class Core {
 public:
  virtual ~Core() = default;
  virtual std::int64_t num_chunks() const = 0;
  virtual std::int64_t max_blocks() const = 0;  ///< column blocks in the largest chunk
  virtual void fill_blocks(std::int64_t chunk, std::vector<ColumnBlock>& blocks) const = 0;
  virtual float q_scale() const { return 1.0f; }
  virtual std::int64_t scratch_floats(std::int64_t ld) const = 0;
  /// Floats of gradient that bwd adds to besides d_q, d_k, d_v, summed over the slots.
  virtual std::int64_t extra_grad_floats() const { return 0; }
  /// a [D][ld] = attention(q, k, v); only prepares the scratch when a is null.
  virtual void fwd(const HeadView& h, float* a) const = 0;
  /// d_q, d_k, d_v [D][ld] from d_a, after fwd() of the same head.
  virtual void bwd(
      const HeadView& h, const float* d_a, float* d_q, float* d_k, float* d_v, float* extra_grad) const = 0;
};

void attention_block_fwd(const AttentionBlockArgs& p, const Core& core);
/// Returns the sum of the extra gradients (empty when nobody asked for one); `need_extra` asks for it.
std::vector<float> attention_block_bwd(
    const AttentionBlockArgs& p, const AttentionBlockGrads& g, const Core& core, bool need_extra);

}  // namespace avid::kernels::channel_major
