// eval/metrics/frechet.cpp -- Frechet distance between two sets of features
#include "eval/metrics/frechet.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "eval/metrics/tridiagonal.h"
#include "tensor/error.h"

namespace avid::eval {
namespace {

/// Columns of a matrix, each contiguous: Householder reflections then run along memory.
struct Columns {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> values;
  double* col(std::int64_t j) { return values.data() + j * rows; }
};

double dot(const double* a, const double* b, std::int64_t n) { return std::inner_product(a, a + n, b, 0.0); }

/// Turns v [n] into the Householder vector (scaled so that the reflection is I - tau v v^T) and returns {tau, value}:
/// the reflection maps the old v to value * e_0.
struct Reflection {
  double tau, value;
};
Reflection make_reflection(double* v, std::int64_t n) {
  const double largest =
      std::abs(*std::max_element(v, v + n, [](double a, double b) { return std::abs(a) < std::abs(b); }));
  if (largest == 0) return {0, 0};
  for (std::int64_t i = 0; i < n; ++i) v[i] /= largest;  // the squares cannot overflow or vanish
  const double norm = std::copysign(std::sqrt(dot(v, v, n)), v[0]);
  v[0] += norm;
  return {1 / (norm * v[0]), -norm * largest};
}

/// w -= tau (v.w) v
void reflect(const Reflection& r, const double* v, double* w, std::int64_t n) {
  const double s = r.tau * dot(v, w, n);
  for (std::int64_t i = 0; i < n; ++i) w[i] -= s * v[i];
}

/// The upper triangle R [D,D], row-major, of the QR factors of X [N,D], N >= D.
std::vector<double> triangular_factor(const std::vector<double>& x, std::int64_t n, std::int64_t d) {
  Columns a{n, d, std::vector<double>(x.size())};
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < d; ++j) a.col(j)[i] = x[static_cast<std::size_t>(i * d + j)];
  std::vector<double> r(static_cast<std::size_t>(d * d), 0.0);
  for (std::int64_t k = 0; k < d; ++k) {
    const Reflection reflection = make_reflection(a.col(k) + k, n - k);
    r[static_cast<std::size_t>(k * d + k)] = reflection.value;
#pragma omp parallel for schedule(static) if ((d - k) * (n - k) > 1 << 15)
    for (std::int64_t j = k + 1; j < d; ++j) {
      reflect(reflection, a.col(k) + k, a.col(j) + k, n - k);
      r[static_cast<std::size_t>(k * d + j)] = a.col(j)[k];
    }
  }
  return r;
}

/// Sum of |eigenvalues| of the symmetric tridiagonal matrix with zero diagonal and these off-diagonals.
double sum_of_absolute_eigenvalues(std::vector<double> off) {
  double scale = 0;
  for (const double v : off) scale = std::max(scale, std::abs(v));
  std::vector<double> d(off.size() + 1, 0.0);
  // An absolute limit: most of the diagonal is zero, and a sum needs no relative accuracy of small ones.
  eigenvalues_of_tridiagonal(
      d, std::move(off), {.absolute = std::numeric_limits<double>::epsilon() * scale, .rounds = 200});
  return std::accumulate(d.begin(), d.end(), 0.0, [](double sum, double v) { return sum + std::abs(v); });
}

struct Moments {
  std::int64_t num_features = 0;
  std::vector<double> mean;     // [D]
  std::vector<double> centred;  // [rows,D] divided by sqrt(N - 1) or sqrt(N); later its triangular factor
  std::int64_t num_rows = 0;    // of `centred`
  double trace = 0;             // of the covariance
};

/// `counts`: how often each row stands in the set; empty: once.
Moments moments_of(
    const Tensor& features, Covariance covariance, std::span<const std::int64_t> counts, const char* name) {
  check_rank(features, 2, "frechet distance", name);
  check<DTypeError>(
      is_float(features.dtype()), "frechet distance: {}: expected floats, got {}", name, name_of(features.dtype()));
  check<ShapeError>(
      counts.empty() || static_cast<std::int64_t>(counts.size()) == features.dim(0),
      "frechet distance: {}: expected {} counts, one per row, got {}", name, features.dim(0), counts.size());
  Moments m{.num_features = features.dim(1), .mean = {}, .centred = features.to_doubles()};
  const std::int64_t num_samples =
      counts.empty() ? features.dim(0) : std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  const std::int64_t least = covariance == Covariance::unbiased ? 2 : 1;
  check<ShapeError>(
      num_samples >= least && m.num_features >= 1,
      "frechet distance: {}: expected at least {} rows and 1 column, got {}", name, least, features.shape());
  check<Error>(
      std::all_of(m.centred.begin(), m.centred.end(), [](double v) { return std::isfinite(v); }),
      "frechet distance: {}: some features are not finite | look at the frames and the network that they come from",
      name);
  const auto d = static_cast<std::size_t>(m.num_features);
  std::vector<double> weight;  // of the rows that are left, which move to the front
  for (std::size_t i = 0; i < static_cast<std::size_t>(features.dim(0)); ++i) {
    const std::int64_t count = counts.empty() ? 1 : counts[i];
    if (count <= 0) continue;
    if (weight.size() != i) std::copy_n(m.centred.data() + i * d, d, m.centred.data() + weight.size() * d);
    weight.push_back(static_cast<double>(count));
  }
  m.centred.resize(weight.size() * d);
  m.mean.assign(d, 0.0);
  for (std::size_t row = 0; row < weight.size(); ++row)
    for (std::size_t j = 0; j < d; ++j) m.mean[j] += weight[row] * m.centred[row * d + j];
  for (double& v : m.mean) v /= static_cast<double>(num_samples);
  const auto divisor = static_cast<double>(covariance == Covariance::unbiased ? num_samples - 1 : num_samples);
  for (std::size_t row = 0; row < weight.size(); ++row) {
    const double scale = std::sqrt(weight[row] / divisor);
    for (std::size_t j = 0; j < d; ++j) {
      double& v = m.centred[row * d + j];
      v = (v - m.mean[j]) * scale;
      m.trace += v * v;
    }
  }
  check<Error>(
      std::isfinite(m.trace), "frechet distance: {}: features so large that their squares are not finite", name);
  m.num_rows = static_cast<std::int64_t>(weight.size());
  if (m.num_rows > m.num_features) {
    m.centred = triangular_factor(m.centred, m.num_rows, m.num_features);
    m.num_rows = m.num_features;
  }
  return m;
}

}  // namespace

double sum_of_singular_values(std::vector<double> matrix, std::int64_t rows, std::int64_t cols) {
  // Bidiagonalise from both sides, on the tall form; then the matrix [[0, B], [B^T, 0]], well permuted, is tridiagonal
  // with zero diagonal and the bidiagonal's entries off it, and its eigenvalues are plus and minus the singular values.
  const bool tall = rows >= cols;
  Columns a{tall ? rows : cols, tall ? cols : rows, std::move(matrix)};
  if (tall) {  // the rows of a wide matrix already are the contiguous columns of its transpose
    std::vector<double> transposed(a.values.size());
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        transposed[static_cast<std::size_t>(j * rows + i)] = a.values[static_cast<std::size_t>(i * cols + j)];
    a.values = std::move(transposed);
  }
  if (a.cols == 0) return 0;
  std::vector<double> off;
  std::vector<double> row(static_cast<std::size_t>(a.cols)), product(static_cast<std::size_t>(a.rows));
  for (std::int64_t k = 0; k < a.cols; ++k) {
    const std::int64_t below = a.rows - k, right = a.cols - k - 1;
    const Reflection left = make_reflection(a.col(k) + k, below);
    off.push_back(left.value);
#pragma omp parallel for schedule(static) if (right * below > 1 << 15)
    for (std::int64_t j = k + 1; j < a.cols; ++j) reflect(left, a.col(k) + k, a.col(j) + k, below);
    if (right == 0) continue;
    for (std::int64_t j = 0; j < right; ++j) row[static_cast<std::size_t>(j)] = a.col(k + 1 + j)[k];
    const Reflection up = make_reflection(row.data(), right);
    off.push_back(up.value);
    // Rows below k: A -= tau (A v) v^T
    std::fill(product.begin(), product.end(), 0.0);
    for (std::int64_t j = 0; j < right; ++j)
      for (std::int64_t i = k + 1; i < a.rows; ++i)
        product[static_cast<std::size_t>(i)] += row[static_cast<std::size_t>(j)] * a.col(k + 1 + j)[i];
#pragma omp parallel for schedule(static) if (right * below > 1 << 15)
    for (std::int64_t j = 0; j < right; ++j) {
      const double s = up.tau * row[static_cast<std::size_t>(j)];
      for (std::int64_t i = k + 1; i < a.rows; ++i) a.col(k + 1 + j)[i] -= s * product[static_cast<std::size_t>(i)];
    }
  }
  return sum_of_absolute_eigenvalues(std::move(off)) / 2;
}

double frechet_distance(const Tensor& x, const Tensor& y, Covariance covariance) {
  return frechet_distance(x, y, covariance, {});
}

double frechet_distance(const Tensor& x, const Tensor& y, Covariance covariance, std::span<const std::int64_t> counts) {
  const Moments a = moments_of(x, covariance, counts, "first set"), b = moments_of(y, covariance, counts, "second set");
  check<ShapeError>(
      a.num_features == b.num_features,
      "frechet distance: features: expected {} as in the first set, got {} | compare features of one network",
      a.num_features, b.num_features);
  const std::int64_t d = a.num_features;
  std::vector<double> product(static_cast<std::size_t>(a.num_rows * b.num_rows));  // A B^T
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < a.num_rows; ++i)
    for (std::int64_t j = 0; j < b.num_rows; ++j)
      product[static_cast<std::size_t>(i * b.num_rows + j)] =
          dot(a.centred.data() + i * d, b.centred.data() + j * d, d);
  double distance = a.trace + b.trace - 2 * sum_of_singular_values(std::move(product), a.num_rows, b.num_rows);
  for (std::int64_t j = 0; j < d; ++j) {
    const double shift = a.mean[static_cast<std::size_t>(j)] - b.mean[static_cast<std::size_t>(j)];
    distance += shift * shift;
  }
  // Rounding may leave a set a hair below zero from itself; more than that is a fault.
  check<Error>(
      distance >= -1e-6 * (a.trace + b.trace), "frechet distance: got {} although it cannot be negative", distance);
  return std::max(distance, 0.0);
}

}  // namespace avid::eval
