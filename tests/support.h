// tests/support.h -- comparisons, temporary folders and fixtures for all tests
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace avid::test {

/// True at the slow level (environment AVID_TEST_LEVEL=full): more sizes, more kill points, more flips.
bool full_level();

/// ||a - b||_2 / ||b||_2 in f64; b is the reference. NaN anywhere, or another shape, gives infinity.
double rel_l2(const Tensor& a, const Tensor& b);
/// Largest |a - b|; NaN anywhere, or another shape, gives infinity.
double max_abs_diff(const Tensor& a, const Tensor& b);
/// Same dtype, shape and bits of every logical element.
bool same_bits(const Tensor& a, const Tensor& b);
/// Everything behind the last column of every row is zero.
bool gaps_are_zero(const Tensor& t);

/// A tensor of numbers uniform in [-scale, scale), reproducible from the seed.
Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed, double scale = 1.0);

/// The device that device_test.cpp files run on: the simulator, or with AVID_TEST_DEVICE=cuda the first GPU. Without a
/// GPU it prints "skipped: ..." and ends the program with success: ctest shows such a test as skipped.
Device device_under_test();

/// tests/golden/<name> in the source tree, or $AVID_GOLDEN/<name>.
std::filesystem::path golden(const std::string& name);

/// A fresh folder, removed with everything in it at the end of the scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// The outcome of a program run by run_program.
struct ProgramResult {
  int exit_code = -1;  ///< 128 + signal when killed
  std::string out, err;
};
/// Runs a program without a shell, waits, and captures what it prints.
ProgramResult run_program(const std::vector<std::string>& command);

}  // namespace avid::test
