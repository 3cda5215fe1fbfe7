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

#include "iac_cuda_backward_wide.cuh"
#include "iac_cuda_kernel.cuh"

namespace ifan {

// One step on one tile.
//   input(y, x): e; upstream(y, x): gu; downstream(y, x, value): takes grad_e; ready(): called before the first
//   upstream.
// Shared: hg_j = h_j * gu [taps, rows and halo, columns and halo], vg_j = v_j * gt [taps, rows and halo, columns],
// t [rows, columns and halo]; the halo ends at the edges of the plane. A row's loads all come before the first use of
// one. The caller puts a barrier between two calls.
template <int Taps, typename T, typename Input, typename Upstream, typename Downstream, typename Ready>
__device__ inline void backward_tile(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                     const PlaneGradients<T>& gradients, Acc<T>* shared, Input input, Upstream upstream,
                                     Downstream downstream, Ready ready) {
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
  const auto hg_at = [&](int j, int y, int x) -> A& { return hg[(j * rows + y - high_top) * pitch + x - wide_left]; };
  const auto vg_at = [&](int j, int y, int x) -> A& { return vg[(j * rows + y - high_top) * columns + x - tile.left]; };
  const auto t_at = [&](int y, int x) -> A& { return t_tile[(y - tile.top) * pitch + x - wide_left]; };
  const int64_t plane_bytes = pixels * static_cast<int64_t>(sizeof(T));
  const auto offset = [&](int y, int x) { return static_cast<Index<Taps>>(y) * width + x; };
  const auto gradient_of_t = [&](int y, int x) {
    return gather<A>(x, width, taps, [&](int s, int j) { return hg_at(j, y, s); });
  };
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int bx = static_cast<int>(blockDim.x), by = static_cast<int>(blockDim.y);

  // Where the number of taps isn't known to the compiler nothing is kept: arrays of one element.
  constexpr int kKept = Taps > 0 ? Taps : 1;
  const auto fetch = [&](const T* from, int y, int x, bool wanted, A(&into)[kKept]) {
    if constexpr (Taps > 0) {
      const T* at = from + offset(y, x);
#pragma unroll
      for (int j = 0; j < Taps; ++j) {
        into[j] = wanted ? load_once(at) : A(0);
        at = further(at, plane_bytes);
      }
    }
  };
  const auto weight = [&](const T* from, int y, int x, int j, const A(&fetched)[kKept]) {
    return Taps > 0 ? fetched[Taps > 0 ? j : 0] : load_once(from + offset(y, x) + j * pixels);
  };

  // The halo needs h only for the sake of its neighbours' gt, and v only for that of grad_e and t.
  A first_h[kKept];
  fetch(filters.h, high_top + ty, wide_left + tx, high_top + ty < high_bottom && wide_left + tx < wide_right, first_h);
  ready();
  for (int y = high_top + ty; y < high_bottom; y += by) {
    for (int x = wide_left + tx; x < wide_right; x += bx) {
      A h[kKept];
      if (y == high_top + ty && x == wide_left + tx) {
#pragma unroll
        for (int j = 0; j < kKept; ++j) h[j] = first_h[j];
      } else {
        fetch(filters.h, y, x, true, h);
      }
      const A gu = upstream(y, x);
#pragma unroll
      for (int j = 0; j < k; ++j) hg_at(j, y, x) = weight(filters.h, y, x, j, h) * gu;
    }
  }
  __syncthreads();

  for (int y = high_top + ty; y < high_bottom; y += by) {
    for (int x = wide_left + tx; x < wide_right; x += bx) {
      const bool own_column = x >= tile.left && x < tile.right;
      const bool own_row = y >= tile.top && y < tile.bottom;
      if (!own_column && !own_row) continue;  // the corners
      A v[kKept], e[kKept];
      fetch(filters.v, y, x, true, v);
      if constexpr (Taps > 0) {
#pragma unroll
        for (int j = 0; j < Taps; ++j) e[j] = own_row ? input(clamp_index(y + j - p, height), x) : A(0);
      }
      const A gt = own_column ? gradient_of_t(y, x) : A(0);
      T* grad_v = gradients.v + offset(y, x);
      A t = 0;
#pragma unroll
      for (int j = 0; j < k; ++j) {
        const A by_v = weight(filters.v, y, x, j, v);
        if (own_column) vg_at(j, y, x) = by_v * gt;
        if (own_row) {
          const A before = Taps > 0 ? e[Taps > 0 ? j : 0] : input(clamp_index(y + j - p, height), x);
          t += by_v * before;
          if (own_column && !isotropic) store_once(grad_v + j * pixels, narrow<T>(gt * before));
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
      store_once(gradients.b + offset(y, x), narrow<T>(gu));
      const A gt = isotropic ? gradient_of_t(y, x) : A(0);
#pragma unroll
      for (int j = 0; j < k; ++j) {
        const A along_row = gu * t_at(y, clamp_index(x + j - p, width));
        if (isotropic) {
          const A along_column = gt * input(clamp_index(y + j - p, height), x);
          store_once(grad_v + j * pixels, narrow<T>(along_column + along_row));
          store_once(grad_h + j * pixels, narrow<T>(A(0)));
        } else {
          store_once(grad_h + j * pixels, narrow<T>(along_row));
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
                        running + pixels, input, upstream, downstream, [] {});
    __syncthreads();
    filters.weights -= shape.step_weights();
    filters.bias -= shape.step_biases();
    gradients.weights -= shape.step_weights();
    gradients.bias -= shape.step_biases();
  }
}

// One step of many planes, a tile a block.
template <int Taps, typename T>
__global__ void __launch_bounds__(Taps == 0 ? kTiledThreads / 2 : kTiledThreads, Taps == 0 ? 1 : 3)
    backward_tile_kernel(Shape shape, Cut cut, StepData<T> data, StepFilters<T> filters, StepGradients<T> gradients) {
  using A = Acc<T>;
  let_next_launch_begin();
  const Place place = place_of_block(cut, shape);
  const int64_t start = (place.plane - cut.first_plane) * shape.pixels();
  const int width = shape.width;
  const StepData<T> here = data.further(start);
  const auto at = [&](int y, int x) { return static_cast<Index<Taps>>(y) * width + x; };
  // The filters and what the forward pass saved don't come from the launch before.
  backward_tile<Taps>(
      place.tile, shape, plane_filters(filters, shape, place.plane), plane_gradients(gradients, shape, place.plane),
      dynamic_shared<A>(), [&](int y, int x) { return here.read_input(at(y, x)); },
      [&](int y, int x) { return here.read_upstream(at(y, x)); },
      [&](int y, int x, A value) { here.write_downstream(at(y, x), value); }, [] { wait_for_previous_launch(); });
}

// grad, x, y, grad_x: [planes, H, W]; steps: [N - 1, planes, H, W]; scratch: backward_scratch_planes() planes.
// `filters` and `gradients` are those of step 0.
template <int Taps, typename T>
cudaError_t backward_as(const Plan& plan, const Shape& shape, const T* grad, const T* x, const StepFilters<T>& filters,
                        const T* y, const Acc<T>* steps, T* grad_x, const StepGradients<T>& gradients, Acc<T>* scratch,
                        Acc<T> slope, bool act_last, cudaStream_t stream) {
  using A = Acc<T>;
  const int64_t pixels = shape.pixels();
  const int64_t buffer = plan.planes_per_pass * pixels;
  const int last = shape.num_steps - 1;
  // Behind the running gradient's buffers: t and gt of the wide path.
  A* t = scratch + (last < 2 ? last : 2) * buffer;
  A* gt = t + buffer;
  bool begun = false;
  // The first launch of all waits for everything before it.
  const auto programmatic = [&] { return plan.programmatic && std::exchange(begun, true); };
  for (int64_t first = 0; first < shape.planes; first += plan.planes_per_pass) {
    const int64_t planes = std::min(plan.planes_per_pass, shape.planes - first);
    if (plan.path == Path::kPlane) {
      const cudaError_t error =
          launch(backward_plane_kernel<Taps, T>, planes, plan.threads_x, plan.threads_y, plan.shared_bytes, stream,
                 false, shape, first, grad, x, filters, y, steps, grad_x, gradients, slope, act_last);
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
        error = launch(backward_tile_kernel<Taps, T>, blocks, plan.threads_x, plan.threads_y, plan.shared_bytes, stream,
                       programmatic(), shape, cut, data, now, into);
      } else {
        error = launch(backward_wide_first_kernel<T>, blocks, plan.threads_x, 1, 0, stream, programmatic(), shape, cut,
                       data, now, t, gt);
        if (error == cudaSuccess) {
          error = launch(backward_wide_second_kernel<T>, blocks, plan.threads_x, 1, 0, stream, programmatic(), shape,
                         cut, data, now, into, static_cast<const A*>(t), static_cast<const A*>(gt));
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
  auto* run = has_fast_form(shape.taps, shape.pixels()) ? backward_as<3, T> : backward_as<0, T>;
  return run(plan, shape, grad, x, filters, y, steps, grad_x, gradients, scratch, slope, act_last, stream);
}

}  // namespace ifan
