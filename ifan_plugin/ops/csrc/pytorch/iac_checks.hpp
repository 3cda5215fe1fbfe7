// Shapes, types and layouts that the IAC operators demand, for every device. Violations raise RuntimeError in Python.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace ifan_plugin {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct IacSizes {
  int64_t batch, channels, height, width;
  bool empty() const { return batch == 0; }
};

inline std::string shape_text(const int64_t* sizes, size_t count) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < count; ++i) text << (i ? ", " : "") << sizes[i];
  text << ']';
  return text.str();
}

inline std::string shape_text(const Tensor& tensor) { return shape_text(tensor.sizes().data(), tensor.sizes().size()); }

inline ScalarType accumulator_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Sizes of the saved steps.
inline std::vector<int64_t> steps_shape(const IacSizes& sizes, int64_t num_steps, bool saved) {
  return {saved ? num_steps - 1 : 0, sizes.batch, sizes.channels, sizes.height, sizes.width};
}

inline void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& expected) {
  bool equal = tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; equal && i < expected.size(); ++i) equal = tensor.size(static_cast<int64_t>(i)) == expected[i];
  STD_TORCH_CHECK(equal, "iac: ", name, " must be ", shape_text(expected.data(), expected.size()), ", got ",
                  shape_text(tensor));
}

inline void check_like(const Tensor& tensor, const char* name, const Tensor& x, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "iac: ", name, " must be ",
                  dtype == x.scalar_type() ? "of x's dtype" : "float32 (float64 where x is)");
  STD_TORCH_CHECK(tensor.device() == x.device(), "iac: ", name, " must be on x's device");
}

inline void check_contiguous(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "iac: ", name, " must be contiguous");
}

// Each batch item contiguous, batch items anywhere: slices along the channels are read in place.
inline void check_items_contiguous(const Tensor& tensor, const char* name) {
  if (tensor.numel() == 0) return;
  int64_t expected = 1;
  bool contiguous = true;
  for (int64_t d = tensor.dim() - 1; d > 0; --d) {
    contiguous = contiguous && (tensor.size(d) == 1 || tensor.stride(d) == expected);
    expected *= tensor.size(d);
  }
  STD_TORCH_CHECK(contiguous, "iac: each batch item of ", name, " must be contiguous (only its batch stride is free)");
}

inline IacSizes check_x_and_parameters(const Tensor& x, int64_t num_steps, int64_t taps, double negative_slope) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
                      type == ScalarType::BFloat16,
                  "iac: x must be float64, float32, float16 or bfloat16");
  STD_TORCH_CHECK(x.dim() == 4, "iac: x must be [B, C, H, W], got ", shape_text(x));
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
                  "iac: x must have at least one channel, row and column, got ", shape_text(x));
  STD_TORCH_CHECK(num_steps >= 1, "iac: num_steps must be at least 1, got ", num_steps);
  STD_TORCH_CHECK(taps >= 1 && taps % 2 == 1, "iac: taps must be odd and positive, got ", taps);
  STD_TORCH_CHECK(std::isfinite(negative_slope) && negative_slope >= 0,
                  "iac: negative_slope must be finite and not negative, got ", negative_slope);
  // So that no product of sizes below overflows.
  const int64_t limit = std::numeric_limits<int64_t>::max() / (x.size(1) * x.size(2) * x.size(3)) / 16;
  STD_TORCH_CHECK(num_steps < limit && taps < limit / num_steps, "iac: num_steps and taps are too large");
  check_contiguous(x, "x");
  return {x.size(0), x.size(1), x.size(2), x.size(3)};
}

inline IacSizes check_iac(const Tensor& x, const Tensor& filters, int64_t num_steps, int64_t taps,
                          double negative_slope) {
  const IacSizes sizes = check_x_and_parameters(x, num_steps, taps, negative_slope);
  check_like(filters, "filters", x, x.scalar_type());
  check_shape(filters, "filters (channels: num_steps * C * (2 * taps + 1))",
              {sizes.batch, num_steps * sizes.channels * (2 * taps + 1), sizes.height, sizes.width});
  check_items_contiguous(filters, "filters");
  return sizes;
}

inline IacSizes check_iac_backward(const Tensor& grad, const Tensor& x, const Tensor& filters, const Tensor& y,
                                   const Tensor& steps, int64_t num_steps, int64_t taps, double negative_slope) {
  const IacSizes sizes = check_iac(x, filters, num_steps, taps, negative_slope);
  const std::vector<int64_t> shape{sizes.batch, sizes.channels, sizes.height, sizes.width};
  check_like(grad, "grad", x, x.scalar_type());
  check_shape(grad, "grad", shape);
  check_contiguous(grad, "grad");
  check_like(y, "y", x, x.scalar_type());
  check_shape(y, "y", shape);
  check_contiguous(y, "y");
  check_like(steps, "steps", x, accumulator_type(x));
  check_shape(steps, "steps (which iac returns where save_steps is true)", steps_shape(sizes, num_steps, true));
  check_contiguous(steps, "steps");
  return sizes;
}

inline IacSizes check_iac_step(const Tensor& x, const Tensor& step_filters, const Tensor& bias, int64_t taps,
                               double negative_slope) {
  const IacSizes sizes = check_x_and_parameters(x, 1, taps, negative_slope);
  check_like(step_filters, "step_filters", x, x.scalar_type());
  check_shape(step_filters, "step_filters (channels: 2 * C * taps)",
              {sizes.batch, 2 * sizes.channels * taps, sizes.height, sizes.width});
  check_items_contiguous(step_filters, "step_filters");
  check_like(bias, "bias", x, x.scalar_type());
  check_shape(bias, "bias", {sizes.batch, sizes.channels, sizes.height, sizes.width});
  check_items_contiguous(bias, "bias");
  return sizes;
}

}  // namespace ifan_plugin
