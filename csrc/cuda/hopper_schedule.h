// Which tile a cluster takes next, which stage of the ring holds what, and where a thread's accumulators lie: what the
// Hopper kernels need to know that is plain arithmetic. Runs on the host too, where its tests are.
#pragma once

#include <cstdint>

#include "../host_device.h"

namespace repsim::cuda::hopper {

// Pairs (row, column) of two blocks, cut into supertiles of side x side pairs and these into cluster tiles. All
// clusters of the grid are inside a few supertiles at a time, whose rows and columns stay in the L2 cache.
struct Schedule {
  int rows, columns;            // of the pair of blocks
  int tile_rows, tile_columns;  // of a cluster
  int side;                     // a multiple of both
  bool triangle;                // the rows are the columns: only tiles with a pair i < j
  int down, across;             // supertiles
};

REPSIM_HOST_DEVICE constexpr int ceiling(int a, int b) { return (a + b - 1) / b; }

inline Schedule schedule_of(int rows, int columns, int tile_rows, int tile_columns, int side, bool triangle) {
  return {rows, columns, tile_rows, tile_columns, side, triangle, ceiling(rows, side), ceiling(columns, side)};
}

// The tiles of one of `workers`: of all tiles with pairs, supertile by supertile and row by row, every workers-th.
class Walk {
 public:
  struct Position {
    int a, b, row, column;  // the supertile, and the tile in it
    int ahead;              // tiles to the next one
  };
  REPSIM_HOST_DEVICE static Position start(int worker) { return {0, 0, 0, 0, worker}; }

  REPSIM_HOST_DEVICE Walk(const Schedule& schedule, const Position& at, int workers)
      : s_(schedule), workers_(workers), at_(at) {}

  // The first row and column of the next tile; false where there is none.
  REPSIM_HOST_DEVICE bool next(int& row, int& column) {
    for (; at_.a < s_.down; begin_supertile()) {
      const int rows = ceiling(smaller(s_.side, s_.rows - at_.a * s_.side), s_.tile_rows);
      const int columns = ceiling(smaller(s_.side, s_.columns - at_.b * s_.side), s_.tile_columns);
      for (; at_.row < rows; begin_row()) {
        const int left = columns - at_.column;
        if (at_.ahead < left) {
          at_.column += at_.ahead;
          row = at_.a * s_.side + at_.row * s_.tile_rows;
          column = at_.b * s_.side + at_.column * s_.tile_columns;
          at_.ahead = workers_;
          return true;
        }
        if (left > 0) at_.ahead -= left;
      }
    }
    return false;
  }

  REPSIM_HOST_DEVICE const Position& position() const { return at_; }

 private:
  REPSIM_HOST_DEVICE static int smaller(int a, int b) { return a < b ? a : b; }
  // On the diagonal, a row begins with the first tile that has a pair i < j.
  REPSIM_HOST_DEVICE void begin_row() {
    ++at_.row;
    at_.column = s_.triangle && at_.a == at_.b ? (at_.row * s_.tile_rows + 1) / s_.tile_columns : 0;
  }
  REPSIM_HOST_DEVICE void begin_supertile() {
    if (++at_.b == s_.across) at_.b = ++at_.a * (s_.triangle ? 1 : 0);
    at_.row = at_.column = 0;
  }

  const Schedule& s_;
  int workers_;
  Position at_;
};

// A place in a ring of stages. A consumer waits for the phase's parity on `full`, a producer for the other on `empty`,
// which lets it pass a ring that was never used.
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  // The stage that lies `steps` back, at most all of them.
  REPSIM_HOST_DEVICE int back(int steps, int stages) const {
    return stage < steps ? stage + stages - steps : stage - steps;
  }
  REPSIM_HOST_DEVICE void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Where a block stands in its cluster of rows x columns blocks, ranked row by row. Blocks of one row multiply the same
// left operand, blocks of one column the same right one; each copies an equal slice of it and sends it to all of these.
template <int kRows, int kColumns>
struct ClusterPlace {
  static constexpr int kSize = kRows * kColumns;
  static constexpr int kSenders = kRows + kColumns - 1;  // blocks that a block gets data from, itself among them
  int row, column;

  REPSIM_HOST_DEVICE static constexpr ClusterPlace of_rank(int rank) { return {rank / kColumns, rank % kColumns}; }
  // Bit r: the block of rank r.
  REPSIM_HOST_DEVICE constexpr uint16_t row_mask() const {
    return static_cast<uint16_t>(((1 << kColumns) - 1) << (row * kColumns));
  }
  REPSIM_HOST_DEVICE constexpr uint16_t column_mask() const {
    int mask = 0;
    for (int r = 0; r < kRows; ++r) mask |= 1 << (r * kColumns + column);
    return static_cast<uint16_t>(mask);
  }
  REPSIM_HOST_DEVICE constexpr bool hears(int rank) const {
    return rank < kSize && (row_mask() | column_mask()) >> rank & 1;
  }
};

// Accumulator `index` of thread `thread` of a warpgroup holds this entry of its 64 x N tile (wgmma m64nNk16, float32).
REPSIM_HOST_DEVICE constexpr int fragment_row(int thread, int index) {
  return thread / 32 * 16 + thread % 32 / 4 + (index & 2) * 4;
}
REPSIM_HOST_DEVICE constexpr int fragment_column(int thread, int index) {
  return index / 4 * 8 + thread % 4 * 2 + (index & 1);
}

// Eight accumulators of one row that lie four to a register block: value v of a lane is column slice_column of 32.
REPSIM_HOST_DEVICE constexpr int slice_column(int lane, int v) { return v / 2 * 8 + lane % 4 * 2 + (v & 1); }
// Which of the eight a lane holds the sum of after `fold`.
REPSIM_HOST_DEVICE constexpr int folded_value(int lane) {
  return (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1);
}

// Sums eight values each over the eight lanes that differ in bits 2 to 4, in 7 shuffles: at every step a lane passes
// the half that its partner keeps. Returns the sum of value folded_value(lane).
template <class Lane>
REPSIM_HOST_DEVICE float fold(float (&v)[8], Lane& lane) {
#pragma unroll
  for (int half = 4, mask = 16; half > 0; half /= 2, mask /= 2) {
    const bool upper = lane.lane() & mask;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      if (m >= half) break;
      const float passed = upper ? v[m] : v[m + half];
      const float kept = upper ? v[m + half] : v[m];
      v[m] = kept + lane.exchange(passed, mask);
    }
  }
  return v[0];
}

}  // namespace repsim::cuda::hopper
