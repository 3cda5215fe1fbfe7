// IAC on CUDA, backward: what all of its kernels share, and the wide path, which has no limit to its taps.
//
// The equations: iac_cuda_backward.cuh. Words and conventions: iac_cuda_common.cuh.
#pragma once

#include "iac_cuda_common.cuh"

namespace ifan {

template <typename T>
struct PlaneGradients {
  T* v;  // [taps, H, W]
  T* h;  // [taps, H, W]
  T* b;  // [H, W]
};

// One step's part of grad_filters, which is contiguous; for batch item 0 and channel 0.
template <typename T>
struct StepGradients {
  T* weights;
  T* bias;
  int64_t batch_stride;
};

template <typename T>
__device__ inline PlaneGradients<T> plane_gradients(const StepGradients<T>& step, const Shape& shape, int64_t plane) {
  const int64_t item = shape.batch_item(plane);
  const int64_t channel = plane - item * shape.channels;
  const int64_t pixels = shape.pixels();
  T* v = step.weights + item * step.batch_stride + channel * shape.taps * pixels;
  return {v, v + shape.channels * shape.taps * pixels, step.bias + item * step.batch_stride + channel * pixels};
}

// The transpose of a replicated filter along one axis, at position `at`: the sum of product(s, j) over all (s, j)
// with clamp(s + j - p, 0, size - 1) = at. The first and last position also get what was read past the edge.
template <typename A, typename Product>
__device__ inline A gather(int at, int size, int k, Product product) {
  const int p = k / 2;
  A sum = 0;
  for (int j = 0; j < k; ++j) {
    const int s = at + p - j;
    if (s >= 0 && s < size) sum += product(s, j);
  }
  if (at == 0) {
    for (int s = 0; s < p && s < size; ++s) {
      for (int j = 0; j < p - s; ++j) sum += product(s, j);
    }
  }
  if (at == size - 1) {
    for (int s = size > p ? size - p : 0; s < size; ++s) {
      for (int j = size - s + p; j < k; ++j) sum += product(s, j);
    }
  }
  return sum;
}

// From that one of two arrays that isn't null. Of one type they are one pointer, without a branch at each load.
template <typename T, typename A, int Columns>
__device__ inline void load_either(const T* one, const A* other, int64_t at, A (&into)[Columns]) {
  if constexpr (std::is_same_v<T, A>) {
    load_columns((other == nullptr ? one : other) + at, into);
  } else if (other == nullptr) {
    load_columns(one + at, into);
  } else {
    load_columns(other + at, into);
  }
}

// What one step's kernels read and write; all point at the launch's first plane. Each of the three pairs has one null
// pointer: what lies between two steps is in the accumulation type, the ends are in T.
template <typename T>
struct StepData {
  const T* input_x;
  const Acc<T>* input;
  const T* output_y;
  const Acc<T>* output;
  const T* upstream_y;
  const Acc<T>* upstream;
  T* downstream_x;
  Acc<T>* downstream;
  bool act;
  Acc<T> slope;

  // The same from one plane on.
  __device__ StepData further(int64_t by) const {
    const auto on = [by](auto* at) { return at == nullptr ? at : at + by; };
    return {on(input_x),  on(input),        on(output_y),   on(output), on(upstream_y),
            on(upstream), on(downstream_x), on(downstream), act,        slope};
  }

  // As many neighbours as the array has.
  template <int Columns>
  __device__ void read_input(int64_t at, Acc<T> (&into)[Columns]) const {
    load_either(input_x, input, at, into);
  }
  template <int Columns>
  __device__ void read_upstream(int64_t at, Acc<T> (&into)[Columns]) const {
    load_either(upstream_y, upstream, at, into);
    if (!act) return;
    Acc<T> after[Columns];
    load_either(output_y, output, at, after);
#pragma unroll
    for (int c = 0; c < Columns; ++c) into[c] = after[c] > Acc<T>(0) ? into[c] : into[c] * slope;
  }
  template <int Columns>
  __device__ void write_downstream(int64_t at, const Acc<T> (&values)[Columns]) const {
    if (downstream == nullptr) {
      store_columns(downstream_x + at, values);
    } else {
      store_columns(downstream + at, values);
    }
  }
  // Of one.
  __device__ Acc<T> read_input(int64_t at) const {
    Acc<T> value[1];
    read_input(at, value);
    return value[0];
  }
  __device__ Acc<T> read_upstream(int64_t at) const {
    Acc<T> value[1];
    read_upstream(at, value);
    return value[0];
  }
};

// The wide path, one thread a pixel, any number of taps: first t and gt into scratch, then everything else.
struct Pixel {
  int64_t plane;  // of the launch
  int y, x;       // y = -1: past the end
};

__device__ inline Pixel pixel_of_thread(const Cut& cut, const Shape& shape) {
  const unsigned plane = cut.tiles(blockIdx.x);
  const int64_t at = static_cast<int64_t>(blockIdx.x - plane * cut.tiles.divisor) * blockDim.x + threadIdx.x;
  if (at >= shape.pixels()) return {plane, -1, 0};
  const int64_t y = at / shape.width;
  return {plane, static_cast<int>(y), static_cast<int>(at - y * shape.width)};
}

template <typename T>
__global__ void __launch_bounds__(kWideThreads)
    backward_wide_first_kernel(Shape shape, Cut cut, StepData<T> data, StepFilters<T> filters, Acc<T>* __restrict__ t,
                               Acc<T>* __restrict__ gt) {
  using A = Acc<T>;
  let_next_launch_begin();
  wait_for_previous_launch();
  const Pixel pixel = pixel_of_thread(cut, shape);
  if (pixel.y < 0) return;
  const int taps = shape.taps;
  const int64_t pixels = shape.pixels(), start = pixel.plane * pixels;
  const PlaneFilters<T> plane = plane_filters(filters, shape, cut.first_plane + pixel.plane);
  const auto offset = [&](int y, int x) { return static_cast<int64_t>(y) * shape.width + x; };
  A sum = 0;
  for (int j = 0; j < taps; ++j) {
    const int y = clamp_index(pixel.y + j - taps / 2, shape.height);
    sum += widen(plane.v[j * pixels + offset(pixel.y, pixel.x)]) * data.read_input(start + offset(y, pixel.x));
  }
  t[start + offset(pixel.y, pixel.x)] = sum;
  gt[start + offset(pixel.y, pixel.x)] = gather<A>(pixel.x, shape.width, taps, [&](int s, int j) {
    return widen(plane.h[j * pixels + offset(pixel.y, s)]) * data.read_upstream(start + offset(pixel.y, s));
  });
}

template <typename T>
__global__ void __launch_bounds__(kWideThreads)
    backward_wide_second_kernel(Shape shape, Cut cut, StepData<T> data, StepFilters<T> filters,
                                StepGradients<T> gradients, const Acc<T>* t, const Acc<T>* gt) {
  using A = Acc<T>;
  let_next_launch_begin();
  wait_for_previous_launch();
  const Pixel pixel = pixel_of_thread(cut, shape);
  if (pixel.y < 0) return;
  const int taps = shape.taps;
  const int64_t pixels = shape.pixels(), start = pixel.plane * pixels;
  const int64_t plane_index = cut.first_plane + pixel.plane;
  const PlaneFilters<T> plane = plane_filters(filters, shape, plane_index);
  const PlaneGradients<T> into = plane_gradients(gradients, shape, plane_index);
  const auto offset = [&](int y, int x) { return static_cast<int64_t>(y) * shape.width + x; };
  const int64_t here = offset(pixel.y, pixel.x);
  const A gu = data.read_upstream(start + here), gt_here = gt[start + here];
  into.b[here] = narrow<T>(gu);
  for (int j = 0; j < taps; ++j) {
    const int shift = j - taps / 2;
    const A row = gu * t[start + offset(pixel.y, clamp_index(pixel.x + shift, shape.width))];
    const A column = gt_here * data.read_input(start + offset(clamp_index(pixel.y + shift, shape.height), pixel.x));
    into.v[j * pixels + here] = narrow<T>(shape.isotropic ? column + row : column);
    into.h[j * pixels + here] = narrow<T>(shape.isotropic ? A(0) : row);
  }
  const A grad_e[1] = {gather<A>(pixel.y, shape.height, taps, [&](int s, int j) {
    return widen(plane.v[j * pixels + offset(s, pixel.x)]) * gt[start + offset(s, pixel.x)];
  })};
  data.write_downstream(start + here, grad_e);
}

}  // namespace ifan
