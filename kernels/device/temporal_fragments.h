// kernels/device/temporal_fragments.h -- attention of up to 16 tokens in the registers of one warp
//
// One row block of an m16n8k16 product is 16 tokens: two pixels of up to 8 frames (kPair), or one pixel of up to 16.
// Lane 4g + t holds token g and token g + 8 ("half" 0 and 1). Everything fits fragments without a move:
//   logits  A = the 16 rows of q, B = 8 keys: the C fragment holds row g, keys 2t and 2t + 1, and row g + 8
//   o = P V P's C fragment is an A fragment over 16 keys; B = the 16 value rows, turned by movmatrix
// The order of channels along k is free as long as q and k share it. Lane t of a quad takes channels 8t .. 8t+7 of each
// block of 32: one 16-byte load, pairs of the rotary code stay in one register, and outputs leave as 16-byte stores.
//
// A pair is block diagonal: token g and token g + 8 belong to different pixels, whose products are left out.
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

/// Channels of 16 tokens of one head: [half][block of 32 channels][8 channels as 4 registers].
template <int kBlocks>
struct TokenRows {
  std::uint32_t r[2][kBlocks][4];
};

/// Logits, probabilities or their gradients: [half of the query][half of the key][key 2t, 2t + 1]. A pair uses [0][0]
/// and [1][1] only.
struct TokenLogits {
  float v[2][2][2];
};

/// Loads (or zeroes) the lane's channels of one token; `chunks` of 8 channels exist.
template <int kBlocks>
AVID_DEVICE void load_token(std::uint32_t (&r)[kBlocks][4], const bf16* head, int t, int chunks, bool valid) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (valid && b * 4 + t < chunks) v = *reinterpret_cast<const uint4*>(head + b * 32 + t * 8);
    r[b][0] = v.x, r[b][1] = v.y, r[b][2] = v.z, r[b][3] = v.w;
  }
}

template <int kBlocks>
AVID_DEVICE void store_token(bf16* head, const std::uint32_t (&r)[kBlocks][4], int t, int chunks, bool valid) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if (valid && b * 4 + t < chunks)
      *reinterpret_cast<uint4*>(head + b * 32 + t * 8) = make_uint4(r[b][0], r[b][1], r[b][2], r[b][3]);
  }
}

/// The rotary code of one token's channels 0 .. 31, then a factor on all; direction -1 is the inverse.
template <int kBlocks>
AVID_DEVICE void rotate_token(
    std::uint32_t (&r)[kBlocks][4], const float (&cosine)[4], const float (&sine)[4], float direction, float factor) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float2 a = unpack_bf16x2(r[0][k]);
    const float s = direction * sine[k];
    r[0][k] = pack_bf16x2((a.x * cosine[k] - a.y * s) * factor, (a.y * cosine[k] + a.x * s) * factor);
  }
#pragma unroll
  for (int b = 1; b < kBlocks; ++b) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 a = unpack_bf16x2(r[b][k]);
      r[b][k] = pack_bf16x2(a.x * factor, a.y * factor);
    }
  }
}

/// s_ij = a_i . b_j
template <bool kPair, int kBlocks>
AVID_DEVICE void token_products(TokenLogits& s, const TokenRows<kBlocks>& a, const TokenRows<kBlocks>& b) {
#pragma unroll
  for (int key = 0; key < 2; ++key) {
    float c[4] = {};
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const std::uint32_t rows[4] = {
            a.r[0][block][2 * h], a.r[1][block][2 * h], a.r[0][block][2 * h + 1], a.r[1][block][2 * h + 1]};
        const std::uint32_t cols[2] = {b.r[key][block][2 * h], b.r[key][block][2 * h + 1]};
        mma_bf16_16x8x16(c, rows, cols, c);
      }
    }
    if (!kPair || key == 0) s.v[0][key][0] = c[0], s.v[0][key][1] = c[1];
    if (!kPair || key == 1) s.v[1][key][0] = c[2], s.v[1][key][1] = c[3];
  }
}

/// The A fragment of a 16x16 matrix of logits' shape, rounded to bf16.
template <bool kPair>
AVID_DEVICE void logits_fragment(std::uint32_t (&a)[4], const TokenLogits& s) {
  a[0] = pack_bf16x2(s.v[0][0][0], s.v[0][0][1]);
  a[1] = kPair ? 0u : pack_bf16x2(s.v[1][0][0], s.v[1][0][1]);
  a[2] = kPair ? 0u : pack_bf16x2(s.v[0][1][0], s.v[0][1][1]);
  a[3] = pack_bf16x2(s.v[1][1][0], s.v[1][1][1]);
}

/// The same of the transposed matrix.
template <bool kPair>
AVID_DEVICE void transpose_fragment(std::uint32_t (&out)[4], const std::uint32_t (&a)[4]) {
  out[0] = movmatrix(a[0]);
  out[1] = kPair ? 0u : movmatrix(a[2]);
  out[2] = kPair ? 0u : movmatrix(a[1]);
  out[3] = movmatrix(a[3]);
}

/// out_i = sum_j m_ij x_j
template <int kBlocks>
AVID_DEVICE void mix_tokens(TokenRows<kBlocks>& out, const std::uint32_t (&m)[4], const TokenRows<kBlocks>& x) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const std::uint32_t values[2] = {movmatrix(x.r[0][b][k]), movmatrix(x.r[1][b][k])};
      float c[4] = {};
      mma_bf16_16x8x16(c, m, values, c);
      out.r[0][b][k] = pack_bf16x2(c[0], c[1]);
      out.r[1][b][k] = pack_bf16x2(c[2], c[3]);
    }
  }
}

/// Sum over the four lanes of a quad.
AVID_DEVICE float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
AVID_DEVICE float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

/// Softmax over the keys of logits `factor` s + `bias` in units of log 2 (-inf hides a key). Some key of every row must
/// be visible. kFastDivision: within 2 ulp, without the branch that an exact division has.
template <bool kPair, bool kFastDivision = false>
AVID_DEVICE void softmax_tokens(TokenLogits& s, const TokenLogits& bias, float factor = 1.0f) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float largest = -INFINITY;
#pragma unroll
    for (int key = 0; key < 2; ++key) {
      if (kPair && key != row) continue;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        s.v[row][key][e] = fmaf(s.v[row][key][e], factor, bias.v[row][key][e]);
        largest = fmaxf(largest, s.v[row][key][e]);
      }
    }
    largest = quad_max(largest);
    float sum = 0;
#pragma unroll
    for (int key = 0; key < 2; ++key) {
      if (kPair && key != row) continue;
#pragma unroll
      for (int e = 0; e < 2; ++e) sum += s.v[row][key][e] = exp2f(s.v[row][key][e] - largest);
    }
    sum = quad_sum(sum);
    const float inverse = kFastDivision ? __fdividef(1.0f, sum) : 1.0f / sum;
#pragma unroll
    for (int key = 0; key < 2; ++key) {
      if (kPair && key != row) continue;
#pragma unroll
      for (int e = 0; e < 2; ++e) s.v[row][key][e] *= inverse;
    }
  }
}

/// d <- p (d - sum_j p d): from the gradient of probabilities to that of natural logits.
template <bool kPair>
AVID_DEVICE void softmax_tokens_bwd(const TokenLogits& p, TokenLogits& d) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float dot = 0;
#pragma unroll
    for (int key = 0; key < 2; ++key) {
      if (kPair && key != row) continue;
      dot += p.v[row][key][0] * d.v[row][key][0] + p.v[row][key][1] * d.v[row][key][1];
    }
    dot = quad_sum(dot);
#pragma unroll
    for (int key = 0; key < 2; ++key) {
      if (kPair && key != row) continue;
#pragma unroll
      for (int e = 0; e < 2; ++e) d.v[row][key][e] = p.v[row][key][e] * (d.v[row][key][e] - dot);
    }
  }
}

}  // namespace avid::kernels::AVID_GPU
