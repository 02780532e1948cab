// kernels/attention_block_plan.cpp -- sizes of workspaces, without a backend
#include "kernels/attention_block_plan.h"

#include "kernels/linear_attention.h"
#include "kernels/linear_attention_bwd.h"
#include "kernels/spatial_attention.h"

namespace avid::kernels {

template <class Elem>
std::int64_t linear_attention_workspace_bytes(const AttentionBlockDeviceArgs<Elem>& p, bool backward) {
  if (backward && linear_attention_bwd_is_fused(p)) return linear_attention_bwd_plan(p).total_bytes;
  return linear_attention_plan(p, backward).total_bytes;
}
template <class Elem>
std::int64_t linear_attention_key_sums(const AttentionBlockDeviceArgs<Elem>& p) {
  if (!linear_attention_in_two_passes(p) || !linear_attention_bwd_is_fused(p)) return 0;
  return p.B * p.T * p.N * linear_attention_sums_of_head(p.C);
}
template <class Elem>
std::int64_t spatial_attention_workspace_bytes(const AttentionBlockDeviceArgs<Elem>& p, bool backward) {
  return spatial_attention_plan(p, backward).total_bytes;
}

template std::int64_t linear_attention_workspace_bytes(const AttentionBlockDeviceArgs<float>&, bool);
template std::int64_t linear_attention_workspace_bytes(const AttentionBlockDeviceArgs<BFloat16>&, bool);
template std::int64_t linear_attention_key_sums(const AttentionBlockDeviceArgs<float>&);
template std::int64_t linear_attention_key_sums(const AttentionBlockDeviceArgs<BFloat16>&);
template std::int64_t spatial_attention_workspace_bytes(const AttentionBlockDeviceArgs<float>&, bool);
template std::int64_t spatial_attention_workspace_bytes(const AttentionBlockDeviceArgs<BFloat16>&, bool);

}  // namespace avid::kernels
