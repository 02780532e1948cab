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
// Parallel   pass 1 (device/linear_attention_sums.h): a block per (frame, 2048 positions, up to eight heads), a warp a
//            head, two where C > 104, and as many again where the forward pass did not keep g; matrices: a block per
//            (1/64 of the frames, head), on FP32 units; pass 2 (device/linear_attention_rows.h): a block per 128
//            positions, all heads; then d_w_q and d_w_k as one product (linear.h). d_b_out: column sums of d_y's tiles
//            in pass 1
// Traffic    bytes per position, bf16, I = 32 N, counted from the launches. Here: pass 1 reads x, d_y: 4C (the second
//            group of heads finds them in L2), its sums 2 (2 * 32 * C8 * 4 N) / 2048; pass 2 reads x, d_y, writes d_x,
//            h, d_q and d_k: 8C + 4I; the product 2C + 4I. Together 14C + 8I + 0.25 N C8. Where g was kept, pass 1 sums
//            d only: half of these sums, and eight heads (four where C > 104) in a block.
//            Composed (linear_attention.cu): norm 4C, qkv 2C + 6I, contexts 4I, a 4I, d_w_out 2C + 2I, d_b_out 2C,
//            d_a 2C + 2I, d_context 4I, d_qkv 14I, d_w_qkv 2C + 6I, d_h 2C + 6I, norm 8C: 24C + 48I.
//              C, N               180, 6   100, 8    90, 6    50, 4
//              composed, KB        13.5     14.8     11.5      7.5
//              here, KB             4.3      3.7      3.0      1.9
//            Workspace: 2.5 KB a position at C = 100 against 4.7 KB (h, qkv, a in place).
// Work       m16n8k16 products per 32 positions and head at C8 = 104: 208 in pass 1 (104 where g was kept), 364 in pass
//            2, 104 in the product.
//            In multiply-adds per position and head 13 x 32 C, all on tensor cores; composed 11 x 32 C there, and
//            6 x 32 x 32 as FP32 FMAs.
// Tiles      pass 1: 64 positions, 8 warps, 56 KB of shared memory, one block per SM. Pass 2: 80 KB + 256 N bytes at
//            C = 100 and 90, two blocks of 4 warps per SM on an A100; 44 KB at C = 50, three. matrices: 74 KB, one.
//            C > 104: one block of 8 warps per SM, 100 KB and 141 KB at C = 180; a warp has half as many rows, and
//            reads each fragment of the other operand for 16 rows instead of 32. matrices: 120 KB
// Compiled   nvcc 13, sm_80 (sm_90), no spills: pass 1 245, 234, 252, 238, 171 (251, 239, 254, 242, 183) registers for
//            up to 200, 184, 104, 96, 56 channels; pass 2 209, 197, 226, 217, 164 (214, 203, 229, 217, 165); matrices
//            241. Instructions per product in their loops, sm_80: pass 1 4.5, 4.7, 4.6, 4.9, 6.8; pass 2 4.1, 4.2, 4.4,
//            4.8, 6.4
// Counted    before 6.4, 7.0, 10.2 and 5.8, 6.3, 8.3. An exponential that flushes what is below 2^-126 saved three
//            instructions of each, masks only in the last tile 0.6 per product of pass 1; in pass 2 the stores of d_q
//            and d_k behind the products that use them 0.9: before them, every product copied its operand first
// Predicted  64 clips of 8 frames at 64x64, C = 100, N = 8, A100: composed 31 GB at 1.27 TB/s = 24 ms, and 0.2 TFLOP of
//            FMAs fed from shared memory, 11 ms at a peak that they do not reach. Here 1.23 TFLOP at half of 312
//            TFLOP/s = 7.9 ms (6.5 ms of bytes beneath them), matrices 0.3, the product 2.0 (its bytes): 10 ms.
//            32x32, C = 180, N = 6: 4.3 ms, where the composed form takes 7.0.
// Numerics   h, exp(k), qs, m, r, d_q, d_k, d_h rounded to bf16, sums in f32; the correction takes r as rounded, so
//            that the gradients of a channel of k over a frame cancel as they should. Fast exponential. No atomics:
//            slabs, chunks of frames, tiles and warps are added in order.
// Limits     bf16, D = 32; C <= 104 and N <= 64, or C <= 200, N <= 32 and S >= 512; S < 2^31, frames * tiles < 2^31.
//            Everything else is composed.
// Measured   never run on a GPU yet
// Open       d_w_q and d_w_k without d_q and d_k in memory; matrices on tensor cores, as the forward pass has them;
//            smaller frames of wide rows: at 16x16, C = 180, matrices and sums of slabs cost what the passes save
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_bwd_test.cpp
#include "kernels/linear_attention_bwd.h"

#include <cmath>
#include <stdexcept>

#include "kernels/device/attention_tiles.h"
#include "kernels/device/linear_attention_rows.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kContextPitch = 36;  ///< floats of a row of a 32 x 32 matrix in shared memory

/// d += of[e] * row[n] for an 8 x 8 piece.
AVID_DEVICE void add_outer8(float (&d)[8][8], const float (&of)[8], const float* row) {
  float by[8];
  get8(by, row);
#pragma unroll
  for (int e = 0; e < 8; ++e)
#pragma unroll
    for (int n = 0; n < 8; ++n) d[e][n] = fmaf(of[e], by[n], d[e][n]);
}
AVID_DEVICE float dot4(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// The weights of a head in f32, a block's work: w_v[i] is row i of those of v, w_o[j] the weights of out of channel j;
/// [32] rows, `pitch` apart, zero behind channel C.
template <int kThreads>
AVID_DEVICE void load_head_weights(const LinearBwd& p, int head, float* w_v, float* w_o, int pitch) {
  for (int e = threadIdx.x; e < 32 * p.width; e += kThreads) {
    const int i = e / p.width, c = e % p.width;
    w_v[i * pitch + c] = c < p.C ? to_float(p.w_qkv.row((2 * p.N + head) * 32 + i)[c]) : 0.0f;
  }
  for (int e = threadIdx.x; e < 32 * p.width; e += kThreads) {
    const int c = e / 32, j = e % 32;
    w_o[j * pitch + c] = c < p.C ? to_float(p.w_out.row(c)[head * 32 + j]) : 0.0f;
  }
}

/// From the sums of pass 1 to m, r, the softmax of k and the gradients of w_v and w_out. Grid (chunks, N). Each
/// of these products has threads of its own: one of the contexts 64, with 4 x 4 results each, one of those [32, C] four
/// for each 16 columns, with 8 rows: 16 bytes a lane take four passes through shared memory, whatever lanes share.
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    linear_bwd_matrices_kernel(LinearBwd p, std::int64_t frames, std::int64_t frames_of_chunk) {
  constexpr int kPieces = 2;  // of 8 columns
  static_assert(kThreads == 256 && kLinearBwdWideChannels <= kThreads * 8 * kPieces / 16);
  const int pitch = p.width + 4, quads = p.width / 4, head = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  SharedArena arena;
  float* w_v = arena.take<float>(32 * pitch, "w_v");
  float* w_o = arena.take<float>(32 * pitch, "w_o");
  float* g = arena.take<float>(32 * pitch, "g");
  float* d = arena.take<float>(32 * pitch, "d");
  float* context = arena.take<float>(32 * kContextPitch, "context");
  float* context_t = arena.take<float>(32 * kContextPitch, "context^T");
  float* d_context = arena.take<float>(32 * kContextPitch, "d_context");
  float* d_context_t = arena.take<float>(32 * kContextPitch, "d_context^T");
  float* parts = arena.take<float>(32 * (p.width / 8), "parts of the correction");
  load_head_weights<kThreads>(p, head, w_v, w_o, pitch);
  // m = context w_o, r = d_context w_v, d_w_v = d_context^T g, d_w_o = context^T d: of this thread's product the left
  // operand by rows of the inner dimension, the right one, and a piece of the result.
  const int threads_each = (p.width / 8 + kPieces - 1) / kPieces * 4, product = thread / threads_each;
  const int row = thread % 4 * 8, column = thread % threads_each / 4 * (8 * kPieces);
  const float* const left = (product == 0   ? context_t
                             : product == 1 ? d_context_t
                             : product == 2 ? d_context
                                            : context) +
                            row;
  const float* const right = (product == 0 ? w_o : product == 1 ? w_v : product == 2 ? g : d) + column;
  float sum[kPieces][8][8] = {};
  const std::int64_t first = blockIdx.x * frames_of_chunk;
  const std::int64_t last = first + frames_of_chunk < frames ? first + frames_of_chunk : frames;
  for (std::int64_t frame = first; frame < last; ++frame) {
    float* softmax = p.softmax + (frame * p.N + head) * 64;
    for (int e = threadIdx.x; e < 32 * quads; e += kThreads) {
      const int i = e / quads, c = e % quads * 4;
      float4 of_g = make_float4(0, 0, 0, 0), of_d = make_float4(0, 0, 0, 0);
      float log_sum = 0;
      for (int slab = 0; slab < p.slabs; ++slab) {
        const float4 v = *reinterpret_cast<const float4*>(p.partial_of(frame, slab, head) + (32 + i) * p.width + c);
        of_d.x += v.x, of_d.y += v.y, of_d.z += v.z, of_d.w += v.w;
      }
      if (p.key_sums != nullptr) {
        const float* kept = p.key_sums + (frame * p.N + head) * linear_attention_sums_of_head(p.C);
        of_g = *reinterpret_cast<const float4*>(kept + i * p.width + c);
        log_sum = kept[32 * p.width + i];
      } else {
        const float *partial = p.partial_of(frame, 0, head), *maxima = partial + 64 * p.width + i;
        const std::int64_t step = p.partial_of(0, 1, 0) - p.partial;
        const SlabSoftmax softmax(maxima, maxima + 32, step, p.slabs);
        log_sum = softmax.top + logf(softmax.total);
        for (int slab = 0; slab < p.slabs; ++slab) {
          const float weight = __expf(maxima[slab * step] - log_sum);
          const float4 v = *reinterpret_cast<const float4*>(partial + slab * step + i * p.width + c);
          of_g.x = fmaf(v.x, weight, of_g.x), of_g.y = fmaf(v.y, weight, of_g.y);
          of_g.z = fmaf(v.z, weight, of_g.z), of_g.w = fmaf(v.w, weight, of_g.w);
        }
      }
      *reinterpret_cast<float4*>(g + i * pitch + c) = of_g;
      *reinterpret_cast<float4*>(d + i * pitch + c) = of_d;
      if (c == 0) softmax[i] = log_sum;
    }
    __syncthreads();
    if (thread < 128) {  // context = g w_v^T, d_context = d w_o^T
      const bool second = thread >= 64;
      const int i0 = thread % 8, j0 = thread % 64 / 8;  // and 8, 16, 24 further
      const float *const rows = (second ? d : g) + i0 * pitch, *const columns = (second ? w_o : w_v) + j0 * pitch;
      float of[4][4] = {};
#pragma unroll 1
      for (int c = 0; c < p.width; c += 4) {
        float4 x[4];
#pragma unroll
        for (int a = 0; a < 4; ++a) x[a] = *reinterpret_cast<const float4*>(rows + a * 8 * pitch + c);
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          const float4 y = *reinterpret_cast<const float4*>(columns + b * 8 * pitch + c);
#pragma unroll
          for (int a = 0; a < 4; ++a) of[a][b] = dot4(x[a], y, of[a][b]);
        }
      }
      float *const to = second ? d_context : context, *const to_t = second ? d_context_t : context_t;
      const float factor = second ? p.scale : 1.0f;
#pragma unroll
      for (int a = 0; a < 4; ++a)
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          const int i = i0 + 8 * a, j = j0 + 8 * b;
          to[i * kContextPitch + j] = to_t[j * kContextPitch + i] = of[a][b] * factor;
        }
    }
    __syncthreads();
    if (product < 4) {
#pragma unroll 1
      for (int j = 0; j < 32; ++j) {
        float of[8];
        get8(of, left + j * kContextPitch);
#pragma unroll
        for (int q = 0; q < kPieces; ++q)
          if (q == 0 || column + 8 * q < p.width) add_outer8(sum[q], of, right + j * pitch + 8 * q);
      }
    }
    if (product < 2) {  // those of a frame; the others go on
      BFloat16* folded = p.folded + ((frame * p.N + head) * 2 + product) * 32 * p.width;
      const float factor = product == 0 ? p.scale : 1.0f;
#pragma unroll
      for (int q = 0; q < kPieces; ++q) {
        if (q > 0 && column + 8 * q >= p.width) continue;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const int i = row + e, at = column + 8 * q;
          float(&v)[8] = sum[q][e];
          const uint4 rounded = make_uint4(
              pack_bf16x2(v[0] * factor, v[1] * factor), pack_bf16x2(v[2] * factor, v[3] * factor),
              pack_bf16x2(v[4] * factor, v[5] * factor), pack_bf16x2(v[6] * factor, v[7] * factor));
          *reinterpret_cast<uint4*>(folded + i * p.width + at) = rounded;
          float part = 0, of_r[8];
          unpack(Chunk8<BFloat16>{rounded}, of_r);
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            part = fmaf(of_r[n], g[i * pitch + at + n], part);
            v[n] = 0;
          }
          if (product == 1) parts[i * (p.width / 8) + at / 8] = part;
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      float correction = 0;
      for (int q = 0; q < p.width / 8; ++q) correction += parts[threadIdx.x * (p.width / 8) + q];
      softmax[32 + threadIdx.x] = correction;
    }
  }
  if (product != 2 && product != 3) return;
  float* out = p.d_weights + ((std::int64_t{blockIdx.x} * p.N + head) * 2 + product - 2) * 32 * p.width;
  const float factor = product == 3 ? p.scale : 1.0f;
#pragma unroll
  for (int q = 0; q < kPieces; ++q) {
    if (q > 0 && column + 8 * q >= p.width) continue;
#pragma unroll
    for (int e = 0; e < 8; ++e)
#pragma unroll
      for (int n = 0; n < 8; n += 4)
        *reinterpret_cast<float4*>(out + (row + e) * p.width + column + 8 * q + n) = make_float4(
            sum[q][e][n] * factor, sum[q][e][n + 1] * factor, sum[q][e][n + 2] * factor, sum[q][e][n + 3] * factor);
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
  p.key_sums = args.key_sums;
  p.d_x = grads.d_x;
  p.d_gamma = grads.d_gamma != nullptr ? at(floats, plan.d_gamma) : nullptr;
  void* const linear = at(floats, plan.linear);

  p.d_b_out = grads.d_b_out != nullptr ? at(floats, plan.d_b_out) : nullptr;
  if (!row_gradients && !grads.d_w_out && grads.d_b_out == nullptr) return;

  const auto tile_bytes = [](int rows, int pitch) { return static_cast<std::size_t>(rows * pitch) * sizeof(BFloat16); };
  with_row_chunks(p.width, [&]<int kN>() {
    constexpr int kShares = LinearBwdTile<kN>::kShares;
    const int warps = p.key_sums != nullptr ? kShares : 2 * kShares, most_heads = 8 / warps;  // of a head; of a block
    const int groups = (p.N + most_heads - 1) / most_heads, heads = (p.N + groups - 1) / groups;
    const int threads = 32 * warps * heads;
    launch(
        linear_bwd_sums_kernel<kN>, dim3(static_cast<unsigned>(plan.frames * plan.slabs * groups)),
        dim3(static_cast<unsigned>(threads)),
        tile_bytes(4 * kSumsTile, LinearBwdTile<kN>::kPitch) + kN * 32 +
            (static_cast<std::size_t>(ColumnSums<kN>::floats(threads)) +
             (kShares > 1 ? PairSums::floats(threads / 32) : 0)) *
                4,
        stream, p, heads, groups);
  });
  // Over frames, then over the slabs or tiles of one.
  const auto sum_frames = [&](float* partial, std::int64_t parts, float* out) {
    float* of_parts = partial + plan.frames * parts * plan.width;
    sum_rows(stream, partial, plan.frames, parts * plan.width, parts * plan.width, of_parts);
    sum_rows(stream, of_parts, parts, plan.width, args.C, out);
  };
  if (grads.d_b_out != nullptr) sum_frames(p.d_b_out, plan.slabs, grads.d_b_out);
  if (!row_gradients && !grads.d_w_out) return;
  const std::size_t matrix_floats = 4 * 32 * (plan.width + 4) + 4 * 32 * kContextPitch + 32 * (plan.width / 8);
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
        linear_bwd_rows_kernel<kN>, dim3(static_cast<unsigned>(plan.frames * plan.tiles)), dim3(kRowsThreads<kN>),
        tile_bytes(2 * kLinearBwdRows + 2 * 64, LinearBwdTile<kN>::kPitch) + kN * 32 +
            static_cast<std::size_t>(p.N) * 256,
        stream, p, static_cast<int>(plan.tiles));
  });
  if (grads.d_gamma != nullptr) sum_frames(p.d_gamma, plan.tiles, grads.d_gamma);
  if (grads.d_w_qkv)
    linear_bwd_weight<Backend, BFloat16>(stream, plan.qk_size, p.d_qk, p.h, {}, grads.d_w_qkv, nullptr, linear);
}

template void linear_attention_fused_bwd<Gpu>(
    const Stream&, const AttentionBlockDeviceArgs<BFloat16>&, const AttentionBlockDeviceGrads<BFloat16>&);

}  // namespace avid::kernels
