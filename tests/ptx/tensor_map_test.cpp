// tests/ptx/tensor_map_test.cpp -- the machine's cuTensorMapEncodeTiled: what it writes, and each of the driver's rules
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <functional>
#include <string>

#include "kernels/ptx/tensor_map_encoding.h"
#include "tests/in_child.h"

namespace {

using avid::kernels::ptx::EncodedTensorMap;

alignas(128) unsigned char matrix[4096];

/// Arguments that are in order: 40 rows of 24 elements, 64 bytes apart, in tiles of 8 rows of 16 elements.
struct Arguments {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  cuuint32_t rank = 2;
  unsigned char* address = matrix;
  cuuint64_t sizes[2] = {24, 40}, strides[1] = {64};
  cuuint32_t tile[2] = {16, 8}, steps[2] = {1, 1};
  CUtensorMapInterleave interleave = CU_TENSOR_MAP_INTERLEAVE_NONE;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_32B;
  CUtensorMapFloatOOBfill fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  std::size_t map_offset = 0;
};

/// As a program asks for it.
decltype(&cuTensorMapEncodeTiled) encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  REQUIRE(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) ==
      cudaSuccess);
  REQUIRE(found == cudaDriverEntryPointSuccess);
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

CUresult encode_with(const Arguments& a, EncodedTensorMap* answer = nullptr) {
  alignas(128) unsigned char maps[256];
  std::memset(maps, 0x55, sizeof(maps));
  auto* map = reinterpret_cast<CUtensorMap*>(maps + a.map_offset);
  const CUresult result = encode()(
      map, a.type, a.rank, a.address, a.sizes, a.strides, a.tile, a.steps, a.interleave, a.swizzle,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, a.fill);
  if (answer != nullptr) *answer = *reinterpret_cast<const EncodedTensorMap*>(map);
  CHECK(maps[a.map_offset + 128] == 0x55);
  return result;
}

}  // namespace

TEST_CASE("tensor_map/encoding/says what was asked for") {
  EncodedTensorMap map;
  REQUIRE(encode_with({}, &map) == CUDA_SUCCESS);
  CHECK(map.magic == EncodedTensorMap::kMagic);
  CHECK(map.address == reinterpret_cast<std::uint64_t>(matrix));
  CHECK(map.columns == 24);
  CHECK(map.rows == 40);
  CHECK(map.row_bytes == 64);
  CHECK(map.element_bytes == 2);
  CHECK(map.tile_columns == 16);
  CHECK(map.tile_rows == 8);
  CHECK(map.swizzle_bytes == 32);
  for (const auto& [swizzle, bytes] :
       {std::pair{CU_TENSOR_MAP_SWIZZLE_NONE, 0u}, std::pair{CU_TENSOR_MAP_SWIZZLE_64B, 64u},
        std::pair{CU_TENSOR_MAP_SWIZZLE_128B, 128u}}) {
    REQUIRE(encode_with({.swizzle = swizzle}, &map) == CUDA_SUCCESS);
    CHECK(map.swizzle_bytes == bytes);
  }
}

TEST_CASE("tensor_map/rules/each that is broken is refused") {
  struct Case {
    const char* name;
    std::function<void(Arguments&)> change;
    const char* reason;
    CUresult expected = CUDA_ERROR_INVALID_VALUE;
  };
  const Case cases[] = {
      {"map", [](Arguments& a) { a.map_offset = 32; }, "multiple of 64"},
      {"address", [](Arguments& a) { a.address += 8; }, "multiple of 16"},
      {"no columns", [](Arguments& a) { a.sizes[0] = 0; }, "1 to 2^32"},
      {"too many rows", [](Arguments& a) { a.sizes[1] = (cuuint64_t{1} << 32) + 1; }, "1 to 2^32"},
      {"stride", [](Arguments& a) { a.strides[0] = 72; }, "multiple of 16"},
      {"long stride", [](Arguments& a) { a.strides[0] = cuuint64_t{1} << 40; }, "below 2^40"},
      {"rows overlap", [](Arguments& a) { a.strides[0] = 32; }, "overlap"},
      {"no tile", [](Arguments& a) { a.tile[1] = 0; }, "1 to 256"},
      {"tall tile", [](Arguments& a) { a.tile[1] = 257; }, "1 to 256"},
      {"narrow tile", [](Arguments& a) { a.tile[0] = 4; }, "multiple of 16 bytes"},
      {"wider than the swizzle", [](Arguments& a) { a.tile[0] = 24; }, "longer than the swizzle"},
      {"element stride", [](Arguments& a) { a.steps[1] = 9; }, "1 to 8"},
      {"every other row", [](Arguments& a) { a.steps[1] = 2; }, "modelled", CUDA_ERROR_NOT_SUPPORTED},
      {"three dimensions", [](Arguments& a) { a.rank = 3; }, "modelled", CUDA_ERROR_NOT_SUPPORTED},
      {"f32", [](Arguments& a) { a.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32; }, "modelled", CUDA_ERROR_NOT_SUPPORTED},
      {"interleaved", [](Arguments& a) { a.interleave = CU_TENSOR_MAP_INTERLEAVE_16B; }, "modelled",
       CUDA_ERROR_NOT_SUPPORTED},
      {"NaN outside", [](Arguments& a) { a.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA; }, "modelled",
       CUDA_ERROR_NOT_SUPPORTED},
  };
  for (const Case& c : cases) {
    const std::string name = c.name;
    CAPTURE(name);
    Arguments arguments;
    c.change(arguments);
    const avid::test::Outcome outcome = avid::test::in_child([&] { return static_cast<int>(encode_with(arguments)); });
    CHECK(outcome.result == c.expected);
    CHECK(outcome.text.find(c.reason) != std::string::npos);
  }
}

TEST_CASE("tensor_map/driver/other functions and older versions are not found") {
  void* function = matrix;
  cudaDriverEntryPointQueryResult found{};
  CHECK(cudaGetDriverEntryPointByVersion("cuInit", &function, 12000, cudaEnableDefault, &found) == cudaSuccess);
  CHECK(found == cudaDriverEntryPointSymbolNotFound);
  CHECK(function == nullptr);
  CHECK(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 11000, cudaEnableDefault, &found) ==
      cudaSuccess);
  CHECK(found == cudaDriverEntryPointVersionNotSufficent);
  CHECK(function == nullptr);
}
