// What becomes of a tile of products in registers: kernel values and their sums, or candidates of a search.
//
// A tile belongs to a warpgroup: 64 rows, accumulators laid out as hopper_schedule.h says. `Lane` is one of its 128
// threads: on the device it shuffles and votes, on the host its tests stand in for it.
#pragma once

#include <cmath>
#include <cstdint>

#include "../keys.h"
#include "hopper.h"
#include "hopper_schedule.h"

namespace repsim::cuda::hopper {

constexpr int kGroupRows = 64;      // of a warpgroup's tile
constexpr int kGroupThreads = 128;  // of a warpgroup

// Which pairs of a tile count: column c of the row halves h with above[h] < c < columns, in rows that exist.
struct TileBounds {
  int above[2];
  int rows, columns;  // that exist in the tile; may be negative
};

// The bounds of a tile at (row, column), for one thread's two rows.
REPSIM_HOST_DEVICE inline TileBounds tile_bounds(const Schedule& s, int row, int column, int thread) {
  TileBounds bounds{{-1, -1}, s.rows - row, s.columns - column};
  for (int h = 0; h < 2; ++h) {
    const int r = fragment_row(thread, 2 * h);
    if (s.triangle) bounds.above[h] = row + r - column;
    if (r >= bounds.rows) bounds.above[h] = bounds.columns;
  }
  return bounds;
}

// Whether every pair of the tile counts.
template <int kColumns>
REPSIM_HOST_DEVICE bool whole(const Schedule& s, int row, int column) {
  return row + kGroupRows <= s.rows && column + kColumns <= s.columns && (!s.triangle || row + kGroupRows <= column);
}

// ---------------------------------------------------------------------------------------------- sums of kernels

// K - shift from a product t and what is added for both rows, a and b:
//   linear scale t - shift ; rbf 2^(scale t - a - b) - shift with a, b = scale half_i, scale half_j ;
//   polynomial scale t + sum_m coefficients[m] (t + a + b)^m, less the shift already, with a, b = half_i, half_j
struct KernelForm {
  Kernel kernel;
  float scale, shift;
  float coefficients[kMostDegree + 1];

  REPSIM_HOST_DEVICE float half_scale() const { return kernel == Kernel::rbf ? scale : 1.0f; }
};

inline KernelForm kernel_form(Kernel kernel, float gain, float shift, const float* coefficients, int degree) {
  KernelForm form{kernel, gain * (kernel == Kernel::rbf ? 1.44269504f : 1.0f), shift, {}};
  if (kernel == Kernel::polynomial) {
    for (int m = 0; m <= degree; ++m) form.coefficients[m] = coefficients[m];
    form.coefficients[0] -= shift;
  }
  return form;
}

template <int kColumns>
struct SumsShared {
  float half_i[2][kGroupRows], half_j[2][kColumns];  // times their scale
  float columns[4][2][kColumns];                     // of every warp's rows
};

// Where the sums of a tile go.
struct SumsTotals {
  int64_t* rows_i;  // of the tile's first row; the second matrix's lie n further
  int64_t* rows_j;  // of its first column
  int64_t n;
  float row_unit;       // units to one
  int64_t (*limbs)[2];  // [3, 2] of the warp: KK, KL, LL; value = [0] 2^32 + [1], in units of 2^-45
};

template <int kColumns, class Accumulators, class Lane>
REPSIM_HOST_DEVICE void to_kernel(Accumulators& t, const KernelForm& form, const float* half_i, const float* half_j,
                                  Lane& lane) {
  const int row = fragment_row(lane.thread(), 0);
  if (form.kernel == Kernel::rbf) {
    const float a[2] = {half_i[row], half_i[row + 8]};
#pragma unroll
    for (int m = 0; m < kColumns / 2; ++m) {
      const float b = half_j[fragment_column(lane.thread(), m)];
      t[m] = lane.power_of_two(fmaf(form.scale, t[m], -(a[m >> 1 & 1] + b))) - form.shift;
    }
  } else if (form.kernel == Kernel::polynomial) {
    const float a[2] = {half_i[row], half_i[row + 8]};
#pragma unroll
    for (int m = 0; m < kColumns / 2; ++m) {
      const float x = t[m] + (a[m >> 1 & 1] + half_j[fragment_column(lane.thread(), m)]);
      float p = form.coefficients[kMostDegree];  // 0 beyond the degree
#pragma unroll
      for (int c = kMostDegree - 1; c >= 0; --c) p = fmaf(p, x, form.coefficients[c]);
      t[m] = fmaf(form.scale, t[m], p);
    }
  } else {
#pragma unroll
    for (int m = 0; m < kColumns / 2; ++m) t[m] = fmaf(form.scale, t[m], -form.shift);
  }
}

// Sets to 0 what does not count.
template <int kColumns, class Accumulators, class Lane>
REPSIM_HOST_DEVICE void mask_tile(Accumulators& t, const TileBounds& bounds, Lane& lane) {
#pragma unroll
  for (int m = 0; m < kColumns / 2; ++m) {
    const int column = fragment_column(lane.thread(), m);
    if (column <= bounds.above[m >> 1 & 1] || column >= bounds.columns) t[m] = 0.0f;
  }
}

// Adds one tile, all of whose pairs stand for (i, j) and (j, i), to its totals. Float32 inside the tile, in one order;
// integers beyond it.
template <int kColumns, class Accumulators, class Lane>
REPSIM_HOST_DEVICE void add_tile(const Accumulators& k, const Accumulators& l, const TileBounds& bounds,
                                 SumsShared<kColumns>& shared, const SumsTotals& totals, Lane& lane) {
  float rows[2][2] = {}, products[3] = {};
#pragma unroll
  for (int slice = 0; slice < kColumns / 32; ++slice) {
    float of_k[8], of_l[8];
#pragma unroll
    for (int v = 0; v < 8; ++v) {
      of_k[v] = of_l[v] = 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int m = slice * 16 + v / 2 * 4 + h * 2 + (v & 1);
        const float x = k[m], y = l[m];
        rows[0][h] += x;
        rows[1][h] += y;
        products[0] = fmaf(x, x, products[0]);
        products[1] = fmaf(x, y, products[1]);
        products[2] = fmaf(y, y, products[2]);
        of_k[v] += x;
        of_l[v] += y;
      }
    }
    const int column = slice * 32 + slice_column(lane.lane(), folded_value(lane.lane()));
    shared.columns[lane.thread() / 32][0][column] = fold(of_k, lane);
    shared.columns[lane.thread() / 32][1][column] = fold(of_l, lane);
  }

  // Of the four lanes of a row, each writes one of the four sums.
#pragma unroll
  for (int p = 0; p < 2; ++p)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rows[p][h] += lane.exchange(rows[p][h], 1);
      rows[p][h] += lane.exchange(rows[p][h], 2);
    }
  const bool second_row = lane.lane() & 1, second_matrix = lane.lane() & 2;
  const float of_k = second_row ? rows[0][1] : rows[0][0], of_l = second_row ? rows[1][1] : rows[1][0];
  const int row = fragment_row(lane.thread(), 0) + (second_row ? 8 : 0);
  if (row < bounds.rows)
    lane.add(totals.rows_i + (second_matrix ? totals.n : 0) + row,
             lane.round((second_matrix ? of_l : of_k) * totals.row_unit));

#pragma unroll
  for (int p = 0; p < 3; ++p) {
    int64_t sum = lane.round(products[p] * 0x1p46f);  // 2^45 units, and the weight 2
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += lane.exchange(sum, mask);
    if (lane.lane() == 0) {
      totals.limbs[p][0] += sum >> 32;
      totals.limbs[p][1] += sum & 0xffffffff;
    }
  }

  lane.meet();
#pragma unroll
  for (int m = 0; m < 2 * kColumns / kGroupThreads; ++m) {
    const int at = m * kGroupThreads + lane.thread(), p = at / kColumns, column = at % kColumns;
    const float sum = (shared.columns[0][p][column] + shared.columns[1][p][column]) +
                      (shared.columns[2][p][column] + shared.columns[3][p][column]);
    if (column < bounds.columns) lane.add(totals.rows_j + p * totals.n + column, lane.round(sum * totals.row_unit));
  }
}

// ---------------------------------------------------------------------------------------------- candidates

constexpr int kMostFound = 256;         // by a warp between two looks at how many it holds
constexpr int kHits = kMostFound + 32;  // that a warp can hold

struct Hit {
  float score;
  uint16_t row, column;  // of the tile
};

template <int kColumns>
struct SelectShared {
  float half_i[kGroupRows], threshold_i[kGroupRows];  // half +infinity where there is no row: a score of -infinity
  float half_j[kColumns], threshold_j[kColumns];      // threshold +infinity where columns are not served
  Hit hits[4][kHits];                                 // of every warp
};

// Whose candidates a tile finds. Counts go on beyond the capacity; what does not fit is not kept.
struct Offers {
  uint64_t* keys;   // [rows, capacity]
  int32_t* counts;  // [rows]
  int64_t capacity;
  int64_t first_i, first_j;  // the rows, in the lists, of the tile's first row and column
  int64_t index_j, step_j;   // column c is input index_j + step_j c
  const int64_t* inputs_i;   // of the tile's rows; null: the input's number is that of the row in the lists
  bool columns_too;          // every score serves its column as well
  bool own;                  // a row's own input is no neighbour
  bool triangle;             // only where row < column
};

template <class Lane>
REPSIM_HOST_DEVICE void append(const Offers& offers, int64_t row, float score, int64_t index, Lane& lane) {
  const int32_t place = lane.take(offers.counts + row);
  if (place < offers.capacity) offers.keys[row * offers.capacity + place] = make_key(score, index);
}

// A warp's hits are offered together, so that their counters are waited for once and not one after the other.
template <int kColumns, class Lane>
REPSIM_HOST_DEVICE void offer(const Hit* hits, int count, const SelectShared<kColumns>& shared, const Offers& offers,
                              Lane& lane) {
  lane.meet_warp();
  for (int m = lane.lane(); m < count; m += 32) {
    const Hit hit = hits[m];
    const int64_t row = offers.first_i + hit.row, column = offers.first_j + hit.column;
    const int64_t index = offers.index_j + offers.step_j * hit.column;
    const int64_t input = offers.inputs_i ? offers.inputs_i[hit.row] : row;
    if (offers.triangle ? row >= column : offers.own && input == index) continue;
    if (hit.score >= shared.threshold_i[hit.row]) append(offers, row, hit.score, index, lane);
    if (offers.columns_too && hit.score >= shared.threshold_j[hit.column]) append(offers, column, hit.score, row, lane);
  }
  lane.meet_warp();
}

// Offers every score of a tile that its row or its column asked for.
template <int kColumns, class Accumulators, class Lane>
REPSIM_HOST_DEVICE void select_tile(const Accumulators& t, SelectShared<kColumns>& shared, const Offers& offers,
                                    Lane& lane) {
  const int thread = lane.thread(), first = fragment_row(thread, 0);
  const float half[2] = {shared.half_i[first], shared.half_i[first + 8]};
  const float asked[2] = {shared.threshold_i[first], shared.threshold_i[first + 8]};
  Hit* hits = shared.hits[thread / 32];
  int held = 0;
#pragma unroll
  for (int group = 0; group < kColumns / 16; ++group) {
    float scores[8];
    bool hit[8], any = false;
#pragma unroll
    for (int v = 0; v < 8; ++v) {
      const int m = group * 8 + v, column = fragment_column(thread, m), h = m >> 1 & 1;
      scores[v] = t[m] - (half[h] + shared.half_j[column]);
      hit[v] = scores[v] >= fminf(asked[h], shared.threshold_j[column]);
      any |= hit[v];
    }
    if (!lane.any(any)) continue;
#pragma unroll
    for (int v = 0; v < 8; ++v) {
      const int m = group * 8 + v;
      const uint32_t who = lane.ballot(hit[v]);
      if (hit[v])
        hits[held + lane.ones(who & ((1u << lane.lane()) - 1))] = {scores[v],
                                                                   static_cast<uint16_t>(fragment_row(thread, m)),
                                                                   static_cast<uint16_t>(fragment_column(thread, m))};
      held += lane.ones(who);
    }
    if (held > kHits - kMostFound) {
      offer(hits, held, shared, offers, lane);
      held = 0;
    }
  }
  offer(hits, held, shared, offers, lane);
}

// Sorts `size` keys, a power of two, largest first, by all threads of a block.
template <class Block>
REPSIM_HOST_DEVICE void sort_keys(uint64_t* keys, int size, Block& block) {
  for (int run = 2; run <= size; run *= 2)
    for (int apart = run / 2; apart > 0; apart /= 2) {
      block.meet();
      for (int m = block.thread(); m < size / 2; m += block.threads()) {
        const int low = (m & -apart) * 2 + (m & (apart - 1)), high = low + apart;
        const bool descending = (low & run) == 0;
        const uint64_t a = keys[low], b = keys[high];
        if ((a < b) == descending) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  block.meet();
}

}  // namespace repsim::cuda::hopper
