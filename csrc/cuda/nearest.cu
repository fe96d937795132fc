// The best columns of every row of a tile of scores. Parallel axis: rows, a warp each. Bytes: 4 for each pair.
//
// A row keeps what lies above its floor, the key of the `kept`-th best that it knows, and sorts only when its room is
// used up. Floors only rise, so what they turn away is never among the best: the answer does not depend on the order in
// which tiles arrive.
#include <cmath>

#include "../keys.h"
#include "execution.h"
#include "lists.h"
#include "ops.h"

namespace repsim::cuda {
namespace {

struct Nearest {
  static constexpr int kWarps = 2;
  static constexpr int kThreads = kWarps * kLanes, kResident = 16;
  static constexpr int kAtOnce = 4;  // scores that a lane reads before it looks at them

  const float* products;
  const float* half_i;
  const float* half_j;
  Tile tile;
  bool same_rows;
  int kept;
  Candidates candidates;

  struct Scores {
    float of[kAtOnce];
  };

  REPSIM_DEVICE void operator()(const Block& block, unsigned char* shared) const {
    block.each_warp([&](const Warp& warp) {
      const int64_t i = block.index() * kWarps + warp.number;
      if (i >= tile.rows) return;
      const int capacity = static_cast<int>(candidates.capacity);
      uint64_t* keys = candidates.keys + i * capacity;
      uint64_t* room = reinterpret_cast<uint64_t*>(shared) + warp.number * capacity;
      int count = candidates.counts[i];
      uint64_t floor = candidates.floors[i];
      const float* row = products + i * tile.pitch;
      const float half = half_i ? half_i[i] : 0.0f;

      for (int64_t begin = 0; begin < tile.columns; begin += kAtOnce * kLanes) {
        const float threshold = key_score(floor);
        PerLane<Scores> scores;
        PerLane<bool> above;
        warp.each_lane([&](int lane) {
          bool any = false;
          for (int s = 0; s < kAtOnce; ++s) {
            const int64_t j = begin + s * kLanes + lane;
            const bool pair = j < tile.columns && !(same_rows && tile.first_i + i == tile.first_j + j);
            float score = -INFINITY;
            if (pair) score = half_j ? row[j] - (half_j[j] + half) : row[j];
            scores[lane].of[s] = score;
            any |= score >= threshold;
          }
          above[lane] = any;
        });
        if (warp.ballot(above) == 0) continue;
        for (int s = 0; s < kAtOnce; ++s) {
          PerLane<uint64_t> key;
          PerLane<bool> better;
          warp.each_lane([&](int lane) {
            const float score = scores[lane].of[s];
            key[lane] = make_key(score, tile.first_j + begin + s * kLanes + lane);
            better[lane] = score >= threshold && key[lane] > floor;
          });
          const uint32_t mask = warp.ballot(better);
          if (mask == 0) continue;
          warp.each_lane([&](int lane) {
            if (better[lane]) keys[count + place_in(mask, lane)] = key[lane];
          });
          count += count_bits_of(mask);
          if (count > capacity - kLanes) {
            sorted_copy(warp, keys, count, capacity, room);
            count = kept;
            floor = room[kept - 1];
            warp.each_lane([&](int lane) {
              for (int at = lane; at < kept; at += kLanes) keys[at] = room[at];
            });
            warp.sync();
          }
        }
      }
      warp.each_lane([&](int lane) {
        if (lane != 0) return;
        candidates.counts[i] = count;
        candidates.floors[i] = floor;
      });
    });
  }
};

}  // namespace

void nearest(const float* products, const float* half_i, const float* half_j, const Tile& tile, bool same_rows,
             int64_t kept, const Candidates& candidates, void* stream) {
  launch(Nearest{products, half_i, half_j, tile, same_rows, static_cast<int>(kept), candidates},
         (tile.rows + Nearest::kWarps - 1) / Nearest::kWarps, Nearest::kWarps * candidates.capacity * sizeof(uint64_t),
         stream);
}

}  // namespace repsim::cuda
