// tests/tensor/npz_test.cpp -- files of NumPy, round trips, refused layouts, damaged headers
#include "tensor/io/npz.h"

#include <cstring>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;
using test::TempDir;

namespace {

std::string npy(const std::string& dict, std::size_t data_bytes, char major = 1) {
  std::string text = "\x93NUMPY";
  text += {major, '\0', static_cast<char>(dict.size() & 0xff), static_cast<char>(dict.size() >> 8)};
  if (major > 1) text += std::string(2, '\0');
  return text + dict + std::string(data_bytes, '\0');
}

std::string complaint(const std::string& bytes) {
  const TempDir dir;
  write_text_atomic(dir / "f.npy", bytes);
  try {
    const NpyFile file(dir / "f.npy");
    return "";
  } catch (const FileError& error) {
    const std::string text = error.what();
    CHECK(text.find('\n') == std::string::npos);
    return text;
  }
}

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void check_arrays(const NpzFile& file) {
  const Tensor obs = file.load("obs");
  CHECK(obs.shape() == Shape{2, 4, 4, 3});
  const auto pixels = obs.to_values<std::uint8_t>();
  for (std::size_t i = 0; i < pixels.size(); ++i) CHECK(pixels[i] == i * 7 % 256);
  CHECK(file.load("act").to_values<std::int64_t>() == std::vector<std::int64_t>{-1, 0});
  CHECK(file.load("rew").shape() == Shape{0});
  CHECK(file.load("rew").dtype() == DType::f64);
  CHECK(file.load("f4").to_doubles() == std::vector<double>{0, 0.5, 1, 1.5, 2, 2.5});
  CHECK(test::gaps_are_zero(file.load("f4")));
  CHECK(file.load("f2").dtype() == DType::f16);
  CHECK(file.load("f2").to_doubles() == std::vector<double>{0, 0.5, 1, 1.5, 2});
  CHECK(file.load("i4").to_values<std::int32_t>() == std::vector<std::int32_t>{0, 3, 6});
  CHECK(file.load("b1").to_values<std::uint8_t>() == std::vector<std::uint8_t>{1, 0});
  CHECK(file.load("scalar").shape() == Shape{});
  CHECK(file.load("scalar").item() == 2.5);
  CHECK_THROWS_WITH_AS(file.load("i2"), doctest::Contains("<i2 cannot be loaded"), FileError);
  CHECK_THROWS_WITH_AS(file.load("big"), doctest::Contains(">f4 cannot be loaded"), FileError);
  CHECK(file.tensors().size() == 10);
}

}  // namespace

TEST_CASE("npz/numpy/stored") { check_arrays(NpzFile(golden("files/arrays.npz"))); }
TEST_CASE("npz/numpy/deflated") { check_arrays(NpzFile(golden("files/arrays_deflated.npz"))); }
TEST_CASE("npz/numpy/streamed_with_data_descriptors") { check_arrays(NpzFile(golden("files/arrays_streamed.npz"))); }

TEST_CASE("npz/numpy/single_npy") {
  const NpyFile file(golden("files/array.npy"));
  CHECK(file.load("array").to_doubles() == std::vector<double>{0, 0.5, 1, 1.5, 2, 2.5});
}

TEST_CASE("npz/refused/fortran_objects_structured") {
  CHECK_THROWS_WITH_AS(NpzFile(golden("files/fortran.npz")), doctest::Contains("fortran_order"), FileError);
  CHECK_THROWS_WITH_AS(NpzFile(golden("files/objects.npz")), doctest::Contains("object arrays"), FileError);
  CHECK_THROWS_WITH_AS(NpzFile(golden("files/structured.npz")), doctest::Contains("structured arrays"), FileError);
}

TEST_CASE("npz/round_trip/every_dtype_stored_and_deflated") {
  const TempDir dir;
  NamedTensors tensors;
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::i64, DType::i32, DType::u8}) {
    tensors.emplace_back(fmt::format("a.{}", name_of(dtype)), test::random_tensor({3, 2, 5}, dtype, 3, 100));
    tensors.emplace_back(fmt::format("one/{}", name_of(dtype)), test::random_tensor({9}, dtype, 4, 100));
    tensors.emplace_back(
        fmt::format("scalar {}", name_of(dtype)), Tensor::scalar(-1.5, dtype == DType::u8 ? DType::f32 : dtype));
    tensors.emplace_back(fmt::format("empty{}", name_of(dtype)), Tensor::empty({2, 0}, dtype));
  }
  for (const bool compress : {false, true}) {
    save_npz(dir / "a.npz", tensors, compress);
    const NpzFile file(dir / "a.npz");
    CHECK(file.names().size() == tensors.size());
    for (const auto& [name, tensor] : tensors) CHECK_MESSAGE(test::same_bits(file.load(name), tensor), name);
    const auto bytes = read_text(dir / "a.npz");
    save_npz(dir / "b.npz", tensors, compress);
    CHECK(read_text(dir / "b.npz") == bytes);
  }
  save_npz(dir / "none.npz", {});
  CHECK(NpzFile(dir / "none.npz").tensors().empty());
  const Tensor t = test::random_tensor({2, 3}, DType::f64, 5);
  save_npy(dir / "t.npy", t);
  CHECK(test::same_bits(NpyFile(dir / "t.npy").load("array"), t));
}

TEST_CASE("npz/write/data_start_at_a_multiple_of_64") {
  const TempDir dir;
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{1, 2, 3, 4, 5, 6, 7, 1}, Shape{123456}}) {
    save_npy(dir / "a.npy", Tensor::zeros(shape, DType::u8));
    const auto bytes = read_text(dir / "a.npy");
    CHECK((bytes.size() - static_cast<std::size_t>(shape.numel())) % 64 == 0);
  }
}

TEST_CASE("npz/write/refused_without_leaving_a_file") {
  const TempDir dir;
  const Tensor t = Tensor::zeros({2});
  CHECK_THROWS_WITH_AS(
      save_npz(dir / "a", {{"x", Tensor::zeros({2}, DType::bf16)}}), doctest::Contains("NumPy has no bf16"), FileError);
  CHECK_THROWS_AS(save_npz(dir / "a", {{"x", t}, {"x", t}}), FileError);
  CHECK_THROWS_AS(save_npz(dir / "a", {{"", t}}), FileError);
  CHECK_THROWS_AS(save_npz(dir / "a", {{"x", Tensor()}}), FileError);
  CHECK_THROWS_AS(save_npz(dir / "no/folder/a", {{"x", t}}), FileError);
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("npz/header/python_literals") {
  CHECK(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 8)).empty());
  CHECK(complaint(npy("{\"shape\":(2,1),\"descr\":\"<f4\",\"fortran_order\":False}\n", 8)).empty());
  CHECK(complaint(npy("{ 'descr' : '|b1' , 'fortran_order' : False , 'shape' : ( 3L , ) }   \n", 3)).empty());
  CHECK(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4)).empty());
  CHECK(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4, 2)).empty());
  CHECK(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4, 3)).empty());
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4, 4)), "version 4"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2), }", 8)), "damaged"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", 8)), "damaged"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", 24)), "damaged"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,), }", 8)), "damaged"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x", 8)), "damaged"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", 8)), "damaged"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'shape': (2,)}", 8)), "expected descr, fortran_order and shape"));
  CHECK(mentions(
      complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 'y'}", 8)), "unknown key 'x'"));
  CHECK(mentions(
      complaint(npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 8)), "appears twice"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", 8)), "ascontiguousarray"));
  CHECK(mentions(complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 8)), "needs 12 bytes"));
  CHECK(mentions(
      complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,99999999999)}", 8)), "2^56"));
  CHECK(mentions(
      complaint(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 8)), "damaged"));
  CHECK(mentions(complaint("\x93NUMPY\x01"), "not an npy array"));
}

TEST_CASE("npz/crc/changed_data_are_noticed") {
  const TempDir dir;
  std::string bytes = read_text(golden("files/arrays.npz"));
  const std::size_t at = bytes.find(std::string("\x00\x07\x0e\x15\x1c\x23", 6));  // the first pixels of obs
  REQUIRE(at != std::string::npos);
  bytes[at + 3] ^= 1;
  write_text_atomic(dir / "a.npz", bytes);
  CHECK_THROWS_WITH_AS(NpzFile(dir / "a.npz").load("obs"), doctest::Contains("CRC"), FileError);
}
