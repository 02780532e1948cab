// kernels/ptx/products.cpp -- tensor cores: mma.sync of a warp, wgmma of a warpgroup
//
// Fragments and descriptors are decoded after the PTX manual, apart from the simulator's. Sums are of f32 in the order
// of k; a GPU's order differs. A product of a warpgroup is done at its issue, each warp
// its 16 rows; its sums may be read when a wait has covered it, which warp.h watches.
#include <cstring>

#include "kernels/ptx/opcode.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

float bf16_value(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }

/// d = a b + c of a 16 x K and a K x 8 matrix; lane 4 g + t has C and D at rows g and g + 8, columns 2 t and 2 t + 1.
template <int kDepth>
void multiply(
    Warp& warp, const Instruction& i, const float (&a)[16][kDepth], const float (&b)[kDepth][8], const Place* c) {
  float sums[16][8];
  for (int r = 0; r < 4; ++r) {
    const Kept<float>* lanes = warp.lanes<float>(c[r]);
    for (int l = 0; l < kLanes; ++l) sums[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2] = value_of<float>(lanes[l]);
  }
  for (int k = 0; k < kDepth; ++k)
#pragma GCC unroll 1
    for (int row = 0; row < 16; ++row)
      for (int n = 0; n < 8; ++n) sums[row][n] += a[row][k] * b[k][n];
  for (int r = 0; r < 4; ++r)
    for_lanes<float>(warp, i.to[r], [&](int l) { return sums[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2]; });
}

/// K 8 or 16; elements of 16 bits lie in pairs.
template <int kDepth>
void product_bf16(Warp& warp, const Instruction& i) {
  constexpr int kRegistersA = kDepth / 4, kRegistersB = kDepth / 8;
  float a[16][kDepth], b[kDepth][8];
  for (int r = 0; r < kRegistersA; ++r) {
    const Kept<std::uint32_t>* words = warp.lanes<std::uint32_t>(i.from[r]);
    for (int l = 0; l < kLanes; ++l) {
      float* at = &a[l / 4 + 8 * (r % 2)][2 * (l % 4) + 8 * (r / 2)];
      at[0] = bf16_value(words[l] & 0xffff);
      at[1] = bf16_value(words[l] >> 16);
    }
  }
  for (int r = 0; r < kRegistersB; ++r) {
    const Kept<std::uint32_t>* words = warp.lanes<std::uint32_t>(i.from[kRegistersA + r]);
    for (int l = 0; l < kLanes; ++l) {
      const int k = 2 * (l % 4) + 8 * r;
      b[k][l / 4] = bf16_value(words[l] & 0xffff);
      b[k + 1][l / 4] = bf16_value(words[l] >> 16);
    }
  }
  multiply(warp, i, a, b, i.from + kRegistersA + kRegistersB);
}

/// Elements of tf32, whose low 13 bits are not looked at; K is 8.
void product_tf32(Warp& warp, const Instruction& i) {
  const auto operand = [&](int k, int l) {
    return std::bit_cast<float>(warp.value<std::uint32_t>(i.from[k], l) & ~0x1fffu);
  };
  float a[16][8], b[8][8];
  for (int l = 0; l < kLanes; ++l) {
    const int g = l / 4, t = l % 4;
    for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][t + 4 * (r / 2)] = operand(r, l);
    for (int r = 0; r < 2; ++r) b[t + 4 * r][g] = operand(4 + r, l);
  }
  multiply(warp, i, a, b, i.from + 6);
}

// ---- wgmma ----

/// A matrix in shared memory, of 16-bit elements, as a descriptor names it: strides of 8 x 16-byte blocks.
struct Matrix {
  std::uint64_t start = 0, leading = 0, stride = 0;  // bytes
  std::uint32_t swizzle_bytes = 0;                   // 0: none

  explicit Matrix(std::uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {
    constexpr std::uint32_t kSwizzles[] = {0, 128, 64, 32};
    swizzle_bytes = kSwizzles[descriptor >> 62];
  }
  /// Address of element (row, k), of A's rows or B's columns, k from 0 to 15.
  std::uint64_t address(std::uint64_t row, std::uint64_t k, bool transposed) const {
    std::uint64_t offset = 0;
    if (!transposed) {  // k runs along the 16-byte chunks
      const std::uint64_t row_bytes = swizzle_bytes == 0 ? 16 : swizzle_bytes;
      offset = row % 8 * row_bytes + row / 8 * stride + k % 8 * 2 + k / 8 * (swizzle_bytes == 0 ? leading : 16);
    } else if (swizzle_bytes == 0) {  // rows run along the chunks: 8 of them, then `stride`; 8 of k, then `leading`
      offset = row % 8 * 2 + row / 8 * stride + k % 8 * 16 + k / 8 * leading;
    } else {  // swizzled: as many rows as the pattern is wide, then `leading`; 8 of k, then `stride`
      const std::uint64_t wide = swizzle_bytes / 2;
      offset = row % wide * 2 + row / wide * leading + k % 8 * swizzle_bytes + k / 8 * stride;
    }
    std::uint64_t at = start + offset;
    const std::uint64_t swap = swizzle_bytes == 0 ? 0 : swizzle_bytes / 16 - 1;
    at ^= (at >> 7 & swap) << 4;
    return at;
  }
};

/// d += a b of 64 x 16 and 16 x N elements, or d = a b; d has N / 2 registers. from: descriptor or four registers of a,
/// descriptor of b, the scales of d (0: d = a b), a and b, whether those that have a descriptor are transposed.
void product_warpgroup(Warp& warp, const Instruction& i) {
  const int columns = i.num_to * 2;
  const std::uint32_t rank = warp.thread_of(0) / 32 % 4;
  constexpr int kWithFragment = 9;  // sources
  const bool has_fragment = i.num_from == kWithFragment;
  const Place* const from_b = i.from + (has_fragment ? 4 : 1);
  const auto option = [&](int k) { return warp.value<std::uint32_t>(from_b[k], 0); };
  const Matrix b(warp.uniform<std::uint64_t>(from_b[0]));
  const std::uint32_t adds = option(1);
  if (adds > 1 || option(2) != 1 || option(3) != 1) warp.fail("wgmma with scales other than 1, or 0 of the sums");
  const bool transposed_b = option(has_fragment ? 4 : 5) != 0;
  const auto element = [&](const Matrix& m, std::uint64_t row, std::uint64_t k, bool transposed) {
    std::uint16_t bits;
    std::memcpy(&bits, warp.memory('s', m.address(row, k, transposed), 2, -1, false), 2);
    return bf16_value(bits);
  };
  float rows[16][16], sums[16][256], column[16][256];
  if (has_fragment) {
    for (int r = 0; r < 4; ++r)
      for (int l = 0; l < kLanes; ++l) {
        const std::uint32_t pair = warp.value<std::uint32_t>(i.from[r], l);
        float* const at = &rows[l / 4 + 8 * (r % 2)][2 * (l % 4) + 8 * (r / 2)];
        at[0] = bf16_value(pair & 0xffff), at[1] = bf16_value(pair >> 16);
      }
  } else {
    const Matrix a(warp.uniform<std::uint64_t>(i.from[0]));
    const bool transposed_a = option(4) != 0;
    for (std::uint64_t r = 0; r < 16; ++r)
      for (std::uint64_t k = 0; k < 16; ++k) rows[r][k] = element(a, 16 * rank + r, k, transposed_a);
  }
  for (std::uint64_t n = 0; n < static_cast<std::uint64_t>(columns); ++n)
    for (std::uint64_t k = 0; k < 16; ++k) column[k][n] = element(b, n, k, transposed_b);
  for (int r = 0; r < i.num_to; ++r)
    for (int l = 0; l < kLanes; ++l)
      sums[l / 4 + 8 * (r % 4 / 2)][8 * (r / 4) + 2 * (l % 4) + r % 2] =
          adds == 1 ? warp.value<float>(i.to[r], l) : 0.0f;
  for (int r = 0; r < 16; ++r)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < columns; ++n) sums[r][n] += rows[r][k] * column[k][n];
  for (int r = 0; r < i.num_to; ++r)
    for_lanes<float>(
        warp, i.to[r], [&](int l) { return sums[l / 4 + 8 * (r % 4 / 2)][8 * (r / 4) + 2 * (l % 4) + r % 2]; });
  warp.begin_product(i);
}

void product_commit(Warp& warp, const Instruction&) { warp.close_products(); }
void product_wait(Warp& warp, const Instruction& i) { warp.wait_products(warp.uniform<std::uint32_t>(i.from[0])); }

}  // namespace

Known known_product(const Opcode& op) {
  using Kind = Instruction::Kind;
  if (op.name == "mma" && op.has("row") && op.has("col") && op.has("f32")) {
    if (op.has("bf16") && op.has("m16n8k16")) return {.action = &product_bf16<16>, .kind = Kind::whole_warp};
    if (op.has("bf16") && op.has("m16n8k8")) return {.action = &product_bf16<8>, .kind = Kind::whole_warp};
    if (op.has("tf32") && op.has("m16n8k8")) return {.action = &product_tf32, .kind = Kind::whole_warp};
  }
  if (op.name == "wgmma") {
    if (op.has("mma_async") && op.has("f32") && op.has("bf16"))
      return {.action = &product_warpgroup, .kind = Kind::whole_warp};
    if (op.has("fence")) return {.action = &nothing, .kind = Kind::whole_warp};
    if (op.has("commit_group")) return {.action = &product_commit, .kind = Kind::whole_warp};
    if (op.has("wait_group")) return {.action = &product_wait, .kind = Kind::whole_warp};
  }
  return {};
}

}  // namespace avid::kernels::ptx
