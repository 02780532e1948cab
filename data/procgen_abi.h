// data/procgen_abi.h -- the C interface of the procgen game library (libenv version 1), as plain structs
//
// Written from the layout table of the data specification; the asserts below are the check that our compiler lays
// the structs out as the library's did. Only data/procgen_worker.cpp, which runs in a child process, includes this.
#pragma once

#include <cstddef>
#include <cstdint>

namespace avid::data::libenv {

inline constexpr int kVersion = 1;
inline constexpr int kMaxNameLength = 128;
inline constexpr int kMaxDimensions = 16;

enum Dtype : int { kUint8 = 1, kInt32 = 2, kFloat32 = 3 };
enum ScalarType : int { kReal = 1, kDiscrete = 2 };
enum Space : int { kObservation = 1, kAction = 2, kInfo = 3 };

union Value {
  std::uint8_t uint8;
  std::int32_t int32;
  float float32;
};

/// Name, type and range of one observation, action or info array.
struct TensorType {
  char name[kMaxNameLength];
  int scalar_type;
  int dtype;
  int shape[kMaxDimensions];
  int ndim;
  Value low, high;
};

struct Option {
  char name[kMaxNameLength];
  int dtype;
  int count;
  void* data;
};

struct Options {
  Option* items;
  int count;
};

/// Flat arrays of pointers: entry [space index * num_envs + env index] is that environment's own buffer.
struct Buffers {
  void** ob;
  float* rew;
  std::uint8_t* first;
  void** info;
  void** ac;
};

static_assert(sizeof(Value) == 4);
static_assert(offsetof(TensorType, name) == 0 && offsetof(TensorType, scalar_type) == 128);
static_assert(offsetof(TensorType, dtype) == 132 && offsetof(TensorType, shape) == 136);
static_assert(offsetof(TensorType, ndim) == 200 && offsetof(TensorType, low) == 204);
static_assert(offsetof(TensorType, high) == 208 && sizeof(TensorType) == 212);
static_assert(offsetof(Option, name) == 0 && offsetof(Option, dtype) == 128 && offsetof(Option, count) == 132);
static_assert(offsetof(Option, data) == 136 && sizeof(Option) == 144);
static_assert(offsetof(Options, items) == 0 && offsetof(Options, count) == 8 && sizeof(Options) == 16);
static_assert(offsetof(Buffers, ob) == 0 && offsetof(Buffers, rew) == 8 && offsetof(Buffers, first) == 16);
static_assert(offsetof(Buffers, info) == 24 && offsetof(Buffers, ac) == 32 && sizeof(Buffers) == 40);

using Handle = void*;
using VersionFn = int();
using MakeFn = Handle(int num_envs, Options options);
using GetTensorTypesFn = int(Handle, int space, TensorType* types);
using SetBuffersFn = void(Handle, Buffers*);
using ObserveFn = void(Handle);
using ActFn = void(Handle);
using CloseFn = void(Handle);
using GetStateFn = int(Handle, int env_index, char* buffer, int length);
using SetStateFn = void(Handle, int env_index, char* buffer, int length);

}  // namespace avid::data::libenv
