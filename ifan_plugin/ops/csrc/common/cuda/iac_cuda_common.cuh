// What the IAC kernels share: types, where a tensor's values are, which tile a block makes, how a kernel is launched.
//
// Free of torch, and without <<<>>> and warp intrinsics, so that the same source is also compiled for the CPU and
// its arithmetic tested without a GPU (tests/ops/host_shim).
//
// Words: T is the tensors' type, Acc<T> the one of all arithmetic and of the running activation (float for the half
// types). A *plane* is one (batch item, channel): planes = B * C. A *tile* is the part of a plane that a block makes.
// Offsets are 64 bits from the first multiplication on: the filters of a large photo exceed 2^31 elements.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "iac_cuda_plan.hpp"

namespace ifan {

// ---------------------------------------------------------------- types

template <typename T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <typename T>
using Acc = typename AccOf<T>::type;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ inline T narrow(Acc<T> value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// A filter coefficient: read once, so it should not push the activations out of the caches.
template <typename T>
__device__ inline Acc<T> load_once(const T* at) {
  if constexpr (sizeof(T) == 2) {
    const unsigned short bits = __ldcs(reinterpret_cast<const unsigned short*>(at));
    if constexpr (std::is_same_v<T, __half>) {
      return widen(__ushort_as_half(bits));
    } else {
      return widen(__ushort_as_bfloat16(bits));
    }
  } else {
    return __ldcs(at);
  }
}

// A filter's gradient: written once, and read by others when it is long out of the caches.
template <typename T>
__device__ inline void store_once(T* at, T value) {
  if constexpr (sizeof(T) == 2) {
    if constexpr (std::is_same_v<T, __half>) {
      __stcs(reinterpret_cast<unsigned short*>(at), __half_as_ushort(value));
    } else {
      __stcs(reinterpret_cast<unsigned short*>(at), __bfloat16_as_ushort(value));
    }
  } else {
    __stcs(at, value);
  }
}

// Two values by one access; where they lie apart, a warp's accesses to shared memory would meet in the same banks.
template <typename A>
struct alignas(2 * sizeof(A)) Pair {
  A first, second;
};

// Coefficients of `Columns` neighbours that a thread fetches at once. Two come by one load, and those of a half type
// stay packed until they are used; `at` is aligned to that.
template <typename T, int Columns>
struct Fetched {
  static_assert(Columns == 1);
  Acc<T> value;
  __device__ static Fetched zero() { return {Acc<T>(0)}; }
  __device__ static Fetched load(const T* at) { return {load_once(at)}; }
  __device__ Acc<T> operator[](int) const { return value; }
};
template <>
struct Fetched<float, 2> {
  float2 values;
  __device__ static Fetched zero() { return {{0, 0}}; }
  __device__ static Fetched load(const float* at) { return {__ldcs(reinterpret_cast<const float2*>(at))}; }
  __device__ float operator[](int column) const { return column == 0 ? values.x : values.y; }
};
template <typename T>
struct Fetched<T, 2> {
  static_assert(sizeof(T) == 2);
  unsigned bits;
  __device__ static Fetched zero() { return {0}; }
  __device__ static Fetched load(const T* at) { return {__ldcs(reinterpret_cast<const unsigned*>(at))}; }
  __device__ float operator[](int column) const {
    const auto half = static_cast<unsigned short>(column == 0 ? bits & 0xffff : bits >> 16);
    if constexpr (std::is_same_v<T, __half>) {
      return widen(__ushort_as_half(half));
    } else {
      return widen(__ushort_as_bfloat16(half));
    }
  }
};

// A GPU stops with an error at a word that doesn't begin at a multiple of its size. The host build notes it.
#ifdef __CUDACC__
__device__ inline void check_aligned(const void*, size_t) {}
#else
using shim::check_aligned;
#endif

// Columns of activations, `Columns` at once. Those in the accumulation type are aligned for it; x and y of a half type
// needn't be.
template <typename In, typename A, int Columns>
__device__ inline void load_columns(const In* at, A (&into)[Columns]) {
  if constexpr (Columns == 2 && std::is_same_v<In, A>) {
    check_aligned(at, sizeof(Pair<A>));
    const Pair<A> pair = *reinterpret_cast<const Pair<A>*>(at);
    into[0] = pair.first;
    into[1] = pair.second;
  } else {
#pragma unroll
    for (int c = 0; c < Columns; ++c) into[c] = widen(at[c]);
  }
}

template <typename Out, typename A, int Columns>
__device__ inline void store_columns(Out* at, const A (&values)[Columns]) {
  if constexpr (Columns == 2 && std::is_same_v<Out, A>) {
    check_aligned(at, sizeof(Pair<A>));
    *reinterpret_cast<Pair<A>*>(at) = {values[0], values[1]};
  } else {
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
      if constexpr (std::is_same_v<Out, A>) {
        at[c] = values[c];
      } else {
        at[c] = narrow<Out>(values[c]);
      }
    }
  }
}

// A filter's gradient at `Columns` neighbours, as load_once's counterpart; aligned as what is fetched is.
template <typename T, int Columns>
__device__ inline void store_once_columns(T* at, const Acc<T> (&values)[Columns]) {
  if constexpr (Columns == 1) {
    store_once(at, narrow<T>(values[0]));
  } else if constexpr (sizeof(T) == 4) {
    __stcs(reinterpret_cast<float2*>(at), float2{values[0], values[1]});
  } else {
    const auto bits = [](T value) -> unsigned {
      if constexpr (std::is_same_v<T, __half>) {
        return __half_as_ushort(value);
      } else {
        return __bfloat16_as_ushort(value);
      }
    };
    __stcs(reinterpret_cast<unsigned*>(at), bits(narrow<T>(values[0])) | bits(narrow<T>(values[1])) << 16);
  }
}

// A row of t at `Columns` neighbours and one more on each side; at the plane's edges that is the outermost one itself.
template <int Columns, typename A>
__device__ inline void load_with_neighbours(const A* here, bool first, bool last, A (&around)[Columns + 2]) {
  A own[Columns];
  load_columns(here, own);
  around[0] = here[first ? 0 : -1];
#pragma unroll
  for (int c = 0; c < Columns; ++c) around[c + 1] = own[c];
  around[Columns + 1] = here[last ? Columns - 1 : Columns];
}

// Filled with whatever was there: nothing may be read from it before it was written.
template <typename A>
__device__ inline A* dynamic_shared() {
  extern __shared__ double ifan_dynamic_shared[];
  return reinterpret_cast<A*>(ifan_dynamic_shared);
}

__device__ inline int clamp_index(int index, int size) { return index < 0 ? 0 : (index >= size ? size - 1 : index); }

// ---------------------------------------------------------------- where things are

// Offsets within a plane. The kernels for a known number of taps run on planes of up to kFastPixels only, so that 32
// bits are enough: half of a step's instructions are addresses, and those of 64 bits take twice as many.
template <int Taps>
using Index = std::conditional_t<(Taps > 0), int, int64_t>;

// In bytes, so that the compiler adds to an address instead of making another from the tensor's beginning.
template <typename T>
__device__ inline T* further(T* at, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(at) + bytes);
}

// One step's filters. `iac` points into its filters tensor, `iac_step` has the biases in another one.
template <typename T>
struct StepFilters {
  const T* weights;  // v of channel 0, batch item 0; h follows C * taps channels later
  const T* bias;     // of channel 0, batch item 0
  int64_t weights_batch_stride;
  int64_t bias_batch_stride;
};

template <typename T>
struct PlaneFilters {
  const T* v;  // [taps, H, W]
  const T* h;  // [taps, H, W]; v where isotropic
  const T* b;  // [H, W]
};

// Whether two neighbours of an even row, whose offsets are even, are one aligned word.
template <typename T>
inline bool pairs_fit(const T* at) {
  return reinterpret_cast<uintptr_t>(at) % (2 * sizeof(T)) == 0;
}
template <typename T>
inline bool pairs_fit(const StepFilters<T>& filters) {
  return pairs_fit(filters.weights) && pairs_fit(filters.bias) && filters.weights_batch_stride % 2 == 0 &&
         filters.bias_batch_stride % 2 == 0;
}

// Divides by what is known before the launch with a product and a shift (Granlund and Montgomery, PLDI 1994): a
// division takes some twenty instructions, one of 64 bits more than that, and each warp makes three.
struct Divider {
  static constexpr int64_t kMost = (int64_t{1} << 31) - 1;  // of divisor and dividend
  unsigned divisor = 1, multiplier = 0, shift = 0;

  constexpr explicit Divider(int64_t by) : divisor(static_cast<unsigned>(by)) {
    while ((int64_t{1} << shift) < by) ++shift;
    multiplier = static_cast<unsigned>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor)) / divisor + 1);
  }
  __host__ __device__ unsigned operator()(unsigned value) const {
    return (static_cast<unsigned>((static_cast<uint64_t>(value) * multiplier) >> 32) + value) >> shift;
  }
};

// The shape of a problem, the same for all its launches.
struct Shape {
  int64_t planes;    // B * C
  int64_t channels;  // C
  int height;
  int width;
  int num_steps;
  int taps;
  bool isotropic;
  Divider by_channels{channels <= Divider::kMost ? channels : 1};
  __host__ __device__ int64_t pixels() const { return static_cast<int64_t>(height) * width; }
  // Elements from one step's weights, or biases, to the next step's.
  __host__ __device__ int64_t step_weights() const { return 2 * channels * taps * pixels(); }
  __host__ __device__ int64_t step_biases() const { return channels * pixels(); }
  __host__ __device__ int64_t batch_item(int64_t plane) const {
    return planes <= Divider::kMost ? by_channels(static_cast<unsigned>(plane)) : plane / channels;
  }
};

template <typename T>
__device__ inline PlaneFilters<T> plane_filters(const StepFilters<T>& step, const Shape& shape, int64_t plane) {
  const int64_t item = shape.batch_item(plane);
  const int64_t channel = plane - item * shape.channels;
  const int64_t pixels = shape.pixels();
  const T* weights = step.weights + item * step.weights_batch_stride;
  const T* v = weights + channel * shape.taps * pixels;
  const T* h = shape.isotropic ? v : v + shape.channels * shape.taps * pixels;
  return {v, h, step.bias + item * step.bias_batch_stride + channel * pixels};
}

struct Tile {
  int top, bottom, left, right;  // rows [top, bottom), columns [left, right) of the plane
};

// How a launch is cut into blocks: 1-D, since the other directions of a grid are short.
struct Cut {
  int64_t first_plane;
  Divider tiles;    // a plane; not more than blocks, which are fewer than 2^31
  Divider tiles_x;  // a row of tiles
  int tile_rows;
  int tile_columns;
};

struct Place {
  int64_t plane;
  Tile tile;
};

__device__ inline Place place_of_block(const Cut& cut, const Shape& shape) {
  const unsigned plane = cut.tiles(blockIdx.x);
  const unsigned index = blockIdx.x - plane * cut.tiles.divisor;
  const unsigned tile_y = cut.tiles_x(index);
  const int top = static_cast<int>(tile_y) * cut.tile_rows;
  const int left = static_cast<int>(index - tile_y * cut.tiles_x.divisor) * cut.tile_columns;
  const int bottom = cut.tile_rows < shape.height - top ? top + cut.tile_rows : shape.height;
  const int right = cut.tile_columns < shape.width - left ? left + cut.tile_columns : shape.width;
  return {cut.first_plane + plane, {top, bottom, left, right}};
}

// ---------------------------------------------------------------- launching

// A programmatic launch begins once every block of the launch before it has begun, and fills what that one leaves idle
// at its end. Before the wait it may touch nothing that an earlier launch of the same call writes, or reads if it
// writes there itself. Waiting means that the launch before has ended, which has itself waited: all earlier ones have.
// In launches of the ordinary kind, and before compute capability 9.0, both do nothing.
__device__ inline void let_next_launch_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

__device__ inline void wait_for_previous_launch() {
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
  cudaGridDependencySynchronize();
#endif
}

template <typename... Parameters, typename... Arguments>
inline cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads_x, int threads_y,
                          int64_t shared_bytes, cudaStream_t stream, bool programmatic, Arguments&&... arguments) {
  if (blocks < 1 || blocks > kMaximumBlocks) return cudaErrorInvalidConfiguration;
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks), 1, 1);
  config.blockDim = dim3(static_cast<unsigned>(threads_x), static_cast<unsigned>(threads_y), 1);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = programmatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// Never launched: tells for which architecture this file's kernels were compiled.
template <int>
__global__ void architecture_kernel() {}

// The limits of the current device. Allowed while a graph is being captured.
inline cudaError_t plan_device(DeviceLimits& limits) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto read = [&](cudaDeviceAttr attribute, int64_t& into) {
    int value = 0;
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
    into = value;
  };
  read(cudaDevAttrMaxSharedMemoryPerBlockOptin, limits.shared_bytes);
  read(cudaDevAttrMultiProcessorCount, limits.multiprocessors);
  read(cudaDevAttrL2CacheSize, limits.l2_bytes);
  int64_t capability = 0;
  read(cudaDevAttrComputeCapabilityMajor, capability);
  // What was compiled for an older architecture, and translated as it was loaded, has no wait in it.
  cudaFuncAttributes compiled = {};
  if (error == cudaSuccess && capability >= 9) error = cudaFuncGetAttributes(&compiled, architecture_kernel<0>);
  limits.programmatic_launch = capability >= 9 && compiled.ptxVersion >= 90;
  return error;
}

inline Cut cut_of(const Plan& plan, int64_t first_plane) {
  return {first_plane, Divider(plan.tiles), Divider(plan.tiles_x), static_cast<int>(plan.tile_rows),
          static_cast<int>(plan.tile_columns)};
}

}  // namespace ifan
