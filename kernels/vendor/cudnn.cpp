// kernels/vendor/cudnn.cpp -- the three passes of conv3d: join, run the plan, take apart, add the bias
#include "kernels/vendor/cudnn.h"

#if AVID_HAVE_CUDA

#include <type_traits>

#include "kernels/bias_rows.h"
#include "kernels/cast.h"
#include "kernels/device/runtime.h"
#include "kernels/vendor/cudnn_cache.h"

namespace avid::kernels::vendor {
namespace {

template <class Elem>
constexpr ElementType kType = std::is_same_v<Elem, float> ? ElementType::f32 : ElementType::bf16;

/// Runs a pass on device pointers.
void run(
    const Stream& stream, const ConvProblem& problem, const void* x, const void* w, const void* y, void* workspace) {
  run_problem(stream, Family::conv, problem, {x, w, y}, workspace);
}

/// The parts of a workspace: joined rows of x, the gradient of w before the cast, what the plan needs.
template <class Elem>
struct Parts {
  Rows<Elem> joined;
  Rows<Elem> d_w;
  void* rest;

  Parts(void* workspace, const ConvBuffers& buffers, const ConvPitches& pitches) {
    auto* at = static_cast<std::byte*>(workspace);
    joined = {reinterpret_cast<Elem*>(at), pitches.w};
    d_w = {reinterpret_cast<Elem*>(at + buffers.joined_bytes), pitches.w};
    rest = at + buffers.total();
  }
};

/// Columns [at, at + columns) of `to` = those of `from` from 0, or the other way round.
template <class To, class From>
void copy_columns(
    const Stream& stream, Rows<To> to, std::int64_t to_column, Rows<From> from, std::int64_t from_column,
    std::int64_t columns, std::int64_t num_rows) {
  device_copy<Cuda>(
      stream, CopyKind::on_device, to.data + to_column, static_cast<std::size_t>(to.pitch) * sizeof(To),
      from.data + from_column, static_cast<std::size_t>(from.pitch) * sizeof(To),
      static_cast<std::size_t>(columns) * sizeof(To), num_rows);
}

template <class Elem>
void clear_columns(const Stream& stream, Rows<Elem> rows, std::int64_t from_column, std::int64_t num_rows) {
  if (rows.pitch == from_column) return;
  device_zero<Cuda>(
      stream, rows.data + from_column, static_cast<std::size_t>(rows.pitch) * sizeof(Elem),
      static_cast<std::size_t>(rows.pitch - from_column) * sizeof(Elem), num_rows);
}

/// x itself, or [x | x2] in rows of w's pitch.
template <class Elem>
const Elem* joined_sources(
    const Stream& stream, const Conv3dSize& size, const ConvPitches& pitches, Rows<const Elem> x, Rows<const Elem> x2,
    const Parts<Elem>& parts) {
  if (!needs_joined_rows(size, pitches)) return x.data;
  const std::int64_t rows = size.in_positions();
  copy_columns(stream, parts.joined, 0, x, 0, size.I, rows);
  if (size.I2 > 0) copy_columns(stream, parts.joined, size.I, x2, 0, size.I2, rows);
  clear_columns(stream, parts.joined, size.I + size.I2, rows);
  return parts.joined.data;
}

}  // namespace

template <class Elem>
std::int64_t library_conv3d_workspace_bytes(ConvPass pass, const Conv3dSize& size, const ConvPitches& pitches) {
  const std::int64_t plans = ways_for(Family::conv, conv_problem(pass, kType<Elem>, size, pitches)).workspace_bytes();
  return conv_buffers(pass, kType<Elem>, size, pitches).total() + plans;
}

template <class Elem>
void library_conv3d_fwd(
    const Stream& stream, const Conv3dSize& size, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w,
    const float* bias, Rows<Elem> out, void* workspace) {
  const ConvPitches pitches{x.pitch, w.pitch, out.pitch};
  const Parts<Elem> parts(workspace, conv_buffers(ConvPass::fwd, kType<Elem>, size, pitches), pitches);
  const Elem* source = joined_sources(stream, size, pitches, x, x2, parts);
  run(stream, conv_problem(ConvPass::fwd, kType<Elem>, size, pitches), source, w.data, out.data, parts.rest);
  if (bias != nullptr || out.pitch != size.O)
    add_bias_rows<Cuda, Elem>(stream, {.P = size.out_positions(), .C = size.O, .bias = bias, .rows = out});
}

template <class Elem>
void library_conv3d_bwd_data(
    const Stream& stream, const Conv3dSize& size, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x,
    Rows<Elem> d_x2, void* workspace) {
  const ConvPitches pitches = bwd_data_pitches(d_x, w.pitch, d_out.pitch);
  const Parts<Elem> parts(workspace, conv_buffers(ConvPass::bwd_data, kType<Elem>, size, pitches), pitches);
  const bool joined = needs_joined_rows(size, pitches);
  run(stream, conv_problem(ConvPass::bwd_data, kType<Elem>, size, pitches), joined ? parts.joined.data : d_x.data,
      w.data, d_out.data, parts.rest);
  const std::int64_t rows = size.in_positions();
  if (joined && d_x) copy_columns(stream, d_x, 0, parts.joined, 0, size.I, rows);
  if (joined && d_x2) copy_columns(stream, d_x2, 0, parts.joined, size.I, size.I2, rows);
  // Zero already, unless d_out held values that are not finite.
  if (d_x) clear_columns(stream, d_x, size.I, rows);
  if (d_x2) clear_columns(stream, d_x2, size.I2, rows);
}

template <class Elem>
void library_conv3d_bwd_weight(
    const Stream& stream, const Conv3dSize& size, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, void* workspace) {
  const std::int64_t channels = size.I + size.I2;
  const ConvPitches pitches = bwd_weight_pitches<Elem>(size, x.pitch, d_out.pitch);
  const Parts<Elem> parts(workspace, conv_buffers(ConvPass::bwd_weight, kType<Elem>, size, pitches), pitches);
  const Elem* source = joined_sources(stream, size, pitches, x, x2, parts);
  const std::int64_t rows = size.O * size.taps();
  const ConvProblem problem = conv_problem(ConvPass::bwd_weight, kType<Elem>, size, pitches);
  if constexpr (std::is_same_v<Elem, float>) {
    if (d_w.pitch != pitches.w) throw LibraryError("conv: cuDNN: weights with an unusual pitch | use --conv native");
    run(stream, problem, source, d_w.data, d_out.data, parts.rest);
    clear_columns(stream, d_w, channels, rows);
  } else {
    run(stream, problem, source, parts.d_w.data, d_out.data, parts.rest);
    cast<Cuda, float, Elem>(stream, {.P = rows, .C = channels, .from = parts.d_w, .to = d_w});
  }
}

#define AVID_INSTANTIATE(Elem)                                                                                 \
  template std::int64_t library_conv3d_workspace_bytes<Elem>(ConvPass, const Conv3dSize&, const ConvPitches&); \
  template void library_conv3d_fwd<Elem>(                                                                      \
      const Stream&, const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, const float*,    \
      Rows<Elem>, void*);                                                                                      \
  template void library_conv3d_bwd_data<Elem>(                                                                 \
      const Stream&, const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Rows<Elem>, void*);    \
  template void library_conv3d_bwd_weight<Elem>(                                                               \
      const Stream&, const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<float>, void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels::vendor

#endif  // AVID_HAVE_CUDA
