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

namespace ifan {

// What the plan depends on. plan_device() in iac_cuda_common.cuh reads it off the current device.
struct DeviceLimits {
  int64_t shared_bytes;     // a block may have, after opting in
  int64_t multiprocessors;
  int64_t l2_bytes;
};

enum class Path : int { kPlane = 0, kTiled = 1, kWide = 2 };

struct Plan {
  Path path = Path::kTiled;
  int threads_x = 32;           // along columns; at least tile_columns, so that a thread has one column of its own
  int threads_y = 1;            // along rows
  int64_t tile_rows = 0;
  int64_t tile_columns = 0;
  int64_t tiles_x = 1;          // a row of tiles
  int64_t tiles = 1;            // a plane; blocks = tiles * planes of the launch
  int64_t shared_bytes = 0;     // dynamic, a block
  int64_t planes_per_pass = 1;  // planes of one launch; scratch is made for so many
};

constexpr int kPlaneThreads = 1024;  // at most, a block of a plane kernel
constexpr int kTiledThreads = 512;   // at most, a block of a tiled kernel
constexpr int kWideThreads = 256;
constexpr int kPlaneRows = 4;        // rows a thread of a plane kernel, where the plane is small enough
constexpr int kRowsAtOnce = 2;       // rows a forward thread works on at a time; all that a tile has for it
constexpr int64_t kSmallPlane = 4096;  // pixels, see "plane" above
constexpr int64_t kForwardColumns = 256;  // at most, of a forward tile
constexpr int64_t kBackwardColumns = 64;
constexpr int64_t kBackwardRows = 16;
constexpr int64_t kMaximumBlocks = (int64_t{1} << 31) - 1;

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
inline bool plan_plane(Plan& plan, int64_t planes, int64_t height, int64_t width, int64_t buffers,
                       int64_t value_bytes, const DeviceLimits& device) {
  // Width first: height * width can't overflow once both are known to be small.
  if (width > kPlaneThreads || height > device.shared_bytes) return false;
  const int64_t pixels = height * width;
  const int64_t bytes = buffers * pixels * value_bytes;
  if (bytes > device.shared_bytes) return false;
  if (pixels > kSmallPlane && 2 * planes < device.multiprocessors) return false;
  const int64_t threads = std::min<int64_t>(std::max<int64_t>(divide_up(pixels, kPlaneRows), 64), kPlaneThreads);
  plan.path = Path::kPlane;
  plan.threads_x = threads_across(width);
  plan.threads_y = threads_down(plan.threads_x, height, threads);
  plan.tile_rows = height;
  plan.tile_columns = width;
  plan.tiles_x = plan.tiles = 1;
  plan.shared_bytes = bytes;
  plan.planes_per_pass = std::min(planes, kMaximumBlocks);
  return true;
}

// Two buffers of a pass in three quarters of L2; passes of one size.
inline int64_t planes_per_pass(int64_t planes, int64_t pixels, int64_t tiles, int64_t value_bytes, int64_t num_steps,
                               const DeviceLimits& device) {
  int64_t most = std::max<int64_t>(1, kMaximumBlocks / tiles);
  if (num_steps > 1) {
    const int64_t in_l2 = device.l2_bytes / 4 * 3 / (2 * pixels * value_bytes);
    // A launch that can't fill the machine costs more than what it saves in traffic.
    const int64_t to_fill = divide_up(8 * device.multiprocessors, tiles);
    most = std::min(most, std::max<int64_t>({1, in_l2, to_fill}));
  }
  const int64_t passes = divide_up(planes, std::min(planes, most));
  return divide_up(planes, passes);
}

}  // namespace plan_detail

// planes: B * C, at least 1. value_bytes: of the accumulation type.
inline Plan plan_forward(int64_t planes, int64_t height, int64_t width, int64_t num_steps, int64_t taps,
                         int64_t value_bytes, const DeviceLimits& device) {
  using namespace plan_detail;
  Plan plan;
  if (num_steps > 1 && plan_plane(plan, planes, height, width, 2, value_bytes, device)) return plan;

  plan.path = Path::kTiled;
  // Columns in equal parts. Whole rows where they fit: a tile that isn't cut at its sides reads nothing twice.
  plan.tiles_x = divide_up(width, kForwardColumns);
  plan.tile_columns = divide_up(width, plan.tiles_x);
  plan.threads_x = threads_across(plan.tile_columns);
  plan.threads_y = threads_down(plan.threads_x, divide_up(height, kRowsAtOnce), kTiledThreads);
  plan.tile_rows = std::min<int64_t>(height, int64_t{kRowsAtOnce} * plan.threads_y);
  const int64_t columns = std::min(width, plan.tile_columns + (taps - 1));
  // With very many taps the halo outgrows shared memory: fewer rows, which leaves some threads idle.
  while (plan.tile_rows > 1 && plan.tile_rows * columns * value_bytes > device.shared_bytes) --plan.tile_rows;
  plan.shared_bytes = plan.tile_rows * columns * value_bytes;
  plan.tiles = plan.tiles_x * divide_up(height, plan.tile_rows);
  plan.planes_per_pass = planes_per_pass(planes, height * width, plan.tiles, value_bytes, num_steps, device);
  return plan;
}

inline Plan plan_backward(int64_t planes, int64_t height, int64_t width, int64_t num_steps, int64_t taps,
                          int64_t value_bytes, const DeviceLimits& device) {
  using namespace plan_detail;
  Plan plan;
  if (taps <= device.shared_bytes && plan_plane(plan, planes, height, width, 2 + 2 * taps, value_bytes, device)) {
    // More registers than forward: half the threads.
    plan.threads_y = threads_down(plan.threads_x, plan.threads_y, std::max(plan.threads_x, kTiledThreads));
    if (plan.threads_x <= kTiledThreads) return plan;
  }

  // The products of h with the gradient (k a pixel, halo on all sides), those of v (k, halo above and below), t.
  const auto tile_bytes = [&](int64_t rows, int64_t columns) {
    const int64_t high = std::min(height, rows + taps - 1);
    const int64_t across = std::min(width, columns + taps - 1);
    return (taps * high * (across + columns) + rows * across) * value_bytes;
  };
  plan = Plan{};
  plan.path = Path::kTiled;
  plan.tile_columns = std::min(width, kBackwardColumns);
  plan.tile_rows = std::min(height, kBackwardRows);
  // 48 KB at most where a fair tile allows it, so that several blocks share a multiprocessor.
  const int64_t comfortable = std::min<int64_t>(device.shared_bytes, 48 * 1024);
  while (plan.tile_rows > 8 && tile_bytes(plan.tile_rows, plan.tile_columns) > comfortable) --plan.tile_rows;
  if (tile_bytes(plan.tile_rows, plan.tile_columns) > comfortable) plan.tile_columns = std::min<int64_t>(width, 32);
  plan.shared_bytes = tile_bytes(plan.tile_rows, plan.tile_columns);
  // Past 16 taps a tile would be mostly halo.
  if (taps < 16 && plan.shared_bytes <= device.shared_bytes) {
    plan.threads_x = threads_across(plan.tile_columns);
    plan.threads_y = threads_down(plan.threads_x, plan.tile_rows, kTiledThreads / 2);
    plan.tiles_x = divide_up(width, plan.tile_columns);
    plan.tiles = plan.tiles_x * divide_up(height, plan.tile_rows);
  } else {
    plan = Plan{};
    plan.path = Path::kWide;
    plan.threads_x = kWideThreads;
    plan.tiles = divide_up(height * width, kWideThreads);
  }
  plan.planes_per_pass = planes_per_pass(planes, height * width, plan.tiles, value_bytes, num_steps, device);
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
