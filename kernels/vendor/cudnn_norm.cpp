// kernels/vendor/cudnn_norm.cpp -- layer norm: buffers, the forward pass for its statistics, the gradients
#include "kernels/vendor/cudnn.h"

#if AVID_HAVE_CUDA

#include <type_traits>

#include "kernels/vendor/cudnn_cache.h"

namespace avid::kernels::vendor {
namespace {

template <class Elem>
NormProblem problem_of(NormPass pass, const LayerNormDeviceArgs<Elem>& p) {
  const bool bf16 = std::is_same_v<Elem, BFloat16>;
  return {.pass = pass, .bf16 = bf16, .has_beta = p.beta != nullptr, .num_rows = p.num_rows, .C = p.C};
}

template <class Elem>
void check_dense(Rows<Elem> rows, std::int64_t C) {
  if (rows && rows.pitch != C)
    throw LibraryError(
        "norm: cuDNN takes rows without gaps, these have " + std::to_string(C) + " columns and are " +
        std::to_string(rows.pitch) + " apart | use --norm native");
}

/// The forward pass into `out`.
template <class Elem>
void run_fwd(
    const Stream& stream, const NormProblem& problem, const LayerNormDeviceArgs<Elem>& p, void* out, void* mean,
    void* inv_deviation, void* workspace) {
  run_problem(stream, Family::norm, problem, {p.x.data, p.gamma, p.beta, &p.eps, out, mean, inv_deviation}, workspace);
}

}  // namespace

template <class Elem>
std::int64_t library_layer_norm_workspace_bytes(const LayerNormDeviceArgs<Elem>& p) {
  check_dense(p.x, p.C);
  check_dense(p.out, p.C);
  const NormProblem problem = problem_of(NormPass::fwd, p);
  return norm_buffers(problem).total + ways_for(Family::norm, problem).workspace_bytes();
}

template <class Elem>
std::int64_t library_layer_norm_workspace_bytes(
    const LayerNormDeviceArgs<Elem>& p, const LayerNormDeviceGrads<Elem>& g) {
  check_dense(p.x, p.C);
  check_dense(g.d_out, p.C);
  check_dense(g.d_x, p.C);
  const NormProblem problem = problem_of(NormPass::bwd, p);
  return norm_buffers(problem).total + std::max(
                                           ways_for(Family::norm, problem_of(NormPass::fwd, p)).workspace_bytes(),
                                           ways_for(Family::norm, problem).workspace_bytes());
}

template <class Elem>
void library_layer_norm_fwd(const Stream& stream, const LayerNormDeviceArgs<Elem>& p, void* workspace) {
  const NormProblem problem = problem_of(NormPass::fwd, p);
  const NormBuffers buffers = norm_buffers(problem);
  auto* at = static_cast<std::byte*>(workspace);
  run_fwd(stream, problem, p, p.out.data, at + buffers.mean, at + buffers.inv_deviation, at + buffers.total);
}

template <class Elem>
void library_layer_norm_bwd(
    const Stream& stream, const LayerNormDeviceArgs<Elem>& p, const LayerNormDeviceGrads<Elem>& g, void* workspace) {
  const NormProblem problem = problem_of(NormPass::bwd, p);
  const NormBuffers buffers = norm_buffers(problem);
  auto* at = static_cast<std::byte*>(workspace);
  void *mean = at + buffers.mean, *inv_deviation = at + buffers.inv_deviation, *rest = at + buffers.total;
  const auto or_spare = [&](void* wanted, std::int64_t spare) { return wanted != nullptr ? wanted : at + spare; };
  run_fwd(stream, problem_of(NormPass::fwd, p), p, at + buffers.out, mean, inv_deviation, rest);
  run_problem(
      stream, Family::norm, problem,
      {p.x.data, p.gamma, nullptr, nullptr, nullptr, mean, inv_deviation, g.d_out.data,
       or_spare(g.d_x.data, buffers.d_x), or_spare(g.d_gamma, buffers.d_gamma), or_spare(g.d_beta, buffers.d_beta)},
      rest);
}

#define AVID_INSTANTIATE(Elem)                                                                        \
  template std::int64_t library_layer_norm_workspace_bytes<Elem>(const LayerNormDeviceArgs<Elem>&);   \
  template std::int64_t library_layer_norm_workspace_bytes<Elem>(                                     \
      const LayerNormDeviceArgs<Elem>&, const LayerNormDeviceGrads<Elem>&);                           \
  template void library_layer_norm_fwd<Elem>(const Stream&, const LayerNormDeviceArgs<Elem>&, void*); \
  template void library_layer_norm_bwd<Elem>(                                                         \
      const Stream&, const LayerNormDeviceArgs<Elem>&, const LayerNormDeviceGrads<Elem>&, void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels::vendor

#endif  // AVID_HAVE_CUDA
