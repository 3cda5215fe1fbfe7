// Tensors as the kernels take them, by torch's stable ABI: pointers, types, the current stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "../../common/cuda/iac_cuda_common.cuh"
#include "../iac_checks.hpp"

namespace ifan_plugin {

namespace stable = torch::stable;

inline Tensor empty_like_x(const Tensor& x, const std::vector<int64_t>& sizes, ScalarType dtype) {
  return stable::new_empty(x, sizes, std::make_optional(dtype));
}

// Calls function(T{}) with the CUDA type of x's elements.
template <typename Function>
void with_type_of(const Tensor& x, Function function) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return function(double{});
    case ScalarType::Float: return function(float{});
    case ScalarType::Half: return function(__half{});
    case ScalarType::BFloat16: return function(__nv_bfloat16{});
    default: STD_TORCH_CHECK(false, "x must be float64, float32, float16 or bfloat16");
  }
}

template <typename T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// PyTorch's current stream of the current device.
inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  // Torch's own macro for that has had several names since 2.10.
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                  "PyTorch doesn't tell its current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace ifan_plugin
