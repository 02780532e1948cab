// kernels/embedding.cu -- rows of a table chosen by ids, on a device
//
// Parallel   forward: a thread owns one element of the output. Backward: a thread owns one element of the gradient and
//            walks all ids in order, so that nothing is added concurrently
// Traffic    backward reads the ids once per table row (from the cache) and every row of d_out once
// Numerics   forward copies; backward adds in f32 in order of the ids: the same bits in every run
// Limits     meant for a few hundred ids and tens of rows
// Measured   never run on a GPU yet
// Predicted  a launch each: 3 us
// Oracle     kernels/embedding_cpu.cpp, compared in tests/sim/embedding_test.cpp
#include "kernels/embedding.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) embedding_fwd_kernel(
    EmbeddingDeviceSizes size, Rows<const Elem> table, const Elem* null_row, const std::int64_t* ids, Rows<Elem> out) {
  const std::int64_t item = grid_index();
  if (item >= size.num_ids * size.width) return;
  const std::int64_t i = item / size.width, column = item % size.width, id = ids[i];
  Elem value = to_elem<Elem>(nanf(""));
  if (id >= 0 && id < size.num_rows) value = table.row(id)[column];
  if (id == -1 && null_row != nullptr) value = null_row[column];
  out.row(i)[column] = value;
}

/// blockIdx.x is the row of the table; the row after the last is the null row.
template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) embedding_bwd_kernel(
    EmbeddingDeviceSizes size, Rows<const Elem> d_out, const std::int64_t* ids, Rows<Elem> d_table, Elem* d_null_row) {
  const std::int64_t column = std::int64_t{blockIdx.y} * blockDim.x + threadIdx.x, row = blockIdx.x;
  const bool null = row == size.num_rows;
  if (column >= size.width || (null ? d_null_row == nullptr : !d_table)) return;
  const std::int64_t wanted = null ? -1 : row;
  float sum = 0;
  for (std::int64_t i = 0; i < size.num_ids; ++i)
    if (ids[i] == wanted) sum += to_float(d_out.row(i)[column]);
  (null ? d_null_row : d_table.row(row))[column] = to_elem<Elem>(sum);
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void embedding_fwd(
    const Stream& stream, const EmbeddingDeviceSizes& size, Rows<const Elem> table, const Elem* null_row,
    const std::int64_t* ids, Rows<Elem> out) {
  AVID_GPU::launch_items(
      AVID_GPU::embedding_fwd_kernel<Elem>, size.num_ids * size.width, stream, size, table, null_row, ids, out);
}

template <class Backend, class Elem>
void embedding_bwd(
    const Stream& stream, const EmbeddingDeviceSizes& size, Rows<const Elem> d_out, const std::int64_t* ids,
    Rows<Elem> d_table, Elem* d_null_row) {
  if (size.width == 0) return;
  AVID_GPU::launch(
      AVID_GPU::embedding_bwd_kernel<Elem>,
      dim3(static_cast<unsigned>(size.num_rows + 1), static_cast<unsigned>(AVID_GPU::blocks_for(size.width))),
      dim3(AVID_GPU::kPointwiseBlock), 0, stream, size, d_out, ids, d_table, d_null_row);
}

template void embedding_fwd<Gpu, float>(
    const Stream&, const EmbeddingDeviceSizes&, Rows<const float>, const float*, const std::int64_t*, Rows<float>);
template void embedding_bwd<Gpu, float>(
    const Stream&, const EmbeddingDeviceSizes&, Rows<const float>, const std::int64_t*, Rows<float>, float*);

}  // namespace avid::kernels
