// What the CPU kernels share: storage types, their conversion, instruction sets chosen at run time. Free of torch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__GNUC__)
#define IFAN_INLINE inline __attribute__((always_inline))
#else
#define IFAN_INLINE inline
#endif

// Rows that are read and written in one loop never overlap; compilers can't know it.
#if defined(__clang__)
#define IFAN_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define IFAN_INDEPENDENT _Pragma("GCC ivdep")
#else
#define IFAN_INDEPENDENT
#endif

namespace ifan_plugin::cpu {

// ---- types ---------------------------------------------------------------------------------------------------------

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Type in which a storage type is computed.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

IFAN_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

IFAN_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

IFAN_INLINE float load(const float* at) { return *at; }
IFAN_INLINE double load(const double* at) { return *at; }
IFAN_INLINE float load(const BFloat16* at) { return float_of(uint32_t{at->bits} << 16); }

// By integer arithmetic that every instruction set vectorises: the exponent is rescaled by a product with 2^112, which
// is exact, subnormal numbers included; infinities and NaNs get all the exponent's bits.
IFAN_INLINE float load(const Half* at) {
  const uint32_t bits = at->bits;
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  const uint32_t rescaled = bits_of(float_of(magnitude) * 0x1p112f);
  return float_of(rescaled | (magnitude >= 0x0f800000u ? 0x7f800000u : 0u) | (bits & 0x8000u) << 16);
}

IFAN_INLINE void store(float* at, float value) { *at = value; }
IFAN_INLINE void store(double* at, double value) { *at = value; }

// Both round to nearest, ties to even, as PyTorch does.
IFAN_INLINE void store(BFloat16* at, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  at->bits = static_cast<uint16_t>(value == value ? rounded : 0x7fc0u);
}

IFAN_INLINE void store(Half* at, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;  // the sum rounds to a half's last bit
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t result = magnitude >= 0x47800000u ? special : finite;
  at->bits = static_cast<uint16_t>(result | (bits >> 16 & 0x8000u));
}

// ---- memory --------------------------------------------------------------------------------------------------------

// Uninitialised scratch of one thread, on cache lines.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T), std::align_val_t{64}))) {}
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* at) const { ::operator delete(at, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
};

constexpr int64_t kLarge = int64_t{64} << 20;

// Ask for huge pages behind fresh memory that is about to be written: faults in 4 KiB pages would cost more than the
// backward's arithmetic. A hint only; blocks below kLarge may belong to an allocator's heap and are left alone.
inline void expect_large_writes(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kLarge) return;
  const uintptr_t page = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

// Copy; with `stream` past the caches: without reading the destination's lines first, or evicting what is still needed.
inline void copy_out(void* to, const void* from, int64_t bytes, bool stream) {
#if defined(__SSE2__)
  char* target = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  const int64_t head = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(target) & 15u);
  if (stream && bytes >= head + 16) {
    std::memcpy(target, source, static_cast<size_t>(head));
    int64_t at = head;
    for (; at + 16 <= bytes; at += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + at),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at)));
    std::memcpy(target + at, source + at, static_cast<size_t>(bytes - at));
    return;
  }
#endif
  (void)stream;
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

// Begin to fetch `bytes` bytes into the second-level cache.
IFAN_INLINE void fetch(const void* from, int64_t bytes) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, 0, 2);
#else
  (void)from;
  (void)bytes;
#endif
}

// Make streamed bytes visible to other threads.
IFAN_INLINE void stream_end() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// ---- instruction sets ----------------------------------------------------------------------------------------------

enum class Level { kBaseline, kAvx2, kAvx512 };

// Best level of this machine; ATEN_CPU_CAPABILITY (default, avx2), PyTorch's own variable, lowers it.
inline Level cpu_level() {
  static const Level level = [] {
    Level best = Level::kBaseline;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      best = Level::kAvx2;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        best = Level::kAvx512;
    }
#endif
    const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
    if (wanted && std::strcmp(wanted, "default") == 0) return Level::kBaseline;
    if (wanted && std::strcmp(wanted, "avx2") == 0 && best == Level::kAvx512) return Level::kAvx2;
    return best;
  }();
  return level;
}

}  // namespace ifan_plugin::cpu

// Defines NAME<T>(arguments, begin, end), which runs NAME_body compiled for the machine's instruction set. By hand and
// not by target_clones: those need the C library's ifunc and don't reach into templates that are inlined.
#if defined(__x86_64__) && defined(__GNUC__)
#define IFAN_DISPATCH(NAME, ARGUMENTS)                                                                              \
  template <typename T>                                                                                             \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) void NAME##_avx512(                        \
      const ARGUMENTS<T>& arguments, int64_t begin, int64_t end) {                                                  \
    NAME##_body<T>(arguments, begin, end);                                                                          \
  }                                                                                                                 \
  template <typename T>                                                                                             \
  __attribute__((target("avx2,fma"))) void NAME##_avx2(const ARGUMENTS<T>& arguments, int64_t begin, int64_t end) { \
    NAME##_body<T>(arguments, begin, end);                                                                          \
  }                                                                                                                 \
  template <typename T>                                                                                             \
  void NAME(const ARGUMENTS<T>& arguments, int64_t begin, int64_t end) {                                            \
    switch (cpu_level()) {                                                                                          \
      case Level::kAvx512: return NAME##_avx512<T>(arguments, begin, end);                                          \
      case Level::kAvx2: return NAME##_avx2<T>(arguments, begin, end);                                              \
      default: return NAME##_body<T>(arguments, begin, end);                                                        \
    }                                                                                                               \
  }
#else
#define IFAN_DISPATCH(NAME, ARGUMENTS)                                   \
  template <typename T>                                                  \
  void NAME(const ARGUMENTS<T>& arguments, int64_t begin, int64_t end) { \
    NAME##_body<T>(arguments, begin, end);                               \
  }
#endif
