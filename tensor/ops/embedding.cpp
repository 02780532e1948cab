// tensor/ops/embedding.cpp -- checks and allocation of embedding
#include "tensor/ops/embedding.h"

#include <vector>

#include "kernels/embedding.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "embedding";

Shape with_width(const Shape& ids, std::int64_t width) {
  std::vector<std::int64_t> extents = ids.to_vector();
  extents.push_back(width);
  return Shape(extents);
}

}  // namespace

EmbeddingUse embedding_use(const Tensor& ids) {
  if (ids.device().is_gpu()) return {.table = true, .null_row = true};  // not worth waiting for the device
  EmbeddingUse use;
  for (std::int64_t id : ids.to_values<std::int64_t>()) (id < 0 ? use.null_row : use.table) = true;
  return use;
}

Tensor embedding_fwd(const Tensor& table, const Tensor& null_row, const Tensor& ids_any) {
  detail::check_float(table, kOp, "table");
  check_rank(table, 2, kOp, "table");
  if (null_row.defined()) {
    detail::check_operand(null_row, {table.dim(1)}, table.dtype(), kOp, "null_row");
    detail::check_same_device(null_row, table, kOp, "null_row");
  }
  check_dtype(ids_any, DType::i64, kOp, "ids");
  detail::check_same_device(ids_any, table, kOp, "ids");
  const Tensor ids = detail::usual_pitch(ids_any);
  if (table.device().is_gpu()) {
    check_dtype(table, DType::f32, kOp, "table");
    Tensor out = Tensor::empty(with_width(ids.shape(), table.dim(1)), DType::f32, table.device());
    on_device(table.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::embedding_fwd<Backend, float>(
          stream, {.num_ids = ids.numel(), .num_rows = table.dim(0), .width = table.dim(1)},
          device_rows_of<float>(table), device_data<float>(null_row), device_data<std::int64_t>(ids),
          device_mutable_rows_of<float>(out));
    });
    return out;
  }
  const std::int64_t* id = ids.data<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    check<ShapeError>(
        id[i] >= -1 && id[i] < table.dim(0), "embedding: ids: expected -1 to {} (table has {} rows), got {}",
        table.dim(0) - 1, table.dim(0), id[i]);
    check<ShapeError>(
        id[i] >= 0 || null_row.defined(), "embedding: ids: expected no -1 (there is no null row), got -1");
  }
  Tensor out = Tensor::empty(with_width(ids.shape(), table.dim(1)), table.dtype());
  dispatch_f32_f64(table.dtype(), kOp, [&]<class Elem>() {
    kernels::embedding_fwd<Elem>(
        detail::rows_of<Elem>(table), detail::data_or_null<Elem>(null_row), id, ids.numel(), table.dim(1),
        detail::mutable_rows_of<Elem>(out));
  });
  return out;
}

EmbeddingGrads embedding_bwd(
    const Tensor& d_out, const Tensor& ids_any, std::int64_t num_rows, const EmbeddingUse& needs) {
  detail::check_float(d_out, kOp, "d_out");
  const std::int64_t width = d_out.cols();
  check_shape(d_out, with_width(ids_any.shape(), width), kOp, "d_out");
  const Tensor ids = detail::usual_pitch(ids_any);
  detail::check_same_device(ids_any, d_out, kOp, "ids");
  EmbeddingGrads grads;
  if (needs.table) grads.d_table = Tensor::empty({num_rows, width}, d_out.dtype(), d_out.device());
  if (needs.null_row) grads.d_null_row = Tensor::empty({width}, d_out.dtype(), d_out.device());
  if (d_out.device().is_gpu()) {
    check_dtype(d_out, DType::f32, kOp, "d_out");
    on_device(d_out.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::embedding_bwd<Backend, float>(
          stream, {.num_ids = ids.numel(), .num_rows = num_rows, .width = width}, device_rows_of<float>(d_out),
          device_data<std::int64_t>(ids), device_mutable_rows_of<float>(grads.d_table),
          device_mutable_data<float>(grads.d_null_row));
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), kOp, [&]<class Elem>() {
    kernels::embedding_bwd<Elem>(
        detail::rows_of<Elem>(d_out), ids.data<std::int64_t>(), ids.numel(), num_rows, width,
        detail::mutable_rows_of<Elem>(grads.d_table), detail::mutable_data_or_null<Elem>(grads.d_null_row));
  });
  return grads;
}

}  // namespace avid
