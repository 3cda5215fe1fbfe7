// IAC on CUDA, forward: the kernels, and the host code that launches them.
//
//   t(y, x)       = sum_j v_j(y, x) * e(clamp(y + j - p), x)          p = (taps - 1) / 2
//   u(y, x)       = sum_j h_j(y, x) * t(y, clamp(x + j - p)) + b(y, x)
//   e'(y, x)      = LeakyReLU(u(y, x))                                 N times, see reference.py
//
// Words and conventions: iac_cuda_common.cuh. Which kernel runs for which shape: iac_cuda_plan.hpp.
#pragma once

#include "iac_cuda_common.cuh"

namespace ifan {

template <typename A>
__device__ inline A activated(A value, A slope, bool act) {
  return act && !(value > A(0)) ? value * slope : value;
}

// One step on one tile, 3 taps. input(y, x): where the step's input lies, with the whole plane around it;
// write(y, x, values): its output, at as many neighbours as `values` has. ready(): called before the first read.
// t_tile: shared, [tile rows, tile columns and their halo].
// Thread (tx, ty) has columns left + tx * Columns and rows top + ty + i * by. It takes `Rows` of its rows at a time:
// all loads come before the first use of one, and under conditions without branches, so that enough of them are under
// way at any time; for its first rows, what doesn't wait for t is fetched before the barrier too. The caller puts a
// barrier between two calls.
template <int Rows, int Columns, typename T, typename Input, typename Write, typename Ready>
__device__ inline void forward_tile_of_three(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                             Acc<T> slope, bool act, Acc<T>* t_tile, Input input, Write write,
                                             Ready ready) {
  using A = Acc<T>;
  using One = Fetched<T, Columns>;
  const int height = shape.height, width = shape.width;
  const int64_t plane_bytes = shape.pixels() * static_cast<int64_t>(sizeof(T));
  const int before = tile.left > 0 ? Columns : 0, after = tile.right < width ? Columns : 0;
  const int pitch = before + (tile.right - tile.left) + after;
  const int first_column = tile.left - before;
  const int x = tile.left + static_cast<int>(threadIdx.x) * Columns;
  const int first_row = tile.top + static_cast<int>(threadIdx.y);
  const int stride = static_cast<int>(blockDim.y);
  const int bottom = x < tile.right ? tile.bottom : tile.top;  // no rows for a thread without a column
  const auto offset = [&](int row, int column) { return static_cast<Index<3>>(row) * width + column; };
  const auto shared_at = [&](int row, int column) { return (row - tile.top) * pitch + (column - first_column); };
  const auto above = [&](int y) { return y > 0 ? -width : 0; };
  const auto below = [&](int y) { return y + 1 < height ? width : 0; };

  // Of `Rows` rows, beginning with row `top`.
  const auto fetch = [&](int top, const T* from, bool wanted, One* into) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = top + i * stride;
      const T* at = from + offset(y, x);
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        into[i * 3 + j] = wanted && y < bottom ? One::load(at) : One::zero();
        at = further(at, plane_bytes);
      }
    }
  };
  const auto fetch_bias = [&](int top, One* into) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = top + i * stride;
      into[i] = y < bottom ? One::load(filters.b + offset(y, x)) : One::zero();
    }
  };
  const auto down = [&](int top, const One* v, const One* h) {
    A t[Rows][Columns];
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = top + i * stride;
      A e[3][Columns] = {};
      if (y < bottom) {
        const auto* here = input(y, x);
        load_columns(here + above(y), e[0]);
        load_columns(here, e[1]);
        load_columns(here + below(y), e[2]);
      }
#pragma unroll
      for (int c = 0; c < Columns; ++c) t[i][c] = 0;
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        const One weight = shape.isotropic ? h[i * 3 + j] : v[i * 3 + j];
#pragma unroll
        for (int c = 0; c < Columns; ++c) t[i][c] += weight[c] * e[j][c];
      }
    }
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = top + i * stride;
      if (y < bottom) store_columns(t_tile + shared_at(y, x), t[i]);
    }
  };
  const auto across = [&](int top, const One* h, const One* bias) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = top + i * stride;
      if (y >= bottom) continue;
      A around[Columns + 2], result[Columns];
      load_with_neighbours<Columns>(t_tile + shared_at(y, x), x == 0, x + Columns >= width, around);
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
        A sum = 0;
#pragma unroll
        for (int j = 0; j < 3; ++j) sum += h[i * 3 + j][c] * around[c + j];
        result[c] = activated(sum + bias[i][c], slope, act);
      }
      write(y, x, result);
    }
  };

  One first_v[Rows * 3], first_h[Rows * 3], first_bias[Rows];
  fetch(first_row, filters.h, true, first_h);
  fetch_bias(first_row, first_bias);
  fetch(first_row, filters.v, !shape.isotropic, first_v);  // isotropic: h is v, and here already
  ready();
  down(first_row, first_v, first_h);
  for (int y = first_row + Rows * stride; y < bottom; y += Rows * stride) {
    One v[Rows * 3];
    fetch(y, filters.v, true, v);
    down(y, v, v);
  }
  for (int i = static_cast<int>(threadIdx.x); i < before + after; i += static_cast<int>(blockDim.x)) {
    const int column = i < before ? first_column + i : tile.right + (i - before);
    for (int y = first_row; y < tile.bottom; y += stride) {
      const auto* here = input(y, column);
      const int rows[3] = {above(y), 0, below(y)};
      const T* v = filters.v + offset(y, column);
      A sum = 0;
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        A e[1];
        load_columns(here + rows[j], e);
        sum += load_once(v) * e[0];
        v = further(v, plane_bytes);
      }
      t_tile[shared_at(y, column)] = sum;
    }
  }
  __syncthreads();

  across(first_row, first_h, first_bias);
  for (int y = first_row + Rows * stride; y < bottom; y += Rows * stride) {
    One h[Rows * 3], bias[Rows];
    fetch(y, filters.h, true, h);
    fetch_bias(y, bias);
    across(y, h, bias);
  }
}

// The same for any number of taps, which the compiler doesn't know: a row and a column at a time.
template <typename T, typename Input, typename Write, typename Ready>
__device__ inline void forward_tile_of_any(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                           Acc<T> slope, bool act, Acc<T>* t_tile, Input input, Write write,
                                           Ready ready) {
  using A = Acc<T>;
  const int taps = shape.taps, half = taps / 2;
  const int height = shape.height, width = shape.width;
  const int64_t pixels = shape.pixels();
  const int before = tile.left < half ? tile.left : half;
  const int after = width - tile.right < half ? width - tile.right : half;
  const int pitch = before + (tile.right - tile.left) + after;
  const int first_column = tile.left - before;
  const int x = tile.left + static_cast<int>(threadIdx.x);
  const int first_row = tile.top + static_cast<int>(threadIdx.y);
  const int stride = static_cast<int>(blockDim.y);
  const int bottom = x < tile.right ? tile.bottom : tile.top;
  const auto offset = [&](int row, int column) { return static_cast<int64_t>(row) * width + column; };
  const auto shared_at = [&](int row, int column) { return (row - tile.top) * pitch + (column - first_column); };
  const auto vertical = [&](int row, int column) {
    const T* v = filters.v + offset(row, column);
    A sum = 0;
    for (int j = 0; j < taps; ++j) {
      A e[1];
      load_columns(input(clamp_index(row + j - half, height), column), e);
      sum += load_once(v + j * pixels) * e[0];
    }
    return sum;
  };

  ready();
  for (int y = first_row; y < bottom; y += stride) t_tile[shared_at(y, x)] = vertical(y, x);
  for (int i = static_cast<int>(threadIdx.x); i < before + after; i += static_cast<int>(blockDim.x)) {
    const int column = i < before ? first_column + i : tile.right + (i - before);
    for (int y = first_row; y < tile.bottom; y += stride) t_tile[shared_at(y, column)] = vertical(y, column);
  }
  __syncthreads();

  for (int y = first_row; y < bottom; y += stride) {
    const T* weights = filters.h + offset(y, x);
    A sum = 0;
    for (int j = 0; j < taps; ++j) {
      sum += load_once(weights + j * pixels) * t_tile[shared_at(y, clamp_index(x + j - half, width))];
    }
    const A result[1] = {activated(sum + load_once(filters.b + offset(y, x)), slope, act)};
    write(y, x, result);
  }
}

template <int Taps, int Rows, int Columns, typename T, typename... Functions>
__device__ inline void forward_tile(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters, Acc<T> slope,
                                    bool act, Acc<T>* t_tile, Functions... functions) {
  if constexpr (Taps == 3) {
    forward_tile_of_three<Rows, Columns>(tile, shape, filters, slope, act, t_tile, functions...);
  } else {
    static_assert(Taps == 0 && Columns == 1);
    forward_tile_of_any(tile, shape, filters, slope, act, t_tile, functions...);
  }
}

// All steps of one plane a block. Shared: e [H, W], t [H, W].
// steps: [N - 1, planes, H, W], or null where they aren't wanted.
template <int Taps, int Rows, int Columns, typename T>
__global__ void __launch_bounds__(kPlaneThreads, 1)
    forward_plane_kernel(Shape shape, int64_t first_plane, const T* __restrict__ x, StepFilters<T> filters,
                         T* __restrict__ y, Acc<T>* __restrict__ steps, Acc<T> slope, bool act_last) {
  using A = Acc<T>;
  const int64_t pixels = shape.pixels();
  const int64_t plane = first_plane + blockIdx.x;
  const int width = shape.width;
  A* e = dynamic_shared<A>();
  A* t = e + pixels;
  const Tile tile{0, shape.height, 0, width};

  const int row_stride = static_cast<int>(blockDim.y), column_stride = static_cast<int>(blockDim.x);
  for (int row = static_cast<int>(threadIdx.y); row < shape.height; row += row_stride) {
    for (int column = static_cast<int>(threadIdx.x); column < width; column += column_stride) {
      e[row * width + column] = widen(x[plane * pixels + row * width + column]);
    }
  }
  __syncthreads();

  for (int step = 0; step < shape.num_steps; ++step) {
    const bool last = step == shape.num_steps - 1;
    A* saved = steps == nullptr || last ? nullptr : steps + (step * shape.planes + plane) * pixels;
    T* result = y + plane * pixels;
    const auto input = [&](int row, int column) -> const A* { return e + row * width + column; };
    const auto write = [&](int row, int column, const auto& values) {
      const int at = row * width + column;
      if (last) {
        store_columns(result + at, values);
      } else {
        store_columns(e + at, values);  // t has all that anybody still needs of the old one
        if (saved != nullptr) store_columns(saved + at, values);
      }
    };
    forward_tile<Taps, Rows, Columns, T>(tile, shape, plane_filters(filters, shape, plane), slope, !last || act_last, t,
                                         input, write, [] {});
    __syncthreads();
    filters.weights += shape.step_weights();
    filters.bias += shape.step_biases();
  }
}

// One step of many planes, a tile a block. In is T for a first step, Out is T for a last one, Acc<T> otherwise.
// `in` and `out` begin at the launch's first plane. `in` isn't __restrict__: what is read as if nobody wrote it might
// be read before the wait for the launch that does.
template <int Taps, int Rows, int Columns, typename T, typename In, typename Out>
__global__ void __launch_bounds__(kTiledThreads)
    forward_tile_kernel(Shape shape, Cut cut, const In* in, StepFilters<T> filters, Out* __restrict__ out, Acc<T> slope,
                        bool act) {
  let_next_launch_begin();
  const Place place = place_of_block(cut, shape);
  const int64_t start = (place.plane - cut.first_plane) * shape.pixels();
  const int width = shape.width;
  const In* from = in + start;
  Out* to = out + start;
  const auto input = [&](int row, int column) { return from + static_cast<Index<Taps>>(row) * width + column; };
  const auto write = [&](int row, int column, const auto& values) {
    store_columns(to + static_cast<Index<Taps>>(row) * width + column, values);
  };
  // The filters don't come from the launch before: they are under way while it ends.
  forward_tile<Taps, Rows, Columns, T>(place.tile, shape, plane_filters(filters, shape, place.plane), slope, act,
                                       dynamic_shared<Acc<T>>(), input, write, [] { wait_for_previous_launch(); });
}

// x, y: [planes, H, W]. steps: [N - 1, planes, H, W] or null. scratch: forward_scratch_planes() planes.
template <int Taps, int Rows, int Columns, typename T>
cudaError_t forward_as(const Plan& plan, const Shape& shape, const T* x, const StepFilters<T>& filters, T* y,
                       Acc<T>* steps, Acc<T>* scratch, Acc<T> slope, bool act_last, cudaStream_t stream) {
  using A = Acc<T>;
  constexpr int kPlaneRowsAtOnce = sizeof(T) == 8 && Rows > 0 ? 1 : Rows;  // what the registers hold
  const int64_t pixels = shape.pixels();
  bool begun = false;
  for (int64_t first = 0; first < shape.planes; first += plan.planes_per_pass) {
    const int64_t planes = std::min(plan.planes_per_pass, shape.planes - first);
    if (plan.path == Path::kPlane) {
      const cudaError_t error =
          launch(forward_plane_kernel<Taps, kPlaneRowsAtOnce, Columns, T>, planes, plan.threads_x, plan.threads_y,
                 plan.shared_bytes, stream, false, shape, first, x, filters, y, steps, slope, act_last);
      if (error != cudaSuccess) return error;
      continue;
    }
    const auto step = [&](auto* in, const StepFilters<T>& step_filters, auto* out, bool act) {
      using In = std::remove_const_t<std::remove_pointer_t<decltype(in)>>;
      using Out = std::remove_pointer_t<decltype(out)>;
      // The first launch of all waits for everything before it, the filters among it.
      const bool programmatic = plan.programmatic && begun;
      begun = true;
      return launch(forward_tile_kernel<Taps, Rows, Columns, T, In, Out>, planes * plan.tiles, plan.threads_x,
                    plan.threads_y, plan.shared_bytes, stream, programmatic, shape, cut_of(plan, first),
                    static_cast<const In*>(in), step_filters, out, slope, act);
    };
    // The output of step i, which isn't the last: the saved steps, or one of two buffers.
    const auto between = [&](int i) -> A* {
      if (steps != nullptr) return steps + (i * shape.planes + first) * pixels;
      return scratch + (i % 2) * plan.planes_per_pass * pixels;
    };
    StepFilters<T> now = filters;
    const int last = shape.num_steps - 1;
    for (int i = 0; i <= last; ++i) {
      cudaError_t error;
      const T* begin = x + first * pixels;
      T* end = y + first * pixels;
      if (i == 0) {
        error = last == 0 ? step(begin, now, end, act_last) : step(begin, now, between(0), true);
      } else {
        const A* in = between(i - 1);
        error = i == last ? step(in, now, end, act_last) : step(in, now, between(i), true);
      }
      if (error != cudaSuccess) return error;
      now.weights += shape.step_weights();
      now.bias += shape.step_biases();
    }
  }
  return cudaSuccess;
}

template <typename T>
cudaError_t forward(const Plan& plan, const Shape& shape, const T* x, const StepFilters<T>& filters, T* y,
                    Acc<T>* steps, Acc<T>* scratch, Acc<T> slope, bool act_last, cudaStream_t stream) {
  auto* run = has_fast_form(shape.taps, shape.pixels()) ? forward_as<3, kRowsAtOnce, 1, T> : forward_as<0, 0, 1, T>;
  if constexpr (sizeof(T) == 2) {
    if (plan.columns_at_once == 2) run = forward_as<3, kRowsAtOnce, 2, T>;
  }
  return run(plan, shape, x, filters, y, steps, scratch, slope, act_last, stream);
}

}  // namespace ifan
