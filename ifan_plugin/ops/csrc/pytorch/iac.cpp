// The operators' schemas. Kernels: cpu/iac_cpu.cpp, cuda/iac_cuda.cu and cuda/epilogue_cuda.cu; what they demand:
// iac_checks.hpp; fake kernels, gradients and autocast: ifan_plugin/ops/_library.py. Through libtorch's stable ABI: one
// build serves torch 2.10 and later.
#include <torch/csrc/stable/library.h>

// `steps`: the inputs of steps 1..N-1, for the backward, [N-1, B, C, H, W] in the accumulation type (float64 for
// float64, else float32); [0, B, C, H, W] unless save_steps. `filters`, `step_filters` and `bias` may have any batch
// stride; all else is contiguous.
STABLE_TORCH_LIBRARY(ifan_plugin, library) {
  library.def(
      "iac(Tensor x, Tensor filters, int num_steps, int taps, float negative_slope, bool act_last, bool isotropic, "
      "bool save_steps) -> (Tensor y, Tensor steps)");
  library.def(
      "iac_backward(Tensor grad, Tensor x, Tensor filters, Tensor y, Tensor steps, int num_steps, int taps, "
      "float negative_slope, bool act_last, bool isotropic) -> (Tensor grad_x, Tensor grad_filters)");
  library.def(
      "iac_step(Tensor x, Tensor step_filters, Tensor bias, int taps, float negative_slope, bool act, bool isotropic) "
      "-> Tensor");
  // LeakyReLU(x + bias + before) + after, in place; x [B, C, n] or [B, C, H, W], contiguous or channels-last. No
  // gradient.
  library.def("epilogue_(Tensor(a!) x, Tensor bias, Tensor? before, Tensor? after, float negative_slope) -> ()");
}
