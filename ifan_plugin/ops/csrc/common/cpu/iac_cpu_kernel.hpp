// Iterative adaptive convolution on the CPU. Free of torch; the equations stand in ifan_plugin/ops/reference.py.
//
// One thread works on one (batch, channel) plane for all N steps, row by row: the plane, a few hundred KiB, stays in
// the core's cache, and the filters, which are nearly all of the bytes, stream through once. Planes don't depend on
// each other and a plane's sums have one order, so the results are bitwise equal for any number of threads.
#pragma once

#include <algorithm>

#include "cpu_support.hpp"

namespace ifan_plugin::cpu {

// Sizes and options of all the kernels. A plane is one channel of one batch item.
struct IacShape {
  int64_t channels, height, width;
  int64_t num_steps, taps;
  double negative_slope;
  bool act_last, isotropic;

  int64_t pixels() const { return height * width; }
  bool activated(int64_t step) const { return act_last || step < num_steps - 1; }
};

// Filters of one plane and one step: `taps` images for each direction, then the bias.
template <typename T>
struct StepFilters {
  T *vertical, *horizontal, *bias;
};

// Where they stand in `filters`, [B, N*C*(2k+1), H, W], whose batch items may lie apart. Isotropic filters
// serve in both directions; their gradient, T not const, still has a place for each.
template <typename T>
IFAN_INLINE StepFilters<T> step_filters(T* filters, int64_t batch_stride, const IacShape& s, int64_t plane,
                                        int64_t step) {
  const int64_t channel = plane % s.channels;
  const int64_t direction = s.channels * s.taps * s.pixels();
  T* item = filters + plane / s.channels * batch_stride;
  T* vertical = item + step * 2 * direction + channel * s.taps * s.pixels();
  T* bias = item + s.num_steps * 2 * direction + (step * s.channels + channel) * s.pixels();
  return {vertical, std::is_const_v<T> && s.isotropic ? vertical : vertical + direction, bias};
}

// Fetches filters shortly before they are read. They come in 2 * taps + 1 streams of short rows, which the memory
// serves at two thirds of its speed; asked for in pieces of kPiece bytes, one stream after the other, at nearly all of
// it.
template <typename T>
class FilterFetch {
 public:
  // `next`: the filters read after `now`, or null where none are.
  IFAN_INLINE FilterFetch(const StepFilters<const T>& now, const StepFilters<const T>* next, const IacShape& s)
      : now_(now), next_(next), rows_(std::min(std::max(kPiece / row_bytes(s), int64_t{1}), s.height)) {}

  // Called before row y is read: its share of the next `rows_` rows.
  IFAN_INLINE void before_row(int64_t y, const IacShape& s) const {
    const int64_t begin = y / rows_ * rows_, here = y - begin, streams = 2 * s.taps + 1;
    const int64_t rows = std::min(rows_, s.height - begin);
    const bool within = begin + rows_ < s.height;
    if (!within && !next_) return;
    const StepFilters<const T>& f = within ? now_ : *next_;
    const int64_t first = within ? begin + rows_ : 0;
    const int64_t bytes = std::min(rows_, s.height - first) * row_bytes(s);
    for (int64_t j = here * streams / rows; j < (here + 1) * streams / rows; ++j) {
      const T* stream = j < s.taps       ? f.vertical + j * s.pixels()
                        : j < 2 * s.taps ? f.horizontal + (j - s.taps) * s.pixels()
                                         : f.bias;
      fetch(stream + first * s.width, bytes);
    }
  }

 private:
  static constexpr int64_t kPiece = 2048;  // measured: 1 to 4 KiB are alike, 16 KiB and more as slow as none
  static IFAN_INLINE int64_t row_bytes(const IacShape& s) { return s.width * static_cast<int64_t>(sizeof(T)); }

  const StepFilters<const T>& now_;
  const StepFilters<const T>* next_;
  int64_t rows_;
};

IFAN_INLINE int64_t clamped(int64_t at, int64_t size) { return std::min(std::max(at, int64_t{0}), size - 1); }

template <typename T, typename A>
IFAN_INLINE void read_row(const T* from, A* to, int64_t count) {
  IFAN_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) to[i] = load(from + i);
}

template <typename T, typename A>
IFAN_INLINE void write_row(const A* from, T* to, int64_t count) {
  IFAN_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) store(to + i, from[i]);
}

// The plane in the accumulation type: itself where that is its type, else converted into `buffer`.
template <typename T, typename A>
IFAN_INLINE const A* as_accumulator(const T* plane, A* buffer, int64_t count) {
  if constexpr (std::is_same_v<T, A>) {
    return plane;
  } else {
    read_row(plane, buffer, count);
    return buffer;
  }
}

// t(y, .) of the equations, replicated past both ends: `t` has room for width + taps - 1 values.
// Here and below, K is the number of taps where it is known to the compiler, else 0.
template <int K, typename T, typename A>
IFAN_INLINE void vertical_row(const A* input, const T* vertical, A* t, const IacShape& s, int64_t y) {
  const int64_t width = s.width, half = s.taps / 2;
  A* middle = t + half;
  if constexpr (K == 3) {
    const A* above = input + clamped(y - 1, s.height) * width;
    const A* here = input + y * width;
    const A* below = input + clamped(y + 1, s.height) * width;
    const T *v0 = vertical + y * width, *v1 = v0 + s.pixels(), *v2 = v1 + s.pixels();
    IFAN_INDEPENDENT
    for (int64_t x = 0; x < width; ++x)
      middle[x] = load(v0 + x) * above[x] + load(v1 + x) * here[x] + load(v2 + x) * below[x];
  } else {
    for (int64_t j = 0; j < s.taps; ++j) {
      const A* row = input + clamped(y + j - half, s.height) * width;
      const T* v = vertical + j * s.pixels() + y * width;
      IFAN_INDEPENDENT
      for (int64_t x = 0; x < width; ++x) middle[x] = (j ? middle[x] : A(0)) + load(v + x) * row[x];
    }
  }
  std::fill(t, middle, middle[0]);
  std::fill(middle + width, middle + width + half, middle[width - 1]);
}

// One step of one plane; the output isn't the input. `next`: the filters read after these, or null.
// `t`: 2 * width + taps values of scratch.
template <int K, typename T, typename A>
IFAN_INLINE void step_plane(const A* input, A* output, const StepFilters<const T>& f, const StepFilters<const T>* next,
                            const IacShape& s, bool act, A* t) {
  const int64_t width = s.width, pixels = s.pixels();
  // Without activation the slope is 1, which changes no bit.
  const A slope = act ? static_cast<A>(s.negative_slope) : A(1);
  const FilterFetch<T> filters(f, next, s);
  for (int64_t y = 0; y < s.height; ++y) {
    filters.before_row(y, s);
    vertical_row<K>(input, f.vertical, t, s, y);
    const T* bias = f.bias + y * width;
    A* out = output + y * width;
    if constexpr (K == 3) {
      const T *h0 = f.horizontal + y * width, *h1 = h0 + pixels, *h2 = h1 + pixels;
      IFAN_INDEPENDENT
      for (int64_t x = 0; x < width; ++x) {
        const A u = load(h0 + x) * t[x] + load(h1 + x) * t[x + 1] + load(h2 + x) * t[x + 2] + load(bias + x);
        out[x] = u > A(0) ? u : slope * u;
      }
    } else {
      A* sum = t + width + s.taps - 1;
      for (int64_t j = 0; j < s.taps; ++j) {
        const T* h = f.horizontal + j * pixels + y * width;
        IFAN_INDEPENDENT
        for (int64_t x = 0; x < width; ++x) sum[x] = (j ? sum[x] : A(0)) + load(h + x) * t[x + j];
      }
      IFAN_INDEPENDENT
      for (int64_t x = 0; x < width; ++x) {
        const A u = sum[x] + load(bias + x);
        out[x] = u > A(0) ? u : slope * u;
      }
    }
  }
}

// Where the accumulation type's plane that becomes `to` is computed: `to` itself, or `buffer` where the types differ.
template <typename T, typename A>
IFAN_INLINE A* accumulate_in(T* to, A* buffer) {
  if constexpr (std::is_same_v<T, A>)
    return to;
  else
    return buffer;
}

// ---- forward -------------------------------------------------------------------------------------------------------

template <typename T>
struct ForwardArguments {
  IacShape shape;
  const T *x, *filters;
  int64_t filters_batch_stride;
  T* y;
  Accumulator<T>* steps;  // [N-1, planes, H, W], or null where nothing is saved
  int64_t planes;
};

template <int K, typename T>
IFAN_INLINE void forward_planes(const ForwardArguments<T>& a, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const IacShape& s = a.shape;
  const int64_t pixels = s.pixels();
  const Scratch<A> planes(2 * pixels), rows(2 * s.width + s.taps);
  for (int64_t plane = begin; plane < end; ++plane) {
    T* y = a.y + plane * pixels;
    const A* input = as_accumulator(a.x + plane * pixels, planes.get() + pixels, pixels);
    for (int64_t step = 0; step < s.num_steps; ++step) {
      const bool last = step == s.num_steps - 1;
      const auto f = step_filters(a.filters, a.filters_batch_stride, s, plane, step);
      const auto next = step_filters(a.filters, a.filters_batch_stride, s, plane + last, last ? 0 : step + 1);
      A* output = planes.get() + step % 2 * pixels;
      if (last)
        output = accumulate_in(y, output);
      else if (a.steps)
        output = a.steps + (step * a.planes + plane) * pixels;
      step_plane<K>(input, output, f, last && plane == end - 1 ? nullptr : &next, s, s.activated(step), rows.get());
      input = output;
    }
    if constexpr (!std::is_same_v<T, A>) write_row(input, y, pixels);
  }
}

template <typename T>
IFAN_INLINE void forward_body(const ForwardArguments<T>& a, int64_t begin, int64_t end) {
  if (a.shape.taps == 3)
    forward_planes<3>(a, begin, end);
  else
    forward_planes<0>(a, begin, end);
}

// ---- one step alone ------------------------------------------------------------------------------------------------

template <typename T>
struct StepArguments {
  IacShape shape;  // num_steps 1; act_last: whether this step has its activation
  const T *x, *step_filters, *bias;
  int64_t filters_batch_stride, bias_batch_stride;
  T* y;
};

template <int K, typename T>
IFAN_INLINE void single_step_planes(const StepArguments<T>& a, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const IacShape& s = a.shape;
  const int64_t pixels = s.pixels();
  const Scratch<A> planes(std::is_same_v<T, A> ? 0 : 2 * pixels), rows(2 * s.width + s.taps);
  for (int64_t plane = begin; plane < end; ++plane) {
    StepFilters<const T> f = step_filters(a.step_filters, a.filters_batch_stride, s, plane, 0);
    f.bias = a.bias + plane / s.channels * a.bias_batch_stride + plane % s.channels * pixels;
    T* y = a.y + plane * pixels;
    const A* input = as_accumulator(a.x + plane * pixels, planes.get(), pixels);
    A* output = accumulate_in(y, planes.get() + pixels);
    step_plane<K>(input, output, f, static_cast<const StepFilters<const T>*>(nullptr), s, s.act_last, rows.get());
    if constexpr (!std::is_same_v<T, A>) write_row(output, y, pixels);
  }
}

template <typename T>
IFAN_INLINE void single_step_body(const StepArguments<T>& a, int64_t begin, int64_t end) {
  if (a.shape.taps == 3)
    single_step_planes<3>(a, begin, end);
  else
    single_step_planes<0>(a, begin, end);
}

IFAN_DISPATCH(forward, ForwardArguments)
IFAN_DISPATCH(single_step, StepArguments)

}  // namespace ifan_plugin::cpu
