// eval/metrics/frechet_moments.h -- Frechet distance of two sets that are known by their moments alone
//
// The second method of metrics.md 10 (E). Worse than frechet.h where features can be had, because covariances square
// them: an eigenvalue that is off by 1e-16 of the largest is off by 1e-8 under the root. But published statistics, such
// as the mu and sigma of pytorch-fid's .npz files, hold nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/metrics/frechet.h"
#include "tensor/tensor.h"

namespace avid::eval {

/// Mean and covariance of a set of features.
struct FeatureMoments {
  std::vector<double> mean;        ///< [D]
  std::vector<double> covariance;  ///< [D,D], symmetric

  std::int64_t num_features() const { return static_cast<std::int64_t>(mean.size()); }
  double trace() const;

  /// Two passes, f64. Shapes and errors as frechet_distance of features.
  static FeatureMoments of(const Tensor& features, Covariance divisor, const char* name);
  /// mu [D] and sigma [D,D], f32 or f64; `name` is what they are called in messages.
  /// Errors   ShapeError; Error for values that are not finite, and for a sigma that is not symmetric or has a negative
  ///          diagonal.
  static FeatureMoments from(const Tensor& mu, const Tensor& sigma, const std::string& name);
};

/// |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in f64.
///
/// The last term is the sum of roots of the eigenvalues of F^T S2 F, clamped at 0, where F F^T = S1 (pivoted Cholesky,
/// which is as rank-revealing as the eigenvectors in metrics.md and a third of the work).
/// Errors   ShapeError for another number of features; Error when the result is below -1e-6 (tr S1 + tr S2): rounding
///          has eaten it, as it does with sets of far fewer samples than features. Less below 0 is 0.
/// Cost     O(D^3): about half a minute for D = 2048 on one core.
double frechet_distance(const FeatureMoments& a, const FeatureMoments& b);

/// Eigenvalues of a symmetric row-major matrix [n,n], ascending; to about 1e-15 of the largest.
std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, std::int64_t n);

}  // namespace avid::eval
