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

// The transpose of a replicated filter of 3 taps, at `Columns` neighbours: the sum of
//   tap 0 at the next position, tap 1 here, tap 2 at the one before.
// The first position gets tap 0 of its own and the last one tap 2 of its own in place of what isn't there. A tap's
// products are `plane` values from another's. Addresses are chosen, since branches would take several times as long.
template <int Columns, typename A>
__device__ inline void gather_columns(const A* here, int plane, bool first, bool last, A (&sum)[Columns]) {
  if constexpr (Columns == 1) {
    sum[0] = here[last ? 2 * plane : 1] + here[plane] + here[first ? 0 : 2 * plane - 1];
  } else {
    static_assert(Columns == 2);
    A taps[3][2];
#pragma unroll
    for (int j = 0; j < 3; ++j) load_columns(here + j * plane, taps[j]);
    const A before = here[first ? 0 : 2 * plane - 1], next = here[last ? 2 * plane + 1 : 2];
    sum[0] = taps[0][1] + taps[1][0] + before;
    sum[1] = next + taps[1][1] + taps[2][0];
  }
}

template <int Columns, typename A>
__device__ inline void gather_rows(const A* here, int plane, int pitch, bool first, bool last, A (&sum)[Columns]) {
  A next[Columns], own[Columns], before[Columns];
  load_columns(here + (last ? 2 * plane : pitch), next);
  load_columns(here + plane, own);
  load_columns(here + (first ? 0 : 2 * plane - pitch), before);
#pragma unroll
  for (int c = 0; c < Columns; ++c) sum[c] = next[c] + own[c] + before[c];
}

// One step on one tile, 3 taps.
//   input(y, x, into): e; upstream(y, x, into): gu, both at as many neighbours as `into` has;
//   downstream(y, x, values): takes grad_e; ready(): called before the first upstream.
// Shared: hg_j = h_j * gu [3, rows and halo, columns and halo], vg_j = v_j * gt [3, rows and halo, columns],
// t [rows, columns and halo]; the halo ends at the edges of the plane. A row's loads all come before the first use of
// one. A thread works on `Columns` neighbours at a time, which are all of the tile or all of its halo. The caller puts
// a barrier between two calls.
template <int Columns, typename T, typename Input, typename Upstream, typename Downstream, typename Ready>
__device__ inline void backward_tile_of_three(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                              const PlaneGradients<T>& gradients, Acc<T>* shared, Input input,
                                              Upstream upstream, Downstream downstream, Ready ready) {
  using A = Acc<T>;
  using One = Fetched<T, Columns>;
  const int height = shape.height, width = shape.width;
  const int64_t plane_bytes = shape.pixels() * static_cast<int64_t>(sizeof(T));
  const bool isotropic = shape.isotropic;
  const int high_top = tile.top > 0 ? tile.top - 1 : 0;
  const int high_bottom = tile.bottom < height ? tile.bottom + 1 : height;
  const int wide_left = tile.left > 0 ? tile.left - Columns : 0;
  const int wide_right = tile.right < width ? tile.right + Columns : width;
  const int rows = high_bottom - high_top, pitch = wide_right - wide_left, columns = tile.right - tile.left;
  const int hg_plane = rows * pitch, vg_plane = rows * columns;
  A* hg = shared;
  A* vg = hg + 3 * hg_plane;
  A* t_tile = vg + 3 * vg_plane;
  const int top = high_top + static_cast<int>(threadIdx.y), left = wide_left + static_cast<int>(threadIdx.x) * Columns;
  const int down = static_cast<int>(blockDim.y), right = static_cast<int>(blockDim.x) * Columns;
  const auto offset = [&](int y, int x) { return static_cast<Index<3>>(y) * width + x; };
  const auto fetch = [&](const T* from, int y, int x, bool wanted, One(&into)[3]) {
    const T* at = from + offset(y, x);
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      into[j] = wanted ? One::load(at) : One::zero();
      at = further(at, plane_bytes);
    }
  };

  const auto store_products = [&](const One(&filter)[3], const A(&by)[Columns], A* into, int plane) {
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      A product[Columns];
#pragma unroll
      for (int c = 0; c < Columns; ++c) product[c] = filter[j][c] * by[c];
      store_columns(into + j * plane, product);
    }
  };

  // The halo needs h only for the sake of its neighbours' gt, and v only for that of grad_e and t.
  One first_h[3];
  fetch(filters.h, top, left, top < high_bottom && left < wide_right, first_h);
  ready();
  for (int y = top; y < high_bottom; y += down) {
    for (int x = left; x < wide_right; x += right) {
      One h[3];
      if (y == top && x == left) {
#pragma unroll
        for (int j = 0; j < 3; ++j) h[j] = first_h[j];
      } else {
        fetch(filters.h, y, x, true, h);
      }
      A gu[Columns];
      upstream(y, x, gu);
      store_products(h, gu, hg + (y - high_top) * pitch + x - wide_left, hg_plane);
    }
  }
  __syncthreads();

  for (int y = top; y < high_bottom; y += down) {
    for (int x = left; x < wide_right; x += right) {
      const bool own_column = x >= tile.left && x < tile.right;
      const bool own_row = y >= tile.top && y < tile.bottom;
      if (!own_column && !own_row) continue;  // the corners
      One v[3];
      A e[3][Columns] = {}, gt[Columns] = {};
      fetch(filters.v, y, x, true, v);
      if (own_row) {
        input(y > 0 ? y - 1 : 0, x, e[0]);
        input(y, x, e[1]);
        input(y + 1 < height ? y + 1 : y, x, e[2]);
      }
      if (own_column) {
        const int high_row = y - high_top;
        gather_columns(hg + high_row * pitch + x - wide_left, hg_plane, x == 0, x + Columns == width, gt);
        store_products(v, gt, vg + high_row * columns + x - tile.left, vg_plane);
      }
      if (!own_row) continue;
      A t[Columns];
#pragma unroll
      for (int c = 0; c < Columns; ++c) t[c] = v[0][c] * e[0][c] + v[1][c] * e[1][c] + v[2][c] * e[2][c];
      store_columns(t_tile + (y - tile.top) * pitch + x - wide_left, t);
      if (!own_column || isotropic) continue;
      T* grad_v = gradients.v + offset(y, x);
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        A along_column[Columns];
#pragma unroll
        for (int c = 0; c < Columns; ++c) along_column[c] = gt[c] * e[j][c];
        store_once_columns(grad_v, along_column);
        grad_v = further(grad_v, plane_bytes);
      }
    }
  }
  __syncthreads();

  for (int y = tile.top + static_cast<int>(threadIdx.y); y < tile.bottom; y += down) {
    for (int x = tile.left + static_cast<int>(threadIdx.x) * Columns; x < tile.right; x += right) {
      A gu[Columns], around[Columns + 2], grad_e[Columns];
      upstream(y, x, gu);
      const A* t_here = t_tile + (y - tile.top) * pitch + x - wide_left;
      load_with_neighbours<Columns>(t_here, x == 0, x + Columns >= width, around);
      store_once_columns(gradients.b + offset(y, x), gu);
      T* grad_h = gradients.h + offset(y, x);
      if (!isotropic) {
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          A along_row[Columns];
#pragma unroll
          for (int c = 0; c < Columns; ++c) along_row[c] = gu[c] * around[c + j];
          store_once_columns(grad_h, along_row);
          grad_h = further(grad_h, plane_bytes);
        }
      } else {
        T* grad_v = gradients.v + offset(y, x);
        A gt[Columns];
        gather_columns(hg + (y - high_top) * pitch + x - wide_left, hg_plane, x == 0, x + Columns == width, gt);
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          A both[Columns];
          const A zero[Columns] = {};
          input(clamp_index(y + j - 1, height), x, both);
#pragma unroll
          for (int c = 0; c < Columns; ++c) both[c] = gt[c] * both[c] + gu[c] * around[c + j];
          store_once_columns(grad_v, both);
          store_once_columns(grad_h, zero);
          grad_v = further(grad_v, plane_bytes);
          grad_h = further(grad_h, plane_bytes);
        }
      }
      gather_rows(vg + (y - high_top) * columns + x - tile.left, vg_plane, columns, y == 0, y == height - 1, grad_e);
      downstream(y, x, grad_e);
    }
  }
}

// The same for any number of taps, which the compiler doesn't know.
template <typename T, typename Input, typename Upstream, typename Downstream, typename Ready>
__device__ inline void backward_tile_of_any(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                            const PlaneGradients<T>& gradients, Acc<T>* shared, Input input,
                                            Upstream upstream, Downstream downstream, Ready ready) {
  using A = Acc<T>;
  const int k = shape.taps, p = k / 2;
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
  const auto offset = [&](int y, int x) { return static_cast<int64_t>(y) * width + x; };
  const auto input_at = [&](int y, int x) {
    A e[1];
    input(clamp_index(y, height), x, e);
    return e[0];
  };
  const auto upstream_at = [&](int y, int x) {
    A gu[1];
    upstream(y, x, gu);
    return gu[0];
  };
  const auto gradient_of_t = [&](int y, int x) {
    return gather<A>(x, width, k, [&](int s, int j) { return hg_at(j, y, s); });
  };
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int bx = static_cast<int>(blockDim.x), by = static_cast<int>(blockDim.y);

  ready();
  for (int y = high_top + ty; y < high_bottom; y += by) {
    for (int x = wide_left + tx; x < wide_right; x += bx) {
      const A gu = upstream_at(y, x);
      const T* h = filters.h + offset(y, x);
      for (int j = 0; j < k; ++j) hg_at(j, y, x) = load_once(h + j * pixels) * gu;
    }
  }
  __syncthreads();

  for (int y = high_top + ty; y < high_bottom; y += by) {
    for (int x = wide_left + tx; x < wide_right; x += bx) {
      const bool own_column = x >= tile.left && x < tile.right;
      const bool own_row = y >= tile.top && y < tile.bottom;
      if (!own_column && !own_row) continue;  // the corners
      const A gt = own_column ? gradient_of_t(y, x) : A(0);
      const T* v = filters.v + offset(y, x);
      T* grad_v = gradients.v + offset(y, x);
      A t = 0;
      for (int j = 0; j < k; ++j) {
        const A by_v = load_once(v + j * pixels);
        if (own_column) vg_at(j, y, x) = by_v * gt;
        if (own_row) {
          const A before = input_at(y + j - p, x);
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
      const A gu = upstream_at(y, x);
      T* grad_v = gradients.v + offset(y, x);
      T* grad_h = gradients.h + offset(y, x);
      store_once(gradients.b + offset(y, x), narrow<T>(gu));
      const A gt = isotropic ? gradient_of_t(y, x) : A(0);
      for (int j = 0; j < k; ++j) {
        const A along_row = gu * t_at(y, clamp_index(x + j - p, width));
        if (isotropic) {
          store_once(grad_v + j * pixels, narrow<T>(gt * input_at(y + j - p, x) + along_row));
          store_once(grad_h + j * pixels, narrow<T>(A(0)));
        } else {
          store_once(grad_h + j * pixels, narrow<T>(along_row));
        }
      }
      const A grad_e[1] = {gather<A>(y, height, k, [&](int s, int j) { return vg_at(j, s, x); })};
      downstream(y, x, grad_e);
    }
  }
}

template <int Taps, int Columns, typename T, typename... Functions>
__device__ inline void backward_tile(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                     const PlaneGradients<T>& gradients, Acc<T>* shared, Functions... functions) {
  if constexpr (Taps == 3) {
    backward_tile_of_three<Columns>(tile, shape, filters, gradients, shared, functions...);
  } else {
    static_assert(Taps == 0 && Columns == 1);
    backward_tile_of_any(tile, shape, filters, gradients, shared, functions...);
  }
}

// All steps of one plane a block, the last one first. Shared: the running gradient [H, W], then backward_tile's.
template <int Taps, int Columns, typename T>
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
    const auto input = [&](int row, int column, A(&into)[Columns]) {
      load_either(x_plane, e, row * width + column, into);
    };
    // Each thread reads only what it wrote itself: it visits the same pixels every time.
    const auto upstream = [&](int row, int column, A(&into)[Columns]) {
      const int at = row * width + column;
      A after[Columns];
      if (last) {
        load_columns(grad_plane + at, into);
        if (!act_last) return;
        load_columns(y_plane + at, after);
      } else {
        load_columns(running + at, into);
        load_columns(e_after + at, after);
      }
#pragma unroll
      for (int c = 0; c < Columns; ++c) into[c] = after[c] > A(0) ? into[c] : into[c] * slope;
    };
    const auto downstream = [&](int row, int column, const A(&values)[Columns]) {
      const int at = row * width + column;
      if (step == 0) {
        store_columns(result + at, values);
      } else {
        store_columns(running + at, values);
      }
    };
    backward_tile<Taps, Columns>(tile, shape, plane_filters(filters, shape, plane),
                                 plane_gradients(gradients, shape, plane), running + pixels, input, upstream,
                                 downstream, [] {});
    __syncthreads();
    filters.weights -= shape.step_weights();
    filters.bias -= shape.step_biases();
    gradients.weights -= shape.step_weights();
    gradients.bias -= shape.step_biases();
  }
}

// One step of many planes, a tile a block.
template <int Taps, int Columns, typename T>
__global__ void __launch_bounds__(Taps == 3 && Columns == 1 ? kTiledThreads : kTiledThreads / 2, Taps == 0 ? 1 : 3)
    backward_tile_kernel(Shape shape, Cut cut, StepData<T> data, StepFilters<T> filters, StepGradients<T> gradients) {
  using A = Acc<T>;
  let_next_launch_begin();
  const Place place = place_of_block(cut, shape);
  const int64_t start = (place.plane - cut.first_plane) * shape.pixels();
  const int width = shape.width;
  const StepData<T> here = data.further(start);
  const auto at = [&](int y, int x) { return static_cast<Index<Taps>>(y) * width + x; };
  // The filters and what the forward pass saved don't come from the launch before.
  backward_tile<Taps, Columns>(
      place.tile, shape, plane_filters(filters, shape, place.plane), plane_gradients(gradients, shape, place.plane),
      dynamic_shared<A>(), [&](int y, int x, A(&into)[Columns]) { here.read_input(at(y, x), into); },
      [&](int y, int x, A(&into)[Columns]) { here.read_upstream(at(y, x), into); },
      [&](int y, int x, const A(&values)[Columns]) { here.write_downstream(at(y, x), values); },
      [] { wait_for_previous_launch(); });
}

// grad, x, y, grad_x: [planes, H, W]; steps: [N - 1, planes, H, W]; scratch: backward_scratch_planes() planes.
// `filters` and `gradients` are those of step 0.
template <int Taps, int Columns, typename T>
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
          launch(backward_plane_kernel<Taps, Columns, T>, planes, plan.threads_x, plan.threads_y, plan.shared_bytes,
                 stream, false, shape, first, grad, x, filters, y, steps, grad_x, gradients, slope, act_last);
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
        error = launch(backward_tile_kernel<Taps, Columns, T>, blocks, plan.threads_x, plan.threads_y,
                       plan.shared_bytes, stream, programmatic(), shape, cut, data, now, into);
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

// Whether threads can work on two neighbouring columns. Activations in the accumulation type are read in pairs as the
// filters are: the saved steps, and in float32 all of them.
template <typename T>
inline bool backward_pairs_fit(const T* grad, const T* x, const StepFilters<T>& filters, const T* y,
                               const Acc<T>* steps, const T* grad_x, const StepGradients<T>& gradients) {
  const bool ends = sizeof(T) == 2 || (pairs_fit(grad) && pairs_fit(x) && pairs_fit(y) && pairs_fit(grad_x));
  return sizeof(T) <= 4 && pairs_fit(filters) && pairs_fit(gradients.weights) && pairs_fit(gradients.bias) &&
         gradients.batch_stride % 2 == 0 && pairs_fit(steps) && ends;
}

template <typename T>
cudaError_t backward(const Plan& plan, const Shape& shape, const T* grad, const T* x, const StepFilters<T>& filters,
                     const T* y, const Acc<T>* steps, T* grad_x, const StepGradients<T>& gradients, Acc<T>* scratch,
                     Acc<T> slope, bool act_last, cudaStream_t stream) {
  auto* run = has_fast_form(shape.taps, shape.pixels()) ? backward_as<3, 1, T> : backward_as<0, 1, T>;
  if constexpr (sizeof(T) <= 4) {
    if (plan.columns_at_once == 2) run = backward_as<3, 2, T>;
  }
  return run(plan, shape, grad, x, filters, y, steps, grad_x, gradients, scratch, slope, act_last, stream);
}

}  // namespace ifan
