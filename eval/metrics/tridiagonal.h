// eval/metrics/tridiagonal.h -- eigenvalues of a symmetric tridiagonal matrix
#pragma once

#include <vector>

namespace avid::eval {

/// When an element beside the diagonal counts as 0, and how long to try for each eigenvalue:
///   |beside[i]| <= relative (|diagonal[i]| + |diagonal[i + 1]|) + absolute
struct TridiagonalLimits {
  double relative = 0, absolute = 0;
  int rounds = 100;
};

/// Implicit QL with Wilkinson's shift, eigenvalues alone, in place of the diagonal [n], in no order.
/// Shapes   beside [n - 1]: the elements above (and below) the diagonal.
/// Errors   Error when an eigenvalue takes more than limits.rounds.
void eigenvalues_of_tridiagonal(
    std::vector<double>& diagonal, std::vector<double> beside, const TridiagonalLimits& limits);

}  // namespace avid::eval
