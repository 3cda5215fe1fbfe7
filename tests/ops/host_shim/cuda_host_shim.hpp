// Enough of CUDA to compile the kernels, unmodified, with a host compiler and to run them on the CPU.
//
// A block's threads are fibers of one CPU thread: __syncthreads() hands over to the next one. Between two barriers they
// run one after the other, in an order the test chooses; a missing barrier shows as a result that depends on the order,
// or as NaN, which fills shared memory when a block starts. A programmatic launch's blocks find NaN in all memory that
// the launches of a call write, until they have waited. What it doesn't cover: speed, warps, memory ordering
// between blocks (blocks run in order), and the compiler's own fused multiply-adds.
//
// One translation unit includes this; it isn't thread-safe.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <tuple>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---------------------------------------------------------------- half types

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

namespace shim {
template <typename To, typename From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
}  // namespace shim

inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline float __half2float(__half value) { return static_cast<float>(shim::bit_cast<_Float16>(value.bits)); }
inline __half __float2half_rn(float value) { return {shim::bit_cast<uint16_t>(static_cast<_Float16>(value))}; }
inline float __bfloat162float(__nv_bfloat16 value) {
  return shim::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits = shim::bit_cast<uint32_t>(value);
  if (value != value) return {0x7fff};
  bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  return {static_cast<uint16_t>(bits >> 16)};
}

struct alignas(8) float2 {
  float x, y;
};

namespace shim {
enum Fault : int {
  kNone = 0,
  kDivergedBarrier = 1,
  kSharedOverrun = 2,
  kWroteBeforeWait = 3,
  kNeverWaited = 4,
  kMisaligned = 5
};
static Fault fault = kNone;
// A GPU stops with an error at a word that doesn't begin at a multiple of its size.
inline void check_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) fault = kMisaligned;
}
}  // namespace shim

template <typename T>
inline T __ldcs(const T* at) {
  shim::check_aligned(at, sizeof(T));
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}
template <typename T>
inline void __stcs(T* at, T value) {
  shim::check_aligned(at, sizeof(T));
  std::memcpy(at, &value, sizeof(T));
}

// ---------------------------------------------------------------- runtime

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrL2CacheSize,
  cudaDevAttrComputeCapabilityMajor
};
struct cudaFuncAttributes {
  int ptxVersion;
};
template <typename Kernel>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
  attributes->ptxVersion = 90;
  return cudaSuccess;
}
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 0;  // the tests say what the device is like
  return cudaSuccess;
}

namespace ifan {
constexpr size_t kShimSharedBytes = 256 * 1024;
double ifan_dynamic_shared[kShimSharedBytes / sizeof(double)];
}  // namespace ifan

namespace shim {

enum Order : int { kForward = 0, kReverse = 1, kShuffled = 2 };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  bool waits = false;  // for the launch before
};

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static Fiber* current = nullptr;
static std::function<void()> body;
static Order order = kForward;
static std::mt19937 generator;
static int64_t launches = 0, blocks = 0, programmatic_launches = 0;
static int64_t shared_limit = ifan::kShimSharedBytes;
static std::map<const void*, int> allowed_shared;

// What the launches of a call write, and what a programmatic launch's blocks may not touch before they wait.
struct Memory {
  unsigned char* start;
  size_t bytes;
  std::vector<unsigned char> kept;
};
static std::vector<Memory> written;
static bool hidden = false;

template <typename T>
inline void watch(T* start, size_t count) {
  written.push_back({reinterpret_cast<unsigned char*>(start), count * sizeof(T), {}});
}

inline void hide() {
  for (Memory& each : written) {
    each.kept.assign(each.start, each.start + each.bytes);
    std::memset(each.start, 0xff, each.bytes);
  }
  hidden = true;
}

inline void show() {
  for (const Memory& each : written) {
    if (std::any_of(each.start, each.start + each.bytes, [](unsigned char byte) { return byte != 0xff; })) {
      fault = kWroteBeforeWait;
    }
    std::copy(each.kept.begin(), each.kept.end(), each.start);
  }
  hidden = false;
}

inline void enter() {
  body();
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

inline void run_block(const dim3& threads, size_t shared_bytes, bool programmatic) {
  const size_t count = static_cast<size_t>(threads.x) * threads.y * threads.z;
  if (fibers.size() < count) fibers.resize(count);
  // All ones are a NaN of every type; behind the block's share they are a fence.
  std::memset(ifan::ifan_dynamic_shared, 0xff, ifan::kShimSharedBytes);
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = fibers[i];
    if (fiber.stack.empty()) fiber.stack.resize(64 * 1024);
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  std::vector<size_t> turns(count);
  std::iota(turns.begin(), turns.end(), size_t{0});
  if (order == kReverse) std::reverse(turns.begin(), turns.end());
  if (programmatic) hide();
  size_t waiting = 0;
  for (bool running = true; running;) {
    if (order == kShuffled) std::shuffle(turns.begin(), turns.end(), generator);
    size_t finished = 0;
    for (const size_t i : turns) {
      current = &fibers[i];
      if (current->done) {
        ++finished;
        continue;
      }
      threadIdx = dim3(i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y);
      swapcontext(&scheduler, &current->context);
      finished += current->done;
      waiting += current->waits;
      current->waits = false;
    }
    if (hidden && waiting == count) show();
    if (hidden && waiting > 0) fault = kDivergedBarrier;
    running = finished < count;
    if (running && finished > 0) fault = kDivergedBarrier;  // some wait where others have left
  }
  if (hidden) {
    show();
    fault = kNeverWaited;
  }
  const unsigned char* shared = reinterpret_cast<const unsigned char*>(ifan::ifan_dynamic_shared);
  for (size_t i = shared_bytes; i < ifan::kShimSharedBytes; ++i) {
    if (shared[i] != 0xff) fault = kSharedOverrun;
  }
}

}  // namespace shim

inline void __syncthreads() {
  shim::Fiber* self = shim::current;
  const dim3 index = threadIdx;
  swapcontext(&self->context, &shim::scheduler);
  threadIdx = index;
}

inline void cudaGridDependencySynchronize() {
  if (!shim::hidden) return;  // another kind of launch
  shim::current->waits = true;
  __syncthreads();
}

inline cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute, int bytes) {
  if (bytes > shim::shared_limit) return cudaErrorInvalidValue;
  shim::allowed_shared[function] = bytes;
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const auto allowed = shim::allowed_shared.find(reinterpret_cast<const void*>(kernel));
  const int64_t most = allowed == shim::allowed_shared.end() ? 48 * 1024 : allowed->second;
  const dim3& threads = config->blockDim;
  if (static_cast<int64_t>(config->dynamicSmemBytes) > std::min(most, shim::shared_limit)) return cudaErrorInvalidValue;
  if (threads.x * threads.y * threads.z > 1024 || threads.x * threads.y * threads.z == 0) {
    return cudaErrorInvalidConfiguration;
  }
  // By value, in the kernel's own types, as CUDA passes them.
  const std::tuple<Parameters...> values(arguments...);
  shim::body = [&] { std::apply([&](const auto&... each) { kernel(each...); }, values); };
  gridDim = config->gridDim;
  blockDim = threads;
  ++shim::launches;
  const bool programmatic = config->numAttrs > 0 && config->attrs->val.programmaticStreamSerializationAllowed != 0;
  shim::programmatic_launches += programmatic;
  for (unsigned block = 0; block < gridDim.x; ++block) {
    blockIdx = dim3(block, 0, 0);
    ++shim::blocks;
    shim::run_block(threads, config->dynamicSmemBytes, programmatic);
  }
  return cudaSuccess;
}
