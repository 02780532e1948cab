// tests/sim/suite.cpp -- compiled once per build of the kernels
#include "tests/sim/orders.h"

namespace avid::test {

const char* sim_suite() { return AVID_SIM_SUITE; }

}  // namespace avid::test
