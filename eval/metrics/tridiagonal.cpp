// eval/metrics/tridiagonal.cpp -- see tridiagonal.h
#include "eval/metrics/tridiagonal.h"

#include <cmath>

#include "tensor/error.h"

namespace avid::eval {

void eigenvalues_of_tridiagonal(std::vector<double>& d, std::vector<double> e, const TridiagonalLimits& limits) {
  const std::size_t n = d.size();
  e.push_back(0);
  for (std::size_t l = 0; l < n; ++l) {
    for (int round = 0;; ++round) {
      std::size_t m = l;
      while (m + 1 < n && std::abs(e[m]) > limits.relative * (std::abs(d[m]) + std::abs(d[m + 1])) + limits.absolute)
        ++m;
      if (m == l) break;
      check<Error>(round < limits.rounds, "frechet distance: eigenvalues: no convergence after {} rounds", round);
      double g = (d[l + 1] - d[l]) / (2 * e[l]);
      g = d[m] - d[l] + e[l] / (g + std::copysign(std::hypot(g, 1.0), g));
      double sine = 1, cosine = 1, moved = 0;
      bool split = false;
      for (std::size_t i = m; i-- > l;) {
        const double f = sine * e[i], b = cosine * e[i], r = std::hypot(f, g);
        e[i + 1] = r;
        if (r == 0) {
          d[i + 1] -= moved;
          e[m] = 0;
          split = true;
          break;
        }
        sine = f / r;
        cosine = g / r;
        const double rest = d[i + 1] - moved, turn = (d[i] - rest) * sine + 2 * cosine * b;
        moved = sine * turn;
        d[i + 1] = rest + moved;
        g = cosine * turn - b;
      }
      if (split) continue;
      d[l] -= moved;
      e[l] = g;
      e[m] = 0;
    }
  }
}

}  // namespace avid::eval
