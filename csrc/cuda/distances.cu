// Distances in a tile: those of Manhattan, which no GEMM makes, and the order statistics of either. Parallel axis:
// blocks of the tile. Bytes: the packed rows, 64 at a time, through shared memory; the histogram reads the tile once.
#include <cmath>

#include "execution.h"
#include "ops.h"
#include "tile_rows.h"

namespace repsim::cuda {
namespace {

struct Manhattan {
  static constexpr int kSide = 64, kStep = 16, kEach = 4;  // rows and columns of a block, features at a time, of a lane
  static constexpr int kChunk = 512;                       // features added before they join the sum
  static constexpr int kThreads = (kSide / kEach) * (kSide / kEach), kResident = 2;
  static constexpr int kPitch = kSide + 1;
  static constexpr size_t kShared = 2 * kStep * kPitch * sizeof(float);

  const float* rows_i;
  const float* rows_j;
  int64_t width;
  Tile tile;
  float* distances;

  struct Sums {
    float of[kEach][kEach];
  };

  REPSIM_DEVICE void operator()(const Block& block, unsigned char* shared) const {
    float* a = reinterpret_cast<float*>(shared);  // [kStep, kPitch]
    float* b = a + kStep * kPitch;
    const int64_t across = (tile.columns + kSide - 1) / kSide;
    const int64_t row = block.index() / across * kSide, column = block.index() % across * kSide;
    PerThread<Sums, kThreads> chunk, sum;
    each_thread(block, [&](int thread) {
      for (int r = 0; r < kEach; ++r)
        for (int c = 0; c < kEach; ++c) chunk[thread].of[r][c] = sum[thread].of[r][c] = 0;
    });
    for (int64_t k = 0; k < width; k += kStep) {
      each_thread(block, [&](int thread) {
        for (int at = thread; at < kSide * kStep; at += kThreads) {
          const int r = at / kStep, f = at % kStep;
          const bool feature = k + f < width;
          a[f * kPitch + r] = feature && row + r < tile.rows ? rows_i[(row + r) * width + k + f] : 0.0f;
          b[f * kPitch + r] = feature && column + r < tile.columns ? rows_j[(column + r) * width + k + f] : 0.0f;
        }
      });
      block.barrier();
      each_thread(block, [&](int thread) {
        const int r0 = thread / (kSide / kEach), c0 = thread % (kSide / kEach);
        Sums& own = chunk[thread];
        for (int f = 0; f < kStep; ++f)
          for (int r = 0; r < kEach; ++r) {
            const float x = a[f * kPitch + r0 + r * (kSide / kEach)];
            for (int c = 0; c < kEach; ++c) own.of[r][c] += std::fabs(x - b[f * kPitch + c0 + c * (kSide / kEach)]);
          }
        if ((k + kStep) % kChunk == 0 || k + kStep >= width)
          for (int r = 0; r < kEach; ++r)
            for (int c = 0; c < kEach; ++c) {
              sum[thread].of[r][c] += own.of[r][c];
              own.of[r][c] = 0;
            }
      });
      block.barrier();
    }
    each_thread(block, [&](int thread) {
      for (int r = 0; r < kEach; ++r)
        for (int c = 0; c < kEach; ++c) {
          const int64_t i = row + thread / (kSide / kEach) + r * (kSide / kEach);
          const int64_t j = column + thread % (kSide / kEach) + c * (kSide / kEach);
          if (i < tile.rows && j < tile.columns) distances[i * tile.pitch + j] = -sum[thread].of[r][c];
        }
    });
  }

  template <class Work>
  REPSIM_DEVICE static void each_thread(const Block& block, Work work) {
    block.each_warp([&](const Warp& warp) { warp.each_lane([&](int lane) { work(warp.number * kLanes + lane); }); });
  }
};

struct Histogram {
  static constexpr int kThreads = kTileWarps * kLanes, kResident = 8;
  TilePair pair;
  bool manhattan;
  Tile tile;
  int dropped;
  uint32_t first, count;
  int64_t* bins;
  int64_t* below;

  REPSIM_DEVICE void operator()(const Block& block, unsigned char*) const {
    const Place place(tile, block.index());
    const int64_t weight = tile.diagonal ? 1 : 2;
    block.each_warp([&](const Warp& warp) {
      PerLane<int> lower;
      warp.each_lane([&](int lane) { lower[lane] = 0; });
      const int64_t begin = place.row + warp.number * kWarpRows;
      for (int64_t i = begin; i < begin + kWarpRows && i < tile.rows; ++i) {
        PerLane<Values> q;
        if (manhattan)
          warp.each_lane([&](int lane) { load_row(pair.products, tile, i, place.column, lane, q[lane]); });
        else
          half_distances(warp, pair, tile, i, place.column, Lost::distance, 1.0f, q);
        warp.each_lane([&](int lane) {
          for (int c = 0; c < kOwn; ++c) {
            if (!is_pair(tile, i, place.column + column_of(lane, c))) continue;
            const float x = -q[lane].of[c];
            // A distance of equal rows may be -0, or lie a rounding below 0.
            const uint32_t at = bits_of(x > 0.0f ? x : 0.0f) >> dropped;
            lower[lane] += at < first;
            if (at - first < count) atomic_add(bins + (at - first), weight);
          }
        });
      }
      const int sum = warp.sum(lower);
      warp.each_lane([&](int lane) {
        if (lane == 0 && sum > 0) atomic_add(below, weight * sum);
      });
    });
  }
};

}  // namespace

void manhattan_tile(const float* rows_i, const float* rows_j, int64_t width, const Tile& tile, float* distances,
                    void* stream) {
  const auto blocks = [](int64_t rows) { return (rows + Manhattan::kSide - 1) / Manhattan::kSide; };
  launch(Manhattan{rows_i, rows_j, width, tile, distances}, blocks(tile.rows) * blocks(tile.columns),
         Manhattan::kShared, stream);
}

void distance_histogram(const TilePair& pair, Distance distance, const Tile& tile, int dropped, uint32_t first,
                        int64_t* bins, int64_t bin_count, int64_t* below, void* stream) {
  const int64_t finite = (0x7f800000u >> dropped) - first;
  const uint32_t counted = static_cast<uint32_t>(bin_count < finite ? bin_count : finite);
  launch(Histogram{pair, distance == Distance::manhattan, tile, dropped, first, counted, bins, below},
         tile_blocks(tile), 0, stream);
}

}  // namespace repsim::cuda
