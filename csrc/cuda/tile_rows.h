// The rows of a tile as a warp holds them, and the distances in them. Each block has 96 rows and 192 columns, each of
// its warps 24 of the rows, each lane 6 of the columns.
#pragma once

#include <cmath>

#include "execution.h"
#include "ops.h"

namespace repsim::cuda {

constexpr int kTileWarps = 4;
constexpr int kWarpRows = 24;
constexpr int kBlockRows = kTileWarps * kWarpRows;
constexpr int kBlockColumns = static_cast<int>(kTile);
constexpr int kOwn = kBlockColumns / kLanes;

// What a lane holds of a row of its block: columns 64 (c / 2) + 2 lane + c % 2.
struct Values {
  float of[kOwn];
};
REPSIM_DEVICE int column_of(int lane, int c) { return c / 2 * (2 * kLanes) + 2 * lane + c % 2; }

// Where a block lies in its tile.
struct Place {
  int64_t row, column;

  REPSIM_DEVICE Place(const Tile& tile, int64_t block) {
    const int64_t across = (tile.columns + kBlockColumns - 1) / kBlockColumns;
    row = block / across * kBlockRows;
    column = block % across * kBlockColumns;
  }
};

inline int64_t tile_blocks(const Tile& tile) {
  return (tile.rows + kBlockRows - 1) / kBlockRows * ((tile.columns + kBlockColumns - 1) / kBlockColumns);
}

// Whether row i and column j of a tile are two inputs.
REPSIM_DEVICE bool is_pair(const Tile& tile, int64_t i, int64_t j) {
  return j < tile.columns && !(tile.diagonal && i == j);
}

// Two neighbouring numbers, read at once. Pitches and columns are even, so that they lie at multiples of 8 bytes.
struct alignas(8) Two {
  float first, second;
};

// 6 numbers of row i of a tile.
REPSIM_DEVICE void load_row(const float* tile_rows, const Tile& tile, int64_t i, int64_t column, int lane,
                            Values& values) {
  const float* row = tile_rows + i * tile.pitch + column;
  for (int c = 0; c < kOwn; c += 2) {
    const Two two = *reinterpret_cast<const Two*>(row + column_of(lane, c));
    values.of[c] = two.first;
    values.of[c + 1] = two.second;
  }
}

// What a distance is used in, which decides how many of its digits matter: csrc/cpu/tiles.cpp says how.
enum class Lost { distance, rbf, laplacian };

// A distance below this has lost too many of them.
REPSIM_DEVICE float lost_below(Lost use, float halves, float gain) {
  constexpr float kNegligible = 25.0f;  // e^-25 = 1.4e-11
  constexpr float kError = 0x1p-18f;    // of the halves: a lost distance may look like a long one
  if (use == Lost::rbf) return halves * gain > 128.0f ? halves * kError + kNegligible / gain : -INFINITY;
  if (use == Lost::distance) return halves * 0x1p-10f;
  const float root = halves * (gain * 0x1p-8f), most = kNegligible / gain;
  return root < most ? root * root * 0.5f : most * most * 0.5f + halves * kError;
}

REPSIM_DEVICE float feature(const TilePair& pair, const void* rows, int64_t at) {
  if (pair.words == Words::bfloat16)
    return float_of(static_cast<uint32_t>(static_cast<const uint16_t*>(rows)[at]) << 16);
  return static_cast<const float*>(rows)[at];
}

// -|x_i - x_j|^2 / 2 of two packed rows, from their differences.
REPSIM_DEVICE float from_differences(const Warp& warp, const TilePair& pair, int64_t i, int64_t j) {
  PerLane<double> sums;
  warp.each_lane([&](int lane) {
    double sum = 0;
    for (int64_t k = lane; k < pair.width; k += kLanes) {
      const double difference = static_cast<double>(feature(pair, pair.rows_i, i * pair.width + k)) -
                                feature(pair, pair.rows_j, j * pair.width + k);
      sum += difference * difference;
    }
    sums[lane] = sum;
  });
  return static_cast<float>(-warp.sum(sums) / 2);
}

// q = -|x_i - x_j|^2 / 2 of row i of a tile, for the columns of a block. Those that the products have lost are taken
// from the differences of the rows, by the whole warp.
REPSIM_DEVICE void half_distances(const Warp& warp, const TilePair& pair, const Tile& tile, int64_t i, int64_t column,
                                  Lost use, float gain, PerLane<Values>& q) {
  const float half_i = pair.half_i[i];
  PerLane<uint32_t> lost;
  PerLane<bool> any;
  warp.each_lane([&](int lane) {
    load_row(pair.products, tile, i, column, lane, q[lane]);
    uint32_t mask = 0;
    for (int c = 0; c < kOwn; ++c) {
      const int64_t j = column + column_of(lane, c);
      const float halves = (j < tile.columns ? pair.half_j[j] : 0.0f) + half_i;
      const float value = q[lane].of[c] - halves;
      q[lane].of[c] = value;
      if (-value < lost_below(use, halves, gain) && is_pair(tile, i, j)) mask |= 1u << c;
    }
    lost[lane] = mask;
    any[lane] = mask != 0;
  });
  for (uint32_t lanes = warp.ballot(any); lanes != 0; lanes &= lanes - 1) {
    const int owner = lowest_bit_of(lanes);
    for (uint32_t mask = warp.of_lane(lost, owner); mask != 0; mask &= mask - 1) {
      const int which = lowest_bit_of(mask);
      const float value = from_differences(warp, pair, i, column + column_of(owner, which));
      warp.each_lane([&](int lane) {
        for (int c = 0; c < kOwn; ++c)  // a register is not chosen by a number
          if (lane == owner && c == which) q[lane].of[c] = value;
      });
    }
  }
}

}  // namespace repsim::cuda
