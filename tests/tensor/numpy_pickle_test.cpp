// tests/tensor/numpy_pickle_test.cpp -- pickles of NumPy arrays: NumPy's own files, and what is refused
#include "tensor/io/numpy_pickle.h"

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using test::golden;

namespace {

std::string complaint(const std::string& bytes) {
  const test::TempDir dir;
  write_text_atomic(dir / "f.pickle", bytes);
  try {
    const NumpyPickleFile file(dir / "f.pickle");
    return "";
  } catch (const FileError& error) {
    CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    return error.what();
  }
}

std::vector<double> ramp(int count, double scale, double offset) {
  std::vector<double> values;
  for (int i = 0; i < count; ++i) values.push_back(i * scale + offset);
  return values;
}

}  // namespace

TEST_CASE("numpy_pickle/numpy/nested_arrays_of_three_protocols") {
  for (const char* name : {"files/arrays_p3.pickle", "files/arrays_p4.pickle", "files/arrays_p5.pickle"}) {
    CAPTURE(name);
    const auto file = open_tensor_file(golden(name));
    CHECK(std::string(file->format()) == "numpy pickle");
    CHECK(
        file->names() == std::vector<std::string>{
                             "params.Branch_0/Conv.kernel", "params.Branch_0/Conv.bias", "params.fortran",
                             "params.list.0", "params.list.1", "i2", "f2", "empty", "b1"});
    const Tensor kernel = file->load("params.Branch_0/Conv.kernel");
    CHECK(kernel.shape() == Shape{2, 3, 4});
    CHECK(kernel.dtype() == DType::f32);
    CHECK(kernel.to_doubles() == ramp(24, 0.5, -1));
    CHECK(test::gaps_are_zero(kernel));
    CHECK(file->load("params.Branch_0/Conv.bias").to_doubles() == ramp(4, 1, 0));
    const Tensor fortran = file->load("params.fortran");
    CHECK(fortran.shape() == Shape{2, 3});
    CHECK(fortran.dtype() == DType::f64);
    CHECK(fortran.to_doubles() == ramp(6, 1, 0));
    CHECK(file->load("params.list.0").dtype() == DType::i64);
    CHECK(file->load("params.list.0").to_doubles() == ramp(300, 1, -1));
    CHECK(file->load("params.list.1").shape() == Shape{});
    CHECK(file->load("params.list.1").item() == 3);
    CHECK(file->load("f2").dtype() == DType::f16);
    CHECK(file->load("f2").to_doubles() == ramp(5, 0.5, 0));
    CHECK(file->load("empty").shape() == Shape{0, 3});
    CHECK(file->load("b1").to_values<std::uint8_t>() == std::vector<std::uint8_t>{1, 0});
    CHECK_THROWS_WITH_AS(file->load("i2"), doctest::Contains("ShortStorage cannot be loaded"), FileError);
    CHECK(file->metadata() == std::map<std::string, std::string>{{"note", "text"}, {"steps", "7"}});
  }
}

TEST_CASE("numpy_pickle/refused/types_and_protocols") {
  CHECK_THROWS_WITH_AS(
      NumpyPickleFile(golden("files/big.pickle")), doctest::Contains("arrays of >f4 cannot be read"), FileError);
  CHECK_THROWS_WITH_AS(
      NumpyPickleFile(golden("files/objects.pickle")), doctest::Contains("arrays of |O8 cannot be read"), FileError);
  CHECK_THROWS_WITH_AS(
      NumpyPickleFile(golden("files/p2.pickle")), doctest::Contains("protocol 2: use 3, 4 or 5"), FileError);
}

TEST_CASE("numpy_pickle/errors/truncated_lengthened_changed") {
  const std::string whole = read_text(golden("files/arrays_p3.pickle"));
  REQUIRE(complaint(whole).empty());
  CHECK(complaint(whole + "x").find("1 bytes behind its end") != std::string::npos);
  CHECK(complaint(whole.substr(0, whole.size() / 2)).find("truncated") != std::string::npos);
  // The extents of the first array: one more row than there are values.
  std::string taller = whole;
  const std::string extents{"K\x02K\x03K\x04"};
  REQUIRE(taller.find(extents) != std::string::npos);
  taller[taller.find(extents) + 1] = '\x03';
  CHECK(complaint(taller).find("<f4 [3,3,4] needs 144 bytes, 96 are there") != std::string::npos);
  // Functions that are no arrays' are refused by name and never called.
  std::string other = whole;
  const std::string name = "cnumpy.core.multiarray\n_reconstruct\n";
  REQUIRE(other.find(name) != std::string::npos);
  other.replace(other.find(name), name.size(), "cos\nsystem\n");
  CHECK(complaint(other).find("pickle asks for 'os.system'") != std::string::npos);
}

TEST_CASE("numpy_pickle/errors/a_torch_checkpoint_may_not_hold_arrays") {
  // The dialects stay apart: what a bare pickle may hold is still refused inside files of torch.save.
  const std::string bytes = read_text(golden("files/arrays_p4.pickle"));
  CHECK_THROWS_WITH_AS(
      read_pickle("p", std::as_bytes(std::span(bytes)), UnknownObjects::refuse, 100000),
      doctest::Contains("not on the list of harmless names"), FileError);
}
