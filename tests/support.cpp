// tests/support.cpp -- comparisons, temporary folders and child programs for all tests
#include "tests/support.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>

namespace avid::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

bool full_level() {
  const char* level = std::getenv("AVID_TEST_LEVEL");
  return level != nullptr && std::string(level) == "full";
}

double rel_l2(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined() || a.shape() != b.shape()) return kInfinity;
  const auto x = a.to_doubles(), y = b.to_doubles();
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (x[i] - y[i]) * (x[i] - y[i]);
    norm += y[i] * y[i];
  }
  if (std::isnan(error)) return kInfinity;
  return error == 0 ? 0 : norm == 0 ? kInfinity : std::sqrt(error / norm);
}

double max_abs_diff(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined() || a.shape() != b.shape()) return kInfinity;
  const auto x = a.to_doubles(), y = b.to_doubles();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    if (std::isnan(d)) return kInfinity;  // std::max would drop it
    worst = std::max(worst, d);
  }
  return worst;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.defined() && b.defined() && a.dtype() == b.dtype() && a.shape() == b.shape() &&
         a.to_dense_bytes() == b.to_dense_bytes();
}

bool gaps_are_zero(const Tensor& t) {
  const std::size_t item = size_of(t.dtype());
  const auto* bytes = static_cast<const std::byte*>(t.raw_data());
  for (std::int64_t r = 0; r < t.rows(); ++r)
    for (std::size_t i = static_cast<std::size_t>(t.cols()) * item; i < static_cast<std::size_t>(t.pitch()) * item; ++i)
      if (bytes[static_cast<std::size_t>(r * t.pitch()) * item + i] != std::byte{0}) return false;
  return true;
}

Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed, double scale) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> uniform(-scale, scale);
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) v = uniform(engine);
  return Tensor::from_values(values, shape).to(dtype);
}

Device device_under_test() {
  const char* name = std::getenv("AVID_TEST_DEVICE");
  if (name == nullptr) {
    // Tests run beside one another, and their launches are small: a second thread only spins at the end of each.
    setenv("AVID_SIM_THREADS", "1", 0);
    return {DeviceKind::sim, 0};
  }
  try {
    return Device::parse(name);
  } catch (const DeviceError& error) {
    std::printf("skipped: %s\n", error.what());
    std::exit(0);
  }
}

std::filesystem::path golden(const std::string& name) {
  const char* elsewhere = std::getenv("AVID_GOLDEN");  // a bundle without the source tree
  return (elsewhere != nullptr ? std::filesystem::path(elsewhere)
                               : std::filesystem::path(AVID_SOURCE_DIR) / "tests/golden") /
         name;
}

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "avid-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) fail<FileError>("tests: cannot make a temporary folder");
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

ProgramResult run_program(const std::vector<std::string>& command) {
  const TempDir dir;
  const std::string out_path = dir / "out", err_path = dir / "err";
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const int out = open(out_path.c_str(), O_WRONLY | O_CREAT, 0600),
              err = open(err_path.c_str(), O_WRONLY | O_CREAT, 0600);
    const int in = open("/dev/null", O_RDONLY);
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_all(out_path);
  result.err = read_all(err_path);
  return result;
}

}  // namespace avid::test
