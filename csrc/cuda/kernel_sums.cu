// Sums over a tile of one or two kernel matrices, and of what they are made. Parallel axis: 96 x 192 blocks of the
// tile, a warp to 24 rows. Bytes: 4 for each pair of inputs and matrix, from L2 where the tile fits it.
//
// Everything follows from the values of a row, which lie in registers: a lane adds 6 of them in float32, a warp its
// lanes, in a fixed order; columns are added over the 24 rows of a warp, then over the warps in float64. From there on
// sums are integers.
#include <cmath>

#include "../fixed_point.h"
#include "execution.h"
#include "ops.h"
#include "program.h"

namespace repsim::cuda {
namespace {

enum class Sought { sums, pairs, vectors };

template <Sought sought, int count>
struct Reduce {
  static constexpr int kThreads = kTileWarps * kLanes, kResident = count == 1 ? 4 : 3;
  static constexpr int kPairs = count * (count + 1) / 2;
  static constexpr int kSums = sought == Sought::sums ? count : sought == Sought::pairs ? kPairs : count * count;
  static constexpr int kTotals = sought == Sought::sums ? kPairs : 0;

  Program program;
  Tile tile;
  double row_unit, product_unit;
  float* values;
  const float* vectors[2];
  int64_t* sums[4];
  int64_t* products[3];

  static size_t shared_bytes() {
    return kTileWarps * (kTotals * sizeof(double) + kSums * kBlockColumns * sizeof(float));
  }

  REPSIM_DEVICE void operator()(const Block& block, unsigned char* shared) const {
    double* totals = reinterpret_cast<double*>(shared);                        // [warps, kTotals]
    float* columns = reinterpret_cast<float*>(totals + kTileWarps * kTotals);  // [warps, kSums, 192]
    const Place place(tile, block.index());

    block.each_warp([&](const Warp& warp) {
      PerLane<Values> down[kSums];   // of its columns, over the rows so far
      PerLane<float> across[kSums];  // lane r: of row r
      PerLane<double> total[kTotals + 1];
      warp.each_lane([&](int lane) {
        for (int s = 0; s < kSums; ++s) {
          across[s][lane] = 0;
          for (int c = 0; c < kOwn; ++c) down[s][lane].of[c] = 0;
        }
        for (int t = 0; t < kTotals; ++t) total[t][lane] = 0;
      });
      const int64_t first = place.row + warp.number * kWarpRows;
      for (int r = 0; r < kWarpRows && first + r < tile.rows; ++r)
        add_row(warp, place.column, first + r, r, down, across, total);

      warp.each_lane([&](int lane) {
        for (int s = 0; s < kSums; ++s) {
          if (sums[s] && lane < kWarpRows && first + lane < tile.rows)
            add_fixed(sums[s] + tile.first_i + first + lane, across[s][lane]);
          for (int c = 0; c < kOwn; ++c)
            columns[(warp.number * kSums + s) * kBlockColumns + column_of(lane, c)] = down[s][lane].of[c];
        }
      });
      for (int t = 0; t < kTotals; ++t) {
        const double sum = warp.sum(total[t]);
        warp.each_lane([&](int lane) {
          if (lane == 0) totals[warp.number * kTotals + t] = sum;
        });
      }
    });
    block.barrier();

    block.each_warp([&](const Warp& warp) {
      constexpr int kWarpColumns = kBlockColumns / kTileWarps;
      warp.each_lane([&](int lane) {
        for (int at = lane; at < kWarpColumns && !tile.diagonal; at += kLanes) {
          const int column = warp.number * kWarpColumns + at;
          if (place.column + column >= tile.columns) break;
          for (int s = 0; s < kSums; ++s) {
            if (!sums[s]) continue;
            double sum = 0;
            for (int w = 0; w < kTileWarps; ++w) sum += columns[(w * kSums + s) * kBlockColumns + column];
            add_fixed(sums[s] + tile.first_j + place.column + column, sum);
          }
        }
        if (warp.number == 0 && lane < kTotals && products[lane]) {
          double sum = 0;
          for (int w = 0; w < kTileWarps; ++w) sum += totals[w * kTotals + lane];
          const double weight = tile.diagonal ? 1.0 : 2.0;
          add_to_limbs(products[lane] + block.index() % kSlots * 2, llrint(weight * sum * product_unit),
                       [](int64_t* to, int64_t term) { return atomic_add(to, term); });
        }
      });
    });
  }

  REPSIM_DEVICE void add_fixed(int64_t* to, double sum) const { atomic_add(to, llrint(sum * row_unit)); }

  REPSIM_DEVICE void add_row(const Warp& warp, int64_t column, int64_t i, int r, PerLane<Values> (&down)[kSums],
                             PerLane<float> (&across)[kSums], PerLane<double> (&total)[kTotals + 1]) const {
    PerLane<Values> v[count];
    matrix_row(warp, program, 0, tile, i, column, v[0]);
    if constexpr (count == 2) matrix_row(warp, program, 1, tile, i, column, v[1]);
    PerLane<float> row[kSums];
    float vector_i[2] = {};
    if constexpr (sought == Sought::vectors)
      for (int q = 0; q < count; ++q) vector_i[q] = vectors[q][tile.first_i + i];

    warp.each_lane([&](int lane) {
      for (int s = 0; s < kSums; ++s) row[s][lane] = 0;
      float products_of_row[kTotals + 1] = {};
      for (int c = 0; c < kOwn; ++c) {
        if constexpr (sought == Sought::sums) {
          for (int m = 0, pair = 0; m < count; ++m) {
            row[m][lane] += v[m][lane].of[c];
            down[m][lane].of[c] += v[m][lane].of[c];
            for (int q = m; q < count; ++q, ++pair) products_of_row[pair] += v[m][lane].of[c] * v[q][lane].of[c];
          }
        } else if constexpr (sought == Sought::pairs) {
          for (int m = 0, pair = 0; m < count; ++m)
            for (int q = m; q < count; ++q, ++pair) {
              const float product = v[m][lane].of[c] * v[q][lane].of[c];
              row[pair][lane] += product;
              down[pair][lane].of[c] += product;
            }
        } else {
          const int64_t j = column + column_of(lane, c);
          for (int q = 0; q < count; ++q) {
            const float vector_j = j < tile.columns ? vectors[q][tile.first_j + j] : 0.0f;
            for (int m = 0; m < count; ++m) {
              row[m * count + q][lane] += v[m][lane].of[c] * vector_j;
              down[m * count + q][lane].of[c] += v[m][lane].of[c] * vector_i[q];
            }
          }
        }
      }
      for (int t = 0; t < kTotals; ++t) total[t][lane] += products_of_row[t];
      if (values) {
        float* to = values + i * tile.pitch + column;
        for (int c = 0; c < kOwn; ++c) to[column_of(lane, c)] = v[0][lane].of[c];
      }
    });
    for (int s = 0; s < kSums; ++s) {
      const float sum = warp.sum(row[s]);
      warp.each_lane([&](int lane) {
        if (lane == r) across[s][lane] = sum;
      });
    }
  }
};

template <Sought sought, int count>
void reduce(const TileMatrix* matrices, const Tile& tile, int row_bits, float* values, const float* const* vectors,
            int64_t* const* sums, int64_t* const* products, void* stream) {
  using Kernel = Reduce<sought, count>;
  Kernel kernel{
      program_of(matrices, count), tile, std::ldexp(1.0, row_bits), std::ldexp(1.0, kProductBits), values, {}, {}, {}};
  for (int m = 0; m < count && vectors; ++m) kernel.vectors[m] = vectors[m];
  for (int s = 0; s < Kernel::kSums; ++s) kernel.sums[s] = sums[s];
  for (int t = 0; t < Kernel::kTotals; ++t) kernel.products[t] = products[t];
  launch(kernel, tile_blocks(tile), Kernel::shared_bytes(), stream);
}

template <Sought sought>
void reduce(const TileMatrix* matrices, int count, const Tile& tile, int row_bits, float* values,
            const float* const* vectors, int64_t* const* sums, int64_t* const* products, void* stream) {
  if (count == 1)
    reduce<sought, 1>(matrices, tile, row_bits, values, vectors, sums, products, stream);
  else
    reduce<sought, 2>(matrices, tile, row_bits, values, vectors, sums, products, stream);
}

}  // namespace

void kernel_sums(const TileMatrix* matrices, int count, const Tile& tile, int row_bits, const SumsOut& out,
                 void* stream) {
  int64_t* const products[] = {out.products[0], out.products[1], out.products[2]};
  reduce<Sought::sums>(matrices, count, tile, row_bits, out.values, nullptr, out.row_sums, products, stream);
}

void kernel_pair_sums(const TileMatrix* matrices, int count, const Tile& tile, int row_bits, int64_t* const* pair_sums,
                      void* stream) {
  reduce<Sought::pairs>(matrices, count, tile, row_bits, nullptr, nullptr, pair_sums, nullptr, stream);
}

void kernel_vector_sums(const TileMatrix* matrices, int count, const Tile& tile, int row_bits,
                        const float* const* vectors, int64_t* const* vector_sums, void* stream) {
  reduce<Sought::vectors>(matrices, count, tile, row_bits, nullptr, vectors, vector_sums, nullptr, stream);
}

}  // namespace repsim::cuda
