// tests/sim/linear_attention_case.h -- the block of linear attention on the simulated device, and in f64
#pragma once

#include "kernels/linear_attention.h"
#include "tests/sim/attention_block_cases.h"

namespace avid::test {

/// The block forward and backward, by the kernels that its size asks for.
template <class Elem>
BlockTensors<Elem> run_linear_attention(const BlockCase& c, unsigned wanted) {
  return run_block<Elem>(
      c, wanted, [](auto& p, bool backward) { return kernels::linear_attention_workspace_bytes(p, backward); },
      [](auto& p) { kernels::linear_attention_fwd<kernels::Sim>(kernels::Stream{}, p); },
      [](auto& p, auto&& g) { kernels::linear_attention_bwd<kernels::Sim>(kernels::Stream{}, p, g); });
}

/// The same with the sums over keys that the forward pass keeps for the backward pass, which stay in `kept`.
template <class Elem>
BlockTensors<Elem> run_linear_attention_kept(const BlockCase& c, unsigned wanted, Workspace& kept) {
  return run_block<Elem>(
      c, wanted, [](auto& p, bool backward) { return kernels::linear_attention_workspace_bytes(p, backward); },
      [&](auto& p) {
        const std::int64_t floats = kernels::linear_attention_key_sums(p);
        REQUIRE(floats > 0);
        kept.allocate(floats * 4);
        p.key_sums = kept.data<float>();
        kernels::linear_attention_fwd<kernels::Sim>(kernels::Stream{}, p);
      },
      [](auto& p, auto&& g) { kernels::linear_attention_bwd<kernels::Sim>(kernels::Stream{}, p, g); });
}
template <class Elem>
BlockTensors<Elem> run_linear_attention_kept(const BlockCase& c, unsigned wanted) {
  Workspace kept;
  return run_linear_attention_kept<Elem>(c, wanted, kept);
}

inline constexpr auto run_linear_attention_reference =
    run_block_reference<kernels::linear_attention_fwd_reference, kernels::linear_attention_bwd_reference>;

}  // namespace avid::test
