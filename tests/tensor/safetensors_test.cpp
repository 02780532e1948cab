// tests/tensor/safetensors_test.cpp -- round trips, a foreign file, every header field broken in turn
#include "tensor/io/safetensors.h"

#include <cstring>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;
using test::TempDir;

namespace {

// A file with this JSON header and so many bytes of data 0, 1, 2, ...
void write_file(const std::filesystem::path& path, const std::string& header, std::size_t data_bytes) {
  std::string text(8, '\0');
  const std::uint64_t n = header.size();
  std::memcpy(text.data(), &n, 8);
  text += header;
  for (std::size_t i = 0; i < data_bytes; ++i) text += static_cast<char>(i);
  write_text_atomic(path, text);
}

// The error of opening such a file, "" when it opens.
std::string complaint(const std::string& header, std::size_t data_bytes) {
  const TempDir dir;
  write_file(dir / "f", header, data_bytes);
  try {
    const SafetensorsFile file(dir / "f");
    return "";
  } catch (const FileError& error) {
    const std::string text = error.what();
    CHECK(text.find((dir / "f").string()) == 0);
    CHECK(text.find('\n') == std::string::npos);
    return text;
  }
}

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string one(const std::string& fields) { return "{\"x\":{" + fields + "}}"; }

}  // namespace

TEST_CASE("safetensors/round_trip/every_dtype_pitched_scalar_empty_metadata") {
  const TempDir dir;
  NamedTensors tensors;
  for (const DType dtype : {DType::u8, DType::f64, DType::bf16, DType::i64, DType::f32, DType::f16, DType::i32}) {
    tensors.emplace_back(fmt::format("a.{}", name_of(dtype)), test::random_tensor({2, 3, 5}, dtype, 1, 100));
    tensors.emplace_back(fmt::format("scalar.{}", name_of(dtype)), Tensor::scalar(3, dtype));
    tensors.emplace_back(fmt::format("empty.{}", name_of(dtype)), Tensor::empty({0, 7}, dtype));
    tensors.emplace_back(
        fmt::format("view.{}", name_of(dtype)), test::random_tensor({4, 9}, dtype, 2, 100).slice(1, 3));
  }
  const std::map<std::string, std::string> metadata{{"note", "first \"line\"\nsecond é"}, {"empty", ""}};
  save_safetensors(dir / "a.safetensors", tensors, metadata);
  const SafetensorsFile file(dir / "a.safetensors");
  CHECK(file.tensors().size() == tensors.size());
  CHECK(file.metadata() == metadata);
  for (const auto& [name, tensor] : tensors) {
    const Tensor loaded = file.load(name);
    CHECK_MESSAGE(test::same_bits(loaded, tensor), name);
    CHECK(test::gaps_are_zero(loaded));
  }
  const auto bytes = read_text(dir / "a.safetensors");
  save_safetensors(dir / "b.safetensors", tensors, metadata);
  CHECK(read_text(dir / "b.safetensors") == bytes);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  CHECK(header_bytes % 8 == 0);
  CHECK(test::same_bits(file.load_all().at(0).second, file.load(file.names().at(0))));
}

TEST_CASE("safetensors/round_trip/no_tensors_and_no_metadata") {
  const TempDir dir;
  save_safetensors(dir / "a", {});
  CHECK(SafetensorsFile(dir / "a").tensors().empty());
  CHECK(SafetensorsFile(dir / "a").metadata().empty());
}

TEST_CASE("safetensors/write/wider_elements_first_so_that_all_are_aligned") {
  const TempDir dir;
  save_safetensors(
      dir / "a", {{"b", Tensor::zeros({3}, DType::u8)},
                  {"h", Tensor::zeros({3}, DType::f16)},
                  {"d", Tensor::zeros({1}, DType::f64)}});
  CHECK(SafetensorsFile(dir / "a").names() == std::vector<std::string>{"d", "h", "b"});
}

TEST_CASE("safetensors/write/refused_names_and_texts_leave_no_file") {
  const TempDir dir;
  const Tensor t = Tensor::zeros({2});
  CHECK_THROWS_AS(save_safetensors(dir / "a", {{"x", t}, {"x", t}}), FileError);
  CHECK_THROWS_AS(save_safetensors(dir / "a", {{"__metadata__", t}}), FileError);
  CHECK_THROWS_AS(save_safetensors(dir / "a", {{"x", Tensor()}}), FileError);
  CHECK_THROWS_AS(save_safetensors(dir / "a", {{"\xff\xfe", t}}), FileError);
  CHECK_THROWS_AS(save_safetensors(dir / "a", {{"x", t}}, {{"k", "\xff"}}), FileError);
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("safetensors/foreign/file_of_the_reference_library") {
  const SafetensorsFile file(golden("files/tensors.safetensors"));
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"note", "héllo"}});
  const Tensor f32 = file.load("f32");
  CHECK(f32.shape() == Shape{2, 3, 5});
  CHECK(f32.pitch() == 8);
  for (std::size_t i = 0; i < 30; ++i) CHECK(f32.to_doubles()[i] == -1 + 0.25 * static_cast<double>(i));
  CHECK(
      file.load("i64").to_values<std::int64_t>() ==
      std::vector<std::int64_t>{-1, 999999999999, 1999999999999, 2999999999999});
  CHECK(file.load("bf16").to_doubles() == std::vector<double>{-1, -0.75, -0.5, -0.25, 0, 0.25});
  CHECK(file.load("f16").to_doubles() == std::vector<double>{-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5});
  CHECK(file.load("bool").to_values<std::uint8_t>() == std::vector<std::uint8_t>{1, 0, 1});
  CHECK(file.load("scalar").shape() == Shape{});
  CHECK(file.load("scalar").item() == 2.5);
  CHECK(file.load("empty").shape() == Shape{0, 3});
  CHECK(file.info("i16").file_dtype == "I16");
  CHECK_THROWS_WITH_AS(file.load("i16"), doctest::Contains("element type I16 cannot be loaded"), FileError);
  CHECK_THROWS_WITH_AS(file.load("f33"), doctest::Contains("did you mean 'f32'"), FileError);
}

TEST_CASE("safetensors/header/legal_variants_open") {
  CHECK(complaint("{}", 0).empty());
  CHECK(complaint("{}      ", 0).empty());
  CHECK(complaint(one(R"("dtype":"F32","shape":[],"data_offsets":[0,4])"), 4).empty());
  CHECK(complaint(one(R"("data_offsets":[0,0],"shape":[0,4],"dtype":"F32")"), 0).empty());
  CHECK(complaint(one(R"("dtype":"F4_E2M1","shape":[3],"data_offsets":[0,2])"), 2).empty());  // unknown: listed
  CHECK(complaint(
            R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
            R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
            2)
            .empty());
}

TEST_CASE("safetensors/header/every_field_is_checked") {
  CHECK(mentions(complaint("", 0), "expected '{'"));
  CHECK(mentions(complaint("[]", 0), "expected '{'"));
  CHECK(mentions(complaint("{\"x\"", 0), "not valid JSON"));
  CHECK(mentions(complaint("{\"\xff\":1}", 0), "not valid JSON"));
  CHECK(mentions(complaint("{} x", 0), "not valid JSON"));
  CHECK(mentions(complaint("{\"x\":1}", 0), "expected an object"));
  CHECK(mentions(complaint("{\"x\":{\"a\":[[[[[[[[[[[[]]]]]]]]]]]]}}", 0), "nested deeper"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1])"), 4), "exactly dtype, shape and data_offsets"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"z":1)"), 4), "exactly dtype"));
  CHECK(mentions(
      complaint(one(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), 4), "'dtype' appears twice"));
  CHECK(mentions(
      complaint(
          R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
          R"("x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          1),
      "'x' appears twice"));
  CHECK(mentions(complaint(one(R"("dtype":7,"shape":[1],"data_offsets":[0,4])"), 4), "dtype: expected text"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4), "shape: expected a list"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4), "expected integers"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4), "expected integers"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), 4), "absurd"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), 4), "2^56"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[4294967296,0,4294967296],"data_offsets":[0,0])"), 0), "2^56"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4), "needs 8 bytes"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4), "[begin,end]"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4), "outside"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,"4"])"), 4), "expected integers"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 3), "outside the 3 bytes"));
  CHECK(mentions(
      complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 5),
      "4 bytes of data announced, the file has 5"));
  CHECK(mentions(complaint(one(R"("dtype":"F32","shape":[1],"data_offsets":[1,5])"), 5), "overlap or leave a hole"));
  CHECK(mentions(
      complaint(
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
          R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          3),
      "overlap or leave a hole"));
  CHECK(mentions(complaint(R"({"__metadata__":{"a":1}})", 0), "expected text"));
  CHECK(mentions(complaint(R"({"__metadata__":[]})", 0), "expected an object"));
}

TEST_CASE("safetensors/header/absurd_lengths") {
  const TempDir dir;
  const auto open_with_length = [&](std::uint64_t length, const std::string& rest) {
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    write_text_atomic(dir / "f", text + rest);
    return SafetensorsFile(dir / "f").tensors().size();
  };
  CHECK(open_with_length(2, "{}") == 0);
  CHECK_THROWS_WITH_AS(open_with_length(~std::uint64_t{0}, "{}"), doctest::Contains("at most 100000000"), FileError);
  CHECK_THROWS_WITH_AS(open_with_length(100000001, "{}"), doctest::Contains("at most 100000000"), FileError);
  CHECK_THROWS_WITH_AS(open_with_length(3, "{}"), doctest::Contains("truncated"), FileError);
  write_text_atomic(dir / "short", "1234567");
  CHECK_THROWS_WITH_AS(SafetensorsFile(dir / "short"), doctest::Contains("truncated"), FileError);
  CHECK_THROWS_AS(SafetensorsFile(dir / "none"), FileError);
  CHECK_THROWS_WITH_AS(SafetensorsFile(dir.path()), doctest::Contains("a folder"), FileError);
}

TEST_CASE("safetensors/rank/nine_dimensions_are_listed_but_not_loaded") {
  const TempDir dir;
  write_file(dir / "f", one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,2])"), 2);
  const SafetensorsFile file(dir / "f");
  CHECK(file.info("x").shape.size() == 9);
  CHECK_THROWS_WITH_AS(file.load("x"), doctest::Contains("9 dimensions"), FileError);
}
