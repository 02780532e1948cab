// autograd/ops/film_condition.cpp -- the gradient of film_condition
#include "autograd/ops/film_condition.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/film_condition.h"

namespace avid {
namespace {

class FilmConditionRule : public Rule {
 public:
  explicit FilmConditionRule(std::int64_t time_width) : time_width_(time_width) {}
  const char* op() const override { return "film_condition"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    FilmConditionGrads grads = film_condition_bwd(d_out, time_width_, d_in.needs(0), d_in.needs(1));
    if (d_in.needs(0)) d_in.set(0, std::move(grads.d_time_code));
    if (d_in.needs(1)) d_in.set(1, std::move(grads.d_action_code));
  }

 private:
  std::int64_t time_width_;
};

}  // namespace

Var film_condition(const Var& time_code, const Var& action_code, std::int64_t num_frames) {
  const kernels::OpTimer timer("film_condition");
  Tensor out =
      film_condition_fwd(time_code.value(), action_code.defined() ? action_code.value() : Tensor(), num_frames);
  if (!needs_record({&time_code, &action_code})) return Var(std::move(out));
  return record(std::make_unique<FilmConditionRule>(time_code.dim(1)), std::move(out), {time_code, action_code});
}

}  // namespace avid
