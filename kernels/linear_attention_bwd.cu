// kernels/linear_attention_bwd.cu -- gradients of the linear attention block in two passes over the positions
// (contract: linear_attention_bwd.h)
//
// Math       One frame, one head; s runs over positions, c over channels, i, j over the head's 32. h = prenorm(x);
//            w_q, w_k, w_v, w_o [32, C] are the head's rows of w_qkv and columns of w_out; a = 32^-0.5.
//              qs = softmax_i(w_q h_s);  kn_si = exp(w_k h_s - max_i) / sum_i
//            v occurs only in linear expressions, so it is never formed. With two sums over the positions
//              g[i,c] = sum_s kn_si h_sc          d[i,c] = sum_s qs_si d_y_sc
//            everything else about a frame is products of [32, C] and [32, 32]:
//              context = g w_v^T                  d_context = a d w_o^T
//              m = a context w_o                  r = d_context w_v                 correction_i = sum_c r[i,c] g[i,c]
//              d_w_v += d_context^T g             d_w_o += a context^T d
//            and the gradients of the rows need m, r and the correction only:
//              d_s = m d_y_s                      d_q = qs (d_s - qs . d_s)
//              d_kn = r h_s                       d_k = kn (d_kn - correction)
//              d_h = w_q^T d_q + w_k^T d_k + r^T kn;   d_x = d_y + the norm's gradient
//              d_w_q = sum_s d_q h^T              d_w_k = sum_s d_k h^T
// Parallel   pass 1 (device/linear_attention_sums.h): a block per (frame, 2048 positions, up to four heads), two warps
//            a head; matrices: a block per (1/64 of the frames, head), on FP32 units; pass 2
//            (device/linear_attention_rows.h): a block per 128 positions, all heads; then d_w_q and d_w_k as one
//            product (linear.h), d_b_out as column sums
// Traffic    bytes per position, bf16, I = 32 N, counted from the launches. Here: pass 1 reads x, d_y: 4C (the second
//            group of heads finds them in L2), its sums 2 (2 * 32 * C8 * 4 N) / 2048; pass 2 reads x, d_y, writes d_x,
//            h, d_q and d_k: 8C + 4I; the product 2C + 4I; d_b_out 2C. Together 16C + 8I + 0.25 N C8.
//            Composed (linear_attention.cu): norm 4C, qkv 2C + 6I, contexts 4I, a 4I, d_w_out 2C + 2I, d_b_out 2C,
//            d_a 2C + 2I, d_context 4I, d_qkv 14I, d_w_qkv 2C + 6I, d_h 2C + 6I, norm 8C: 24C + 48I.
//              C, N               100, 8    90, 6    50, 4
//              composed, KB        14.8     11.5      7.5
//              here, KB             3.9      3.2      2.0
//            Workspace: 2.5 KB a position at C = 100 against 4.7 KB (h, qkv, a in place).
// Work       m16n8k16 products per 32 positions and head at C8 = 104: 208 in pass 1, 364 in pass 2, 104 in the product.
//            In multiply-adds per position and head 13 x 32 C, all on tensor cores; composed 11 x 32 C there, and
//            6 x 32 x 32 as FP32 FMAs.
// Tiles      pass 1: 64 positions, 8 warps, 54 KB of shared memory, one block per SM. Pass 2: 80 KB + 256 N bytes at
//            C = 100 and 90, two blocks of 4 warps per SM on an A100; 44 KB at C = 50, three. matrices: 74 KB, two.
// Compiled   nvcc 13, sm_80 (sm_90), no spills: pass 1 249, 235, 172 (254, 241, 176) registers for up to 104, 96, 56
//            channels; pass 2 218, 217, 164 (217, 217, 165); matrices 128. Instructions per product in their loops,
//            sm_80: pass 1 4.6, 4.9, 6.7; pass 2 4.5, 4.8, 6.4
// Counted    before 6.4, 7.0, 10.2 and 5.8, 6.3, 8.3. An exponential that flushes what is below 2^-126 saved three
//            instructions of each, masks only in the last tile 0.6 per product of pass 1; in pass 2 the stores of d_q
//            and d_k behind the products that use them 0.9: before them, every product copied its operand first
// Predicted  64 clips of 8 frames at 64x64, C = 100, N = 8, A100: composed 31 GB at 1.27 TB/s = 24 ms, and 0.2 TFLOP of
//            FMAs fed from shared memory, 11 ms at a peak that they do not reach. Here 1.23 TFLOP at half of 312
//            TFLOP/s = 7.9 ms (6.5 ms of bytes beneath them), matrices 0.3, the product 2.0 (its bytes): 10 ms.
// Numerics   h, exp(k), qs, m, r, d_q, d_k, d_h rounded to bf16, sums in f32; the correction takes r as rounded, so
//            that the gradients of a channel of k over a frame cancel as they should. Fast exponential. No atomics:
//            slabs, chunks of frames, tiles and warps are added in order.
// Limits     bf16, D = 32, C <= 104, N <= 64; S < 2^31, frames * tiles < 2^31. Everything else is composed.
// Measured   never run on a GPU yet
// Open       d_w_q and d_w_k without d_q and d_k in memory; rows of more than 104 channels; d_b_out in pass 1
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_bwd_test.cpp
#include "kernels/linear_attention_bwd.h"

#include <cmath>
#include <stdexcept>

#include "kernels/device/linear_attention_rows.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kContextPitch = 36;  ///< floats of a row of a 32 x 32 matrix in shared memory

/// d += column[e] * row for four rows e of a 4 x 4 piece.
AVID_DEVICE void add_outer(float (&d)[4][4], const float* column, const float4& row) {
  const float4 four = *reinterpret_cast<const float4*>(column);
  const float of[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    d[e][0] = fmaf(of[e], row.x, d[e][0]);
    d[e][1] = fmaf(of[e], row.y, d[e][1]);
    d[e][2] = fmaf(of[e], row.z, d[e][2]);
    d[e][3] = fmaf(of[e], row.w, d[e][3]);
  }
}
AVID_DEVICE float dot4(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// From the sums of pass 1 to m, r, the softmax of k and the gradients of w_v and w_out. Grid (chunks, N). A thread
/// owns two rows and two columns of both contexts, then four rows and four columns of everything [32, C].
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 2)
    linear_bwd_matrices_kernel(LinearBwd p, std::int64_t frames, std::int64_t frames_of_chunk) {
  static_assert(kThreads == 256);
  const int pitch = p.width + 4, quads = p.width / 4, head = static_cast<int>(blockIdx.y);
  SharedArena arena;
  float* w_v = arena.take<float>(32 * pitch, "w_v");
  float* w_o = arena.take<float>(32 * pitch, "w_o");
  float* g = arena.take<float>(32 * pitch, "g");
  float* d = arena.take<float>(32 * pitch, "d");
  float* context = arena.take<float>(32 * kContextPitch, "context");
  float* context_t = arena.take<float>(32 * kContextPitch, "context^T");
  float* d_context = arena.take<float>(32 * kContextPitch, "d_context");
  float* d_context_t = arena.take<float>(32 * kContextPitch, "d_context^T");
  float* parts = arena.take<float>(32 * quads, "parts of the correction");
  for (int e = threadIdx.x; e < 32 * p.width; e += kThreads) {
    const int i = e / p.width, c = e % p.width;
    w_v[i * pitch + c] = c < p.C ? to_float(p.w_qkv.row((2 * p.N + head) * 32 + i)[c]) : 0.0f;
  }
  for (int e = threadIdx.x; e < 32 * p.width; e += kThreads) {
    const int c = e / 32, j = e % 32;
    w_o[j * pitch + c] = c < p.C ? to_float(p.w_out.row(c)[head * 32 + j]) : 0.0f;
  }
  const int i0 = threadIdx.x / 16, j0 = threadIdx.x % 16;  // and 16 further
  const int row = threadIdx.x / quads * 4, column = threadIdx.x % quads * 4;
  const bool active = row < 32;
  float d_w_v[4][4] = {}, d_w_o[4][4] = {};
  const std::int64_t first = blockIdx.x * frames_of_chunk;
  const std::int64_t last = first + frames_of_chunk < frames ? first + frames_of_chunk : frames;
  for (std::int64_t frame = first; frame < last; ++frame) {
    float* softmax = p.softmax + (frame * p.N + head) * 64;
    for (int e = threadIdx.x; e < 32 * quads; e += kThreads) {
      const int i = e / quads, c = e % quads * 4;
      float top = -__FLT_MAX__, total = 0;
      for (int slab = 0; slab < p.slabs; ++slab) top = fmaxf(top, p.partial_of(frame, slab, head)[64 * p.width + i]);
      float4 of_g = make_float4(0, 0, 0, 0), of_d = make_float4(0, 0, 0, 0);
      for (int slab = 0; slab < p.slabs; ++slab) {
        const float* from = p.partial_of(frame, slab, head);
        const float shrink = __expf(from[64 * p.width + i] - top);
        total = fmaf(from[64 * p.width + 32 + i], shrink, total);
        const float4 a = *reinterpret_cast<const float4*>(from + i * p.width + c);
        const float4 b = *reinterpret_cast<const float4*>(from + (32 + i) * p.width + c);
        of_g.x = fmaf(a.x, shrink, of_g.x), of_g.y = fmaf(a.y, shrink, of_g.y);
        of_g.z = fmaf(a.z, shrink, of_g.z), of_g.w = fmaf(a.w, shrink, of_g.w);
        of_d.x += b.x, of_d.y += b.y, of_d.z += b.z, of_d.w += b.w;
      }
      const float factor = 1.0f / total;
      *reinterpret_cast<float4*>(g + i * pitch + c) =
          make_float4(of_g.x * factor, of_g.y * factor, of_g.z * factor, of_g.w * factor);
      *reinterpret_cast<float4*>(d + i * pitch + c) = of_d;
      if (c == 0) softmax[i] = top + logf(total);
    }
    __syncthreads();
    float of_context[2][2] = {}, of_d_context[2][2] = {};
    for (int c = 0; c < p.width; c += 4) {
      const auto at = [&](const float* matrix, int r) {
        return *reinterpret_cast<const float4*>(matrix + r * pitch + c);
      };
      const float4 of_g[2] = {at(g, i0), at(g, i0 + 16)}, of_d[2] = {at(d, i0), at(d, i0 + 16)};
      const float4 v[2] = {at(w_v, j0), at(w_v, j0 + 16)}, o[2] = {at(w_o, j0), at(w_o, j0 + 16)};
#pragma unroll
      for (int a = 0; a < 2; ++a)
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          of_context[a][b] = dot4(of_g[a], v[b], of_context[a][b]);
          of_d_context[a][b] = dot4(of_d[a], o[b], of_d_context[a][b]);
        }
    }
#pragma unroll
    for (int a = 0; a < 2; ++a)
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const int i = i0 + 16 * a, j = j0 + 16 * b;
        context[i * kContextPitch + j] = context_t[j * kContextPitch + i] = of_context[a][b];
        d_context[i * kContextPitch + j] = d_context_t[j * kContextPitch + i] = of_d_context[a][b] * p.scale;
      }
    __syncthreads();
    if (active) {
      float m[4][4] = {}, r[4][4] = {};
#pragma unroll 4
      for (int j = 0; j < 32; ++j) {
        const auto at = [&](const float* matrix) {
          return *reinterpret_cast<const float4*>(matrix + j * pitch + column);
        };
        add_outer(m, context_t + j * kContextPitch + row, at(w_o));
        add_outer(r, d_context_t + j * kContextPitch + row, at(w_v));
        add_outer(d_w_v, d_context + j * kContextPitch + row, at(g));
        add_outer(d_w_o, context + j * kContextPitch + row, at(d));
      }
      BFloat16* folded = p.folded + (frame * p.N + head) * 64 * p.width;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = row + e;
        *reinterpret_cast<uint2*>(folded + i * p.width + column) = make_uint2(
            pack_bf16x2(m[e][0] * p.scale, m[e][1] * p.scale), pack_bf16x2(m[e][2] * p.scale, m[e][3] * p.scale));
        const uint2 rounded = make_uint2(pack_bf16x2(r[e][0], r[e][1]), pack_bf16x2(r[e][2], r[e][3]));
        *reinterpret_cast<uint2*>(folded + (32 + i) * p.width + column) = rounded;
        const float2 low = unpack_bf16x2(rounded.x), high = unpack_bf16x2(rounded.y);
        parts[i * quads + column / 4] = dot4(
            make_float4(low.x, low.y, high.x, high.y), *reinterpret_cast<const float4*>(g + i * pitch + column), 0.0f);
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      float correction = 0;
      for (int q = 0; q < quads; ++q) correction += parts[threadIdx.x * quads + q];
      softmax[32 + threadIdx.x] = correction;
    }
  }
  if (!active) return;
  float* out = p.d_weights + (std::int64_t{blockIdx.x} * p.N + head) * 64 * p.width;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    *reinterpret_cast<float4*>(out + (row + e) * p.width + column) =
        make_float4(d_w_v[e][0], d_w_v[e][1], d_w_v[e][2], d_w_v[e][3]);
    *reinterpret_cast<float4*>(out + (32 + row + e) * p.width + column) =
        make_float4(d_w_o[e][0] * p.scale, d_w_o[e][1] * p.scale, d_w_o[e][2] * p.scale, d_w_o[e][3] * p.scale);
  }
}

/// Adds the chunks in order: the rows of v of d_w_qkv, and d_w_out. Either may be absent. A thread an element.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    linear_bwd_weights_kernel(LinearBwd p, int chunks, Rows<float> d_w_qkv, Rows<float> d_w_out) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, of_chunk = std::int64_t{64} * p.N * p.width;
  if (e >= of_chunk) return;
  const int c = static_cast<int>(e % p.width), head = static_cast<int>(e / p.width / 64);
  const int r = static_cast<int>(e / p.width % 64), channel = head * 32 + r % 32;
  if (c >= p.C || !(r < 32 ? d_w_qkv : d_w_out)) return;
  float sum = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) sum += p.d_weights[chunk * of_chunk + e];
  *(r < 32 ? d_w_qkv.row(2 * p.N * 32 + channel) + c : d_w_out.row(c) + channel) = sum;
}

/// Calls f.operator()<kN>() for rows of up to 8 kN channels.
template <class F>
void with_row_chunks(int width, F&& f) {
  if (width <= 56) return f.template operator()<7>();
  if (width <= 96) return f.template operator()<12>();
  f.template operator()<13>();
}

}  // namespace AVID_GPU

template <class Backend>
void linear_attention_fused_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<BFloat16>& args,
    const AttentionBlockDeviceGrads<BFloat16>& grads) {
  using namespace AVID_GPU;
  if (!linear_attention_bwd_is_fused(args))
    throw std::invalid_argument("linear_attention_fused_bwd: expected positions, heads of 32, up to 104 channels");
  const LinearBwdPlan plan = linear_attention_bwd_plan(args);
  const auto at = [&]<class T>(T*, std::int64_t offset) {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(args.workspace) + offset);
  };
  BFloat16* const elems = nullptr;
  float* const floats = nullptr;
  const bool row_gradients = grads.d_x || grads.d_gamma != nullptr || grads.d_w_qkv;
  LinearBwd p{};
  p.S = static_cast<int>(args.S);
  p.C = static_cast<int>(args.C);
  p.N = static_cast<int>(args.N);
  p.slabs = static_cast<int>(plan.slabs);
  p.width = static_cast<int>(plan.width);
  p.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(args.D)));
  p.x = args.x, p.d_y = grads.d_y, p.w_qkv = args.w_qkv, p.w_out = args.w_out, p.gamma = args.gamma;
  p.partial = at(floats, plan.partial);
  p.folded = at(elems, plan.folded);
  p.softmax = at(floats, plan.softmax);
  p.d_weights = at(floats, plan.d_weights);
  if (grads.d_w_qkv) {
    p.d_qk = {at(elems, plan.d_qk), plan.qk_size.O};
    p.h = {at(elems, plan.h), plan.width};
  }
  p.d_x = grads.d_x;
  p.d_gamma = grads.d_gamma != nullptr ? at(floats, plan.d_gamma) : nullptr;
  void* const linear = at(floats, plan.linear);

  if (grads.d_b_out != nullptr)
    linear_bwd_weight<Backend, BFloat16>(stream, plan.out_size, grads.d_y, {}, {}, {}, grads.d_b_out, linear);
  if (!row_gradients && !grads.d_w_out) return;

  const int groups = (p.N + 3) / 4, heads = (p.N + groups - 1) / groups;
  const auto tile_bytes = [](int rows, int pitch) { return static_cast<std::size_t>(rows * pitch) * sizeof(BFloat16); };
  with_row_chunks(p.width, [&]<int kN>() {
    launch(
        linear_bwd_sums_kernel<kN>, dim3(static_cast<unsigned>(plan.frames * plan.slabs * groups)),
        dim3(static_cast<unsigned>(64 * heads)), tile_bytes(4 * kSumsTile, LinearBwdTile<kN>::kPitch) + kN * 32, stream,
        p, heads, groups);
  });
  const std::size_t matrix_floats = 4 * 32 * (plan.width + 4) + 4 * 32 * kContextPitch + 32 * (plan.width / 4);
  launch(
      linear_bwd_matrices_kernel<256>, dim3(static_cast<unsigned>(plan.chunks), static_cast<unsigned>(p.N)), dim3(256),
      matrix_floats * sizeof(float), stream, p, plan.frames, plan.frames_of_chunk);
  if (grads.d_w_qkv || grads.d_w_out)
    launch(
        linear_bwd_weights_kernel<256>, dim3(static_cast<unsigned>((64 * p.N * p.width + 255) / 256)), dim3(256), 0,
        stream, p, static_cast<int>(plan.chunks), grads.d_w_qkv, grads.d_w_out);
  if (!row_gradients) return;
  with_row_chunks(p.width, [&]<int kN>() {
    launch(
        linear_bwd_rows_kernel<kN>, dim3(static_cast<unsigned>(plan.frames * plan.tiles)), dim3(128),
        tile_bytes(2 * kLinearBwdRows + 2 * 64, LinearBwdTile<kN>::kPitch) + kN * 32 +
            static_cast<std::size_t>(p.N) * 256,
        stream, p, static_cast<int>(plan.tiles));
  });
  if (grads.d_gamma != nullptr) {  // over frames, then over the tiles of one
    float* of_tiles = p.d_gamma + plan.frames * plan.tiles * plan.width;
    sum_rows(stream, p.d_gamma, plan.frames, plan.tiles * plan.width, plan.tiles * plan.width, of_tiles);
    sum_rows(stream, of_tiles, plan.tiles, plan.width, args.C, grads.d_gamma);
  }
  if (grads.d_w_qkv)
    linear_bwd_weight<Backend, BFloat16>(stream, plan.qk_size, p.d_qk, p.h, {}, grads.d_w_qkv, nullptr, linear);
}

template void linear_attention_fused_bwd<Gpu>(
    const Stream&, const AttentionBlockDeviceArgs<BFloat16>&, const AttentionBlockDeviceGrads<BFloat16>&);

}  // namespace avid::kernels
