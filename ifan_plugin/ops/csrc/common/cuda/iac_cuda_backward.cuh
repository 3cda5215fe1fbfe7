// IAC on CUDA, backward. Gather form: every value is written by one thread, which adds up its parts in a fixed order;
// no atomics, so results are bitwise the same in every run.
//
// With g the gradient of a step's output e', and e its input:
//   gu(y, x)   = g(y, x) * (e'(y, x) > 0 ? 1 : slope)
//   grad_b     = gu
//   grad_h_j   = gu(y, x) * t(y, clamp(x + j - p))              t is computed anew
//   gt(y, x)   = sum over (s, j) with clamp(s + j - p) = x of h_j(y, s) * gu(y, s)
//   grad_v_j   = gt(y, x) * e(clamp(y + j - p), x)
//   grad_e     = sum over (s, j) with clamp(s + j - p) = y of v_j(s, x) * gt(s, x)
// Isotropic: grad_v is the sum of both gradients and grad_h is 0.
//
// e is x at step 0 and the saved steps[i - 1] after that; the sign of e' comes from steps[i], or from y at the end.
#pragma once

#include "iac_cuda_kernel.cuh"

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
  const int64_t item = plane / shape.channels;
  const int64_t channel = plane - item * shape.channels;
  const int64_t pixels = shape.pixels();
  T* v = step.weights + item * step.batch_stride + channel * shape.taps * pixels;
  return {v, v + shape.channels * shape.taps * pixels, step.bias + item * step.batch_stride + channel * pixels};
}

// The transpose of a replicated filter along one axis, at position `at`: the sum of product(s, j) over all (s, j)
// with clamp(s + j - p, 0, size - 1) = at. The first and last position also get what was read past the edge.
template <typename A, int Taps, typename Product>
__device__ inline A gather(int at, int size, const TapCount<Taps>& taps, Product product) {
  const int k = taps.count(), p = taps.half();
  A sum = 0;
#pragma unroll
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

// One step on one tile.
//   input(y, x): e; upstream(y, x): gu; downstream(y, x, value): takes grad_e.
// Shared: hg_j = h_j * gu [taps, rows and halo, columns and halo], vg_j = v_j * gt [taps, rows and halo, columns],
// t [rows, columns and halo]; the halo ends at the edges of the plane. The caller puts a barrier between two calls.
template <int Taps, typename T, typename Input, typename Upstream, typename Downstream>
__device__ inline void backward_tile(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                     const PlaneGradients<T>& gradients, Acc<T>* shared, Input input,
                                     Upstream upstream, Downstream downstream) {
  using A = Acc<T>;
  const TapCount<Taps> taps{shape.taps};
  const int k = taps.count(), p = taps.half();
  const int height = shape.height, width = shape.width;
  const int64_t pixels = shape.pixels();
  const bool isotropic = shape.isotropic;
  const int high_top = tile.top > p ? tile.top - p : 0;
  const int high_bottom = height - tile.bottom > p ? tile.bottom + p : height;
  const int wide_left = tile.left > p ? tile.left - p : 0;
  const int wide_right = width - tile.right > p ? tile.right + p : width;
  const int rows = high_bottom - high_top, pitch = wide_right - wide_left, columns = tile.right - tile.left;
  A* hg = shared;
  A* vg = hg + k * rows * pitch;
  A* t_tile = vg + k * rows * columns;
  const auto hg_at = [&](int j, int y, int x) -> A& {
    return hg[(j * rows + y - high_top) * pitch + x - wide_left];
  };
  const auto vg_at = [&](int j, int y, int x) -> A& {
    return vg[(j * rows + y - high_top) * columns + x - tile.left];
  };
  const auto t_at = [&](int y, int x) -> A& { return t_tile[(y - tile.top) * pitch + x - wide_left]; };
  const auto offset = [&](int y, int x) { return static_cast<int64_t>(y) * width + x; };
  const auto gradient_of_t = [&](int y, int x) {
    return gather<A>(x, width, taps, [&](int s, int j) { return hg_at(j, y, s); });
  };
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int bx = static_cast<int>(blockDim.x), by = static_cast<int>(blockDim.y);

  // The halo needs h only for the sake of its neighbours' gt, and v only for that of grad_e and t.
  for (int y = high_top + ty; y < high_bottom; y += by) {
    for (int x = wide_left + tx; x < wide_right; x += bx) {
      const A gu = upstream(y, x);
      const T* h = filters.h + offset(y, x);
#pragma unroll
      for (int j = 0; j < k; ++j) hg_at(j, y, x) = load_once(h + j * pixels) * gu;
    }
  }
  __syncthreads();

  for (int y = high_top + ty; y < high_bottom; y += by) {
    const bool own_row = y >= tile.top && y < tile.bottom;
    for (int x = wide_left + tx; x < wide_right; x += bx) {
      const bool own_column = x >= tile.left && x < tile.right;
      if (!own_row && !own_column) continue;  // a corner
      const A gt = own_column ? gradient_of_t(y, x) : A(0);
      const T* v = filters.v + offset(y, x);
      T* grad_v = gradients.v + offset(y, x);
      A t = 0;
#pragma unroll
      for (int j = 0; j < k; ++j) {
        const A weight = load_once(v + j * pixels);
        if (own_column) vg_at(j, y, x) = weight * gt;
        if (own_row) {
          const A e = input(clamp_index(y + j - p, height), x);
          t += weight * e;
          if (own_column && !isotropic) grad_v[j * pixels] = narrow<T>(gt * e);
        }
      }
      if (own_row) t_at(y, x) = t;
    }
  }
  __syncthreads();

  for (int y = tile.top + ty; y < tile.bottom; y += by) {
    for (int x = tile.left + tx; x < tile.right; x += bx) {
      const A gu = upstream(y, x);
      T* grad_v = gradients.v + offset(y, x);
      T* grad_h = gradients.h + offset(y, x);
      gradients.b[offset(y, x)] = narrow<T>(gu);
      const A gt = isotropic ? gradient_of_t(y, x) : A(0);
#pragma unroll
      for (int j = 0; j < k; ++j) {
        const A along_row = gu * t_at(y, clamp_index(x + j - p, width));
        if (isotropic) {
          grad_v[j * pixels] = narrow<T>(gt * input(clamp_index(y + j - p, height), x) + along_row);
          grad_h[j * pixels] = narrow<T>(A(0));
        } else {
          grad_h[j * pixels] = narrow<T>(along_row);
        }
      }
      downstream(y, x, gather<A>(y, height, taps, [&](int s, int j) { return vg_at(j, s, x); }));
    }
  }
}

// All steps of one plane a block, the last one first. Shared: the running gradient [H, W], then backward_tile's.
template <int Taps, typename T>
__global__ void __launch_bounds__(kTiledThreads)
    backward_plane_kernel(Shape shape, int64_t first_plane, const T* __restrict__ grad, const T* __restrict__ x,
                          StepFilters<T> filters, const T* __restrict__ y, const Acc<T>* __restrict__ steps,
                          T* __restrict__ grad_x, StepGradients<T> gradients, Acc<T> slope, bool act_last) {
  using A = Acc<T>;
  const int64_t pixels = shape.pixels();
  const int64_t plane = first_plane + blockIdx.x;
  const int width = shape.width;
  const Tile tile{0, shape.height, 0, width};
  A* running = dynamic_shared<A>();

  filters.weights += (shape.num_steps - 1) * shape.step_weights();
  filters.bias += (shape.num_steps - 1) * shape.step_biases();
  gradients.weights += (shape.num_steps - 1) * shape.step_weights();
  gradients.bias += (shape.num_steps - 1) * shape.step_biases();
  for (int step = shape.num_steps - 1; step >= 0; --step) {
    const bool last = step == shape.num_steps - 1;
    const A* e = step == 0 ? nullptr : steps + ((step - 1) * shape.planes + plane) * pixels;
    const A* e_after = last ? nullptr : steps + (step * shape.planes + plane) * pixels;
    const T* x_plane = x + plane * pixels;
    const T* y_plane = y + plane * pixels;
    const T* grad_plane = grad + plane * pixels;
    T* result = grad_x + plane * pixels;
    const auto input = [&](int row, int column) {
      return e == nullptr ? widen(x_plane[row * width + column]) : e[row * width + column];
    };
    // Each thread reads only what it wrote itself: it visits the same pixels every time.
    const auto upstream = [&](int row, int column) {
      const int at = row * width + column;
      const A g = last ? widen(grad_plane[at]) : running[at];
      const bool positive = last ? !act_last || widen(y_plane[at]) > A(0) : e_after[at] > A(0);
      return positive ? g : g * slope;
    };
    const auto downstream = [&](int row, int column, A value) {
      if (step == 0) {
        result[row * width + column] = narrow<T>(value);
      } else {
        running[row * width + column] = value;
      }
    };
    backward_tile<Taps>(tile, shape, plane_filters(filters, shape, plane), plane_gradients(gradients, shape, plane),
                        running + pixels, input, upstream, downstream);
    __syncthreads();
    filters.weights -= shape.step_weights();
    filters.bias -= shape.step_biases();
    gradients.weights -= shape.step_weights();
    gradients.bias -= shape.step_biases();
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

  __device__ Acc<T> read_input(int64_t at) const { return input == nullptr ? widen(input_x[at]) : input[at]; }
  __device__ Acc<T> read_upstream(int64_t at) const {
    const Acc<T> g = upstream == nullptr ? widen(upstream_y[at]) : upstream[at];
    const bool positive = !act || (output == nullptr ? widen(output_y[at]) : output[at]) > Acc<T>(0);
    return positive ? g : g * slope;
  }
  __device__ void write_downstream(int64_t at, Acc<T> value) const {
    if (downstream == nullptr) {
      downstream_x[at] = narrow<T>(value);
    } else {
      downstream[at] = value;
    }
  }
};

// One step of many planes, a tile a block.
template <int Taps, typename T>
__global__ void __launch_bounds__(kTiledThreads / 2)
    backward_tile_kernel(Shape shape, Cut cut, StepData<T> data, StepFilters<T> filters, StepGradients<T> gradients) {
  using A = Acc<T>;
  const Place place = place_of_block(cut, shape);
  const int64_t start = (place.plane - cut.first_plane) * shape.pixels();
  const int width = shape.width;
  const auto at = [&](int y, int x) { return start + static_cast<int64_t>(y) * width + x; };
  backward_tile<Taps>(
      place.tile, shape, plane_filters(filters, shape, place.plane), plane_gradients(gradients, shape, place.plane),
      dynamic_shared<A>(), [&](int y, int x) { return data.read_input(at(y, x)); },
      [&](int y, int x) { return data.read_upstream(at(y, x)); },
      [&](int y, int x, A value) { data.write_downstream(at(y, x), value); });
}

// The wide path, one thread a pixel, any number of taps: first t and gt into scratch, then everything else.
struct Pixel {
  int64_t plane;  // of the launch
  int y, x;       // y = -1: past the end
};

__device__ inline Pixel pixel_of_thread(const Cut& cut, const Shape& shape) {
  const unsigned plane = blockIdx.x / cut.tiles;
  const int64_t at = static_cast<int64_t>(blockIdx.x - plane * cut.tiles) * blockDim.x + threadIdx.x;
  if (at >= shape.pixels()) return {plane, -1, 0};
  const int64_t y = at / shape.width;
  return {plane, static_cast<int>(y), static_cast<int>(at - y * shape.width)};
}

template <typename T>
__global__ void __launch_bounds__(kWideThreads)
    backward_wide_first_kernel(Shape shape, Cut cut, StepData<T> data, StepFilters<T> filters,
                               Acc<T>* __restrict__ t, Acc<T>* __restrict__ gt) {
  using A = Acc<T>;
  const Pixel pixel = pixel_of_thread(cut, shape);
  if (pixel.y < 0) return;
  const TapCount<0> taps{shape.taps};
  const int64_t pixels = shape.pixels(), start = pixel.plane * pixels;
  const PlaneFilters<T> plane = plane_filters(filters, shape, cut.first_plane + pixel.plane);
  const auto offset = [&](int y, int x) { return static_cast<int64_t>(y) * shape.width + x; };
  A sum = 0;
  for (int j = 0; j < taps.count(); ++j) {
    const int y = clamp_index(pixel.y + j - taps.half(), shape.height);
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
                                StepGradients<T> gradients, const Acc<T>* __restrict__ t,
                                const Acc<T>* __restrict__ gt) {
  using A = Acc<T>;
  const Pixel pixel = pixel_of_thread(cut, shape);
  if (pixel.y < 0) return;
  const TapCount<0> taps{shape.taps};
  const int64_t pixels = shape.pixels(), start = pixel.plane * pixels;
  const int64_t plane_index = cut.first_plane + pixel.plane;
  const PlaneFilters<T> plane = plane_filters(filters, shape, plane_index);
  const PlaneGradients<T> into = plane_gradients(gradients, shape, plane_index);
  const auto offset = [&](int y, int x) { return static_cast<int64_t>(y) * shape.width + x; };
  const int64_t here = offset(pixel.y, pixel.x);
  const A gu = data.read_upstream(start + here), gt_here = gt[start + here];
  into.b[here] = narrow<T>(gu);
  for (int j = 0; j < taps.count(); ++j) {
    const int shift = j - taps.half();
    const A row = gu * t[start + offset(pixel.y, clamp_index(pixel.x + shift, shape.width))];
    const A column = gt_here * data.read_input(start + offset(clamp_index(pixel.y + shift, shape.height), pixel.x));
    into.v[j * pixels + here] = narrow<T>(shape.isotropic ? column + row : column);
    into.h[j * pixels + here] = narrow<T>(shape.isotropic ? A(0) : row);
  }
  data.write_downstream(start + here, gather<A>(pixel.y, shape.height, taps, [&](int s, int j) {
    return widen(plane.v[j * pixels + offset(s, pixel.x)]) * gt[start + offset(s, pixel.x)];
  }));
}

// grad, x, y, grad_x: [planes, H, W]; steps: [N - 1, planes, H, W]; scratch: backward_scratch_planes() planes.
// `filters` and `gradients` are those of step 0.
template <int Taps, typename T>
cudaError_t backward_with_taps(const Plan& plan, const Shape& shape, const T* grad, const T* x,
                               const StepFilters<T>& filters, const T* y, const Acc<T>* steps, T* grad_x,
                               const StepGradients<T>& gradients, Acc<T>* scratch, Acc<T> slope, bool act_last,
                               cudaStream_t stream) {
  using A = Acc<T>;
  const int64_t pixels = shape.pixels();
  const int64_t buffer = plan.planes_per_pass * pixels;
  const int last = shape.num_steps - 1;
  // Behind the running gradient's buffers: t and gt of the wide path.
  A* t = scratch + (last < 2 ? last : 2) * buffer;
  A* gt = t + buffer;
  for (int64_t first = 0; first < shape.planes; first += plan.planes_per_pass) {
    const int64_t planes = std::min(plan.planes_per_pass, shape.planes - first);
    if (plan.path == Path::kPlane) {
      const cudaError_t error =
          launch(backward_plane_kernel<Taps, T>, planes, plan.threads_x, plan.threads_y, plan.shared_bytes, stream,
                 shape, first, grad, x, filters, y, steps, grad_x, gradients, slope, act_last);
      if (error != cudaSuccess) return error;
      continue;
    }
    const int64_t blocks = planes * plan.tiles;
    const Cut cut = cut_of(plan, first);
    for (int i = last; i >= 0; --i) {
      const int64_t start = first * pixels;
      StepData<T> data = {};
      if (i == 0) {
        data.input_x = x + start;
        data.downstream_x = grad_x + start;
      } else {
        data.input = steps + ((i - 1) * shape.planes + first) * pixels;
        data.downstream = scratch + (i % 2) * (last < 2 ? 0 : buffer);
      }
      if (i == last) {
        data.output_y = y + start;
        data.upstream_y = grad + start;
      } else {
        data.output = steps + (i * shape.planes + first) * pixels;
        data.upstream = scratch + ((i + 1) % 2) * (last < 2 ? 0 : buffer);
      }
      data.act = i < last || act_last;
      data.slope = slope;
      const int64_t weights = i * shape.step_weights(), biases = i * shape.step_biases();
      const StepFilters<T> now{filters.weights + weights, filters.bias + biases, filters.weights_batch_stride,
                               filters.bias_batch_stride};
      const StepGradients<T> into{gradients.weights + weights, gradients.bias + biases, gradients.batch_stride};
      cudaError_t error;
      if (plan.path == Path::kTiled) {
        error = launch(backward_tile_kernel<Taps, T>, blocks, plan.threads_x, plan.threads_y, plan.shared_bytes,
                       stream, shape, cut, data, now, into);
      } else {
        error = launch(backward_wide_first_kernel<T>, blocks, plan.threads_x, 1, 0, stream, shape, cut, data, now,
                       t, gt);
        if (error == cudaSuccess) {
          error = launch(backward_wide_second_kernel<T>, blocks, plan.threads_x, 1, 0, stream, shape, cut, data, now,
                         into, static_cast<const A*>(t), static_cast<const A*>(gt));
        }
      }
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

template <typename T>
cudaError_t backward(const Plan& plan, const Shape& shape, const T* grad, const T* x, const StepFilters<T>& filters,
                     const T* y, const Acc<T>* steps, T* grad_x, const StepGradients<T>& gradients, Acc<T>* scratch,
                     Acc<T> slope, bool act_last, cudaStream_t stream) {
  const auto run = shape.taps == 3 ? backward_with_taps<3, T> : backward_with_taps<0, T>;
  return run(plan, shape, grad, x, filters, y, steps, grad_x, gradients, scratch, slope, act_last, stream);
}

}  // namespace ifan
