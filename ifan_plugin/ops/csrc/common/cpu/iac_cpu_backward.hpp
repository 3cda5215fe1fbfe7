// Gradient of iterative adaptive convolution on the CPU. Free of torch.
//
// Parallel over planes as the forward (iac_cpu_kernel.hpp). Each step, the last one first, goes through the plane once,
// row by row: t is computed again from the step's saved input, each filter coefficient is read once more and its
// gradient is written once. Within a plane all sums have one order: no atomics, the same bits on every run.
//
// With u = sum_j h_j t_j + b and g the gradient of the step's output, for one row:
//     s = g * LeakyReLU'                  gradient of u and of the bias
//     grad_h_j(x) = s(x) t(x + j - p)
//     grad_t(x)   = sum of s(x') h_j(x') over all x', j that read t(x)
//     grad_v_j(x) = grad_t(x) e(y + j - p, x)
//     grad_e(y + j - p, x) += grad_t(x) v_j(x)
#pragma once

#include "iac_cpu_kernel.hpp"

namespace ifan_plugin::cpu {

template <typename T>
struct BackwardArguments {
  IacShape shape;
  const T *grad, *x, *filters;
  int64_t filters_batch_stride;
  const T* y;
  const Accumulator<T>* steps;  // [N-1, planes, H, W]
  T *grad_x, *grad_filters;     // both contiguous
  int64_t planes;
  bool stream;  // write grad_filters past the caches
};

// Scratch of one row. `t` as in step_plane; the others `width` values.
template <typename A>
struct BackwardRows {
  A *t, *s, *grad_t;
};

// grad_t(x) for any x, the ends included, where several columns read the replicated value.
template <typename T, typename A>
IFAN_INLINE A horizontal_adjoint_at(int64_t x, const A* s_row, const T* h, const IacShape& s) {
  A sum = 0;
  for (int64_t j = 0; j < s.taps; ++j, h += s.pixels()) {
    const int64_t source = x - j + s.taps / 2;
    const int64_t first = x == 0 ? 0 : std::max(source, int64_t{0});
    const int64_t last = x == s.width - 1 ? s.width - 1 : std::min(source, s.width - 1);
    for (int64_t i = first; i <= last; ++i) sum += s_row[i] * load(h + i);
  }
  return sum;
}

template <int K, typename T, typename A>
IFAN_INLINE void horizontal_adjoint(const A* s_row, const T* h, A* grad_t, const IacShape& s) {
  const int64_t width = s.width, half = s.taps / 2, inner_end = width - half;
  if constexpr (K == 3) {
    const T *h0 = h, *h1 = h0 + s.pixels(), *h2 = h1 + s.pixels();
    IFAN_INDEPENDENT
    for (int64_t x = 1; x < width - 1; ++x)
      grad_t[x] = s_row[x + 1] * load(h0 + x + 1) + s_row[x] * load(h1 + x) + s_row[x - 1] * load(h2 + x - 1);
  } else {
    for (int64_t j = 0; j < s.taps; ++j) {
      const T* tap = h + j * s.pixels() - j + half;
      const A* source = s_row - j + half;
      IFAN_INDEPENDENT
      for (int64_t x = half; x < inner_end; ++x) grad_t[x] = (j ? grad_t[x] : A(0)) + source[x] * load(tap + x);
    }
  }
  for (int64_t x = 0; x < std::min(half, width); ++x) grad_t[x] = horizontal_adjoint_at(x, s_row, h, s);
  for (int64_t x = std::max(half, inner_end); x < width; ++x) grad_t[x] = horizontal_adjoint_at(x, s_row, h, s);
}

// grad_v_j, and what the row adds to the gradient of the step's input.
template <int K, typename T, typename A>
IFAN_INLINE void vertical_adjoint(const A* input, A* grad_input, const BackwardRows<A>& rows, const T* vertical,
                                  T* grad_vertical, int64_t grad_stride, const IacShape& s, int64_t y) {
  const int64_t width = s.width, half = s.taps / 2;
  const A *grad_t = rows.grad_t, *t = rows.t, *s_row = rows.s;
  const T* v = vertical + y * width;
  if (K == 3 && !s.isotropic && y > 0 && y < s.height - 1) {  // three different rows: all at once
    const T *v0 = v, *v1 = v0 + s.pixels(), *v2 = v1 + s.pixels();
    T *gv0 = grad_vertical, *gv1 = gv0 + grad_stride, *gv2 = gv1 + grad_stride;
    const A *above = input + (y - 1) * width, *here = above + width, *below = here + width;
    A *to_above = grad_input + (y - 1) * width, *to_here = to_above + width, *to_below = to_here + width;
    IFAN_INDEPENDENT
    for (int64_t x = 0; x < width; ++x) {
      const A g = grad_t[x];
      store(gv0 + x, g * above[x]);
      store(gv1 + x, g * here[x]);
      store(gv2 + x, g * below[x]);
      to_above[x] += g * load(v0 + x);
      to_here[x] += g * load(v1 + x);
      to_below[x] = g * load(v2 + x);
    }
    return;
  }
  // The rows that no earlier row has added to.
  const int64_t fresh = y == 0 ? 0 : y + half;
  const int64_t fresh_end = std::min(y + half + 1, s.height);
  if (fresh < fresh_end) std::fill(grad_input + fresh * width, grad_input + fresh_end * width, A(0));
  for (int64_t j = 0; j < s.taps; ++j, v += s.pixels()) {
    const int64_t row = clamped(y + j - half, s.height);
    const A* e = input + row * width;
    A* to = grad_input + row * width;
    T* gv = grad_vertical + j * grad_stride;
    if (s.isotropic) {  // these weights served in both directions
      IFAN_INDEPENDENT
      for (int64_t x = 0; x < width; ++x) {
        store(gv + x, grad_t[x] * e[x] + s_row[x] * t[x + j]);
        to[x] += grad_t[x] * load(v + x);
      }
    } else {
      IFAN_INDEPENDENT
      for (int64_t x = 0; x < width; ++x) {
        store(gv + x, grad_t[x] * e[x]);
        to[x] += grad_t[x] * load(v + x);
      }
    }
  }
}

// One row of one step. `gradient`: where this row's filter gradients go, taps `grad_stride` apart.
template <int K, typename T, typename A>
IFAN_INLINE void backward_row(const A* input, const A* output, const A* grad_output, A* grad_input,
                              const StepFilters<const T>& f, const StepFilters<T>& gradient, int64_t grad_stride,
                              bool act, const BackwardRows<A>& rows, const IacShape& s, int64_t y) {
  const int64_t width = s.width;
  const A slope = act ? static_cast<A>(s.negative_slope) : A(1);
  A *s_row = rows.s, *t = rows.t;
  const A* out = output + y * width;
  const A* g = grad_output + y * width;
  T* gb = gradient.bias;
  IFAN_INDEPENDENT
  for (int64_t x = 0; x < width; ++x) {
    // The activation keeps the sign (its slope isn't negative), so its output tells which branch was taken.
    const A value = out[x] > A(0) ? g[x] : slope * g[x];
    s_row[x] = value;
    store(gb + x, value);
  }
  vertical_row<K>(input, f.vertical, t, s, y);
  if (s.isotropic) {
    for (int64_t j = 0; j < s.taps; ++j)
      std::memset(static_cast<void*>(gradient.horizontal + j * grad_stride), 0, static_cast<size_t>(width) * sizeof(T));
  } else if (K == 3) {
    T *gh0 = gradient.horizontal, *gh1 = gh0 + grad_stride, *gh2 = gh1 + grad_stride;
    IFAN_INDEPENDENT
    for (int64_t x = 0; x < width; ++x) {
      store(gh0 + x, s_row[x] * t[x]);
      store(gh1 + x, s_row[x] * t[x + 1]);
      store(gh2 + x, s_row[x] * t[x + 2]);
    }
  } else {
    for (int64_t j = 0; j < s.taps; ++j) {
      T* gh = gradient.horizontal + j * grad_stride;
      IFAN_INDEPENDENT
      for (int64_t x = 0; x < width; ++x) store(gh + x, s_row[x] * t[x + j]);
    }
  }
  horizontal_adjoint<K>(s_row, f.horizontal + y * width, rows.grad_t, s);
  vertical_adjoint<K>(input, grad_input, rows, f.vertical, gradient.vertical, grad_stride, s, y);
}

// All rows of one step. The filters' gradients gather in `stage`, `stage_rows` rows of each tap, and leave in long
// pieces.
template <int K, typename T, typename A>
IFAN_INLINE void backward_step(const A* input, const A* output, const A* grad_output, A* grad_input,
                               const StepFilters<const T>& f, const StepFilters<const T>* next,
                               const StepFilters<T>& gradient, bool act, bool stream, const BackwardRows<A>& rows,
                               T* stage, int64_t stage_rows, const IacShape& s) {
  const int64_t width = s.width, pixels = s.pixels(), piece = stage_rows * width;
  const StepFilters<T> staged{stage, stage + s.taps * piece, stage + 2 * s.taps * piece};
  const FilterFetch<T> filters(f, next, s);
  for (int64_t first = 0; first < s.height; first += stage_rows) {
    const int64_t end = std::min(first + stage_rows, s.height);
    for (int64_t y = first; y < end; ++y) {
      filters.before_row(y, s);
      const int64_t at = (y - first) * width;
      const StepFilters<T> row{staged.vertical + at, staged.horizontal + at, staged.bias + at};
      backward_row<K>(input, output, grad_output, grad_input, f, row, piece, act, rows, s, y);
    }
    const int64_t bytes = (end - first) * width * static_cast<int64_t>(sizeof(T)), at = first * width;
    for (int64_t j = 0; j < s.taps; ++j) {
      copy_out(gradient.vertical + j * pixels + at, staged.vertical + j * piece, bytes, stream);
      copy_out(gradient.horizontal + j * pixels + at, staged.horizontal + j * piece, bytes, stream);
    }
    copy_out(gradient.bias + at, staged.bias, bytes, stream);
  }
}

template <int K, typename T>
IFAN_INLINE void backward_planes(const BackwardArguments<T>& a, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const IacShape& s = a.shape;
  const int64_t pixels = s.pixels(), width = s.width;
  const int64_t grad_batch_stride = s.num_steps * s.channels * (2 * s.taps + 1) * pixels;
  // Pieces of some 8 KiB: long against a cache line, short against the cache.
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(T));
  const int64_t stage_rows = std::min(std::max(8192 / row_bytes, int64_t{1}), s.height);
  const Scratch<T> stage((2 * s.taps + 1) * stage_rows * width);
  const Scratch<A> planes((std::is_same_v<T, A> ? 2 : 4) * pixels), lines(3 * width + s.taps);
  const BackwardRows<A> rows{lines.get(), lines.get() + width + s.taps, lines.get() + 2 * width + s.taps};

  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t offset = plane * pixels;
    A* grad_input = planes.get();
    const A* grad_output = as_accumulator(a.grad + offset, planes.get() + pixels, pixels);
    const A* output = as_accumulator(a.y + offset, planes.get() + 2 * pixels, pixels);
    for (int64_t step = s.num_steps - 1; step >= 0; --step) {
      const auto f = step_filters(a.filters, a.filters_batch_stride, s, plane, step);
      const auto next =
          step_filters(a.filters, a.filters_batch_stride, s, plane + !step, step ? step - 1 : s.num_steps - 1);
      const StepFilters<T> gradient = step_filters(a.grad_filters, grad_batch_stride, s, plane, step);
      const A* input = step ? a.steps + ((step - 1) * a.planes + plane) * pixels
                            : as_accumulator(a.x + offset, planes.get() + 3 * pixels, pixels);
      backward_step<K>(input, output, grad_output, grad_input, f, step || plane < end - 1 ? &next : nullptr, gradient,
                       s.activated(step), a.stream, rows, stage.get(), stage_rows, s);
      output = input;
      grad_output = grad_input;
      grad_input = grad_input == planes.get() ? planes.get() + pixels : planes.get();
    }
    write_row(grad_output, a.grad_x + offset, pixels);
  }
  if (a.stream) stream_end();
}

template <typename T>
IFAN_INLINE void backward_body(const BackwardArguments<T>& a, int64_t begin, int64_t end) {
  if (a.shape.taps == 3)
    backward_planes<3>(a, begin, end);
  else
    backward_planes<0>(a, begin, end);
}

IFAN_DISPATCH(backward, BackwardArguments)

}  // namespace ifan_plugin::cpu
