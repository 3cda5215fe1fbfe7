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

// One step on one tile. read(y, x): the step's input, in the whole plane; write(y, x, value): its output.
// t_tile: shared, [tile rows, tile columns and their halo].
// Thread (tx, ty) has column left + tx and rows top + ty + i * by. It takes `Rows` of its rows at a time: all loads come before the first use of one, and under conditions without
// branches, so that enough of them are under way at any time; for its first rows, what doesn't wait for t is fetched
// before the barrier too. The caller puts a barrier between two calls.
template <int Taps, int Rows, typename T, typename Read, typename Write>
__device__ inline void forward_tile(const Tile& tile, const Shape& shape, const PlaneFilters<T>& filters,
                                    Acc<T> slope, bool act, Acc<T>* t_tile, Read read, Write write) {
  using A = Acc<T>;
  static_assert((Rows == 0) == (Taps == 0), "several rows at once need arrays whose size the compiler knows");
  const TapCount<Taps> taps{shape.taps};
  const int height = shape.height, width = shape.width;
  const int64_t pixels = shape.pixels();
  const int before = tile.left < taps.half() ? tile.left : taps.half();
  const int after = width - tile.right < taps.half() ? width - tile.right : taps.half();
  const int pitch = before + (tile.right - tile.left) + after;
  const int first_column = tile.left - before;
  const int x = tile.left + static_cast<int>(threadIdx.x);
  const int first_row = tile.top + static_cast<int>(threadIdx.y);
  const int stride = static_cast<int>(blockDim.y);
  const bool has_column = x < tile.right;
  const int own_rows = has_column ? (tile.bottom - first_row + stride - 1) / stride : 0;  // may be negative
  const auto offset = [&](int row, int column) { return static_cast<int64_t>(row) * width + column; };
  const auto shared_at = [&](int row, int column) { return (row - tile.top) * pitch + (column - first_column); };
  const auto vertical = [&](int row, int column) {
    const T* v = filters.v + offset(row, column);
    A sum = 0;
#pragma unroll
    for (int j = 0; j < taps.count(); ++j) {
      sum += load_once(v + j * pixels) * read(clamp_index(row + j - taps.half(), height), column);
    }
    return sum;
  };
  const auto activate = [&](A value) { return act && !(value > A(0)) ? value * slope : value; };

  // Arrays of `Rows` rows, beginning with this thread's row `base`. One element more: an array can't be empty.
  using Weights = A[Rows * Taps + 1];
  using Values = A[Rows + 1];
  const auto fetch = [&](int base, const T* from, bool wanted, Weights& into) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const T* at = from + offset(first_row + (base + i) * stride, x);
      const bool load = wanted && base + i < own_rows;
#pragma unroll
      for (int j = 0; j < Taps; ++j) into[i * Taps + j] = load ? load_once(at + j * pixels) : A(0);
    }
  };
  const auto fetch_bias = [&](int base, Values& into) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const T* at = filters.b + offset(first_row + (base + i) * stride, x);
      into[i] = base + i < own_rows ? load_once(at) : A(0);
    }
  };
  const auto down = [&](int base, const Weights& v, const Weights& h) {
    Values t;
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = first_row + (base + i) * stride;
      t[i] = 0;
#pragma unroll
      for (int j = 0; j < Taps; ++j) {
        const A e = base + i < own_rows ? read(clamp_index(y + j - taps.half(), height), x) : A(0);
        t[i] += (shape.isotropic ? h[i * Taps + j] : v[i * Taps + j]) * e;
      }
    }
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      if (base + i < own_rows) t_tile[shared_at(first_row + (base + i) * stride, x)] = t[i];
    }
  };
  const auto across = [&](int base, const Weights& h, const Values& bias) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int y = first_row + (base + i) * stride;
      if (base + i >= own_rows) continue;
      A sum = 0;
#pragma unroll
      for (int j = 0; j < Taps; ++j) {
        sum += h[i * Taps + j] * t_tile[shared_at(y, clamp_index(x + j - taps.half(), width))];
      }
      write(y, x, activate(sum + bias[i]));
    }
  };

  Weights v, first_h, h;
  Values first_bias, bias;
  if constexpr (Rows > 0) {
    fetch(0, filters.h, true, first_h);
    fetch_bias(0, first_bias);
    fetch(0, filters.v, !shape.isotropic, v);  // isotropic: h is v, and here already
    down(0, v, first_h);
    for (int base = Rows; base < own_rows; base += Rows) {
      fetch(base, filters.v, true, v);
      down(base, v, v);
    }
  } else {
    for (int i = 0; i < own_rows; ++i) {
      const int y = first_row + i * stride;
      t_tile[shared_at(y, x)] = vertical(y, x);
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < before + after; i += static_cast<int>(blockDim.x)) {
    const int column = i < before ? first_column + i : tile.right + (i - before);
    for (int y = first_row; y < tile.bottom; y += stride) t_tile[shared_at(y, column)] = vertical(y, column);
  }
  __syncthreads();

  if constexpr (Rows > 0) {
    across(0, first_h, first_bias);
    for (int base = Rows; base < own_rows; base += Rows) {
      fetch(base, filters.h, true, h);
      fetch_bias(base, bias);
      across(base, h, bias);
    }
  } else {
    for (int i = 0; i < own_rows; ++i) {
      const int y = first_row + i * stride;
      const T* weights = filters.h + offset(y, x);
      A sum = 0;
      for (int j = 0; j < taps.count(); ++j) {
        sum += load_once(weights + j * pixels) * t_tile[shared_at(y, clamp_index(x + j - taps.half(), width))];
      }
      write(y, x, activate(sum + load_once(filters.b + offset(y, x))));
    }
  }
}

// All steps of one plane a block. Shared: e [H, W], t [H, W].
// steps: [N - 1, planes, H, W], or null where they aren't wanted.
template <int Taps, typename T>
__global__ void __launch_bounds__(kPlaneThreads)
    forward_plane_kernel(Shape shape, int64_t first_plane, const T* __restrict__ x, StepFilters<T> filters,
                         T* __restrict__ y, Acc<T>* __restrict__ steps, Acc<T> slope, bool act_last) {
  using A = Acc<T>;
  constexpr int kRows = Taps == 0 ? 0 : (sizeof(T) == 8 ? 1 : kRowsAtOnce);  // what the registers hold
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
    const auto read = [&](int row, int column) { return e[row * width + column]; };
    const auto write = [&](int row, int column, A value) {
      if (last) {
        result[row * width + column] = narrow<T>(value);
      } else {
        e[row * width + column] = value;  // t has all that anybody still needs of the old one
        if (saved != nullptr) saved[row * width + column] = value;
      }
    };
    forward_tile<Taps, kRows>(tile, shape, plane_filters(filters, shape, plane), slope, !last || act_last, t, read,
                              write);
    __syncthreads();
    filters.weights += shape.step_weights();
    filters.bias += shape.step_biases();
  }
}

// One step of many planes, a tile a block. In is T for a first step, Out is T for a last one, Acc<T> otherwise.
// `in` and `out` begin at the launch's first plane.
template <int Taps, typename T, typename In, typename Out>
__global__ void __launch_bounds__(kTiledThreads)
    forward_tile_kernel(Shape shape, Cut cut, const In* __restrict__ in, StepFilters<T> filters,
                        Out* __restrict__ out, Acc<T> slope, bool act) {
  using A = Acc<T>;
  const Place place = place_of_block(cut, shape);
  const int64_t start = (place.plane - cut.first_plane) * shape.pixels();
  const int width = shape.width;
  const In* from = in + start;
  Out* to = out + start;
  const auto read = [&](int row, int column) { return widen(from[static_cast<int64_t>(row) * width + column]); };
  const auto write = [&](int row, int column, A value) {
    if constexpr (std::is_same_v<Out, A>) {
      to[static_cast<int64_t>(row) * width + column] = value;
    } else {
      to[static_cast<int64_t>(row) * width + column] = narrow<Out>(value);
    }
  };
  forward_tile<Taps, (Taps > 0 ? kRowsAtOnce : 0)>(place.tile, shape, plane_filters(filters, shape, place.plane),
                                                   slope, act, dynamic_shared<A>(), read, write);
}

// x, y: [planes, H, W]. steps: [N - 1, planes, H, W] or null. scratch: forward_scratch_planes() planes.
template <int Taps, typename T>
cudaError_t forward_with_taps(const Plan& plan, const Shape& shape, const T* x, const StepFilters<T>& filters, T* y,
                              Acc<T>* steps, Acc<T>* scratch, Acc<T> slope, bool act_last, cudaStream_t stream) {
  using A = Acc<T>;
  const int64_t pixels = shape.pixels();
  for (int64_t first = 0; first < shape.planes; first += plan.planes_per_pass) {
    const int64_t planes = std::min(plan.planes_per_pass, shape.planes - first);
    if (plan.path == Path::kPlane) {
      const cudaError_t error =
          launch(forward_plane_kernel<Taps, T>, planes, plan.threads_x, plan.threads_y, plan.shared_bytes, stream,
                 shape, first, x, filters, y, steps, slope, act_last);
      if (error != cudaSuccess) return error;
      continue;
    }
    const auto step = [&](auto* in, const StepFilters<T>& step_filters, auto* out, bool act) {
      using In = std::remove_const_t<std::remove_pointer_t<decltype(in)>>;
      using Out = std::remove_pointer_t<decltype(out)>;
      return launch(forward_tile_kernel<Taps, T, In, Out>, planes * plan.tiles, plan.threads_x, plan.threads_y,
                    plan.shared_bytes, stream, shape, cut_of(plan, first), static_cast<const In*>(in), step_filters,
                    out, slope, act);
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
  const auto run = shape.taps == 3 ? forward_with_taps<3, T> : forward_with_taps<0, T>;
  return run(plan, shape, x, filters, y, steps, scratch, slope, act_last, stream);
}

}  // namespace ifan
