// eval/metrics/frechet.h -- Frechet distance between two sets of features
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace avid::eval {

/// What the covariance is divided by: N - 1 (FID) or N (FVD as published).
enum class Covariance { unbiased, biased };

/// |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in f64.
///
/// The last term is the sum of singular values of A B^T, A = (X - m1) / sqrt(c), B likewise; sets of more samples than
/// features are first replaced by their triangular QR factor. Nothing is squared, so rank-deficient sets are exact.
///
/// Shapes   x [N1,D], y [N2,D]; f32 or f64; N >= 2 when unbiased, else N >= 1.
/// Errors   ShapeError; Error when some feature is not finite.
/// Cost     O((N1 + N2) D^2 + min(N,D)^3): half a minute for 8192 x 2048 on two cores.
/// Source   Dowson and Landau 1982; Heusel et al. 2017; metrics.md 10, method N.
double frechet_distance(const Tensor& x, const Tensor& y, Covariance covariance);

/// The same of sets in which row i of x and row i of y stand counts[i] times (0: not at all), without copying rows:
/// equal rows are one row times the root of their count.
/// Errors   besides, ShapeError unless x, y and counts have as many rows; at least 2 (or 1) rows must be left.
double frechet_distance(const Tensor& x, const Tensor& y, Covariance covariance, std::span<const std::int64_t> counts);

/// Sum of the singular values of a row-major matrix [rows, cols]; to about 1e-14 of the largest.
double sum_of_singular_values(std::vector<double> matrix, std::int64_t rows, std::int64_t cols);

}  // namespace avid::eval
