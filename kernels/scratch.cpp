// kernels/scratch.cpp -- one growing block per thread
#include "kernels/scratch.h"

#include <memory>
#include <new>

namespace avid::kernels {
namespace {

struct AlignedDelete {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

}  // namespace

float* scratch_floats(std::size_t count) {
  thread_local std::unique_ptr<float[], AlignedDelete> block;
  thread_local std::size_t capacity = 0;
  if (count > capacity) {
    block.reset();
    capacity = 0;
    const std::size_t wanted =
        count + count / 4;  // some room, so that slightly larger shapes do not each allocate again
    block.reset(static_cast<float*>(::operator new[](wanted * sizeof(float), std::align_val_t{64})));
    capacity = wanted;
  }
  return block.get();
}

}  // namespace avid::kernels
