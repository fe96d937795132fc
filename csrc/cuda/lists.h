// Lists that a warp keeps: sorted in shared memory, or appended to without order.
#pragma once

#include "execution.h"

namespace repsim::cuda {

// Sorts `count` keys, a power of two, the largest first: Batcher's bitonic network (1968), a comparison to a lane.
REPSIM_DEVICE_OUT_OF_LINE void sort_largest_first(const Warp& warp, uint64_t* keys, int count) {
  for (int size = 2; size <= count; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      warp.each_lane([&](int lane) {
        for (int pair = lane; pair < count / 2; pair += kLanes) {
          const int low = pair / step * (2 * step) + pair % step, high = low + step;
          const uint64_t a = keys[low], b = keys[high];
          if ((a < b) == ((low & size) == 0)) {
            keys[low] = b;
            keys[high] = a;
          }
        }
      });
      warp.sync();
    }
}

// Copies `count` keys to `sorted`, the largest first, with 0, which is no key, behind them up to `capacity`.
REPSIM_DEVICE void sorted_copy(const Warp& warp, const uint64_t* keys, int count, int capacity, uint64_t* sorted) {
  warp.sync();
  warp.each_lane([&](int lane) {
    for (int at = lane; at < capacity; at += kLanes) sorted[at] = at < count ? keys[at] : 0;
  });
  warp.sync();
  sort_largest_first(warp, sorted, capacity);
}

// Where a lane of a mask puts its entry among those of the mask.
REPSIM_DEVICE int place_in(uint32_t mask, int lane) { return count_bits_of(mask & ((1u << lane) - 1)); }

}  // namespace repsim::cuda
