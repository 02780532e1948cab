// kernels/conv_workspace.cpp -- how much workspace conv3d, conv_transpose3d and linear take on a device
#include "kernels/conv3d.h"
#include "kernels/conv_transpose3d.h"
#include "kernels/device/conv_products.h"
#include "kernels/linear.h"

namespace avid::kernels {

using namespace conv_products;

template <class Elem>
std::int64_t conv3d_fwd_workspace_bytes(const Conv3dSize& s) {
  return forward_workspace_bytes<Elem>(s);
}
template <class Elem>
std::int64_t conv3d_bwd_data_workspace_bytes(const Conv3dSize& s) {
  return adjoint_workspace_bytes<Elem>(s);
}
template <class Elem>
std::int64_t conv3d_bwd_weight_workspace_bytes(const Conv3dSize& s) {
  return std::max(
      weight_grad_workspace_bytes<Elem>("conv3d_bwd_weight", s), column_sums_workspace_bytes(s.out_positions(), s.O));
}

template <class Elem>
std::int64_t conv_transpose3d_fwd_workspace_bytes(const ConvTranspose3dSize& s) {
  return adjoint_workspace_bytes<Elem>(s.adjoint());
}
template <class Elem>
std::int64_t conv_transpose3d_bwd_weight_workspace_bytes(const ConvTranspose3dSize& s) {
  return std::max(
      weight_grad_workspace_bytes<Elem>("conv_transpose3d_bwd_weight", s.adjoint()),
      column_sums_workspace_bytes(s.out_positions(), s.O));
}

template <class Elem>
std::int64_t linear_fwd_workspace_bytes(const LinearSize& s) {
  return forward_workspace_bytes<Elem>(of_linear(s));
}
template <class Elem>
std::int64_t linear_bwd_data_workspace_bytes(const LinearSize& s) {
  return adjoint_workspace_bytes<Elem>(of_linear(s));
}
template <class Elem>
std::int64_t linear_bwd_weight_workspace_bytes(const LinearSize& s) {
  return std::max(
      weight_grad_workspace_bytes<Elem>("linear_bwd_weight", of_linear(s)), column_sums_workspace_bytes(s.P, s.O));
}

#define AVID_INSTANTIATE(Elem)                                                                         \
  template std::int64_t conv3d_fwd_workspace_bytes<Elem>(const Conv3dSize&);                           \
  template std::int64_t conv3d_bwd_data_workspace_bytes<Elem>(const Conv3dSize&);                      \
  template std::int64_t conv3d_bwd_weight_workspace_bytes<Elem>(const Conv3dSize&);                    \
  template std::int64_t conv_transpose3d_fwd_workspace_bytes<Elem>(const ConvTranspose3dSize&);        \
  template std::int64_t conv_transpose3d_bwd_weight_workspace_bytes<Elem>(const ConvTranspose3dSize&); \
  template std::int64_t linear_fwd_workspace_bytes<Elem>(const LinearSize&);                           \
  template std::int64_t linear_bwd_data_workspace_bytes<Elem>(const LinearSize&);                      \
  template std::int64_t linear_bwd_weight_workspace_bytes<Elem>(const LinearSize&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
