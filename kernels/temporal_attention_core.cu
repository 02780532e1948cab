// kernels/temporal_attention_core.cu -- attention through time on projected rows (contract: temporal_attention_core.h)
//
// Math       as in the contract; gradients: kernels/temporal_attention_cpu.cpp
// Layout     rows of qkv and o are tokens; the frames of a pixel lie S rows apart, so nothing is permuted
// Parallel   blockIdx.y is a head, warps walk over pixels with a grid stride and never meet.
//            _tensor_kernel (bf16, T <= 16, D <= 64, 2R <= 32): a warp holds two pixels (T <= 8) or one in registers
//            (kernels/device/temporal_fragments.h); no shared memory, no barrier.
//            _shared_kernel (anything else): a warp keeps one sequence of a head in shared memory as f32.
// Traffic    fwd reads qkv and writes o once; bwd reads qkv and d_o and writes both once, in place
// Numerics   f32 accumulation. _tensor_kernel rounds q, k after the rotary code and p, d_logits to bf16, uses exp2 with
//            log2 e folded into q and the bias. _shared_kernel is f32 throughout (fmaf, expf).
// Limits     kernels/temporal_attention_core_plan.cpp
// Measured   never run on a GPU yet
// Open       the shared kernel moves 2-byte elements one by one
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include "kernels/temporal_attention_core.h"

#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kCoreWarps = kTemporalCoreWarps;
constexpr float kLog2E = 1.4426950408889634f;

template <class Elem>
AVID_DEVICE Elem from_float(float v) {
  if constexpr (std::is_same_v<Elem, float>) {
    return v;
  } else {
    return to_bf16(v);
  }
}

// ---- any sizes: a sequence in shared memory
// -------------------------------------------------------------------------------

/// One warp's arrays (temporal_core_plan counts their bytes). Rows of D + 1 floats: lanes that walk down a column meet
/// different banks.
struct SequenceArrays {
  float *q, *k, *v, *d_o, *p, *d_logit, *d_logit_sum;
  int stride;

  AVID_DEVICE SequenceArrays(int T, int D, bool backward) : stride(D + 1) {
    SharedArena arena;
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, rows = T * stride;
    q = arena.take<float>(warps * rows, "q") + warp * rows;
    k = arena.take<float>(warps * rows, "k") + warp * rows;
    v = arena.take<float>(warps * rows, "v") + warp * rows;
    p = arena.take<float>(warps * T * T, "p") + warp * T * T;
    d_o = backward ? arena.take<float>(warps * rows, "d_o") + warp * rows : nullptr;
    d_logit = backward ? arena.take<float>(warps * T * T, "d_logit") + warp * T * T : nullptr;
    d_logit_sum = backward ? arena.take<float>(warps * T * T, "d_logit_sum") + warp * T * T : nullptr;
  }
};

/// Where one head of one pixel lies.
template <class Elem>
struct HeadPlace {
  const TemporalCoreArgs<Elem>& p;
  std::int64_t first_row;  ///< token (b, 0, s)
  std::int64_t head;
  AVID_DEVICE HeadPlace(const TemporalCoreArgs<Elem>& args, std::int64_t pixel, int n)
      : p(args), first_row(pixel / args.S * args.T * args.S + pixel % args.S), head(n * args.head_pitch) {}
  /// part 0, 1, 2 is q, k, v
  AVID_DEVICE Elem* qkv(int part, int frame) const {
    return p.qkv.row(first_row + frame * p.S) + part * p.N * p.head_pitch + head;
  }
  AVID_DEVICE Elem* o(int frame) const { return p.o.row(first_row + frame * p.S) + head; }
};

/// One channel pair, turned by the angle of (frame, pair) times `direction`.
template <class Elem>
AVID_DEVICE float2 rotated(const TemporalCoreArgs<Elem>& p, int frame, int pair, float direction, float2 a) {
  if (pair >= p.num_pairs) return a;
  const float* angle = p.rotary + (frame * p.num_pairs + pair) * 2;
  const float c = angle[0], s = direction * angle[1];
  return make_float2(a.x * c - a.y * s, a.y * c + a.x * s);
}

/// q (scaled), k (both rotated) and v of a sequence into shared memory, then the probabilities.
template <class Elem>
AVID_DEVICE void load_sequence(
    const TemporalCoreArgs<Elem>& p, const HeadPlace<Elem>& at, const SequenceArrays& a, int n, float scale, int lane) {
  const int T = static_cast<int>(p.T), D = static_cast<int>(p.D), pairs = (D + 1) / 2;
  for (int e = lane; e < T * pairs; e += 32) {
    const int frame = e / pairs, pair = e - frame * pairs, to = frame * a.stride + 2 * pair;
    const bool whole = 2 * pair + 1 < D;  // an odd D ends in a single channel, whose partner in the gap is zero
    const auto load = [&](int part) {
      const Elem* from = at.qkv(part, frame) + 2 * pair;
      return make_float2(to_float(from[0]), whole ? to_float(from[1]) : 0.0f);
    };
    float2 q = load(0), k = load(1), v = load(2);
    q = rotated(p, frame, pair, 1.0f, make_float2(q.x * scale, q.y * scale));
    k = rotated(p, frame, pair, 1.0f, k);
    a.q[to] = q.x, a.k[to] = k.x, a.v[to] = v.x;
    if (whole) a.q[to + 1] = q.y, a.k[to + 1] = k.y, a.v[to + 1] = v.y;
  }
  __syncwarp();
  for (int e = lane; e < T * T; e += 32) {
    const int i = e / T, j = e - i * T;
    float dot = 0;
    for (int c = 0; c < D; ++c) dot = fmaf(a.q[i * a.stride + c], a.k[j * a.stride + c], dot);
    a.p[e] = dot + p.bias[n * T * T + e];
  }
  __syncwarp();
  for (int i = lane; i < T; i += 32) {
    float* row = a.p + i * T;
    float largest = row[0], sum = 0;
    for (int j = 1; j < T; ++j) largest = fmaxf(largest, row[j]);
    for (int j = 0; j < T; ++j) sum += row[j] = expf(row[j] - largest);
    const float inverse = 1.0f / sum;
    for (int j = 0; j < T; ++j) row[j] *= inverse;
  }
  __syncwarp();
}

/// sum_j m[j * step] x[j * stride + c]
AVID_DEVICE float weighted_sum(const float* m, int step, const float* x, int stride, int c, int T) {
  float sum = 0;
  for (int j = 0; j < T; ++j) sum = fmaf(m[j * step], x[j * stride + c], sum);
  return sum;
}

template <class Elem>
__global__ void temporal_core_fwd_shared_kernel(TemporalCoreArgs<Elem> p, float scale) {
  const int T = static_cast<int>(p.T), D = static_cast<int>(p.D), warps = blockDim.x / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = blockIdx.y;
  const SequenceArrays a(T, D, false);
  for (std::int64_t pixel = std::int64_t{blockIdx.x} * warps + warp; pixel < p.B * p.S;
       pixel += std::int64_t{gridDim.x} * warps) {
    const HeadPlace<Elem> at(p, pixel, n);
    load_sequence(p, at, a, n, scale, lane);
    for (int e = lane; e < T * static_cast<int>(p.head_pitch); e += 32) {
      const int i = e / static_cast<int>(p.head_pitch), c = e - i * static_cast<int>(p.head_pitch);
      at.o(i)[c] = from_float<Elem>(c < D ? weighted_sum(a.p + i * T, 1, a.v, a.stride, c, T) : 0.0f);
    }
    __syncwarp();
  }
}

template <class Elem>
__global__ void temporal_core_bwd_shared_kernel(TemporalCoreArgs<Elem> p, float scale) {
  const int T = static_cast<int>(p.T), D = static_cast<int>(p.D), warps = blockDim.x / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = blockIdx.y;
  const SequenceArrays a(T, D, true);
  for (int e = lane; e < T * T; e += 32) a.d_logit_sum[e] = 0;  // lane e % 32 owns element e throughout
  const int first = blockIdx.x * warps + warp, pairs = static_cast<int>(p.head_pitch) / 2;
  for (std::int64_t pixel = first; pixel < p.B * p.S; pixel += std::int64_t{gridDim.x} * warps) {
    const HeadPlace<Elem> at(p, pixel, n);
    for (int e = lane; e < T * D; e += 32) {
      const int i = e / D, c = e - i * D;
      a.d_o[i * a.stride + c] = to_float(at.o(i)[c]);
    }
    load_sequence(p, at, a, n, scale, lane);
    for (int e = lane; e < T * T; e += 32) {
      const int i = e / T, j = e - i * T;
      float dot = 0;
      for (int c = 0; c < D; ++c) dot = fmaf(a.d_o[i * a.stride + c], a.v[j * a.stride + c], dot);
      a.d_logit[e] = dot;  // so far d_p
    }
    __syncwarp();
    for (int i = lane; i < T; i += 32) {
      const float* row = a.p + i * T;
      float* d_row = a.d_logit + i * T;
      float dot = 0;
      for (int j = 0; j < T; ++j) dot = fmaf(row[j], d_row[j], dot);
      for (int j = 0; j < T; ++j) d_row[j] = row[j] * (d_row[j] - dot);
    }
    __syncwarp();
    for (int e = lane; e < T * T; e += 32) a.d_logit_sum[e] += a.d_logit[e];
    for (int e = lane; e < T * pairs; e += 32) {
      const int i = e / pairs, pair = e - i * pairs, c0 = 2 * pair, c1 = c0 + 1;
      float2 d_q = {0, 0}, d_k = {0, 0}, d_v = {0, 0}, o = {0, 0};
      if (c0 < D) {
        o.x = weighted_sum(a.p + i * T, 1, a.v, a.stride, c0, T);
        d_v.x = weighted_sum(a.p + i, T, a.d_o, a.stride, c0, T);
        d_q.x = weighted_sum(a.d_logit + i * T, 1, a.k, a.stride, c0, T);
        d_k.x = weighted_sum(a.d_logit + i, T, a.q, a.stride, c0, T);
      }
      if (c1 < D) {
        o.y = weighted_sum(a.p + i * T, 1, a.v, a.stride, c1, T);
        d_v.y = weighted_sum(a.p + i, T, a.d_o, a.stride, c1, T);
        d_q.y = weighted_sum(a.d_logit + i * T, 1, a.k, a.stride, c1, T);
        d_k.y = weighted_sum(a.d_logit + i, T, a.q, a.stride, c1, T);
      }
      d_q = rotated(p, i, pair, -1.0f, make_float2(d_q.x * scale, d_q.y * scale));
      d_k = rotated(p, i, pair, -1.0f, d_k);
      const auto store = [](Elem* to, float2 value) {
        to[0] = from_float<Elem>(value.x);
        to[1] = from_float<Elem>(value.y);
      };
      store(at.o(i) + c0, o);
      store(at.qkv(0, i) + c0, d_q);
      store(at.qkv(1, i) + c0, d_k);
      store(at.qkv(2, i) + c0, d_v);
    }
    __syncwarp();
  }
  if (p.d_bias_partials == nullptr) return;
  for (int e = lane; e < T * T; e += 32) p.d_bias_partials[(first * p.N + n) * T * T + e] = a.d_logit_sum[e];
}

// ---- bf16, up to 16 frames: a sequence in registers
// ----------------------------------------------------------------------

/// What a lane keeps for all its pixels: the rotary code of its two tokens and the bias of its logits.
template <bool kPair>
struct LaneConstants {
  static constexpr int kHalves = kPair ? 1 : 2;  // both tokens of a pair are the same frame
  float cosine[kHalves][4], sine[kHalves][4];
  TokenLogits bias;

  AVID_DEVICE LaneConstants(const TemporalCoreArgs<bf16>& p, int n, int g, int t) {
    const int T = static_cast<int>(p.T);
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int frame = g + 8 * h;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* angle = p.rotary + (frame * p.num_pairs + t * 4 + k) * 2;
        cosine[h][k] = frame < T ? angle[0] : 1.0f;
        sine[h][k] = frame < T ? angle[1] : 0.0f;
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int key = 0; key < 2; ++key) {
        if (kPair && key != row) continue;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int i = g + (kPair ? 0 : 8 * row), j = 2 * t + e + (kPair ? 0 : 8 * key);
          // A row past the last frame keeps its visible keys: it is computed, finite and not stored.
          bias.v[row][key][e] = j >= T ? -INFINITY : i < T ? p.bias[(n * T + i) * T + j] * kLog2E : 0.0f;
        }
      }
    }
  }
};

/// The lane's two tokens of a work item: a pair of pixels, or one.
template <bool kPair>
struct TokenPlace {
  std::int64_t row[2];
  bool valid[2];
  AVID_DEVICE TokenPlace(const TemporalCoreArgs<bf16>& p, unsigned item, int g) {
    const unsigned S = static_cast<unsigned>(p.S);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const unsigned pixel = kPair ? 2 * item + h : item, clip = pixel / S;
      const int frame = kPair ? g : g + 8 * h;
      row[h] = (clip * p.T + frame) * p.S + (pixel - clip * S);
      valid[h] = frame < p.T && pixel < p.B * p.S;
    }
  }
};

template <bool kPair, int kBlocks, int kMinBlocks>
__global__ void __launch_bounds__(kCoreWarps * 32, kMinBlocks)
    temporal_core_fwd_tensor_kernel(TemporalCoreArgs<bf16> p, unsigned num_items, float scale) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n = blockIdx.y;
  const int chunks = static_cast<int>(p.head_pitch / 8), part = static_cast<int>(p.N * p.head_pitch);
  const LaneConstants<kPair> constants(p, n, g, t);
  for (unsigned item = blockIdx.x * kCoreWarps + threadIdx.x / 32; item < num_items; item += gridDim.x * kCoreWarps) {
    const TokenPlace<kPair> at(p, item, g);
    TokenRows<kBlocks> q, k, v;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bf16* head = p.qkv.row(at.row[h]) + n * p.head_pitch;
      load_token(q.r[h], head, t, chunks, at.valid[h]);
      load_token(k.r[h], head + part, t, chunks, at.valid[h]);
      load_token(v.r[h], head + 2 * part, t, chunks, at.valid[h]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rotate_token(q.r[h], constants.cosine[kPair ? 0 : h], constants.sine[kPair ? 0 : h], 1.0f, scale * kLog2E);
      rotate_token(k.r[h], constants.cosine[kPair ? 0 : h], constants.sine[kPair ? 0 : h], 1.0f, 1.0f);
    }
    TokenLogits s = {};  // a pair leaves half of it unused
    token_products<kPair>(s, q, k);
    softmax_tokens<kPair>(s, constants.bias);
    std::uint32_t prob[4];
    logits_fragment<kPair>(prob, s);
    mix_tokens(q, prob, v);  // q is done: its registers take the output
#pragma unroll
    for (int h = 0; h < 2; ++h) store_token(p.o.row(at.row[h]) + n * p.head_pitch, q.r[h], t, chunks, at.valid[h]);
  }
}

template <bool kPair, int kBlocks, int kMinBlocks>
__global__ void __launch_bounds__(kCoreWarps * 32, kMinBlocks)
    temporal_core_bwd_tensor_kernel(TemporalCoreArgs<bf16> p, unsigned num_items, float scale) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n = blockIdx.y;
  const int chunks = static_cast<int>(p.head_pitch / 8), part = static_cast<int>(p.N * p.head_pitch);
  const unsigned first = blockIdx.x * kCoreWarps + threadIdx.x / 32;
  const LaneConstants<kPair> constants(p, n, g, t);
  TokenLogits sum = {};
  for (unsigned item = first; item < num_items; item += gridDim.x * kCoreWarps) {
    const TokenPlace<kPair> at(p, item, g);
    TokenRows<kBlocks> q, k, v, d_o, out;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bf16* head = p.qkv.row(at.row[h]) + n * p.head_pitch;
      load_token(q.r[h], head, t, chunks, at.valid[h]);
      load_token(k.r[h], head + part, t, chunks, at.valid[h]);
      load_token(v.r[h], head + 2 * part, t, chunks, at.valid[h]);
      load_token(d_o.r[h], p.o.row(at.row[h]) + n * p.head_pitch, t, chunks, at.valid[h]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rotate_token(q.r[h], constants.cosine[kPair ? 0 : h], constants.sine[kPair ? 0 : h], 1.0f, scale * kLog2E);
      rotate_token(k.r[h], constants.cosine[kPair ? 0 : h], constants.sine[kPair ? 0 : h], 1.0f, 1.0f);
    }
    TokenLogits prob = {}, d = {};
    token_products<kPair>(prob, q, k);
    softmax_tokens<kPair>(prob, constants.bias);
    token_products<kPair>(d, d_o, v);
    softmax_tokens_bwd<kPair>(prob, d);
    // Rows that do not exist loaded d_o = 0, so their d is 0.
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      sum.v[0][0][e] += d.v[0][0][e], sum.v[1][1][e] += d.v[1][1][e];
      if (!kPair) sum.v[0][1][e] += d.v[0][1][e], sum.v[1][0][e] += d.v[1][0][e];
    }
    std::uint32_t prob_fragment[4], d_fragment[4], turned[4];
    logits_fragment<kPair>(prob_fragment, prob);
    logits_fragment<kPair>(d_fragment, d);
    const auto store = [&](Rows<bf16> rows, std::int64_t column) {
#pragma unroll
      for (int h = 0; h < 2; ++h) store_token(rows.row(at.row[h]) + column, out.r[h], t, chunks, at.valid[h]);
    };
    const auto unrotate = [&](float factor) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        rotate_token(out.r[h], constants.cosine[kPair ? 0 : h], constants.sine[kPair ? 0 : h], -1.0f, factor);
    };
    transpose_fragment<kPair>(turned, prob_fragment);
    mix_tokens(out, turned, d_o);
    store(p.qkv, 2 * part + n * p.head_pitch);
    mix_tokens(out, prob_fragment, v);
    store(p.o, n * p.head_pitch);
    transpose_fragment<kPair>(turned, d_fragment);
    mix_tokens(out, turned, q);
    unrotate(1.0f / kLog2E);  // q carries the factor log2 e
    store(p.qkv, part + n * p.head_pitch);
    mix_tokens(out, d_fragment, k);
    unrotate(scale);
    store(p.qkv, n * p.head_pitch);
  }
  if (p.d_bias_partials == nullptr) return;
  const int T = static_cast<int>(p.T);
  if (kPair) {  // both halves are the same logits of different pixels
#pragma unroll
    for (int e = 0; e < 2; ++e) sum.v[0][0][e] += sum.v[1][1][e];
  }
  float* to = p.d_bias_partials + (std::int64_t{first} * p.N + n) * T * T;
#pragma unroll
  for (int row = 0; row < (kPair ? 1 : 2); ++row) {
#pragma unroll
    for (int key = 0; key < (kPair ? 1 : 2); ++key) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = g + 8 * row, j = 2 * t + e + 8 * key;
        if (i < T && j < T) to[i * T + j] = sum.v[row][key][e];
      }
    }
  }
}

inline dim3 grid_of(const TemporalCorePlan& plan, std::int64_t N) {
  return dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(N));
}

template <class Elem>
void launch_shared(const Stream& stream, const TemporalCoreArgs<Elem>& p, const TemporalCorePlan& plan, bool backward) {
  const auto kernel = backward ? temporal_core_bwd_shared_kernel<Elem> : temporal_core_fwd_shared_kernel<Elem>;
  launch(
      kernel, grid_of(plan, p.N), dim3(static_cast<unsigned>(plan.warps * 32)),
      static_cast<std::size_t>(plan.shared_bytes), stream, p, plan.scale);
}

template <bool kPair, int kBlocks>
void launch_tensor(
    const Stream& stream, const TemporalCoreArgs<BFloat16>& p, const TemporalCorePlan& plan, bool backward) {
  // Blocks per SM as many as the registers allow without spills: forward 6 or 4; backward 4, 3, 3, 2.
  const auto kernel = backward                   ? temporal_core_bwd_tensor_kernel < kPair, kBlocks,
             kPair ? 5 - kBlocks : 4 - kBlocks > : temporal_core_fwd_tensor_kernel < kPair, kBlocks, kPair ? 6 : 4 > ;
  launch(
      kernel, grid_of(plan, p.N), dim3(kCoreWarps * 32), 0, stream, p, static_cast<unsigned>(plan.num_items),
      plan.scale);
}

template <class Elem>
void launch_core(const Stream& stream, const TemporalCoreArgs<Elem>& p, bool backward) {
  const TemporalCorePlan plan = temporal_core_plan({p.B, p.T, p.S, p.N, p.D, p.num_pairs}, dtype_of<Elem>, backward);
  if (plan.num_items == 0) return;
  if constexpr (std::is_same_v<Elem, BFloat16>) {
    const bool pair = p.T <= 8, one_block = p.D <= 32;
    if (plan.on_tensor_cores && pair && one_block) return launch_tensor<true, 1>(stream, p, plan, backward);
    if (plan.on_tensor_cores && pair) return launch_tensor<true, 2>(stream, p, plan, backward);
    if (plan.on_tensor_cores && one_block) return launch_tensor<false, 1>(stream, p, plan, backward);
    if (plan.on_tensor_cores) return launch_tensor<false, 2>(stream, p, plan, backward);
  }
  launch_shared<Elem>(stream, p, plan, backward);
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void temporal_core_fwd(const Stream& stream, const TemporalCoreArgs<Elem>& p) {
  AVID_GPU::launch_core(stream, p, false);
}
template <class Backend, class Elem>
void temporal_core_bwd(const Stream& stream, const TemporalCoreArgs<Elem>& p) {
  AVID_GPU::launch_core(stream, p, true);
}

template void temporal_core_fwd<Gpu, float>(const Stream&, const TemporalCoreArgs<float>&);
template void temporal_core_fwd<Gpu, BFloat16>(const Stream&, const TemporalCoreArgs<BFloat16>&);
template void temporal_core_bwd<Gpu, float>(const Stream&, const TemporalCoreArgs<float>&);
template void temporal_core_bwd<Gpu, BFloat16>(const Stream&, const TemporalCoreArgs<BFloat16>&);

}  // namespace avid::kernels
