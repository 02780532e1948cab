// tests/sim/warpgroup_test.cpp -- wgmma against f64, from tiles laid out by the published formulas of each swizzle
//
// The oracle for a swizzle is not the simulator's rule on addresses but that on coordinates: chunk c of row r moves to
// c XOR (r mod 8) in rows of 128 bytes, c XOR (r mod 8)/2 in rows of 64, c XOR (r mod 8)/4 in rows of 32. A transposed
// tile is such an image with columns for rows; one behind the other where it has more rows than the swizzle holds.
#include "tests/sim/warpgroup.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "tests/sim/arch.h"
#include "tests/sim/conv_support.h"
#include "tests/sim/orders.h"

namespace {

using namespace avid;
using namespace avid::test;

struct Form {
  const char* name;
  int swizzle_bits, row_bytes;
  int group_bytes = 8 * row_bytes;  // from 8 rows to the next, not transposed
  int chunk_bytes_of_a = 0;         // not 0: from a chunk of A to the next, without swizzle
};
const Form kForms[] = {{"none", 0, 16}, {"128 bytes", 1, 128}, {"64 bytes", 2, 64}, {"32 bytes", 3, 32}};

/// Columns of one tile in this form: what a row of the swizzle holds, or any number without one.
int columns_of(const Form& f) { return f.swizzle_bits == 0 ? 32 : f.row_bytes / 2; }

/// Where element (row, k) of a tile lies, in bytes; without swizzle its chunks are chunk_bytes apart.
std::size_t place(const Form& f, int chunk_bytes, int row, int k) {
  const int chunk = k / 8, within = row % 8;
  if (f.swizzle_bits == 0)  // blocks of 8 rows x 16 bytes; all blocks of one chunk, then those of the next
    return static_cast<std::size_t>(chunk * chunk_bytes + row / 8 * f.group_bytes + within * 16 + k % 8 * 2);
  const int moved = chunk ^ (within / (128 / f.row_bytes));
  return static_cast<std::size_t>(row / 8 * 8 * f.row_bytes + within * f.row_bytes + moved * 16 + k % 8 * 2);
}

/// The same in a transposed tile of `columns` columns.
std::size_t transposed_place(const Form& f, int columns, int row, int k) {
  if (f.swizzle_bits == 0)  // planes of 8 rows, one step of 16 bytes longer than they need be
    return static_cast<std::size_t>(row / 8 * (columns + 1) * 16 + k * 16 + row % 8 * 2);
  const int of_image = f.row_bytes / 2, moved = row % of_image / 8 ^ (k % 8 / (128 / f.row_bytes));
  return static_cast<std::size_t>(row / of_image * columns * f.row_bytes + k * f.row_bytes + moved * 16 + row % 8 * 2);
}

/// Bytes of a tile whose elements lie at place_of(row, k); 0xff, a NaN, between.
template <class PlaceOf>
std::vector<std::uint8_t> image(const DeviceRows<bf16>& m, int rows, int columns, const PlaceOf& place_of) {
  std::vector<std::uint8_t> bytes;
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < columns; ++k) {
      const std::uint16_t bits = m.at(r)[k].bits;
      const std::size_t at = place_of(r, k);
      if (bytes.size() < at + 2) bytes.resize(at + 2, 0xff);
      bytes[at] = static_cast<std::uint8_t>(bits);
      bytes[at + 1] = static_cast<std::uint8_t>(bits >> 8);
    }
  bytes.resize((bytes.size() + 127) / 128 * 128, 0xff);
  return bytes;
}

double value(bf16 v) { return static_cast<double>(static_cast<float>(v)); }

/// `front`: bytes before the tiles. `fresh`: the sums begin with the first product. `fragment`: A comes through
/// registers; B is transposed.
void check(
    const Form& f, int N, int in_flight, bool transposed = false, int front = 0, bool fresh = false,
    bool fragment = false) {
  const int K = transposed ? 32 : columns_of(f);
  INFO(
      std::string(f.name) << ", N " << N << ", in flight " << in_flight << (transposed ? ", transposed" : "")
                          << ", front " << front << (fresh ? ", fresh" : "") << (fragment ? ", fragment" : ""));
  const auto a = DeviceRows<bf16>::random(64, K, 1), b = DeviceRows<bf16>::random(N, K, 2);
  const auto c = DeviceRows<float>::random(1, 64 * N, 3);
  std::vector<double> expected = fresh ? std::vector<double>(static_cast<std::size_t>(64 * N)) : c.values();
  for (int m = 0; m < 64; ++m)
    for (int n = 0; n < N; ++n)
      for (int k = 0; k < K; ++k)
        expected[static_cast<std::size_t>(m * N + n)] += value(a.at(m)[k]) * value(b.at(n)[k]);
  const int chunks_of_b = 64 / 8 * f.group_bytes;  // from one to the next, without swizzle: as if B had 64 rows
  const int chunks_of_a = f.chunk_bytes_of_a > 0 ? f.chunk_bytes_of_a : chunks_of_b;
  const auto bytes = [](int n) { return static_cast<std::uint32_t>(n); };
  TileForm form{f.swizzle_bits, bytes(f.group_bytes), 0, 32, transposed, bytes(front)};
  if (f.swizzle_bits == 0) form.leading = bytes(chunks_of_b), form.step = 2 * form.leading;
  if (transposed) form.step = bytes(16 * f.row_bytes), form.leading = bytes(K * f.row_bytes);
  if (transposed && f.swizzle_bits == 0) form.leading = 8 * 16, form.stride = bytes((K + 1) * 16);
  const auto tile = [&](const DeviceRows<bf16>& m, int rows, int chunk_bytes) {
    return image(m, rows, K, [&](int r, int k) {
      return static_cast<std::size_t>(front) +
             (transposed ? transposed_place(f, K, r, k) : place(f, chunk_bytes, r, k));
    });
  };
  if (fragment) form.a_columns = K;
  form.leading_of_a = bytes(f.chunk_bytes_of_a), form.step_of_a = 2 * form.leading_of_a;
  const auto rows_of_a = image(a, 64, K, [&](int r, int k) { return static_cast<std::size_t>((r * K + k) * 2); });
  const std::vector<float> start(c.at(0), c.at(0) + (fresh ? 0 : 64 * N));
  std::vector<float> d(static_cast<std::size_t>(64 * N));
  run_wgmma(
      N, form, K / 16, in_flight, fragment ? rows_of_a : tile(a, 64, chunks_of_a), tile(b, N, chunks_of_b), start, d);
  CHECK(worst_error(std::vector<double>(d.begin(), d.end()), expected, kUnit<float>) < 1.0);
}

}  // namespace

TEST_CASE("warpgroup/wgmma/every swizzle") {
  const OnArch arch(90);
  for (const Form& f : kForms)
    for (const int in_flight : {0, 1}) check(f, 56, in_flight);
}

TEST_CASE("warpgroup/wgmma/transposed, every swizzle") {
  const OnArch arch(90);
  for (const Form& f : kForms)
    for (const int N : {56, 104}) check(f, N, 1, true);
}

// What the tiles of taps rely on (halo_tile.h, gather_weight_grad_wgmma.cu).
TEST_CASE("warpgroup/wgmma/without swizzle a tile begins at any multiple of 16 bytes") {
  const OnArch arch(90);
  for (const bool transposed : {false, true})
    for (int front = 0; front <= 128; front += 16) check(kForms[0], 56, 1, transposed, front);
}

// And patches (halo_raster.h).
TEST_CASE("warpgroup/wgmma/without swizzle eight rows and the next eight are any multiple of 16 bytes apart") {
  const OnArch arch(90);
  for (const int group_bytes : {144, 160, 224}) check({"none, 8 rows and a gap", 0, 16, group_bytes}, 56, 1);
}

// And rows of an odd number of chunks, whose last one is taken with a plane of zeros far in front of it.
TEST_CASE("warpgroup/wgmma/without swizzle chunks of A may be further apart than those of B") {
  const OnArch arch(90);
  for (const int chunk_bytes : {1040, 2064, 51600}) check({"none, chunks apart", 0, 16, 128, chunk_bytes}, 56, 1);
}

// What linear_attention_wgmma.cu and, transposed, linear_attention_bwd_wgmma.cu rely on. Whole numbers: exact sums.
TEST_CASE("warpgroup/wgmma/a warp may write its rows of A once its own part of the products is done") {
  const OnArch arch(90);
  const auto run = [](int rounds) {
    std::mt19937 random(5);
    const auto numbers = [&](int count) {
      std::vector<BFloat16> v(static_cast<std::size_t>(count));
      for (BFloat16& x : v) x = BFloat16(static_cast<float>(random() % 7) - 3.0f);
      return v;
    };
    const auto a = numbers(rounds * 64 * kRoundColumns), b = numbers(kRoundRows * kRoundColumns);
    for (const bool transposed : {false, true}) {
      std::vector<float> d(64 * kRoundRows, NAN);
      run_wgmma_rounds(transposed, rounds, a, b, d);
      int wrong = 0;
      for (std::size_t m = 0; m < 64; ++m)
        for (std::size_t n = 0; n < kRoundRows; ++n) {
          double expected = 0;
          for (std::size_t round = 0; round < static_cast<std::size_t>(rounds); ++round)
            for (std::size_t k = 0; k < kRoundColumns; ++k)
              expected += value(a[(round * 64 + m) * kRoundColumns + k]) * value(b[n * kRoundColumns + k]);
          wrong += static_cast<double>(d[m * kRoundRows + n]) != expected;
        }
      CHECK_MESSAGE(wrong == 0, (transposed ? "transposed, " : "") << rounds << " rounds");
    }
  };
  run(24);
  for_each_order([&] { run(3); });
}

TEST_CASE("warpgroup/wgmma/every width") {
  const OnArch arch(90);
  for (const int N : {8, 96, 104, 200}) check(kForms[1], N, 1);
}

TEST_CASE("warpgroup/wgmma/a sum begins with its first product whatever the registers held") {
  const OnArch arch(90);
  for (const int N : {32, 56, 64, 96, 104, 112, 128})
    for (const int in_flight : {0, 1}) check(kForms[1], N, in_flight, false, 0, true);
}

TEST_CASE("warpgroup/wgmma/A in registers, every width and swizzle") {
  const OnArch arch(90);
  for (const int in_flight : {0, 1}) {
    for (const int N : {8, 32, 56, 96, 104}) check(kForms[0], N, in_flight, true, 0, false, true);
    for (const Form& f : kForms) check(f, 56, in_flight, true, 0, false, true);
  }
}

TEST_CASE("warpgroup/wgmma/in every order") {
  const OnArch arch(90);
  for_each_order([] { check(kForms[1], 8, 1); });
}
