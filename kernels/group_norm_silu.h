// kernels/group_norm_silu.h -- GroupNorm and SiLU (contract: tensor/ops/group_norm_silu.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// I items (frames or clips) of R rows of C channels; group g of an item is channels [g C/G, (g+1) C/G) of all its
/// rows.
struct GroupNormSize {
  std::int64_t I = 0, R = 0, C = 0, G = 1;
  double eps = 1e-5;
  bool silu = true;  ///< false: the norm alone
};

template <class Elem>
struct GroupNormSiluArgs {
  GroupNormSize size;
  Rows<const Elem> x;           ///< [I*R,C]
  const Elem* gamma = nullptr;  ///< [C]
  const Elem* beta = nullptr;   ///< [C]
  Rows<Elem> out;               ///< [I*R,C], written by fwd
};

/// Gradients; each may be absent.
template <class Elem>
struct GroupNormSiluGrads {
  Rows<const Elem> d_out;
  Rows<Elem> d_x;
  Elem* d_gamma = nullptr;
  Elem* d_beta = nullptr;
};

// Elem is float or double.
template <class Elem>
void group_norm_silu_fwd(const GroupNormSiluArgs<Elem>& p);
template <class Elem>
void group_norm_silu_bwd(const GroupNormSiluArgs<Elem>& p, const GroupNormSiluGrads<Elem>& g);

// ---- on a device ----

/// Elem is float or BFloat16; gamma and beta are f32. Gaps of out are written as zero.
template <class Elem>
struct GroupNormSiluDeviceArgs {
  GroupNormSize size;
  Rows<const Elem> x;            ///< [I*R,C]
  const float* gamma = nullptr;  ///< [C]
  const float* beta = nullptr;   ///< [C]
  Rows<Elem> out;                ///< [I*R,C], written by fwd
  float* workspace = nullptr;    ///< group_norm_silu_workspace() elements, 16-byte aligned
};

/// Gradients; each output may be absent.
template <class Elem>
struct GroupNormSiluDeviceGrads {
  Rows<const Elem> d_out;
  Rows<Elem> d_x;
  float* d_gamma = nullptr;
  float* d_beta = nullptr;
};

/// Rows of an item are summed in slabs of this many.
inline constexpr std::int64_t kGroupNormSlab = 256;

/// f32 elements of workspace, forward or backward: statistics of slabs and groups, later sums of slabs, items and
/// groups.
inline std::int64_t group_norm_silu_workspace(const GroupNormSize& s) {
  const std::int64_t slabs = (s.R + kGroupNormSlab - 1) / kGroupNormSlab, width = (s.C + 7) / 8 * 8;
  return s.I * (2 * width * (slabs + 1) + 4 * s.G);
}

/// Statistics and sums in f32, the same bits in every run. Rows start at 16-byte boundaries (pitch, data).
template <class Backend, class Elem>
void group_norm_silu_fwd(const Stream& stream, const GroupNormSiluDeviceArgs<Elem>& p);
/// The statistics are computed again.
template <class Backend, class Elem>
void group_norm_silu_bwd(
    const Stream& stream, const GroupNormSiluDeviceArgs<Elem>& p, const GroupNormSiluDeviceGrads<Elem>& g);

}  // namespace avid::kernels
