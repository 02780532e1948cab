// train/optimizer.cpp -- see optimizer.h
#include "train/optimizer.h"

#include <map>

#include "tensor/error.h"
#include "tensor/ops/adam.h"

namespace avid::train {
namespace {

Tensor host_copy(const Tensor& t) { return t.device().is_gpu() ? t.to(Device()) : t.clone(); }

}  // namespace

Adam::Adam(std::vector<nn::NamedParameter> parameters, const AdamOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const nn::NamedParameter& p : parameters_) {
    m_.push_back(Tensor::zeros(p.var().shape(), p.var().dtype(), p.var().value().device()));
    v_.push_back(Tensor::zeros(p.var().shape(), p.var().dtype(), p.var().value().device()));
  }
}

double Adam::grad_norm() const {
  std::vector<Tensor> grads;
  for (const nn::NamedParameter& p : parameters_) grads.push_back(p.var().grad());
  return avid::grad_norm(grads).norm;
}

AdamOutcome Adam::update(double lr, double max_norm) {
  prepare(lr, {});
  step(max_norm, {}, {});
  return outcome();
}

void Adam::prepare(double lr, std::span<const double> decays) {
  const Device device = parameters_.empty() ? Device{} : parameters_.front().var().value().device();
  const bool same_place = numbers_.defined() && numbers_.device() == device && decays.size() == decays_.size();
  lr_ = lr;
  decays_.assign(decays.begin(), decays.end());
  if (!state_.defined()) state_ = make_adam_state(num_steps_, device);
  if (!device.is_gpu()) return;
  if (same_place)
    set_adam_numbers(numbers_, lr, decays);
  else
    numbers_ = make_adam_numbers(lr, decays, device);
}

void Adam::step(double max_norm, std::span<Tensor> averages, const Tensor& losses) {
  std::vector<AdamParameter> list;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Var leaf = parameters_[i].var();
    const bool on_device = leaf.value().device().is_gpu();
    const Tensor copy = on_device ? leaf.current_copy() : Tensor();  // before the value changes
    list.push_back(
        {.param = leaf.mutable_value(),
         .grad = leaf.grad(),
         .m = m_[i],
         .v = v_[i],
         .average = averages.empty() ? Tensor() : averages[i],
         .shadow = copy});
  }
  adam_update(
      list,
      {.lr = lr_,
       .beta1 = options_.beta1,
       .beta2 = options_.beta2,
       .eps = options_.eps,
       .max_norm = max_norm,
       .average_decays = decays_,
       .numbers = numbers_,
       .losses = losses},
      state_);
  writes_copy_.clear();
  for (const AdamParameter& p : list) writes_copy_.push_back(p.shadow.defined());
  copies_are_current();
}

// Also when no step was taken: then value and copy are what they were.
void Adam::copies_are_current() {
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (writes_copy_[i]) Var(parameters_[i].var()).set_copy_current();
}

void Adam::refresh_copies() const {
  for (const nn::NamedParameter& p : parameters_) p.var().refresh_copy();
}

void Adam::note_repeated() {
  for (const nn::NamedParameter& p : parameters_) Var(p.var()).mutable_value();
  copies_are_current();
}

AdamOutcome Adam::outcome() {
  const AdamOutcome outcome = read_adam_state(state_);
  num_steps_ = outcome.num_steps;
  return outcome;
}

std::vector<const void*> Adam::addresses(std::span<Tensor> averages) const {
  std::vector<const void*> list;
  const auto add = [&](const Tensor& t) { list.push_back(t.defined() ? t.device_pointer(t.dtype()) : nullptr); };
  add(numbers_);
  add(state_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    add(parameters_[i].var().value());
    add(parameters_[i].var().current_copy());
    add(m_[i]);
    add(v_[i]);
    if (!averages.empty()) add(averages[i]);
  }
  return list;
}

NamedTensors Adam::export_moments() const {
  NamedTensors list;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    list.emplace_back("m." + parameters_[i].name, host_copy(m_[i]));
    list.emplace_back("v." + parameters_[i].name, host_copy(v_[i]));
  }
  return list;
}

void Adam::import_moments(const NamedTensors& moments, std::int64_t num_steps, const std::string& source) {
  const std::map<std::string, Tensor> found(moments.begin(), moments.end());
  check<ShapeError>(
      found.size() == 2 * parameters_.size(), "{}: expected {} moments, got {} | this file is of another model", source,
      2 * parameters_.size(), found.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    for (const char* kind : {"m.", "v."}) {
      const auto entry = found.find(kind + parameters_[i].name);
      check<ShapeError>(
          entry != found.end(), "{}: {}{} is missing | this file is of another model", source, kind,
          parameters_[i].name);
      check<ShapeError>(
          entry->second.shape() == m_[i].shape() && entry->second.dtype() == m_[i].dtype(),
          "{}: {}: expected {}, got {} | this file is of another model", source, entry->first, m_[i].describe(),
          entry->second.describe());
    }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    m_[i].copy_from(found.at("m." + parameters_[i].name));
    v_[i].copy_from(found.at("v." + parameters_[i].name));
  }
  num_steps_ = num_steps;
  state_ = {};
}

}  // namespace avid::train
