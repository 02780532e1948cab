// tests/sim/warpgroup.h -- one warpgroup multiplies two tiles that lie in shared memory as the test says
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dtype.h"

namespace avid::test {

/// How a tile lies in shared memory, as its matrix descriptor tells.
struct TileForm {
  int swizzle_bits;       ///< 0 none, 1 128 bytes, 2 64, 3 32
  std::uint32_t stride;   ///< bytes from 8 rows to the next; transposed and swizzled: from 8 columns to the next
  std::uint32_t leading;  ///< bytes from a chunk of 8 columns to the next (no swizzle); transposed and swizzled: from
                          ///< the rows of one swizzle to the next
  std::uint32_t step;     ///< bytes from 16 columns to the next
  bool transposed = false;
  std::uint32_t start = 0;  ///< bytes from the image's first, at a multiple of 1024, to the tile's
  int a_columns = 0;        ///< not 0: A comes through registers, from rows of so many elements
  std::uint32_t leading_of_a = 0, step_of_a = 0;  ///< not 0: of A, where it has other ones than B
};

/// d[64][N] = c[64][N] + A B^T over num_steps steps of 16 columns, in groups of `in_flight`; tiles as images in bytes.
/// N is 8, 56, 96, 104 or 200; of transposed tiles 56 or 104; with A in registers 8, 32, 56, 96 or 104. Without c the
/// first step begins the sum in registers that are NaN; N is then 32, 56, 64, 96, 104, 112 or 128.
void run_wgmma(
    int N, const TileForm& form, int num_steps, int in_flight, const std::vector<std::uint8_t>& a,
    const std::vector<std::uint8_t>& b, const std::vector<float>& c, std::vector<float>& d);

/// Rows and columns of B, and columns of A, in run_wgmma_rounds.
inline constexpr int kRoundRows = 56, kRoundColumns = 64;

/// d[64][kRoundRows] = the sum over `rounds` of A_round B^T; a: [rounds][64][kRoundColumns]. All A lie in the same
/// place one after another: a warp writes its 16 rows of the next one as soon as its own part of the products is done,
/// and the warps are made to be early and late by turns.
void run_wgmma_rounds(
    bool transposed, int rounds, const std::vector<BFloat16>& a, const std::vector<BFloat16>& b, std::vector<float>& d);

}  // namespace avid::test
