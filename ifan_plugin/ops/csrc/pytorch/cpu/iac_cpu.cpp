// The operators on the CPU: stable-ABI glue around common/cpu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <utility>

#include "../../common/cpu/iac_cpu_backward.hpp"
#include "../iac_checks.hpp"

namespace ifan_plugin {
namespace {

using torch::stable::parallel_for;

template <typename T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Data of a tensor that was just made.
template <typename T>
T* out(const Tensor& tensor) {
  T* data = static_cast<T*>(tensor.mutable_data_ptr());
  cpu::expect_large_writes(data, tensor.numel() * static_cast<int64_t>(sizeof(T)));
  return data;
}

// Call `function` with a null pointer of the C++ type of `x`, which the checks have found to be one of four.
template <typename Function>
void with_type(const Tensor& x, Function&& function) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return function(static_cast<double*>(nullptr));
    case ScalarType::Float: return function(static_cast<float*>(nullptr));
    case ScalarType::Half: return function(static_cast<cpu::Half*>(nullptr));
    default: return function(static_cast<cpu::BFloat16*>(nullptr));
  }
}

cpu::IacShape shape_of(const IacSizes& sizes, int64_t num_steps, int64_t taps, double negative_slope, bool act_last,
                       bool isotropic) {
  return {sizes.channels, sizes.height, sizes.width, num_steps, taps, negative_slope, act_last, isotropic};
}

std::tuple<Tensor, Tensor> iac(const Tensor& x, const Tensor& filters, int64_t num_steps, int64_t taps,
                               double negative_slope, bool act_last, bool isotropic, bool save_steps) {
  const IacSizes sizes = check_iac(x, filters, num_steps, taps, negative_slope);
  Tensor y = torch::stable::new_empty(x, x.sizes());
  Tensor steps = torch::stable::new_empty(x, steps_shape(sizes, num_steps, save_steps), accumulator_type(x));
  if (sizes.empty()) return {std::move(y), std::move(steps)};

  with_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    cpu::ForwardArguments<T> arguments{shape_of(sizes, num_steps, taps, negative_slope, act_last, isotropic),
                                       in<T>(x),
                                       in<T>(filters),
                                       filters.stride(0),
                                       out<T>(y),
                                       nullptr,
                                       sizes.batch * sizes.channels};
    if (steps.numel() > 0) arguments.steps = out<cpu::Accumulator<T>>(steps);
    parallel_for(0, arguments.planes, 1, [&](int64_t begin, int64_t end) { cpu::forward<T>(arguments, begin, end); });
  });
  return {std::move(y), std::move(steps)};
}

std::tuple<Tensor, Tensor> iac_backward(const Tensor& grad, const Tensor& x, const Tensor& filters, const Tensor& y,
                                        const Tensor& steps, int64_t num_steps, int64_t taps, double negative_slope,
                                        bool act_last, bool isotropic) {
  const IacSizes sizes = check_iac_backward(grad, x, filters, y, steps, num_steps, taps, negative_slope);
  Tensor grad_x = torch::stable::new_empty(x, x.sizes());
  Tensor grad_filters = torch::stable::new_empty(filters, filters.sizes());
  if (sizes.empty()) return {std::move(grad_x), std::move(grad_filters)};

  with_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const bool large = grad_filters.numel() * static_cast<int64_t>(sizeof(T)) >= cpu::kLarge;
    const cpu::BackwardArguments<T> arguments{shape_of(sizes, num_steps, taps, negative_slope, act_last, isotropic),
                                              in<T>(grad),
                                              in<T>(x),
                                              in<T>(filters),
                                              filters.stride(0),
                                              in<T>(y),
                                              in<cpu::Accumulator<T>>(steps),
                                              out<T>(grad_x),
                                              out<T>(grad_filters),
                                              sizes.batch * sizes.channels,
                                              large};
    parallel_for(0, arguments.planes, 1, [&](int64_t begin, int64_t end) { cpu::backward<T>(arguments, begin, end); });
  });
  return {std::move(grad_x), std::move(grad_filters)};
}

Tensor iac_step(const Tensor& x, const Tensor& step_filters, const Tensor& bias, int64_t taps, double negative_slope,
                bool act, bool isotropic) {
  const IacSizes sizes = check_iac_step(x, step_filters, bias, taps, negative_slope);
  Tensor y = torch::stable::new_empty(x, x.sizes());
  if (sizes.empty()) return y;

  with_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const cpu::StepArguments<T> arguments{shape_of(sizes, 1, taps, negative_slope, act, isotropic),
                                          in<T>(x),
                                          in<T>(step_filters),
                                          in<T>(bias),
                                          step_filters.stride(0),
                                          bias.stride(0),
                                          out<T>(y)};
    parallel_for(0, sizes.batch * sizes.channels, 1,
                 [&](int64_t begin, int64_t end) { cpu::single_step<T>(arguments, begin, end); });
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ifan_plugin, CPU, library) {
  library.impl("iac", TORCH_BOX(&iac));
  library.impl("iac_backward", TORCH_BOX(&iac_backward));
  library.impl("iac_step", TORCH_BOX(&iac_step));
}

}  // namespace ifan_plugin
