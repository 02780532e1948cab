// kernels/spatial_attention_cpu_fast.cpp -- f32 softmax attention within frames, one frame per thread
//
// Layout     A chunk is one frame, positions in the columns. Queries are walked in tiles of columns; the
//            probabilities of a tile are stored transposed, [key][query], so that softmax over keys runs down the
//            columns and the product with v is a product of columns.
//            d_v and d_k are sums over queries: for them probabilities and gradient are transposed to [query][key],
//            which costs S^2 moves and makes them products of columns too.
// Scratch    probabilities [S][tile], their gradient, one transposed [tile][S]. With one tile (S <= 64: the middle of
//            the pixel networks) the backward pass finds the probabilities still there; with more it computes them
//            again, tile by tile.
#include <algorithm>
#include <cmath>

#include "kernels/attention_block_channel_major.h"
#include "kernels/simd.h"
#include "kernels/small_gemm.h"
#include "kernels/spatial_attention.h"

namespace avid::kernels {
namespace {

using channel_major::ColumnBlock;
using channel_major::HeadView;

constexpr std::int64_t kTile = 64;  // queries: 64 keys x 64 queries are 16 KB, a third of L1

class SpatialCore final : public channel_major::Core {
 public:
  explicit SpatialCore(const AttentionBlockArgs& p) : p_(p) {}

  std::int64_t num_chunks() const override { return p_.S > 0 ? p_.B * p_.T : 0; }
  std::int64_t max_blocks() const override { return channel_major::padded(p_.S) / kLanes; }
  float q_scale() const override { return 1.0f / std::sqrt(static_cast<float>(p_.D)); }
  std::int64_t scratch_floats(std::int64_t) const override { return kTile * (2 * p_.S + key_stride()); }
  void fill_blocks(std::int64_t chunk, std::vector<ColumnBlock>& blocks) const override {
    channel_major::fill_frame_blocks(chunk, p_.S, blocks);
  }

  void fwd(const HeadView& h, float* a) const override {
    if (a == nullptr && h.cols > kTile) return;  // nothing would survive to the backward pass
    for (std::int64_t first = 0; first < h.cols; first += kTile) {
      const std::int64_t queries = std::min(kTile, h.cols - first);
      probabilities(h, first, queries);
      if (a == nullptr) continue;
      gemm_columns(p_.D, queries, p_.S, h.v, h.ld, 1, h.scratch, kTile, a + first, h.ld, false);
    }
  }

  void bwd(const HeadView& h, const float* d_a, float* d_q, float* d_k, float* d_v, float*) const override {
    const std::int64_t D = p_.D, S = p_.S, ld = h.ld;
    const float* prob = h.scratch;
    float* d_logit = h.scratch + S * kTile;
    float* by_query = h.scratch + 2 * S * kTile;
    const std::int64_t keys = channel_major::padded(S), stride = key_stride();
    for (std::int64_t first = 0; first < h.cols; first += kTile) {
      const std::int64_t queries = std::min(kTile, h.cols - first);
      const bool add = first > 0;
      if (h.cols > kTile) probabilities(h, first, queries);
      gemm_columns(S, queries, D, h.v, 1, ld, d_a + first, ld, d_logit, kTile, false);  // so far d_p
      transpose(prob, S, queries, by_query, stride);
      gemm_columns(D, keys, queries, d_a + first, ld, 1, by_query, stride, d_v, ld, add);
      channel_major::softmax_down_columns_bwd(prob, d_logit, S, queries, kTile);
      gemm_columns(D, queries, S, h.k, ld, 1, d_logit, kTile, d_q + first, ld, false);
      transpose(d_logit, S, queries, by_query, stride);
      gemm_columns(D, keys, queries, h.q + first, ld, 1, by_query, stride, d_k, ld, add);
    }
  }

 private:
  /// Keys in a row of the transposed matrix; one register more than needed keeps rows out of each other's cache sets.
  std::int64_t key_stride() const { return channel_major::padded(p_.S) + kLanes; }

  /// to[query][key] = from[key][query] for key < S; the keys up to the next whole register become zero.
  static void transpose(const float* from, std::int64_t S, std::int64_t queries, float* to, std::int64_t stride) {
    for (std::int64_t key = 0; key < S; key += kLanes) {
      for (std::int64_t query = 0; query < queries; query += 4) {
        Vec4 quads[kLanes] = {};
        for (std::int64_t lane = 0; lane < std::min<std::int64_t>(kLanes, S - key); ++lane) {
          quads[lane] = load_vec4(from + (key + lane) * kTile + query);
        }
        Vec rows[4];
        rows_to_lanes(quads, rows);
        for (std::int64_t k = 0; k < 4; ++k) store_vec(to + (query + k) * stride + key, rows[k]);
      }
    }
  }

  /// scratch[key][query] = softmax over keys of q . k, for the queries [first, first + queries)
  void probabilities(const HeadView& h, std::int64_t first, std::int64_t queries) const {
    gemm_columns(p_.S, queries, p_.D, h.k, 1, h.ld, h.q + first, h.ld, h.scratch, kTile, false);
    channel_major::softmax_down_columns(h.scratch, p_.S, queries, kTile);
  }

  const AttentionBlockArgs& p_;
};

}  // namespace

void spatial_attention_fwd_channel_major(const AttentionBlockArgs& p) {
  channel_major::attention_block_fwd(p, SpatialCore(p));
}

void spatial_attention_bwd_channel_major(const AttentionBlockArgs& p, const AttentionBlockGrads& g) {
  channel_major::attention_block_bwd(p, g, SpatialCore(p), false);
}

}  // namespace avid::kernels
