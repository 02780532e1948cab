// train/optimizer.cpp -- see optimizer.h
#include "train/optimizer.h"

#include <cmath>
#include <map>

#include "tensor/error.h"

namespace avid::train {
namespace {

// Whole pitched rows: the gaps are zero in all four and stay zero.
void update_parameter(Tensor& p, const Tensor& g, Tensor& m, Tensor& v, const AdamOptions& o, double lr, double grad_scale, std::int64_t n) {
  dispatch_f32_f64(p.dtype(), "adam", [&]<class Elem>() {
    const Elem b1 = static_cast<Elem>(o.beta1), b2 = static_cast<Elem>(o.beta2), eps = static_cast<Elem>(o.eps);
    const Elem step = static_cast<Elem>(lr / (1 - std::pow(o.beta1, static_cast<double>(n))));
    const Elem root = static_cast<Elem>(1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(n))));
    const Elem factor = static_cast<Elem>(grad_scale);
    Elem *pp = p.data<Elem>(), *pm = m.data<Elem>(), *pv = v.data<Elem>();
    const Elem* pg = g.defined() ? g.data<Elem>() : nullptr;
    const std::int64_t count = p.rows() * p.pitch();
    for (std::int64_t i = 0; i < count; ++i) {
      const Elem grad = pg != nullptr ? pg[i] * factor : Elem(0);
      pm[i] = b1 * pm[i] + (1 - b1) * grad;
      pv[i] = b2 * pv[i] + (1 - b2) * grad * grad;
      pp[i] -= step * pm[i] / (std::sqrt(pv[i]) * root + eps);
    }
  });
  p.bump_version();
}

}  // namespace

Adam::Adam(std::vector<nn::NamedParameter> parameters, const AdamOptions& options) : parameters_(std::move(parameters)), options_(options) {
  for (const nn::NamedParameter& p : parameters_) {
    m_.push_back(Tensor::zeros(p.var().shape(), p.var().dtype()));
    v_.push_back(Tensor::zeros(p.var().shape(), p.var().dtype()));
  }
}

double Adam::grad_norm() const {
  double sum = 0;
  for (const nn::NamedParameter& p : parameters_) {
    const Tensor& g = p.var().grad();
    if (!g.defined()) continue;
    dispatch_f32_f64(g.dtype(), "grad_norm", [&]<class Elem>() {
      const Elem* values = g.data<Elem>();
      const std::int64_t n = g.rows() * g.pitch();
      double part = 0;
      for (std::int64_t i = 0; i < n; ++i) part += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      sum += part;
    });
  }
  return std::sqrt(sum);
}

void Adam::step(double lr, double grad_scale) {
  ++num_steps_;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Var leaf = parameters_[i].var();
    const Tensor grad = leaf.grad();
    update_parameter(leaf.mutable_value(), grad, m_[i], v_[i], options_, lr, grad_scale, num_steps_);
  }
}

NamedTensors Adam::export_moments() const {
  NamedTensors list;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    list.emplace_back("m." + parameters_[i].name, m_[i].clone());
    list.emplace_back("v." + parameters_[i].name, v_[i].clone());
  }
  return list;
}

void Adam::import_moments(const NamedTensors& moments, std::int64_t num_steps, const std::string& source) {
  const std::map<std::string, Tensor> found(moments.begin(), moments.end());
  check<ShapeError>(found.size() == 2 * parameters_.size(), "{}: expected {} moments, got {} | this file is of another model", source,
                    2 * parameters_.size(), found.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    for (const char* kind : {"m.", "v."}) {
      const auto entry = found.find(kind + parameters_[i].name);
      check<ShapeError>(entry != found.end(), "{}: {}{} is missing | this file is of another model", source, kind, parameters_[i].name);
      check<ShapeError>(entry->second.shape() == m_[i].shape() && entry->second.dtype() == m_[i].dtype(), "{}: {}: expected {}, got {} | this file is of another model",
                        source, entry->first, m_[i].describe(), entry->second.describe());
    }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    m_[i].copy_from(found.at("m." + parameters_[i].name));
    v_[i].copy_from(found.at("v." + parameters_[i].name));
  }
  num_steps_ = num_steps;
}

}  // namespace avid::train
