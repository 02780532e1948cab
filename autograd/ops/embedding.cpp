// autograd/ops/embedding.cpp -- what embedding saves, and its gradient
#include "autograd/ops/embedding.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/embedding.h"

namespace avid {
namespace {

class EmbeddingRule : public Rule {
 public:
  EmbeddingRule(const Tensor& ids, std::int64_t num_rows) : ids_("embedding", "ids", ids), num_rows_(num_rows) {}
  const char* op() const override { return "embedding"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const EmbeddingUse use = embedding_use(ids_.get());
    const EmbeddingUse needs{.table = use.table && d_in.needs(0), .null_row = use.null_row && d_in.needs(1)};
    EmbeddingGrads grads = embedding_bwd(d_out, ids_.get(), num_rows_, needs);
    if (needs.table) d_in.set(0, std::move(grads.d_table));
    if (needs.null_row) d_in.set(1, std::move(grads.d_null_row));
  }

 private:
  Saved ids_;
  std::int64_t num_rows_;
};

}  // namespace

Var embedding(const Var& table, const Var& null_row, const Tensor& ids) {
  const kernels::OpTimer timer("embedding");
  Tensor out = embedding_fwd(table.value(), null_row.defined() ? null_row.value() : Tensor(), ids);
  if (!needs_record({&table, &null_row})) return Var(std::move(out));
  return record(std::make_unique<EmbeddingRule>(ids, table.dim(0)), std::move(out), {table, null_row});
}

}  // namespace avid
