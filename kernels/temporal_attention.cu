// kernels/temporal_attention.cu -- the temporal attention block, composed (contract: kernels/temporal_attention.h)
//
// Math       kernels/temporal_attention_cpu.cpp
// Order      fwd: one kernel where the sizes allow (temporal_attention_fused.cu), else chunk by chunk of whole clips:
//            norm -> qkv projection -> core -> output projection + residual. bwd: one kernel per chunk to d_x, h,
//            probabilities, d_q and d_k (temporal_attention_fused_bwd.cu), and the gradients of w_v and w_out from
//            the probabilities (temporal_attention_value_grad.cu). Else the same to qkv, then d_o = d_y w_out; core
//            backward (d_qkv over qkv, o over d_o); then the gradient of w_out, and d_h = d_qkv w_qkv and the norm's
//            backward with the residual's gradient, one kernel where a block holds whole rows (linear_layer_norm.cu),
//            else two with d_h over h. Either way the product d_qkv^T h for w_qkv. Nothing but x is kept from fwd.
// Layout     heads padded to 8 channels (head_pitch): weights with padded heads are made here once per call. The fused
//            backward pass stores heads without gaps, whole sectors first (StoredHeads), from weights whose channels
//            are ordered for that; its weight gradients come back to the weights' order where chunks are added
// Traffic    the composed form writes and reads qkv and o once each; chunks keep the workspace below about 1 GB. The
//            fused backward pass writes d_q and d_k, and reads them once; docs/kernels/attention.md counts the bytes
// Numerics   h, qkv, o, d_o, d_qkv and, where it goes through memory, d_h are rounded to Elem; gradients of parameters
//            are sums of chunks in f32, in order
// Limits     kernels/temporal_attention_core_plan.cpp
// Measured   never run on a GPU yet
// Open       a chunk of a 64x64 clip does not stay in L2 (140 MB at base width 100)
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include "kernels/temporal_attention.h"

#include <algorithm>
#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/row_lanes.h"
#include "kernels/device/runtime.h"
#include "kernels/device/warpgroup.h"
#include "kernels/gather_gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/linear_layer_norm.h"
#include "kernels/relative_bias.h"
#include "kernels/temporal_attention_core.h"
#include "kernels/temporal_attention_fused.h"
#include "kernels/temporal_attention_plan.h"
#include "kernels/temporal_attention_value_grad.h"

namespace avid::kernels {
namespace AVID_GPU {

/// rotary [T,num_pairs,2] and bias [N,T,T] from frequencies and table. One thread per element of the longer one.
__global__ void temporal_tables_kernel(
    const float* freqs, int R, int num_pairs, Rows<const float> table, int T, int N, float* rotary, float* bias) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e < T * num_pairs) {
    const int frame = e / num_pairs, r = e - frame * num_pairs;
    // The product in f64 and brought to [-pi, pi] there: as exact as the CPU's table, and cheap at this size.
    double angle = r < R ? static_cast<double>(frame) * static_cast<double>(freqs[r]) : 0.0;
    angle -= 6.283185307179586 * rint(angle * 0.15915494309189535);
    rotary[2 * e] = cosf(static_cast<float>(angle));
    rotary[2 * e + 1] = sinf(static_cast<float>(angle));
  }
  if (e < N * T * T) {
    const int n = e / (T * T), i = e / T % T, j = e % T;
    bias[e] = table.row(relative_bias_bucket(j - i))[n];
  }
}

/// Heads of D channels in `pitch` rows or columns each, in their order, or in that of the fused backward kernel's
/// tiles.
struct PaddedHeads {
  int D, pitch, tiles;  ///< tiles: 0: in order
  /// Which row or column of the weight a padded one is, or -1 in the gap of a head.
  AVID_DEVICE int operator()(int padded) const {
    const int head = padded / pitch, at = padded - head * pitch, d = tiles > 0 ? fused_channel(at, tiles) : at;
    return d < D ? head * D + d : -1;
  }
};

/// to [rows,cols] = from with its rows (of qkv) or its columns (of out) as `order` says, gaps as zero.
template <class Elem, bool kHeadsInRows>
__global__ void order_heads_kernel(
    Rows<const Elem> from, int from_cols, Rows<Elem> to, int rows, int cols, PaddedHeads order) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= rows * cols) return;
  const int row = e / cols, col = e - row * cols;
  const int from_row = kHeadsInRows ? order(row) : row;
  const int from_col = kHeadsInRows ? col : order(col);
  const bool exists = from_row >= 0 && from_col >= 0 && from_col < from_cols;
  to.row(row)[col] = exists ? from.row(from_row)[from_col] : Elem{};
}

/// values[n*C + c, k] = sum over d of w_out[c, n*D + d] w_v[n*D + d, k]: what channel k of a row of h adds to channel c
/// of y for each unit of a probability of head n; transposed (kBackward): values[n*C + k, c]. kFoldLanes threads take 8
/// columns, each every kFoldLanes-th d: it is the loads of one thread behind each other that take time.
constexpr int kFoldLanes = 4;
template <bool kBackward>
__global__ void fold_values_kernel(
    Rows<const BFloat16> w_qkv, Rows<const BFloat16> w_out, int N, int D, int C, Rows<BFloat16> values) {
  const int chunks = (C + 7) / 8, e = (blockIdx.x * blockDim.x + threadIdx.x) / kFoldLanes;
  const int lane = threadIdx.x % kFoldLanes;
  const bool exists = e < N * C * chunks;
  const int row = e / chunks, first = (e - row * chunks) * 8, n = row / C, r = row - n * C;
  float sum[8] = {};
  for (int d = n * D + lane; d < (exists ? (n + 1) * D : 0); d += kFoldLanes) {
    const BFloat16* const v = w_qkv.row(2 * N * D + d);
    float columns[8] = {};
    if constexpr (kBackward) {
#pragma unroll
      for (int i = 0; i < 8; ++i) columns[i] = first + i < C ? to_float(w_out.row(first + i)[d]) : 0.0f;
    } else {
      unpack(load_chunk(v + first, 8), columns);
    }
    const float factor = to_float(kBackward ? v[r] : w_out.row(r)[d]);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = fmaf(factor, columns[i], sum[i]);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] = lane_sum<kFoldLanes>(sum[i]);
  if (exists && lane == 0) store_chunk(values.row(row) + first, sum, 8);  // gaps are sums of zeros
}

/// total (=, or += after the first chunk) the gradient of one chunk, whose rows or columns are heads as `stored` says.
template <bool kHeadsInRows>
__global__ void add_chunk_gradient_kernel(
    Rows<const float> chunk, Rows<float> total, int rows, int cols, int D, StoredHeads stored, bool first) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= rows * cols) return;
  const int row = e / cols, col = e - row * cols;
  const int channel = kHeadsInRows ? row : col, at = stored.column(channel / D, channel % D);
  const float value = kHeadsInRows ? chunk.row(at)[col] : chunk.row(row)[at];
  float* to = total.row(row) + col;
  *to = first ? value : *to + value;
}

/// d_table[row, n] = sum of d_bias[n, i, j] over the pairs whose bucket is row; block n, thread row.
__global__ void bias_table_gradient_kernel(const float* d_bias, int T, Rows<float> d_table) {
  const int n = blockIdx.x, row = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < T; ++i)
    for (int j = 0; j < T; ++j)
      if (relative_bias_bucket(j - i) == row) sum += d_bias[(n * T + i) * T + j];
  d_table.row(row)[n] = sum;
}

constexpr int kBlock = 256;
inline dim3 blocks_for(std::int64_t elements) {
  return dim3(static_cast<unsigned>(std::max<std::int64_t>(1, (elements + kBlock - 1) / kBlock)));
}

/// The workspace's pieces as pointers, and one method per step.
template <class Elem>
class Block {
 public:
  Block(const Stream& stream, const TemporalAttentionDeviceArgs<Elem>& p, bool backward)
      : stream_(stream), p_(p), backward_(backward), plan_(temporal_attention_plan(p, backward)) {
    h_ = {at<Elem>(plan_.h), plan_.h_pitch};
    qkv_ = {at<Elem>(plan_.qkv), plan_.qkv_pitch};
    o_ = {at<Elem>(plan_.o), plan_.o_pitch};
    w_qkv_ = p.w_qkv;
    w_out_ = p.w_out;
    if (plan_.w_qkv >= 0) w_qkv_ = {at<Elem>(plan_.w_qkv), plan_.h_pitch};
    if (plan_.w_out >= 0) w_out_ = {at<Elem>(plan_.w_out), plan_.inner};
  }

  /// Tables and weights in other orders, once per pass.
  void prepare() const {
    const int T = narrow(p_.T), N = narrow(p_.N), pairs = narrow(plan_.num_pairs);
    launch(
        temporal_tables_kernel, blocks_for(std::max(T * pairs, N * T * T)), dim3(kBlock), 0, stream_, p_.rotary_freqs,
        narrow(p_.R), pairs, p_.bias_table, T, N, at<float>(plan_.rotary), at<float>(plan_.bias));
    const int D = narrow(p_.D), C = narrow(p_.C), inner = narrow(plan_.inner), pitch = narrow(plan_.h_pitch);
    if constexpr (std::is_same_v<Elem, BFloat16>) {
      if (plan_.values >= 0)
        launch(
            backward_ ? fold_values_kernel<true> : fold_values_kernel<false>,
            blocks_for(p_.N * C * (pitch / 8) * kFoldLanes), dim3(kBlock), 0, stream_, p_.w_qkv, p_.w_out, N, D, C,
            Rows<Elem>{at<Elem>(plan_.values), pitch});
    }
    if (plan_.w_qkv < 0) return;
    const int slices = plan_.values >= 0 ? 2 : 3;  // q and k, or v as well
    const PaddedHeads padded{.D = D, .pitch = narrow(plan_.head_pitch), .tiles = plan_.head_tiles};
    launch(
        order_heads_kernel<Elem, true>, blocks_for(std::int64_t{slices} * inner * pitch), dim3(kBlock), 0, stream_,
        p_.w_qkv, C, Rows<Elem>{at<Elem>(plan_.w_qkv), pitch}, slices * inner, pitch, padded);
    if (plan_.w_out < 0) return;
    launch(
        order_heads_kernel<Elem, false>, blocks_for(std::int64_t{C} * inner), dim3(kBlock), 0, stream_, p_.w_out, N * D,
        Rows<Elem>{at<Elem>(plan_.w_out), inner}, C, inner, padded);
  }

  std::int64_t num_chunks() const { return plan_.num_chunks; }
  std::int64_t clips(std::int64_t chunk) const {
    return std::min(plan_.clips_per_chunk, p_.B - chunk * plan_.clips_per_chunk);
  }
  std::int64_t num_rows(std::int64_t chunk) const { return clips(chunk) * p_.T * p_.S; }
  /// The rows of a chunk in a tensor of all clips.
  template <class E>
  Rows<E> of_chunk(Rows<E> all, std::int64_t chunk) const {
    return all ? Rows<E>{all.row(chunk * plan_.clips_per_chunk * p_.T * p_.S), all.pitch} : all;
  }

  LayerNormDeviceArgs<Elem> norm(std::int64_t chunk) const {
    return {
        .num_rows = num_rows(chunk),
        .C = p_.C,
        .x = of_chunk(p_.x, chunk),
        .gamma = p_.gamma,
        .eps = static_cast<float>(kPrenormEps),
        .out = h_};
  }
  LinearSize qkv_size(std::int64_t chunk) const {
    return {.P = num_rows(chunk), .I = p_.C, .O = plan_.qkv_heads.columns()};
  }
  LinearSize out_size(std::int64_t chunk) const {
    return {.P = num_rows(chunk), .I = plan_.o_heads.columns(), .O = p_.C};
  }
  TemporalCoreArgs<Elem> core(std::int64_t chunk) const {
    return {
        .B = clips(chunk),
        .T = p_.T,
        .S = p_.S,
        .N = p_.N,
        .D = p_.D,
        .head_pitch = plan_.head_pitch,
        .qkv = qkv_,
        .bias = at<float>(plan_.bias),
        .rotary = at<float>(plan_.rotary),
        .num_pairs = plan_.num_pairs,
        .o = o_};
  }

  void project(std::int64_t chunk) const {
    layer_norm_fwd<Gpu, Elem>(stream_, norm(chunk));
    linear_fwd<Gpu, Elem>(stream_, qkv_size(chunk), h_, {}, w_qkv_, nullptr, {}, qkv_, linear());
  }

  TemporalFusedArgs fused(
      std::int64_t num_clips, Rows<const BFloat16> x, Rows<BFloat16> y) const requires std::is_same_v<Elem, BFloat16> {
    return {
        .B = num_clips,
        .T = p_.T,
        .S = p_.S,
        .C = p_.C,
        .N = p_.N,
        .D = p_.D,
        .head_pitch = plan_.head_pitch,
        .num_pairs = plan_.num_pairs,
        .x = x,
        .gamma = p_.gamma,
        .w_qkv = w_qkv_,
        .values = {at<BFloat16>(plan_.values), plan_.h_pitch},
        .bias = at<float>(plan_.bias),
        .rotary = at<float>(plan_.rotary),
        .y = y,
        .most_blocks = bwd_blocks()};
  }

  /// The whole forward pass, after prepare().
  void fwd() const {
    if constexpr (std::is_same_v<Elem, BFloat16>) {
      if (plan_.fused) return temporal_fused_fwd<Gpu>(stream_, fused(p_.B, p_.x, p_.y));
    }
    for (std::int64_t chunk = 0; chunk < num_chunks(); ++chunk) fwd(chunk);
  }
  void fwd(std::int64_t chunk) const {
    project(chunk);
    temporal_core_fwd<Gpu, Elem>(stream_, core(chunk));
    linear_fwd<Gpu, Elem>(
        stream_, out_size(chunk), o_, {}, w_out_, nullptr, of_chunk(p_.x, chunk), of_chunk(p_.y, chunk), linear());
  }

  /// A chunk's sums over blocks begin at row first_partial of the partial sums. d_y may not be d_x.
  void bwd(std::int64_t chunk, const TemporalAttentionDeviceGrads<Elem>& g, std::int64_t first_partial) const {
    const Rows<const Elem> d_y = of_chunk(g.d_y, chunk);
    float* d_bias_partials = g.d_bias_table ? at<float>(plan_.d_bias_partials) + first_partial * bias_size() : nullptr;
    if constexpr (std::is_same_v<Elem, BFloat16>) {
      if (plan_.fused) {
        temporal_fused_bwd<Gpu>(
            stream_, fused(clips(chunk), of_chunk(p_.x, chunk), {}),
            {.d_y = d_y,
             .h = h_,
             .d_qk = qkv_,
             .stored = plan_.o_heads,
             .prob = at<BFloat16>(plan_.prob),
             .d_x = of_chunk(g.d_x, chunk),
             .d_gamma_partials = g.d_gamma ? at<float>(plan_.d_gamma) + first_partial * p_.C : nullptr,
             .d_bias_partials = d_bias_partials});
        if (g.d_w_out || g.d_w_qkv) temporal_value_sums<Gpu>(stream_, value_sums(chunk, d_y));
        return add_projection_gradient(chunk, g);
      }
    }
    project(chunk);
    linear_bwd_data<Gpu, Elem>(stream_, out_size(chunk), d_y, w_out_, o_, {}, linear());
    TemporalCoreArgs<Elem> core_args = core(chunk);
    core_args.d_bias_partials = d_bias_partials;
    temporal_core_bwd<Gpu, Elem>(stream_, core_args);
    if (g.d_w_out) {
      const Rows<float> part{at<float>(plan_.d_w_out), plan_.o_pitch};
      linear_bwd_weight<Gpu, Elem>(stream_, out_size(chunk), d_y, o_, {}, part, nullptr, linear());
      add_weight_gradient<false>(part, plan_.o_heads, g.d_w_out, p_.C, p_.N * p_.D, chunk);
    }
    add_projection_gradient(chunk, g);
    if (!g.d_x && g.d_gamma == nullptr) return;
    float* d_gamma = g.d_gamma != nullptr ? at<float>(plan_.d_gamma) : nullptr;
    linear_layer_norm_bwd<Gpu, Elem>(
        stream_, qkv_size(chunk), w_qkv_, norm(chunk),
        {.d_out = qkv_,
         .d_residual = d_y,
         .d_h = h_,
         .d_x = of_chunk(g.d_x, chunk),
         .d_gamma = d_gamma,
         .workspace = at<float>(plan_.norm),
         .linear_space = linear()});
    if (d_gamma == nullptr) return;
    const Rows<const float> part{d_gamma, p_.C};
    const int C = narrow(p_.C);
    launch(
        add_chunk_gradient_kernel<true>, blocks_for(C), dim3(kBlock), 0, stream_, part, Rows<float>{g.d_gamma, p_.C}, 1,
        C, 1, StoredHeads{.heads = 1, .width = 1, .whole = 1}, chunk == 0);
  }

  /// Behind the last chunk: the gradients of the fused pass that are made of sums over all of them.
  void finish_fused(std::int64_t num_partial_rows, const TemporalAttentionDeviceGrads<Elem>& g) const {
    if constexpr (std::is_same_v<Elem, BFloat16>) {
      if (!plan_.fused) return;
      if (g.d_gamma) sum_rows(stream_, at<float>(plan_.d_gamma), num_partial_rows, p_.C, p_.C, g.d_gamma);
      if (!g.d_w_out && !g.d_w_qkv) return;
      const std::int64_t first = 2 * p_.N * p_.D;  // of the rows of v
      temporal_value_weight_grads<Gpu>(
          stream_, value_sums(num_chunks() - 1, g.d_y), {p_.w_qkv.row(first), p_.w_qkv.pitch}, p_.w_out,
          at<float>(plan_.value_total), g.d_w_qkv ? Rows<float>{g.d_w_qkv.row(first), g.d_w_qkv.pitch} : Rows<float>{},
          g.d_w_out);
    }
  }

  /// Rows of partial sums that a chunk makes.
  std::int64_t num_partials(std::int64_t chunk) const {
    if (plan_.fused) return temporal_fused_partials(clips(chunk), p_.T, p_.S, bwd_rows(), bwd_blocks());
    return temporal_core_plan({clips(chunk), p_.T, p_.S, p_.N, p_.D, plan_.num_pairs}, dtype_of<Elem>, true)
        .num_partials;
  }
  void finish_bias_table(std::int64_t num_partial_rows, Rows<float> d_table) const {
    const int T = narrow(p_.T), N = narrow(p_.N);
    float* d_bias = at<float>(plan_.d_bias);
    sum_rows(stream_, at<float>(plan_.d_bias_partials), num_partial_rows, bias_size(), bias_size(), d_bias);
    launch(
        bias_table_gradient_kernel, dim3(static_cast<unsigned>(N)), dim3(static_cast<unsigned>(kRelativeBiasBuckets)),
        0, stream_, d_bias, T, d_table);
  }

  void zero_parameter_gradients(const TemporalAttentionDeviceGrads<Elem>& g) const {
    const auto zero = [&](Rows<float> rows, std::int64_t num_rows, std::int64_t cols) {
      if (rows)
        device_zero<Gpu>(
            stream_, rows.data, static_cast<std::size_t>(rows.pitch) * 4, static_cast<std::size_t>(cols) * 4, num_rows);
    };
    zero({g.d_gamma, p_.C}, 1, p_.C);
    zero(g.d_w_qkv, 3 * p_.N * p_.D, p_.C);
    zero(g.d_w_out, p_.C, p_.N * p_.D);
    zero(g.d_bias_table, kRelativeBiasBuckets, p_.N);
  }

 private:
  TemporalValueGradArgs value_sums(
      std::int64_t chunk, Rows<const BFloat16> d_y) const requires std::is_same_v<Elem, BFloat16> {
    return {
        .B = clips(chunk),
        .T = p_.T,
        .S = p_.S,
        .C = p_.C,
        .N = p_.N,
        .D = p_.D,
        .h = h_,
        .d_y = d_y,
        .prob = at<BFloat16>(plan_.prob),
        .splits =
            temporal_value_splits(p_.N, most_value_blocks(p_.fused_blocks, device_arch(), p_.C, have_wgmma<Gpu>())),
        .sums = at<float>(plan_.value_sums),
        .first = chunk == 0};
  }
  /// Of w_qkv, or behind the fused kernel of w_q and w_k.
  void add_projection_gradient(std::int64_t chunk, const TemporalAttentionDeviceGrads<Elem>& g) const {
    if (!g.d_w_qkv) return;
    const Rows<float> part{at<float>(plan_.d_w_qkv), plan_.h_pitch};
    linear_bwd_weight<Gpu, Elem>(stream_, qkv_size(chunk), qkv_, h_, {}, part, nullptr, linear());
    add_weight_gradient<true>(part, plan_.qkv_heads, g.d_w_qkv, plan_.qkv_heads.heads * p_.D, p_.C, chunk);
  }
  std::int64_t bias_size() const { return p_.N * p_.T * p_.T; }
  /// As many as run at a time, or twice that, so that each multiprocessor gets as many: 132 on compute capability 9.0,
  /// 108 on an A100. Another number would leave the last round of blocks without a partner; it only changes the order
  /// of the sums of d_bias.
  std::int64_t bwd_blocks() const {
    const std::int64_t most = have_wgmma<Gpu>()     ? fused_bwd_wgmma_resident(p_.T, p_.C, p_.N) * 132
                              : device_arch() >= 90 ? 2 * 132
                                                    : 2 * 108;
    return std::min(p_.fused_blocks, most);
  }
  std::int64_t bwd_rows() const { return have_wgmma<Gpu>() ? kFusedBwdWgmmaRows : kFusedRows; }
  void* linear() const { return at<void>(plan_.linear); }
  static int narrow(std::int64_t value) { return static_cast<int>(value); }
  template <class E>
  E* at(std::int64_t offset) const {
    return reinterpret_cast<E*>(static_cast<std::byte*>(p_.workspace) + offset);
  }
  template <bool kHeadsInRows>
  void add_weight_gradient(
      Rows<const float> part, const StoredHeads& stored, Rows<float> total, std::int64_t rows, std::int64_t cols,
      std::int64_t chunk) const {
    launch(
        add_chunk_gradient_kernel<kHeadsInRows>, blocks_for(rows * cols), dim3(kBlock), 0, stream_, part, total,
        narrow(rows), narrow(cols), narrow(p_.D), stored, chunk == 0);
  }

  const Stream& stream_;
  const TemporalAttentionDeviceArgs<Elem>& p_;
  bool backward_;
  TemporalAttentionPlan plan_;
  Rows<Elem> h_, qkv_, o_;
  Rows<const Elem> w_qkv_, w_out_;
};

}  // namespace AVID_GPU

template <class Backend, class Elem>
void temporal_attention_fwd(const Stream& stream, const TemporalAttentionDeviceArgs<Elem>& p) {
  const AVID_GPU::Block<Elem> block(stream, p, false);
  if (block.num_chunks() == 0) return;
  block.prepare();
  block.fwd();
}

template <class Backend, class Elem>
void temporal_attention_bwd(
    const Stream& stream, const TemporalAttentionDeviceArgs<Elem>& p, const TemporalAttentionDeviceGrads<Elem>& g) {
  const AVID_GPU::Block<Elem> block(stream, p, true);
  if (block.num_chunks() == 0) return block.zero_parameter_gradients(g);
  block.prepare();
  std::int64_t partial_rows = 0;
  for (std::int64_t chunk = 0; chunk < block.num_chunks(); ++chunk) {
    block.bwd(chunk, g, partial_rows);
    partial_rows += block.num_partials(chunk);
  }
  block.finish_fused(partial_rows, g);
  if (g.d_bias_table) block.finish_bias_table(partial_rows, g.d_bias_table);
}

template void temporal_attention_fwd<Gpu, float>(const Stream&, const TemporalAttentionDeviceArgs<float>&);
template void temporal_attention_fwd<Gpu, BFloat16>(const Stream&, const TemporalAttentionDeviceArgs<BFloat16>&);
template void temporal_attention_bwd<Gpu, float>(
    const Stream&, const TemporalAttentionDeviceArgs<float>&, const TemporalAttentionDeviceGrads<float>&);
template void temporal_attention_bwd<Gpu, BFloat16>(
    const Stream&, const TemporalAttentionDeviceArgs<BFloat16>&, const TemporalAttentionDeviceGrads<BFloat16>&);

}  // namespace avid::kernels
