// eval/metrics/frechet_moments.cpp -- see frechet_moments.h
#include "eval/metrics/frechet_moments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "eval/metrics/tridiagonal.h"
#include "tensor/error.h"

namespace avid::eval {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();

/// Householder: an orthogonally similar tridiagonal matrix, its diagonal and the elements beside it (n - 1 of them).
void tridiagonalise(std::vector<double>& a, std::size_t n, std::vector<double>& diagonal, std::vector<double>& beside) {
  diagonal.assign(n, 0);
  beside.assign(n > 0 ? n - 1 : 0, 0);
  std::vector<double> v(n), w(n);
  for (std::size_t k = 0; k + 1 < n; ++k) {
    diagonal[k] = a[k * n + k];
    double squares = 0;
    for (std::size_t i = k + 1; i < n; ++i) squares += (v[i] = a[i * n + k]) * v[i];
    const double norm = std::sqrt(squares), first = v[k + 1];
    beside[k] = first > 0 ? -norm : norm;
    if (norm == 0) continue;
    // H = 1 - v v^T / h sends the column to a multiple of the first unit vector; sign chosen against cancellation.
    v[k + 1] = first - beside[k];
    const double h = -beside[k] * v[k + 1];
    if (h == 0) continue;  // the column has that form already
    // The rest becomes H A H = A - v w^T - w v^T.
    double vp = 0;
    for (std::size_t i = k + 1; i < n; ++i) {
      const double* row = a.data() + i * n;
      w[i] = std::inner_product(row + k + 1, row + n, v.begin() + static_cast<std::ptrdiff_t>(k + 1), 0.0) / h;
      vp += v[i] * w[i];
    }
    for (std::size_t i = k + 1; i < n; ++i) w[i] -= v[i] * vp / (2 * h);
    for (std::size_t i = k + 1; i < n; ++i) {
      double* row = a.data() + i * n;
      const double vi = v[i], wi = w[i];
      for (std::size_t j = k + 1; j < n; ++j) row[j] -= vi * w[j] + wi * v[j];
    }
  }
  if (n > 0) diagonal[n - 1] = a[n * n - 1];
}

/// F [n,rank] with F F^T = S for a positive semidefinite S; what is left of S below rounding is dropped.
std::vector<double> pivoted_cholesky(std::vector<double> s, std::size_t n, std::size_t& rank) {
  std::vector<std::vector<double>> columns;
  std::vector<double> left(n);
  for (std::size_t i = 0; i < n; ++i) left[i] = s[i * n + i];
  const double least = static_cast<double>(n) * kEps * *std::max_element(left.begin(), left.end());
  for (std::size_t k = 0; k < n; ++k) {
    const auto pivot = static_cast<std::size_t>(std::max_element(left.begin(), left.end()) - left.begin());
    if (!(left[pivot] > least)) break;
    const double root = std::sqrt(left[pivot]);
    std::vector<double> column(
        s.begin() + static_cast<std::ptrdiff_t>(pivot * n), s.begin() + static_cast<std::ptrdiff_t>(pivot * n + n));
    for (const auto& earlier : columns)
      for (std::size_t i = 0; i < n; ++i) column[i] -= earlier[i] * earlier[pivot];
    for (std::size_t i = 0; i < n; ++i) {
      column[i] /= root;
      left[i] -= column[i] * column[i];
    }
    left[pivot] = -1;  // done
    columns.push_back(std::move(column));
  }
  rank = columns.size();
  std::vector<double> f(n * rank);
  for (std::size_t j = 0; j < rank; ++j)
    for (std::size_t i = 0; i < n; ++i) f[i * rank + j] = columns[j][i];
  return f;
}

/// [n,k] of a [n,m] and b [m,k].
std::vector<double> product(
    const std::vector<double>& a, const std::vector<double>& b, std::size_t n, std::size_t m, std::size_t k) {
  std::vector<double> out(n * k, 0.0);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t l = 0; l < m; ++l) {
      const double v = a[i * m + l];
      for (std::size_t j = 0; j < k; ++j) out[i * k + j] += v * b[l * k + j];
    }
  return out;
}

}  // namespace

double FeatureMoments::trace() const {
  double sum = 0;
  for (std::size_t i = 0; i < mean.size(); ++i) sum += covariance[i * mean.size() + i];
  return sum;
}

FeatureMoments FeatureMoments::of(const Tensor& features, Covariance divisor, const char* name) {
  check_rank(features, 2, "frechet distance", name);
  check<DTypeError>(
      is_float(features.dtype()), "frechet distance: {}: expected floats, got {}", name, name_of(features.dtype()));
  const auto n = static_cast<std::size_t>(features.dim(0)), d = static_cast<std::size_t>(features.dim(1));
  const std::size_t least = divisor == Covariance::unbiased ? 2 : 1;
  check<ShapeError>(
      n >= least && d >= 1, "frechet distance: {}: expected at least {} rows and 1 column, got {}", name, least,
      features.shape());
  std::vector<double> x = features.to_doubles();
  check<Error>(
      std::all_of(x.begin(), x.end(), [](double v) { return std::isfinite(v); }),
      "frechet distance: {}: some features are not finite", name);
  FeatureMoments m;
  m.mean.assign(d, 0.0);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < d; ++j) m.mean[j] += x[i * d + j] / static_cast<double>(n);
  m.covariance.assign(d * d, 0.0);
  const auto c = static_cast<double>(divisor == Covariance::unbiased ? n - 1 : n);
  for (std::size_t i = 0; i < n; ++i) {
    double* row = x.data() + i * d;
    for (std::size_t j = 0; j < d; ++j) row[j] -= m.mean[j];
    for (std::size_t j = 0; j < d; ++j)
      for (std::size_t k = 0; k < d; ++k) m.covariance[j * d + k] += row[j] * row[k] / c;
  }
  check<Error>(
      std::isfinite(m.trace()), "frechet distance: {}: features so large that their squares are not finite", name);
  return m;
}

FeatureMoments FeatureMoments::from(const Tensor& mu, const Tensor& sigma, const std::string& name) {
  check<DTypeError>(
      is_float(mu.dtype()) && is_float(sigma.dtype()), "{}: mu, sigma: expected floats, got {} and {}", name,
      name_of(mu.dtype()), name_of(sigma.dtype()));
  check<ShapeError>(
      mu.rank() == 1 && mu.dim(0) >= 1 && sigma.shape() == Shape({mu.dim(0), mu.dim(0)}),
      "{}: expected mu [D] and sigma [D,D], got {} and {}", name, mu.shape(), sigma.shape());
  FeatureMoments m{mu.to_doubles(), sigma.to_doubles()};
  const auto finite = [](double v) { return std::isfinite(v); };
  check<Error>(
      std::all_of(m.mean.begin(), m.mean.end(), finite) &&
          std::all_of(m.covariance.begin(), m.covariance.end(), finite),
      "{}: mu, sigma: some values are not finite", name);
  const std::size_t d = m.mean.size();
  double largest = 0;
  for (std::size_t i = 0; i < d; ++i) {
    check<Error>(
        m.covariance[i * d + i] >= 0, "{}: sigma: [{},{}] is {:g} | a covariance has no negative diagonal", name, i, i,
        m.covariance[i * d + i]);
    largest = std::max(largest, m.covariance[i * d + i]);
  }
  for (std::size_t i = 0; i < d; ++i)
    for (std::size_t j = i + 1; j < d; ++j) {
      double &a = m.covariance[i * d + j], &b = m.covariance[j * d + i];
      check<Error>(
          std::abs(a - b) <= 1e-5 * largest,
          "{}: sigma: [{},{}] and its mirror are {:g} and {:g} | a covariance is "
          "symmetric",
          name, i, j, a, b);
      a = b = (a + b) / 2;
    }
  return m;
}

std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, std::int64_t size) {
  const auto n = static_cast<std::size_t>(size);
  check<ShapeError>(
      size >= 0 && matrix.size() == n * n, "eigenvalues: expected {} elements, got {}", n * n, matrix.size());
  std::vector<double> diagonal, beside;
  tridiagonalise(matrix, n, diagonal, beside);
  // Beside two diagonal elements of (nearly) nothing, what is nothing beside the whole matrix counts as 0 too.
  double norm = 0;
  for (std::size_t i = 0; i < n; ++i)
    norm = std::max(norm, std::abs(diagonal[i]) + (i + 1 < n ? std::abs(beside[i]) : 0.0));
  eigenvalues_of_tridiagonal(diagonal, std::move(beside), {.relative = kEps, .absolute = kEps * kEps * norm});
  std::sort(diagonal.begin(), diagonal.end());
  return diagonal;
}

double frechet_distance(const FeatureMoments& a, const FeatureMoments& b) {
  check<ShapeError>(
      a.num_features() == b.num_features(),
      "frechet distance: moments: expected {} features as in the first set, got {}", a.num_features(),
      b.num_features());
  const auto d = static_cast<std::size_t>(a.num_features());
  double distance = a.trace() + b.trace();
  const double scale = distance;
  for (std::size_t i = 0; i < d; ++i) distance += (a.mean[i] - b.mean[i]) * (a.mean[i] - b.mean[i]);
  std::size_t rank = 0;
  const std::vector<double> f = pivoted_cholesky(a.covariance, d, rank);
  if (rank > 0) {
    std::vector<double> transposed(rank * d);
    for (std::size_t i = 0; i < d; ++i)
      for (std::size_t j = 0; j < rank; ++j) transposed[j * d + i] = f[i * rank + j];
    std::vector<double> m = product(transposed, product(b.covariance, f, d, d, rank), rank, d, rank);
    for (std::size_t i = 0; i < rank; ++i)
      for (std::size_t j = i + 1; j < rank; ++j)
        m[i * rank + j] = m[j * rank + i] = (m[i * rank + j] + m[j * rank + i]) / 2;
    for (const double e : symmetric_eigenvalues(std::move(m), static_cast<std::int64_t>(rank)))
      distance -= 2 * std::sqrt(std::max(e, 0.0));
  }
  check<Error>(
      distance >= -1e-6 * scale,
      "frechet distance: moments: {:g} is below 0, rounding has eaten it | compare the features themselves", distance);
  return std::max(distance, 0.0);
}

}  // namespace avid::eval
