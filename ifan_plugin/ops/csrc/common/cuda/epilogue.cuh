// What follows a convolution, in one pass over its output instead of up to four: bias, a sum, LeakyReLU, another sum.
//
//   y = LeakyReLU(x + bias + before) + after         in place; `before` and `after` may be missing
//
// Nothing but traffic: at 1280x720 with 32 channels each pass over the full size moves 236 MB.
#pragma once

#include "iac_cuda_common.cuh"

namespace ifan {

constexpr int kEpilogueThreads = 256;

// `Count` neighbouring values by one access.
template <typename T, int Count>
struct alignas(Count * sizeof(T)) Pack {
  T values[Count];
};

// x, before, after: of `packs` packs in one memory layout. The channel of pack i is i / inner_packs % channel_packs, in
// packs of channels where the channels lie innermost (inner_packs = 1), otherwise in channels.
template <typename T, int Count, bool ChannelsLast, typename B>
__global__ void __launch_bounds__(kEpilogueThreads)
    epilogue_kernel(T* x, const B* __restrict__ bias, const T* __restrict__ before, const T* __restrict__ after,
                    int64_t packs, int64_t inner_packs, int64_t channels, Acc<T> slope) {
  using A = Acc<T>;
  using Values = Pack<T, Count>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= packs) return;
  int64_t channel;
  if constexpr (ChannelsLast) {
    const int64_t groups = channels / Count;
    channel = ((groups & (groups - 1)) == 0 ? i & (groups - 1) : i % groups) * Count;
  } else {
    channel = i / inner_packs % channels;
  }
  Values own = reinterpret_cast<const Values*>(x)[i], first = {}, second = {};
  if (before != nullptr) first = reinterpret_cast<const Values*>(before)[i];
  if (after != nullptr) second = reinterpret_cast<const Values*>(after)[i];
#pragma unroll
  for (int c = 0; c < Count; ++c) {
    A value = widen(own.values[c]) + static_cast<A>(widen(bias[ChannelsLast ? channel + c : channel]));
    if (before != nullptr) value += widen(first.values[c]);
    value = value > A(0) ? value : value * slope;
    if (after != nullptr) value += widen(second.values[c]);
    own.values[c] = narrow<T>(value);
  }
  reinterpret_cast<Values*>(x)[i] = own;
}

template <typename T, int Count, bool ChannelsLast, typename B>
cudaError_t epilogue_as(T* x, const B* bias, const T* before, const T* after, int64_t count, int64_t inner,
                        int64_t channels, Acc<T> slope, cudaStream_t stream) {
  const int64_t packs = count / Count;
  const int64_t blocks = (packs + kEpilogueThreads - 1) / kEpilogueThreads;
  return launch(epilogue_kernel<T, Count, ChannelsLast, B>, blocks, kEpilogueThreads, 1, 0, stream, false, x, bias,
                before, after, packs, ChannelsLast ? int64_t{1} : inner / Count, channels, slope);
}

// count: of x's values, at least 1. channels_last: inner = 1; otherwise `inner` values of a channel lie side by side.
// aligned: x, before and after begin at multiples of 16 bytes.
template <typename T, typename B>
cudaError_t epilogue(T* x, const B* bias, const T* before, const T* after, int64_t count, int64_t inner,
                     int64_t channels, bool channels_last, bool aligned, Acc<T> slope, cudaStream_t stream) {
  constexpr int kCount = 16 / sizeof(T);
  const bool whole = aligned && (channels_last ? channels : inner) % kCount == 0;
  auto* run = channels_last ? (whole ? epilogue_as<T, kCount, true, B> : epilogue_as<T, 1, true, B>)
                            : (whole ? epilogue_as<T, kCount, false, B> : epilogue_as<T, 1, false, B>);
  return run(x, bias, before, after, count, inner, channels, slope, stream);
}

}  // namespace ifan
