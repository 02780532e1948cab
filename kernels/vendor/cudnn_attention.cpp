// kernels/vendor/cudnn_attention.cpp -- softmax attention: copies where heads need them, then cuDNN's plan
#include "kernels/vendor/cudnn.h"

#if AVID_HAVE_CUDA

#include <type_traits>

#include "kernels/device/runtime.h"
#include "kernels/vendor/cudnn_cache.h"

namespace avid::kernels::vendor {
namespace {

[[noreturn]] void refuse_f32() {
  throw LibraryError("attention: cuDNN computes bf16, these are f32 | use --attention native, or bf16");
}

/// Copies head by head between rows of heads of `from_width` and of `to_width` channels; `columns` of each are copied.
void copy_heads(
    const Stream& stream, Rows<BFloat16> to, std::int64_t to_width, Rows<const BFloat16> from, std::int64_t from_width,
    std::int64_t columns, std::int64_t heads, std::int64_t num_rows) {
  for (std::int64_t n = 0; n < heads; ++n)
    device_copy<Cuda>(
        stream, CopyKind::on_device, to.data + n * to_width, static_cast<std::size_t>(to.pitch) * sizeof(BFloat16),
        from.data + n * from_width, static_cast<std::size_t>(from.pitch) * sizeof(BFloat16),
        static_cast<std::size_t>(columns) * sizeof(BFloat16), num_rows);
}

/// Hands out the parts of a workspace, and copies heads to them and back.
struct Parts {
  const Stream& stream;
  const AttentionArgs<BFloat16>& p;
  const AttentionBuffers buffers;
  std::byte* at;

  Parts(const Stream& s, const AttentionArgs<BFloat16>& args, const AttentionBuffers& b, void* workspace)
      : stream(s), p(args), buffers(b), at(static_cast<std::byte*>(workspace)) {}

  BFloat16* take(std::int64_t bytes) {
    auto* taken = reinterpret_cast<BFloat16*>(at);
    at += bytes;
    return taken;
  }
  std::int64_t width() const { return head_width(p.D); }

  /// Rows [B * length] of heads as cuDNN can read them; zeros behind copied heads.
  const BFloat16* input(Rows<const BFloat16> rows, std::int64_t bytes, std::int64_t length) {
    if (!buffers.copied) return rows.data;
    BFloat16* copy = take(bytes);
    const std::int64_t pitch = p.N * width(), num_rows = p.B * length;
    const auto row_bytes = static_cast<std::size_t>(pitch) * sizeof(BFloat16);
    device_zero<Cuda>(stream, copy, row_bytes, row_bytes, num_rows);
    copy_heads(stream, {copy, pitch}, width(), rows, p.D, p.D, p.N, num_rows);
    return copy;
  }
  /// Where a result goes at first.
  BFloat16* output(Rows<BFloat16> rows, std::int64_t bytes) {
    return buffers.copied || !rows ? take(bytes) : rows.data;
  }
  /// Brings it to its place.
  void deliver(Rows<BFloat16> rows, const BFloat16* result, std::int64_t length) const {
    if (!buffers.copied || !rows) return;
    copy_heads(stream, rows, p.D, {result, p.N * width()}, width(), p.D, p.N, p.B * length);
  }
};

}  // namespace

template <class Elem>
std::int64_t library_attention_workspace_bytes(const AttentionArgs<Elem>& p) {
  if constexpr (std::is_same_v<Elem, float>)
    refuse_f32();
  else
    return attention_buffers(p).total() + ways_for(Family::attention, attention_problem(p)).workspace_bytes();
}

template <class Elem>
std::int64_t library_attention_workspace_bytes(const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g) {
  if constexpr (std::is_same_v<Elem, float>)
    refuse_f32();
  else
    return attention_buffers(p, g).total() + ways_for(Family::attention, attention_problem(p, g)).workspace_bytes();
}

template <class Elem>
void library_attention_fwd(const Stream& stream, const AttentionArgs<Elem>& p, void* workspace) {
  if constexpr (std::is_same_v<Elem, float>) {
    refuse_f32();
  } else {
    Parts parts(stream, p, attention_buffers(p), workspace);
    const std::int64_t queries = parts.buffers.queries, keys = parts.buffers.keys;
    const BFloat16* q = parts.input(p.q, queries, p.Q);
    const BFloat16* k = parts.input(p.k, keys, p.K);
    const BFloat16* v = parts.input(p.v, keys, p.K);
    BFloat16* out = parts.output(p.out, queries);
    const void* log_sum = parts.buffers.spare_log_sum ? parts.take(parts.buffers.log_sum) : p.log_sum;
    const auto scale = static_cast<float>(p.scale);
    run_problem(stream, Family::attention, attention_problem(p), {q, k, v, out, log_sum, &scale}, parts.at);
    parts.deliver(p.out, out, p.Q);
  }
}

template <class Elem>
void library_attention_bwd(
    const Stream& stream, const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g, void* workspace) {
  if constexpr (std::is_same_v<Elem, float>) {
    refuse_f32();
  } else {
    Parts parts(stream, p, attention_buffers(p, g), workspace);
    const std::int64_t queries = parts.buffers.queries, keys = parts.buffers.keys;
    const BFloat16* q = parts.input(p.q, queries, p.Q);
    const BFloat16* k = parts.input(p.k, keys, p.K);
    const BFloat16* v = parts.input(p.v, keys, p.K);
    const BFloat16* out = parts.input({p.out.data, p.out.pitch}, queries, p.Q);
    const BFloat16* d_out = parts.input(g.d_out, queries, p.Q);
    BFloat16* d_q = parts.output(g.d_q, queries);
    BFloat16* d_k = parts.output(g.d_k, keys);
    BFloat16* d_v = parts.output(g.d_v, keys);
    const auto scale = static_cast<float>(p.scale);
    const float one = 1;
    run_problem(
        stream, Family::attention, attention_problem(p, g),
        {q, k, v, out, p.log_sum, &scale, d_out, g.workspace, &one, d_q, d_k, d_v}, parts.at);
    parts.deliver(g.d_q, d_q, p.Q);
    parts.deliver(g.d_k, d_k, p.K);
    parts.deliver(g.d_v, d_v, p.K);
  }
}

#define AVID_INSTANTIATE(Elem)                                                                 \
  template std::int64_t library_attention_workspace_bytes<Elem>(const AttentionArgs<Elem>&);   \
  template std::int64_t library_attention_workspace_bytes<Elem>(                               \
      const AttentionArgs<Elem>&, const AttentionGrads<Elem>&);                                \
  template void library_attention_fwd<Elem>(const Stream&, const AttentionArgs<Elem>&, void*); \
  template void library_attention_bwd<Elem>(                                                   \
      const Stream&, const AttentionArgs<Elem>&, const AttentionGrads<Elem>&, void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels::vendor

#endif  // AVID_HAVE_CUDA
