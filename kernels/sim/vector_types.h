// kernels/sim/vector_types.h -- CUDA's small vector types, without CUDA's headers
#pragma once

#include <cstdint>

namespace avid::kernels::sim {

#define AVID_SIM_VECTOR(name, Base, align2, align4)                              \
  struct name##1 {                                                               \
    Base x;                                                                      \
  };                                                                             \
  struct alignas(align2) name##2 {                                               \
    Base x, y;                                                                   \
  };                                                                             \
  struct name##3 {                                                               \
    Base x, y, z;                                                                \
  };                                                                             \
  struct alignas(align4) name##4 {                                               \
    Base x, y, z, w;                                                             \
  };                                                                             \
  constexpr name##2 make_##name##2(Base x, Base y) { return {x, y}; }            \
  constexpr name##3 make_##name##3(Base x, Base y, Base z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(Base x, Base y, Base z, Base w) { return {x, y, z, w}; }

AVID_SIM_VECTOR(char, signed char, 2, 4)
AVID_SIM_VECTOR(uchar, unsigned char, 2, 4)
AVID_SIM_VECTOR(short, short, 4, 8)
AVID_SIM_VECTOR(ushort, unsigned short, 4, 8)
AVID_SIM_VECTOR(int, int, 8, 16)
AVID_SIM_VECTOR(uint, unsigned, 8, 16)
AVID_SIM_VECTOR(longlong, long long, 16, 16)
AVID_SIM_VECTOR(ulonglong, unsigned long long, 16, 16)
AVID_SIM_VECTOR(float, float, 8, 16)
AVID_SIM_VECTOR(double, double, 16, 16)
#undef AVID_SIM_VECTOR

/// Extents of a grid or a block; what is not given is 1.
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

}  // namespace avid::kernels::sim
