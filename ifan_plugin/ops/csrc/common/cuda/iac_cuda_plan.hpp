// Which IAC kernel runs for which shape, and how it is launched: the one place where that is decided.
//
// Pure host code, no CUDA and no torch: tests/ops/test_cuda_source.py calls it on any machine.
//
// Forward
//   plane   one block a (batch, channel) plane, all N steps in one launch, the plane in shared memory.
//           Where two buffers of a plane fit shared memory, and either there are planes enough to keep half of
//           the multiprocessors busy or the plane is so small that N launches would cost more than the work.
//   tiled   one launch a step, a block makes a tile of rows. The running activation goes through scratch in
//           global memory. Planes don't depend on each other, so where all of them are too much for L2 they are
//           taken in passes, all the steps of one pass before the next pass: the scratch then stays in L2, and
//           device memory carries little but the filters.
// Backward
//   plane   as above, with 2 + 2k buffers of a plane.
//   tiled   one launch a step, tiles with a halo of (k - 1) / 2 on all sides, also taken in passes.
//   wide    two launches a step, one thread a pixel, nothing in shared memory. For the many taps whose tile
//           doesn't fit: reads each v twice, but has no limit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace ifan {

// What the plan depends on. plan_device() in iac_cuda_common.cuh reads it off the current device.
struct DeviceLimits {
  int64_t shared_bytes;  // a block may have, after opting in
  int64_t multiprocessors;
  int64_t l2_bytes;
  bool programmatic_launch = false;  // a launch may begin while the one before it ends: compute capability 9.0
};

// The kernels against a model of the card, written before any was measured on one, and what was measured on an H100
// (CUDA 13.0, 2026-11-27, docs/benchmarks/gpu_h100_first.md, gpu_h100.md). Data sheets give 132 multiprocessors
// (SM), 3.35 TB/s for an H100 and 4.8 for an H200; a copy moved 3.03 TB/s on the H100. About 0.65 us from a load to its
// value under load is an assumption. "Row": 32 pixels of a step, 896 bytes of filters in float32, 448 in the half
// types.
//
// - Bytes in flight an SM: latency times bandwidth is 15 KB (H100), 21 KB (H200). Forward in float32, where a step
//   begins / in its v loop / in its h loop: plane 32x32 (64 registers, 4 blocks of 256 threads) 57 / 25 / 33 KB; plane
//   90x160 (1 block of 960 threads) 54 / 23 / 31 KB; tiles of 140x210 (40 registers, 3 blocks of 448) 75 KB, once.
//   Enough: 94, 86 and 77 % of the copy's bandwidth. Twice the rows a thread: 0.82 to 1.06 of the speed.
// - Instructions: an SM starts 4 a cycle, and in the time that memory takes for a row 69 cycles pass on an H100, 34 in
//   the half types. The tiled forward takes about 215 for a row, 54 cycles: half of them make addresses. So the half
//   types can't be 1.7x float32 in the form of one column a thread (1.16x). Two columns by one load: 1.56 to 1.84x.
// - Barriers, where one block fills an SM (90x160 in float32): fetching before a step's last barrier what the next step
//   begins with gained nothing (0.95 to 1.0).
// - Tails: 17 launches of 105 MB at 140x210, 45 us each. Launches that begin early: 4 to 14 % faster. Half the
//   threads a block, for shorter tails: 0.66 to 1.07 of the speed, since tiles half as high read more halo.
// - L2: with passes whose two buffers of 15 MB filled three quarters of its 50 MB, the scratch came from device memory:
//   the filters at 2.3 TB/s, with it 3.0. Passes of half as many planes: 87 % of the copy's bandwidth instead of 77 %.
// - Banks: a warp has 32 successive columns, or rows of up to 16 columns that lie one behind the other: successive
//   words, no conflicts, forward and backward.
// - Backward: 13 values read and written a pixel, e and the sign of e' beside them: 60 bytes where the least is 56.
//   Where 64 threads took the 66 columns of a tile and its halo in two rounds, 25 of 32 lanes were at work, at 44 % of
//   the copy's bandwidth. Halo and columns in one round, and the gradient stored past the caches: 47 %. The half types
//   take 0.85 of float32's time: it waits for loads and issues addresses, one column a thread.
// - Since these measurements, and not measured on a card yet, the kernels for 3 taps choose addresses where they
//   branched at a plane's edges (in a plane of 32 columns each warp has both), make one address a row where they made
//   one a tap, and divide by a product. In nvcc 13.0's listing for sm_90 and float32 the three loops of the tiled
//   backward went from 42, 335 and 388 instructions to 40, 111 and 144, the tiled forward from 1,032 in all to 880.
//   `paired` takes 48, 135 and 141 for two columns.
//
// Forms of the kernels that only measuring on a card can choose between; by default those that won on an H100. Each
// changes the speed alone: results are the same bit by bit in the host build (tests/ops/test_cuda_variants.py). The
// environment variable IFAN_IAC_VARIANTS lists others to use; scripts/benchmark_iac.py --variants compares them.
struct Variants {
  bool single = false;  // forward, half types, 3 taps: one column a thread, not two neighbours by one load of 32 bits
  bool serial = false;  // tiled, wide: no launch of a step begins before the end of the one before
  bool short_passes = false;  // half as many planes a pass, and
  bool long_passes = false;   // twice as many
  bool wide_tiles = false;    // backward: twice as wide, half as high
  bool tall_tiles = false;    // backward: twice as wide, with twice the threads
  bool paired = false;        // backward, 3 taps: two neighbours a thread, and tiles twice as wide
};

// Reads "single,serial". False where a name is unknown.
inline bool read_variants(const char* text, Variants& variants) {
  const struct {
    const char* name;
    bool Variants::* member;
  } known[] = {{"single", &Variants::single},
               {"serial", &Variants::serial},
               {"short_passes", &Variants::short_passes},
               {"long_passes", &Variants::long_passes},
               {"wide_tiles", &Variants::wide_tiles},
               {"tall_tiles", &Variants::tall_tiles},
               {"paired", &Variants::paired}};
  while (text != nullptr && *text != '\0') {
    const size_t length = std::strcspn(text, ",");
    bool found = false;
    for (const auto& each : known) {
      if (std::strlen(each.name) != length || std::strncmp(each.name, text, length) != 0) continue;
      variants.*each.member = found = true;
    }
    if (!found) return false;
    text += length;
    if (*text == ',') ++text;
  }
  return true;
}

enum class Path : int { kPlane = 0, kTiled = 1, kWide = 2 };

struct Plan {
  Path path = Path::kTiled;
  int threads_x = 32;  // along columns; at least tile_columns, so that a thread has one column of its own
  int threads_y = 1;   // along rows
  int64_t tile_rows = 0;
  int64_t tile_columns = 0;
  int64_t tiles_x = 1;          // a row of tiles
  int64_t tiles = 1;            // a plane; blocks = tiles * planes of the launch
  int64_t shared_bytes = 0;     // dynamic, a block
  int64_t planes_per_pass = 1;  // planes of one launch; scratch is made for so many
  int columns_at_once = 1;      // neighbours a thread works on
  bool programmatic = false;
};

constexpr int kPlaneThreads = 1024;  // at most, a block of a plane kernel
constexpr int kTiledThreads = 512;   // at most, a block of a tiled kernel
constexpr int kWideThreads = 256;
constexpr int kPlaneRows = 4;             // rows a thread of a plane kernel, where the plane is small enough
constexpr int kRowsAtOnce = 2;            // rows a forward thread works on at a time; all that a tile has for it
constexpr int64_t kSmallPlane = 4096;     // pixels, see "plane" above
constexpr int64_t kForwardColumns = 256;  // at most, of a forward tile
// Of a backward tile, halo included, so that a thread has one column of it: of 66 columns 64 threads would take the
// last two in a second round, as long as the first.
constexpr int64_t kBackwardColumns = 32;
constexpr int64_t kBackwardRows = 32;
constexpr int64_t kForwardBuffers = 4;  // of a pass, that three quarters of L2 are to hold: see planes_per_pass()
constexpr int64_t kBackwardBuffers = 2;
constexpr int64_t kMaximumBlocks = (int64_t{1} << 31) - 1;

constexpr int64_t kFastPixels = int64_t{1} << 30;  // a plane; more have the kernels for any number of taps

// Whether the kernels for 3 taps serve.
inline bool has_fast_form(int64_t taps, int64_t pixels) { return taps == 3 && pixels <= kFastPixels; }

namespace plan_detail {

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Whole warps, or for narrow planes a power of two, so that a warp has several rows of them.
inline int threads_across(int64_t columns) {
  if (columns > 16) return static_cast<int>(divide_up(columns, 32) * 32);
  int threads = 1;
  while (threads < columns) threads *= 2;
  return threads;
}

inline int threads_down(int threads_x, int64_t rows, int64_t threads) {
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(rows, threads / threads_x)));
}

// One block a plane: about four pixels a thread, so that several blocks of small planes share a multiprocessor.
inline bool plan_plane(Plan& plan, int64_t planes, int64_t height, int64_t width, int64_t buffers, int64_t value_bytes,
                       const DeviceLimits& device) {
  // Width first: height * width can't overflow once both are known to be small.
  if (divide_up(width, plan.columns_at_once) > kPlaneThreads || height > device.shared_bytes) return false;
  const int64_t pixels = height * width;
  const int64_t bytes = buffers * pixels * value_bytes;
  if (bytes > device.shared_bytes) return false;
  if (pixels > kSmallPlane && 2 * planes < device.multiprocessors) return false;
  const int64_t rows = kPlaneRows * plan.columns_at_once;  // pixels a thread
  const int64_t threads = std::min<int64_t>(std::max<int64_t>(divide_up(pixels, rows), 64), kPlaneThreads);
  plan.path = Path::kPlane;
  plan.threads_x = threads_across(divide_up(width, plan.columns_at_once));
  plan.threads_y = threads_down(plan.threads_x, height, threads);
  plan.tile_rows = height;
  plan.tile_columns = width;
  plan.tiles_x = plan.tiles = 1;
  plan.shared_bytes = bytes;
  plan.planes_per_pass = std::min(planes, kMaximumBlocks);
  return true;
}

// Passes of one size, for which `buffers` of a pass fit three quarters of L2. There are two of them; but an L2 of two
// halves may keep twice what both read, and an H100 is faster forward where four would fit. Backward, where the
// filters' gradient goes through the cache as well, longer passes were faster.
inline int64_t planes_per_pass(int64_t planes, int64_t pixels, int64_t tiles, int64_t buffers, int64_t value_bytes,
                               int64_t num_steps, const DeviceLimits& device, const Variants& variants) {
  int64_t most = std::max<int64_t>(1, kMaximumBlocks / tiles);
  if (num_steps > 1) {
    int64_t in_l2 = device.l2_bytes / 4 * 3 / (buffers * pixels * value_bytes);
    if (variants.short_passes) in_l2 /= 2;
    if (variants.long_passes) in_l2 *= 2;
    // A launch that can't fill the machine costs more than what it saves in traffic.
    const int64_t to_fill = divide_up(8 * device.multiprocessors, tiles);
    most = std::min(most, std::max<int64_t>({1, in_l2, to_fill}));
  }
  const int64_t passes = divide_up(planes, std::min(planes, most));
  return divide_up(planes, passes);
}

}  // namespace plan_detail

// planes: B * C, at least 1. value_bytes: of the accumulation type. pairs_fit: two neighbouring coefficients are in one
// aligned word of 32 bits, for any even column (iac_cuda_common.cuh, pairs_fit()).
inline Plan plan_forward(int64_t planes, int64_t height, int64_t width, int64_t num_steps, int64_t taps,
                         int64_t value_bytes, const DeviceLimits& device, const Variants& variants = {},
                         bool pairs_fit = false) {
  using namespace plan_detail;
  Plan plan;
  if (pairs_fit && !variants.single && has_fast_form(taps, height * width) && value_bytes == 4 && width % 2 == 0) {
    plan.columns_at_once = 2;
  }
  if (num_steps > 1 && plan_plane(plan, planes, height, width, 2, value_bytes, device)) return plan;

  plan.path = Path::kTiled;
  plan.programmatic = !variants.serial && device.programmatic_launch;
  // Columns in equal parts. Whole rows where they fit: a tile that isn't cut at its sides reads nothing twice.
  plan.tiles_x = divide_up(width, kForwardColumns * plan.columns_at_once);
  plan.tile_columns = divide_up(divide_up(width, plan.tiles_x), plan.columns_at_once) * plan.columns_at_once;
  plan.tiles_x = divide_up(width, plan.tile_columns);
  plan.threads_x = threads_across(divide_up(plan.tile_columns, plan.columns_at_once));
  plan.threads_y = threads_down(plan.threads_x, divide_up(height, kRowsAtOnce), kTiledThreads);
  plan.tile_rows = std::min<int64_t>(height, kRowsAtOnce * plan.threads_y);
  // The halo of pairs is as wide as a pair at least.
  const int64_t halo = divide_up(taps / 2, plan.columns_at_once) * plan.columns_at_once;
  const int64_t columns = std::min(width, plan.tile_columns + 2 * halo);
  // With very many taps the halo outgrows shared memory: fewer rows, which leaves some threads idle.
  while (plan.tile_rows > 1 && plan.tile_rows * columns * value_bytes > device.shared_bytes) --plan.tile_rows;
  plan.shared_bytes = plan.tile_rows * columns * value_bytes;
  plan.tiles = plan.tiles_x * divide_up(height, plan.tile_rows);
  plan.planes_per_pass =
      planes_per_pass(planes, height * width, plan.tiles, kForwardBuffers, value_bytes, num_steps, device, variants);
  return plan;
}

// pairs_fit: as for forward; the same of the filters' gradient and, in float32, of the activations
// (iac_cuda_backward.cuh, backward_pairs_fit()).
inline Plan plan_backward(int64_t planes, int64_t height, int64_t width, int64_t num_steps, int64_t taps,
                          int64_t value_bytes, const DeviceLimits& device, const Variants& variants = {},
                          bool pairs_fit = false) {
  using namespace plan_detail;
  Plan plan;
  if (pairs_fit && variants.paired && has_fast_form(taps, height * width) && value_bytes == 4 && width % 2 == 0) {
    plan.columns_at_once = 2;
  }
  if (taps <= device.shared_bytes && plan_plane(plan, planes, height, width, 2 + 2 * taps, value_bytes, device)) {
    // More registers than forward: half the threads.
    plan.threads_y = threads_down(plan.threads_x, plan.threads_y, std::max(plan.threads_x, kTiledThreads));
    if (plan.threads_x <= kTiledThreads) return plan;
  }

  // The products of h with the gradient (k a pixel, halo on all sides), those of v (k, halo above and below), t.
  const int64_t at_once = plan.columns_at_once;
  const int64_t halo = 2 * divide_up(taps / 2, at_once) * at_once;  // left and right together
  const auto tile_bytes = [&](int64_t rows, int64_t columns) {
    const int64_t high = std::min(height, rows + taps - 1);
    const int64_t across = std::min(width, columns + halo);
    return (taps * high * (across + columns) + rows * across) * value_bytes;
  };
  plan = Plan{};
  plan.path = Path::kTiled;
  plan.columns_at_once = static_cast<int>(at_once);
  // Of the other kernels blocks are half as large.
  const bool tall = variants.tall_tiles && has_fast_form(taps, height * width) && at_once == 1;
  int64_t across = variants.wide_tiles || tall || at_once > 1 ? 2 * kBackwardColumns : kBackwardColumns;
  const int64_t high = variants.wide_tiles ? kBackwardRows / 2 : kBackwardRows;
  const auto cut_columns = [&] {  // in equal parts
    const int64_t parts = width <= across ? 1 : divide_up(width, std::max<int64_t>(across - halo, 16));
    plan.tile_columns = divide_up(divide_up(width, parts), at_once) * at_once;
  };
  cut_columns();
  const int64_t least_rows = std::min<int64_t>(height, 8);
  plan.tile_rows = std::min(height, std::max(high - (taps - 1), least_rows));
  // 60 KB at most where a fair tile allows it, so that several blocks share a multiprocessor.
  const int64_t comfortable = std::min<int64_t>(device.shared_bytes, 60 * 1024);
  while (plan.tile_rows > least_rows && tile_bytes(plan.tile_rows, plan.tile_columns) > comfortable) --plan.tile_rows;
  if (tile_bytes(plan.tile_rows, plan.tile_columns) > comfortable && across > kBackwardColumns) {
    across = kBackwardColumns;
    cut_columns();
  }
  plan.shared_bytes = tile_bytes(plan.tile_rows, plan.tile_columns);
  // Past 16 taps a tile would be mostly halo.
  if (taps < 16 && plan.shared_bytes <= device.shared_bytes) {
    plan.threads_x = threads_across(divide_up(std::min(width, plan.tile_columns + halo), at_once));
    plan.threads_y = threads_down(plan.threads_x, std::min(height, plan.tile_rows + taps - 1),
                                  tall ? kTiledThreads : kTiledThreads / 2);
    plan.tiles_x = divide_up(width, plan.tile_columns);
    plan.tiles = plan.tiles_x * divide_up(height, plan.tile_rows);
  } else {
    plan = Plan{};
    plan.path = Path::kWide;
    plan.threads_x = kWideThreads;
    plan.tiles = divide_up(height * width, kWideThreads);
  }
  plan.programmatic = !variants.serial && device.programmatic_launch;
  plan.planes_per_pass =
      planes_per_pass(planes, height * width, plan.tiles, kBackwardBuffers, value_bytes, num_steps, device, variants);
  return plan;
}

// Buffers of [planes_per_pass, H, W] in the accumulation type that the tiled and wide paths need.
inline int64_t forward_scratch_planes(const Plan& plan, int64_t num_steps, bool save_steps) {
  if (plan.path == Path::kPlane || save_steps || num_steps == 1) return 0;  // saved steps serve as the buffers
  return plan.planes_per_pass * std::min<int64_t>(num_steps - 1, 2);
}

inline int64_t backward_scratch_planes(const Plan& plan, int64_t num_steps) {
  if (plan.path == Path::kPlane) return 0;
  const int64_t gradients = std::min<int64_t>(num_steps - 1, 2);
  return plan.planes_per_pass * (gradients + (plan.path == Path::kWide ? 2 : 0));
}

}  // namespace ifan
