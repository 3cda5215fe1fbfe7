// The CUDA side of `epilogue_`: checks, the current device and stream; then the kernel. Part of `_C_cuda`.
#include "../../common/cuda/epilogue.cuh"

#include <cstdint>
#include <optional>

#include "tensors.cuh"

namespace ifan_plugin {
namespace {

// Whether `tensor`'s channels, dimension 1 of 3 or 4, lie innermost without gaps.
bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  const int64_t channels = tensor.size(1), width = tensor.size(3), height = tensor.size(2);
  const auto is = [&](int64_t dimension, int64_t stride) {
    return tensor.size(dimension) == 1 || tensor.stride(dimension) == stride;  // of size 1: any stride will do
  };
  return is(1, 1) && is(3, channels) && is(2, channels * width) && is(0, channels * width * height);
}

void check_other(const Tensor& other, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(other.device() == x.device() && other.scalar_type() == x.scalar_type(), "epilogue: ", name,
                  " must be of x's type and device");
  bool equal = other.dim() == x.dim();
  for (int64_t i = 0; equal && i < x.dim(); ++i) {
    equal = other.size(i) == x.size(i) && (x.size(i) == 1 || other.stride(i) == x.stride(i));
  }
  STD_TORCH_CHECK(equal, "epilogue: ", name, " must have x's shape and strides");
}

void epilogue_cuda(Tensor x, const Tensor& bias, const std::optional<Tensor>& before,
                   const std::optional<Tensor>& after, double negative_slope) {
  STD_TORCH_CHECK(x.dim() == 3 || x.dim() == 4, "epilogue: x must have 3 or 4 dimensions");
  const bool channels_last = !x.is_contiguous() && is_channels_last(x);
  STD_TORCH_CHECK(channels_last || x.is_contiguous(), "epilogue: x must be contiguous or channels-last");
  const int64_t channels = x.size(1);
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == channels && bias.is_contiguous() && bias.device() == x.device(),
                  "epilogue: bias must be [C], contiguous and on x's device");
  const bool half = x.scalar_type() == ScalarType::Half || x.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(bias.scalar_type() == x.scalar_type() || (half && bias.scalar_type() == ScalarType::Float),
                  "epilogue: bias must be of x's type, or float32 where x is of a half type");
  if (before) check_other(*before, "before", x);
  if (after) check_other(*after, "after", x);
  if (x.numel() == 0) return;

  const stable::accelerator::DeviceGuard guard(x.get_device_index());
  int64_t inner = 1;
  for (int64_t i = 2; i < x.dim(); ++i) inner *= x.size(i);
  with_type_of(x, [&](auto value) {
    using T = decltype(value);
    const auto at = [](const std::optional<Tensor>& tensor) { return tensor ? data_of<T>(*tensor) : nullptr; };
    T* own = mutable_data_of<T>(x);
    const T *first = at(before), *second = at(after);
    const auto aligned = [](const T* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
    const bool all_aligned = aligned(own) && aligned(first) && aligned(second);
    const auto run = [&](const auto* biases) {
      STD_CUDA_CHECK(ifan::epilogue<T>(own, biases, first, second, x.numel(), inner, channels, channels_last,
                                       all_aligned, static_cast<ifan::Acc<T>>(negative_slope), current_stream(x)));
    };
    if (bias.scalar_type() == x.scalar_type()) return run(data_of<T>(bias));
    if constexpr (sizeof(T) == 2) run(data_of<float>(bias));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ifan_plugin, CUDA, library) { library.impl("epilogue_", TORCH_BOX(&epilogue_cuda)); }

}  // namespace ifan_plugin
