// The IAC kernels behind a C interface, for tests/ops/test_cuda_source.py to call through ctypes.
//
// IFAN_SHIM_FLOAT_ONLY leaves the other types out: a quick build for the tests that compile patched sources.
#include "epilogue.cuh"
#include "iac_cuda_backward.cuh"

namespace {

struct Call {
  int64_t dtype;  // 0: double, 1: float, 2: half, 3: bfloat16
  int64_t planes, channels, height, width, num_steps, taps, isotropic;
  int64_t shared_bytes, multiprocessors, l2_bytes, programmatic_launch;  // the device
  int64_t order, seed;                                                   // of the threads
  int64_t act_last, save_steps;
  int64_t weights_batch_stride, bias_batch_stride, gradients_batch_stride;
  double slope;
  const char* variants;
};

// What a run reports back.
struct Report {
  int64_t error, fault, launches, blocks, programmatic_launches, columns_at_once;
};

struct PlanOut {
  int64_t path, threads_x, threads_y, tile_rows, tile_columns, tiles_x, tiles, shared_bytes, planes_per_pass;
  int64_t scratch_planes, columns_at_once, programmatic;
};

ifan::Shape shape_of(const Call& call) {
  return {call.planes,
          call.channels,
          static_cast<int>(call.height),
          static_cast<int>(call.width),
          static_cast<int>(call.num_steps),
          static_cast<int>(call.taps),
          call.isotropic != 0};
}

ifan::DeviceLimits device_of(const Call& call) {
  return {call.shared_bytes, call.multiprocessors, call.l2_bytes, call.programmatic_launch != 0};
}

ifan::Variants variants_of(const Call& call) {
  ifan::Variants variants;
  if (!ifan::read_variants(call.variants, variants)) std::abort();  // the driver asks shim_knows() first
  return variants;
}

void start(const Call& call) {
  shim::order = static_cast<shim::Order>(call.order);
  shim::generator.seed(static_cast<unsigned>(call.seed));
  shim::fault = shim::kNone;
  shim::launches = shim::blocks = shim::programmatic_launches = 0;
  shim::written.clear();
  shim::allowed_shared.clear();
  shim::shared_limit = std::min<int64_t>(call.shared_bytes, ifan::kShimSharedBytes);
}

Report finish(cudaError_t error, int64_t columns_at_once = 1) {
  return {error, shim::fault, shim::launches, shim::blocks, shim::programmatic_launches, columns_at_once};
}

// At least one element, so that data() isn't null; NaN, so that reading what nobody wrote shows.
template <typename A>
std::vector<A> scratch_of(int64_t planes, const Call& call) {
  return std::vector<A>(static_cast<size_t>(planes * call.height * call.width + 1),
                        std::numeric_limits<A>::quiet_NaN());
}

int64_t accumulation_bytes(const Call& call) { return call.dtype == 0 ? 8 : 4; }

template <typename T>
Report forward(const Call& call, const void* x, const void* weights, const void* bias, void* y, void* steps) {
  using A = ifan::Acc<T>;
  start(call);
  const ifan::Shape shape = shape_of(call);
  const ifan::StepFilters<T> filters{static_cast<const T*>(weights), static_cast<const T*>(bias),
                                     call.weights_batch_stride, call.bias_batch_stride};
  const ifan::Plan plan =
      ifan::plan_forward(shape.planes, shape.height, shape.width, shape.num_steps, shape.taps, sizeof(A),
                         device_of(call), variants_of(call), sizeof(T) == 2 && ifan::pairs_fit(filters));
  std::vector<A> scratch =
      scratch_of<A>(ifan::forward_scratch_planes(plan, shape.num_steps, call.save_steps != 0), call);
  const size_t pixels = static_cast<size_t>(shape.planes * shape.pixels());
  shim::watch(scratch.data(), scratch.size());
  shim::watch(static_cast<T*>(y), pixels);
  if (call.save_steps != 0) shim::watch(static_cast<A*>(steps), pixels * static_cast<size_t>(shape.num_steps - 1));
  return finish(ifan::forward<T>(plan, shape, static_cast<const T*>(x), filters, static_cast<T*>(y),
                                 call.save_steps != 0 ? static_cast<A*>(steps) : nullptr, scratch.data(),
                                 static_cast<A>(call.slope), call.act_last != 0, nullptr),
                plan.columns_at_once);
}

template <typename T>
Report backward(const Call& call, const void* grad, const void* x, const void* weights, const void* bias, const void* y,
                const void* steps, void* grad_x, void* grad_weights, void* grad_bias) {
  using A = ifan::Acc<T>;
  start(call);
  const ifan::Shape shape = shape_of(call);
  const ifan::StepFilters<T> filters{static_cast<const T*>(weights), static_cast<const T*>(bias),
                                     call.weights_batch_stride, call.bias_batch_stride};
  const ifan::StepGradients<T> gradients{static_cast<T*>(grad_weights), static_cast<T*>(grad_bias),
                                         call.gradients_batch_stride};
  const bool pairs = ifan::backward_pairs_fit<T>(static_cast<const T*>(grad), static_cast<const T*>(x), filters,
                                                 static_cast<const T*>(y), static_cast<const A*>(steps),
                                                 static_cast<const T*>(grad_x), gradients);
  const ifan::Plan plan = ifan::plan_backward(shape.planes, shape.height, shape.width, shape.num_steps, shape.taps,
                                              sizeof(A), device_of(call), variants_of(call), pairs);
  std::vector<A> scratch = scratch_of<A>(ifan::backward_scratch_planes(plan, shape.num_steps), call);
  shim::watch(scratch.data(), scratch.size());
  shim::watch(static_cast<T*>(grad_x), static_cast<size_t>(shape.planes * shape.pixels()));
  return finish(ifan::backward<T>(plan, shape, static_cast<const T*>(grad), static_cast<const T*>(x), filters,
                                  static_cast<const T*>(y), static_cast<const A*>(steps), static_cast<T*>(grad_x),
                                  gradients, scratch.data(), static_cast<A>(call.slope), call.act_last != 0, nullptr),
                plan.columns_at_once);
}

// `function` is a generic lambda that takes a value of the type.
template <typename Function>
Report with_type(int64_t dtype, Function function) {
#ifndef IFAN_SHIM_FLOAT_ONLY
  if (dtype == 0) return function(double{});
  if (dtype == 2) return function(__half{});
  if (dtype == 3) return function(__nv_bfloat16{});
#endif
  if (dtype == 1) return function(float{});
  return {-1, 0, 0, 0, 0, 0};
}

}  // namespace

extern "C" {

void shim_plan(const Call* call, int backward, PlanOut* out) {
  const ifan::DeviceLimits device = device_of(*call);
  const ifan::Variants variants = variants_of(*call);
  const int64_t bytes = accumulation_bytes(*call);
  const bool even = call->weights_batch_stride % 2 == 0 && call->bias_batch_stride % 2 == 0;
  const ifan::Plan plan = backward ? ifan::plan_backward(call->planes, call->height, call->width, call->num_steps,
                                                         call->taps, bytes, device, variants, even)
                                   : ifan::plan_forward(call->planes, call->height, call->width, call->num_steps,
                                                        call->taps, bytes, device, variants, even && call->dtype >= 2);
  *out = {static_cast<int64_t>(plan.path),
          plan.threads_x,
          plan.threads_y,
          plan.tile_rows,
          plan.tile_columns,
          plan.tiles_x,
          plan.tiles,
          plan.shared_bytes,
          plan.planes_per_pass,
          backward ? ifan::backward_scratch_planes(plan, call->num_steps)
                   : ifan::forward_scratch_planes(plan, call->num_steps, call->save_steps != 0),
          plan.columns_at_once,
          plan.programmatic};
}

int shim_knows(const char* names) {
  ifan::Variants variants;
  return ifan::read_variants(names, variants);
}

// before, after: null where they are missing. The call tells type, order of the threads and slope.
void shim_epilogue(const Call* call, void* x, const void* bias, const void* before, const void* after, int64_t count,
                   int64_t inner, int64_t channels, int channels_last, int aligned, Report* report) {
  *report = with_type(call->dtype, [&](auto value) {
    using T = decltype(value);
    start(*call);
    shim::watch(static_cast<T*>(x), static_cast<size_t>(count));
    return finish(ifan::epilogue<T>(static_cast<T*>(x), static_cast<const T*>(bias), static_cast<const T*>(before),
                                    static_cast<const T*>(after), count, inner, channels, channels_last != 0,
                                    aligned != 0, static_cast<ifan::Acc<T>>(call->slope), nullptr));
  });
}

void shim_forward(const Call* call, const void* x, const void* weights, const void* bias, void* y, void* steps,
                  Report* report) {
  *report =
      with_type(call->dtype, [&](auto value) { return forward<decltype(value)>(*call, x, weights, bias, y, steps); });
}

void shim_backward(const Call* call, const void* grad, const void* x, const void* weights, const void* bias,
                   const void* y, const void* steps, void* grad_x, void* grad_weights, void* grad_bias,
                   Report* report) {
  *report = with_type(call->dtype, [&](auto value) {
    return backward<decltype(value)>(*call, grad, x, weights, bias, y, steps, grad_x, grad_weights, grad_bias);
  });
}

}  // extern "C"
