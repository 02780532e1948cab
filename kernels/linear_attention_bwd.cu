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
//            head, two where C > 104, and as many again where the forward pass did not keep g; matrices
//            (device/linear_attention_matrices.h): a block per (1/64 of the frames, head); pass 2
//            (device/linear_attention_rows.h): a block per 128 positions, all heads; then d_w_q and d_w_k as one
//            product (linear.h). d_b_out: column sums of d_y's tiles in pass 1. On compute capability 9.0 pass 2 is
//            linear_attention_bwd_wgmma.cu, and pass 1, where g was kept, linear_attention_sums_wgmma.cu
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
//            2, 104 in the product; matrices 784 per frame and head.
//            In multiply-adds per position and head 13 x 32 C, all on tensor cores; composed 11 x 32 C there, and
//            6 x 32 x 32 as FP32 FMAs.
// Tiles      pass 1: 64 positions, 8 warps, 56 KB of shared memory, one block per SM. Pass 2: 80 KB + 256 N bytes at
//            C = 100 and 90, two blocks of 4 warps per SM on an A100; 44 KB at C = 50, three. matrices: 50 KB at
//            C = 90, two, 57 KB at 100, one. C > 104: one block of 8 warps per SM, 100 KB and 141 KB at C = 180; a warp
//            has half as many rows, and reads each fragment of the other operand for 16 rows instead of 32. matrices:
//            87 KB, one
// Compiled   nvcc 13, sm_80 (sm_90), no spills: pass 1 245, 234, 252, 238, 171 (251, 239, 254, 242, 183) registers for
//            up to 200, 184, 104, 96, 56 channels; pass 2 209, 197, 226, 217, 164 (214, 203, 229, 217, 165); matrices
//            235, 204, 168, 128, 125 (238, 206, 180, 128, 128). Instructions per product in their loops, sm_80: pass 1
//            4.5, 4.7, 4.6, 4.9, 6.8; pass 2 4.1, 4.2, 4.4, 4.8, 6.4; matrices 12 to 23, of which most load and split
//            the sums
// Counted    before 6.4, 7.0, 10.2 and 5.8, 6.3, 8.3. An exponential that flushes what is below 2^-126 saved three
//            instructions of each, masks only in the last tile 0.6 per product of pass 1; in pass 2 the stores of d_q
//            and d_k behind the products that use them 0.9: before them, every product copied its operand first
// Predicted  64 clips of 8 frames at 64x64, C = 100, N = 8, A100: composed 31 GB at 1.27 TB/s = 24 ms, and 0.2 TFLOP of
//            FMAs fed from shared memory, 11 ms at a peak that they do not reach. Here 1.23 TFLOP at half of 312
//            TFLOP/s = 7.9 ms (6.5 ms of bytes beneath them), matrices 0.2, the product 2.0 (its bytes): 10 ms.
//            32x32, C = 180, N = 6: 4.3 ms, where the composed form takes 7.0.
// Numerics   h, exp(k), qs, m, r, d_q, d_k, d_h rounded to bf16, sums in f32; g, d and the contexts enter products as
//            two bf16. The correction takes r as rounded, so that the gradients of a channel of k over a frame cancel
//            as they should. Fast exponential. No atomics: slabs, chunks of frames, tiles and warps are added in order.
// Limits     bf16, D = 32; C <= 104 and N <= 64, or C <= 200, N <= 32 and S >= 256; S < 2^31, frames * tiles < 2^31.
//            Everything else is composed.
// Measured   never run on a GPU yet
// Open       d_w_q and d_w_k without d_q and d_k in memory; smaller frames of wide rows
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_bwd_test.cpp
#include "kernels/linear_attention_bwd.h"

#include <cmath>
#include <stdexcept>

#include "kernels/device/linear_attention_matrices.h"
#include "kernels/device/linear_attention_rows.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

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
  if (have_wgmma<Backend>() && p.key_sums != nullptr) {
    linear_bwd_sums_wgmma(stream, p, plan.frames);
  } else {
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
  }
  // Over frames, then over the slabs or tiles of one.
  const auto sum_frames = [&](float* partial, std::int64_t parts, float* out) {
    float* of_parts = partial + plan.frames * parts * plan.width;
    sum_rows(stream, partial, plan.frames, parts * plan.width, parts * plan.width, of_parts);
    sum_rows(stream, of_parts, parts, plan.width, args.C, out);
  };
  if (grads.d_b_out != nullptr) sum_frames(p.d_b_out, plan.slabs, grads.d_b_out);
  if (!row_gradients && !grads.d_w_out) return;
  with_row_chunks(p.width, [&]<int kN>() {
    launch(
        linear_bwd_matrices_kernel<kN>, dim3(static_cast<unsigned>(plan.chunks), static_cast<unsigned>(p.N)),
        dim3(kMatricesThreads),
        tile_bytes(6 * 32, HeadColumns<kN>::kPitch) + tile_bytes(4 * 32, kContextPitch) + 64 * sizeof(float), stream, p,
        plan.frames, plan.frames_of_chunk);
  });
  if (grads.d_w_qkv || grads.d_w_out)
    launch(
        linear_bwd_weights_kernel<256>, dim3(static_cast<unsigned>((64 * p.N * p.width + 255) / 256)), dim3(256), 0,
        stream, p, static_cast<int>(plan.chunks), grads.d_w_qkv, grads.d_w_out);
  if (!row_gradients) return;
  if (have_wgmma<Backend>()) {
    linear_bwd_rows_wgmma(stream, p, plan.frames, plan.tiles);
  } else {
    with_row_chunks(p.width, [&]<int kN>() {
      launch(
          linear_bwd_rows_kernel<kN>, dim3(static_cast<unsigned>(plan.frames * plan.tiles)), dim3(kRowsThreads<kN>),
          tile_bytes(2 * kLinearBwdRows + 2 * 64, LinearBwdTile<kN>::kPitch) + kN * 32 +
              static_cast<std::size_t>(p.N) * 256,
          stream, p, static_cast<int>(plan.tiles));
    });
  }
  if (grads.d_gamma != nullptr) sum_frames(p.d_gamma, plan.tiles, grads.d_gamma);
  if (grads.d_w_qkv)
    linear_bwd_weight<Backend, BFloat16>(stream, plan.qk_size, p.d_qk, p.h, {}, grads.d_w_qkv, nullptr, linear);
}

template void linear_attention_fused_bwd<Gpu>(
    const Stream&, const AttentionBlockDeviceArgs<BFloat16>&, const AttentionBlockDeviceGrads<BFloat16>&);

}  // namespace avid::kernels
