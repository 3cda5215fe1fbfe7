// The CUDA side of the IAC operators: checks, memory, the current device and stream; then the kernels, which know no
// torch. Built into `_C_cuda`, which is loaded after `_C` (that one has the schemas).
#include "../../common/cuda/iac_cuda_backward.cuh"

#include <cstdlib>
#include <limits>
#include <tuple>

#include "tensors.cuh"

namespace ifan_plugin {
namespace {

ifan::DeviceLimits current_limits() {
  ifan::DeviceLimits limits{};
  STD_CUDA_CHECK(ifan::plan_device(limits));
  return limits;
}

// Read at each call, so that a benchmark can compare them in one process.
ifan::Variants current_variants() {
  ifan::Variants variants;
  const char* text = std::getenv("IFAN_IAC_VARIANTS");
  STD_TORCH_CHECK(ifan::read_variants(text, variants),
                  "iac: IFAN_IAC_VARIANTS must be a list of single, serial, short_passes, long_passes, "
                  "wide_tiles, tall_tiles and paired with commas between, got ",
                  text);
  return variants;
}

ifan::Shape shape_of(const IacSizes& sizes, int64_t num_steps, int64_t taps, bool isotropic) {
  // The kernels count rows, columns, taps and steps in 32 bits, and add the taps to rows and columns.
  constexpr int64_t most = std::numeric_limits<int>::max() / 2;
  STD_TORCH_CHECK(sizes.height < most && sizes.width < most && num_steps < most && taps < most,
                  "iac: height, width, num_steps and taps must be below ", most, " on CUDA");
  return {sizes.batch * sizes.channels,
          sizes.channels,
          static_cast<int>(sizes.height),
          static_cast<int>(sizes.width),
          static_cast<int>(num_steps),
          static_cast<int>(taps),
          isotropic};
}

// [planes, H, W] in the accumulation type; at least one element, so that the pointer is one.
Tensor scratch_for(const Tensor& x, int64_t planes, const ifan::Shape& shape) {
  return empty_like_x(x, {planes > 0 ? planes * shape.pixels() : 1}, accumulator_type(x));
}

template <typename T>
ifan::StepFilters<T> filters_of_first_step(const Tensor& filters, const ifan::Shape& shape) {
  const T* weights = data_of<T>(filters);
  const int64_t stride = filters.stride(0);
  return {weights, weights + shape.num_steps * shape.step_weights(), stride, stride};
}

std::tuple<Tensor, Tensor> iac_cuda(const Tensor& x, const Tensor& filters, int64_t num_steps, int64_t taps,
                                    double negative_slope, bool act_last, bool isotropic, bool save_steps) {
  const IacSizes sizes = check_iac(x, filters, num_steps, taps, negative_slope);
  const stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = empty_like_x(x, {sizes.batch, sizes.channels, sizes.height, sizes.width}, x.scalar_type());
  Tensor steps = empty_like_x(x, steps_shape(sizes, num_steps, save_steps), accumulator_type(x));
  if (sizes.empty()) return {y, steps};

  const ifan::Shape shape = shape_of(sizes, num_steps, taps, isotropic);
  with_type_of(x, [&](auto value) {
    using T = decltype(value);
    using A = ifan::Acc<T>;
    const ifan::StepFilters<T> first = filters_of_first_step<T>(filters, shape);
    const ifan::Plan plan =
        ifan::plan_forward(shape.planes, shape.height, shape.width, num_steps, taps, sizeof(A), current_limits(),
                           current_variants(), sizeof(T) == 2 && ifan::pairs_fit(first));
    const Tensor scratch = scratch_for(x, ifan::forward_scratch_planes(plan, num_steps, save_steps), shape);
    STD_CUDA_CHECK(ifan::forward<T>(plan, shape, data_of<T>(x), first, mutable_data_of<T>(y),
                                    save_steps ? mutable_data_of<A>(steps) : nullptr, mutable_data_of<A>(scratch),
                                    static_cast<A>(negative_slope), act_last, current_stream(x)));
  });
  return {y, steps};
}

std::tuple<Tensor, Tensor> iac_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& filters,
                                             const Tensor& y, const Tensor& steps, int64_t num_steps, int64_t taps,
                                             double negative_slope, bool act_last, bool isotropic) {
  const IacSizes sizes = check_iac_backward(grad, x, filters, y, steps, num_steps, taps, negative_slope);
  const stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor grad_x = empty_like_x(x, {sizes.batch, sizes.channels, sizes.height, sizes.width}, x.scalar_type());
  Tensor grad_filters = empty_like_x(
      x, {sizes.batch, num_steps * sizes.channels * (2 * taps + 1), sizes.height, sizes.width}, x.scalar_type());
  if (sizes.empty()) return {grad_x, grad_filters};

  const ifan::Shape shape = shape_of(sizes, num_steps, taps, isotropic);
  with_type_of(x, [&](auto value) {
    using T = decltype(value);
    using A = ifan::Acc<T>;
    const ifan::StepFilters<T> first = filters_of_first_step<T>(filters, shape);
    T* weights = mutable_data_of<T>(grad_filters);
    const ifan::StepGradients<T> gradients{weights, weights + shape.num_steps * shape.step_weights(),
                                           num_steps * (shape.step_weights() + shape.step_biases())};
    const bool pairs = ifan::backward_pairs_fit<T>(data_of<T>(grad), data_of<T>(x), first, data_of<T>(y),
                                                   data_of<A>(steps), mutable_data_of<T>(grad_x), gradients);
    const ifan::Plan plan = ifan::plan_backward(shape.planes, shape.height, shape.width, num_steps, taps, sizeof(A),
                                                current_limits(), current_variants(), pairs);
    const Tensor scratch = scratch_for(x, ifan::backward_scratch_planes(plan, num_steps), shape);
    STD_CUDA_CHECK(ifan::backward<T>(plan, shape, data_of<T>(grad), data_of<T>(x), first, data_of<T>(y),
                                     data_of<A>(steps), mutable_data_of<T>(grad_x), gradients,
                                     mutable_data_of<A>(scratch), static_cast<A>(negative_slope), act_last,
                                     current_stream(x)));
  });
  return {grad_x, grad_filters};
}

Tensor iac_step_cuda(const Tensor& x, const Tensor& step_filters, const Tensor& bias, int64_t taps,
                     double negative_slope, bool act, bool isotropic) {
  const IacSizes sizes = check_iac_step(x, step_filters, bias, taps, negative_slope);
  const stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = empty_like_x(x, {sizes.batch, sizes.channels, sizes.height, sizes.width}, x.scalar_type());
  if (sizes.empty()) return y;

  const ifan::Shape shape = shape_of(sizes, 1, taps, isotropic);
  with_type_of(x, [&](auto value) {
    using T = decltype(value);
    using A = ifan::Acc<T>;
    const ifan::StepFilters<T> filters{data_of<T>(step_filters), data_of<T>(bias), step_filters.stride(0),
                                       bias.stride(0)};
    const ifan::Plan plan =
        ifan::plan_forward(shape.planes, shape.height, shape.width, 1, taps, sizeof(A), current_limits(),
                           current_variants(), sizeof(T) == 2 && ifan::pairs_fit(filters));
    STD_CUDA_CHECK(ifan::forward<T>(plan, shape, data_of<T>(x), filters, mutable_data_of<T>(y), nullptr, nullptr,
                                    static_cast<A>(negative_slope), act, current_stream(x)));
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ifan_plugin, CUDA, library) {
  library.impl("iac", TORCH_BOX(&iac_cuda));
  library.impl("iac_backward", TORCH_BOX(&iac_backward_cuda));
  library.impl("iac_step", TORCH_BOX(&iac_step_cuda));
}

}  // namespace ifan_plugin
