// tests/sim/tensor_copy_test.cpp -- tiles of a matrix by tensor copies, against what the matrix has there
//
// The oracle for a swizzle is its rule on coordinates: chunk c of a tile's row r lies at c XOR (r mod 8) in rows of 128
// bytes, c XOR (r mod 8)/2 in rows of 64, c XOR (r mod 8)/4 in rows of 32.
#include "tests/sim/tensor_copy.h"

#include <string>

#include "kernels/device/backend.h"
#include "tests/sim/arch.h"
#include "tests/sim/orders.h"

namespace {

using namespace avid::test;
using avid::kernels::GpuError;
using avid::kernels::MatrixTiles;

/// Element (row, column) of the test's matrix: all differ.
std::uint16_t element(int row, int column) { return static_cast<std::uint16_t>(row * 199 + column + 1); }

struct Matrix {
  int rows, columns, pitch;  ///< elements
  std::vector<std::uint16_t> memory;
  Matrix(int r, int c, int p) : rows(r), columns(c), pitch(p), memory(static_cast<std::size_t>(r * p + 8), 0xffff) {
    for (int i = 0; i < r; ++i)
      for (int j = 0; j < c; ++j) data()[i * p + j] = element(i, j);
  }
  std::uint16_t* data() {  // at a multiple of 16 bytes
    const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (16 - at % 16) % 16 / 2;
  }
  MatrixTiles tiles(int tile_rows, int tile_columns, int swizzle_bytes) {
    const auto u = [](int v) { return static_cast<std::uint64_t>(v); };
    return {data(), u(columns), u(rows), u(2 * pitch), u(tile_columns), u(tile_rows), u(swizzle_bytes)};
  }
};

void check(Matrix& matrix, int tile_rows, int tile_columns, int swizzle, int stages, const std::vector<TileAt>& tiles) {
  INFO("swizzle " << swizzle << ", tile " << tile_rows << "x" << tile_columns << ", stages " << stages);
  const std::vector<std::uint8_t> got = fetch_tiles(matrix.tiles(tile_rows, tile_columns, swizzle), stages, tiles);
  REQUIRE(got.size() == tiles.size() * static_cast<std::size_t>(tile_rows * tile_columns * 2));
  int wrong = 0;
  std::size_t tile = 0;
  for (const TileAt& t : tiles) {
    for (int r = 0; r < tile_rows; ++r)
      for (int c = 0; c < tile_columns; ++c) {
        const int row = t.row + r, column = t.column + c;
        const bool inside = row >= 0 && row < matrix.rows && column >= 0 && column < matrix.columns;
        const int exchanged = swizzle == 16 ? c / 8 : c / 8 ^ r % 8 / (128 / swizzle);
        const std::size_t at = tile + static_cast<std::size_t>(2 * (r * tile_columns + exchanged * 8 + c % 8));
        wrong += (got[at] | got[at + 1] << 8) != (inside ? element(row, column) : 0);
      }
    tile += static_cast<std::size_t>(tile_rows * tile_columns * 2);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("tensor_copy/tile/every swizzle, inside and at the edges") {
  const OnArch arch(90);
  Matrix matrix(21, 150, 152);
  const std::vector<TileAt> tiles{{0, 0}, {64, 8}, {128, 16}, {149, 20}, {-8, -3}, {150, 0}, {0, 21}, {-64, 2}, {7, 5}};
  for (const int swizzle : {16, 32, 64, 128}) check(matrix, 16, swizzle == 16 ? 24 : swizzle / 2, swizzle, 2, tiles);
}

TEST_CASE("tensor_copy/tile/one row, one tile, the largest") {
  const OnArch arch(90);
  Matrix row(1, 3, 8), wide(256, 64, 64);
  check(row, 8, 64, 128, 1, {{0, 0}});
  check(wide, 256, 64, 128, 1, {{0, 0}, {0, 1}});
  check(wide, 1, 64, 128, 3, {{0, 0}, {0, 255}, {8, 7}, {0, 256}});
}

TEST_CASE("tensor_copy/in_every_order/more tiles than stages") {
  const OnArch arch(90);
  Matrix matrix(40, 200, 208);
  std::vector<TileAt> tiles;
  for (int i = 0; i < 11; ++i) tiles.push_back({i * 17 - 5, 30 - i * 4});
  for_each_order([&] { check(matrix, 24, 64, 128, 3, tiles); });
}

TEST_CASE("tensor_copy/map/refused in one line where no device can copy") {
  Matrix matrix(4, 16, 16);
  const MatrixTiles good = matrix.tiles(4, 64, 128);
  avid::kernels::check_matrix_tiles("op", "w", good);
  const auto refused = [&](auto change, const char* expected) {
    MatrixTiles m = good;
    change(m);
    std::string text;
    try {
      avid::kernels::check_matrix_tiles("op", "w", m);
    } catch (const GpuError& e) {
      text = e.what();
    }
    CAPTURE(text);
    CHECK(text.starts_with("op: w: tensor copies: expected "));
    CHECK(text.find(expected) != std::string::npos);
    CHECK(text.find(" rows of ") != std::string::npos);
    CHECK(text.find('\n') == std::string::npos);
  };
  refused([](MatrixTiles& m) { m.data = static_cast<const char*>(m.data) + 8; }, "multiple of 16");
  refused([](MatrixTiles& m) { m.data = nullptr; }, "multiple of 16");
  refused([](MatrixTiles& m) { m.columns = 0; }, "1 to 2^32");
  refused([](MatrixTiles& m) { m.rows = (std::uint64_t{1} << 32) + 1; }, "1 to 2^32");
  refused([](MatrixTiles& m) { m.row_bytes = 40; }, "multiple of 16 bytes apart");
  refused([](MatrixTiles& m) { m.row_bytes = std::uint64_t{1} << 40; }, "less than 2^40");
  refused([](MatrixTiles& m) { m.row_bytes = 16; }, "do not overlap");
  refused([](MatrixTiles& m) { m.tile_rows = 257; }, "1 to 256 rows");
  refused([](MatrixTiles& m) { m.tile_columns = 0; }, "1 to 256 rows");
  refused([](MatrixTiles& m) { m.tile_columns = 32; }, "as long as the swizzle");
  refused([](MatrixTiles& m) { m.swizzle_bytes = 16, m.tile_columns = 12; }, "as long as the swizzle");
}
