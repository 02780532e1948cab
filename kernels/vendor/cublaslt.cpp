// kernels/vendor/cublaslt.cpp -- column-major products (linear_products.h) handed to cuBLASLt
//
// A plan (operation, layouts, algorithm) is made once for a product, its types and the alignment of its matrices, and
// kept. The library is loaded at the first use; the version must be the one that this was compiled against.
#include "kernels/vendor/cublaslt.h"

#if AVID_HAVE_CUDA

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <mutex>
#include <type_traits>
#include <vector>

#include "kernels/cast.h"
#include "kernels/device/runtime.h"
#include "kernels/vendor/cuda_stopwatch.h"
#include "kernels/vendor/shared_library.h"

namespace avid::kernels::vendor {
namespace {

struct Api {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;

  Api() {
    const SharedLibrary library(Family::gemm, "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR));
    library.find(create, "cublasLtCreate");
    library.find(status_string, "cublasLtGetStatusString");
    library.find(matmul, "cublasLtMatmul");
    library.find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.find(desc_create, "cublasLtMatmulDescCreate");
    library.find(desc_set, "cublasLtMatmulDescSetAttribute");
    library.find(layout_create, "cublasLtMatrixLayoutCreate");
    library.find(preference_create, "cublasLtMatmulPreferenceCreate");
    library.find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    library.find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
  }
};

const Api& api() {
  static const Api loaded;
  return loaded;
}

void check_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw LibraryError(std::string("gemm: cuBLASLt: ") + call + ": " + api().status_string(status));
}

/// What makes a plan: the numbers of a product, the types of its operands and results, alignments of A, B, C, D.
struct Key {
  std::array<std::int64_t, 7> sizes;
  std::array<std::uint32_t, 4> alignment;
  cudaDataType_t in, out;
  bool transpose_a, transpose_b, bias;
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  std::array<cublasLtMatrixLayout_t, 4> layouts{};          // A, B, C, D
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;  // the most promising first
  std::size_t taken = 0;
  bool timed = false;
};

cublasLtMatrixLayout_t layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns, std::int64_t leading) {
  cublasLtMatrixLayout_t out = nullptr;
  check_lt(
      api().layout_create(&out, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), leading),
      "cublasLtMatrixLayoutCreate");
  return out;
}

/// Plans live as long as the process, as the handle does.
Plan make_plan(cublasLtHandle_t handle, const Product& p, const Key& key, const void* bias) {
  Plan plan;
  const cublasComputeType_t compute = key.in == CUDA_R_32F ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
  check_lt(api().desc_create(&plan.operation, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check_lt(api().desc_set(plan.operation, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
  if (p.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);  // every call has its own; an algorithm may look at it
  plan.layouts = {
      p.transpose_a ? layout(key.in, p.k, p.m, p.a.leading) : layout(key.in, p.m, p.k, p.a.leading),
      p.transpose_b ? layout(key.in, p.n, p.k, p.b.leading) : layout(key.in, p.k, p.n, p.b.leading),
      layout(key.out, p.m, p.n, p.c.leading), layout(key.out, p.m, p.n, p.d.leading)};

  cublasLtMatmulPreference_t preference = nullptr;
  check_lt(api().preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_lt(
        api().preference_set(preference, attribute, &value, sizeof(value)), "cublasLtMatmulPreferenceSetAttribute");
  };
  // A quarter is kept for the bias in the type of the output.
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kGemmWorkspaceBytes / 4 * 3));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignment[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignment[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignment[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignment[3]);
  plan.algorithms.resize(kTimedAlgorithms);
  int count = 0;
  const cublasStatus_t status = api().heuristic(
      handle, plan.operation, plan.layouts[0], plan.layouts[1], plan.layouts[2], plan.layouts[3], preference,
      static_cast<int>(kTimedAlgorithms), plan.algorithms.data(), &count);
  api().preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0)
    throw LibraryError(
        "gemm: cuBLASLt has no algorithm for a product of " + std::to_string(p.m) + " x " + std::to_string(p.k) +
        " x " + std::to_string(p.n) + ": " + api().status_string(status) + " | use --gemm native");
  plan.algorithms.resize(static_cast<std::size_t>(count));
  return plan;
}

/// Handle and plans of one device.
struct State {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;
};

State& state_of_current_device() {
  static auto* states = new std::map<int, State>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  int device = 0;
  cudaGetDevice(&device);
  State& state = (*states)[device];
  if (state.handle == nullptr) check_lt(api().create(&state.handle), "cublasLtCreate");
  return state;
}

template <class Elem>
constexpr cudaDataType_t type_of() {
  return std::is_same_v<std::remove_const_t<Elem>, float> ? CUDA_R_32F : CUDA_R_16BF;
}

/// Runs one product on device pointers; `bias` has the type of D.
template <class In, class Out>
void run(
    const Stream& stream, const Product& p, const In* a, const In* b, const Out* c, Out* d, const void* bias,
    void* workspace) {
  const Key key{
      .sizes = {p.m, p.n, p.k, p.a.leading, p.b.leading, p.c.leading, p.d.leading},
      .alignment = {alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d)},
      .in = type_of<In>(),
      .out = type_of<Out>(),
      .transpose_a = p.transpose_a,
      .transpose_b = p.transpose_b,
      .bias = p.bias};
  State& state = state_of_current_device();
  const std::lock_guard lock(state.mutex);
  auto plan = state.plans.find(key);
  if (plan == state.plans.end()) plan = state.plans.emplace(key, make_plan(state.handle, p, key, bias)).first;
  if (p.bias)
    check_lt(
        api().desc_set(plan->second.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias)),
        "cublasLtMatmulDescSetAttribute");
  const auto run_algorithm = [&, &plan = plan->second](std::size_t i) {
    const float alpha = 1;
    check_lt(
        api().matmul(
            state.handle, plan.operation, &alpha, a, plan.layouts[0], b, plan.layouts[1], &p.beta, c, plan.layouts[2],
            d, plan.layouts[3], &plan.algorithms[i].algo, workspace, plan.algorithms[i].workspaceSize,
            static_cast<cudaStream_t>(stream.handle)),
        "cublasLtMatmul");
  };
  if (!plan->second.timed && route(Family::gemm) == Route::automatic) {
    // Adds to D several times where beta is 1: the call that counts comes after the timing ("auto", run_either).
    plan->second.taken = fastest_of(plan->second.algorithms.size(), cuda_stopwatch(stream), run_algorithm);
    plan->second.timed = true;
  }
  run_algorithm(plan->second.taken);
}

/// Zeroes what lies behind the columns of rows.
template <class Elem>
void clear_gaps(const Stream& stream, Rows<Elem> rows, std::int64_t columns, std::int64_t num_rows) {
  if (!rows || rows.pitch == columns) return;
  device_zero<Cuda>(
      stream, rows.data + columns, static_cast<std::size_t>(rows.pitch) * sizeof(Elem),
      static_cast<std::size_t>(rows.pitch - columns) * sizeof(Elem), num_rows);
}

}  // namespace

template <class Elem>
void library_linear_fwd(
    const Stream& stream, const LinearSize& size, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w,
    const float* bias, Rows<const Elem> residual, Rows<Elem> out, void* workspace) {
  const LinearPitches pitches{.x = x.pitch, .x2 = x2.pitch, .w = w.pitch, .residual = residual.pitch, .out = out.pitch};
  const void* typed_bias = bias;
  if constexpr (!std::is_same_v<Elem, float>) {
    if (bias != nullptr) {
      auto* rounded = reinterpret_cast<Elem*>(static_cast<std::byte*>(workspace) + kGemmWorkspaceBytes / 4 * 3);
      if (size.O * static_cast<std::int64_t>(sizeof(Elem)) > kGemmWorkspaceBytes / 4)
        throw LibraryError("gemm: cuBLASLt: more than 4 million outputs with a bias | use --gemm native");
      cast<Cuda, Elem, float>(stream, {.P = 1, .C = size.O, .from = {bias, size.O}, .to = {rounded, size.O}});
      typed_bias = rounded;
    }
  }
  for (const Product& p : linear_fwd_products(size, pitches, static_cast<bool>(residual), bias != nullptr)) {
    const Elem* from = p.b.operand == Operand::x ? x.data : x2.data;
    const Elem* c = p.c.operand == Operand::residual ? residual.data : out.data;
    run(stream, p, w.data + p.a.offset, from, c, out.data, typed_bias, workspace);
  }
  clear_gaps(stream, out, size.O, size.P);
}

template <class Elem>
void library_linear_bwd_data(
    const Stream& stream, const LinearSize& size, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x,
    Rows<Elem> d_x2, void* workspace) {
  const LinearPitches pitches{.x = d_x.pitch, .x2 = d_x2.pitch, .w = w.pitch, .out = d_out.pitch};
  for (const Product& p : linear_bwd_data_products(size, pitches, static_cast<bool>(d_x), static_cast<bool>(d_x2))) {
    Elem* to = p.d.operand == Operand::d_x ? d_x.data : d_x2.data;
    run(stream, p, w.data + p.a.offset, d_out.data, static_cast<const Elem*>(to), to, nullptr, workspace);
  }
  clear_gaps(stream, d_x, size.I, size.P);
  clear_gaps(stream, d_x2, size.I2, size.P);
}

template <class Elem>
void library_linear_bwd_weight(
    const Stream& stream, const LinearSize& size, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, void* workspace) {
  const LinearPitches pitches{.x = x.pitch, .x2 = x2.pitch, .w = d_w.pitch, .out = d_out.pitch};
  for (const Product& p : linear_bwd_weight_products(size, pitches)) {
    const Elem* from = p.a.operand == Operand::x ? x.data : x2.data;
    float* to = d_w.data + p.d.offset;
    run(stream, p, from, d_out.data, static_cast<const float*>(to), to, nullptr, workspace);
  }
  clear_gaps(stream, d_w, size.I + size.I2, size.O);
}

#define AVID_INSTANTIATE(Elem)                                                                              \
  template void library_linear_fwd<Elem>(                                                                   \
      const Stream&, const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, const float*, \
      Rows<const Elem>, Rows<Elem>, void*);                                                                 \
  template void library_linear_bwd_data<Elem>(                                                              \
      const Stream&, const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Rows<Elem>, void*); \
  template void library_linear_bwd_weight<Elem>(                                                            \
      const Stream&, const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<float>, void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels::vendor

#endif  // AVID_HAVE_CUDA
