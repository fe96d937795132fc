// Products of bfloat16 rows on tensor cores, without a library. Parallel axis: 64 x 64 parts of the tile, a warp each.
// Bytes: 128 rows of 32 features come in for 64 x 64 x 32 products.
//
// Every warp stages its own rows in shared memory, so that no warp waits for another. It is the plain way: a library's
// GEMM, where there is one, is faster.
#include "execution.h"
#include "ops.h"

namespace repsim::cuda {
namespace {

struct Bfloat16Tile {
  static constexpr int kWarps = 4;  // two by two
  static constexpr int kThreads = kWarps * kLanes, kResident = 2;
  static constexpr int kSide = 64, kStep = 32;                   // rows and columns of a warp, features at a time
  static constexpr int kWords = kStep / 2, kPitch = kWords + 4;  // the 4 keep fragments out of each other's banks
  static constexpr int kDown = kSide / 16, kAcross = kSide / 8;
  static constexpr size_t kShared = kWarps * 2 * kSide * kPitch * sizeof(uint32_t);

  const uint32_t* rows_i;  // two features to a word
  const uint32_t* rows_j;
  int64_t words;  // of a row
  Tile tile;
  float* products;

  struct alignas(16) Quad {
    uint32_t of[4];
  };
  struct Part {
    Sums of[kDown][kAcross];
  };

  REPSIM_DEVICE void operator()(const Block& block, unsigned char* shared) const {
    const int64_t across = (tile.columns + 2 * kSide - 1) / (2 * kSide);
    block.each_warp([&](const Warp& warp) {
      const int64_t row = (block.index() / across * 2 + warp.number / 2) * kSide;
      const int64_t column = (block.index() % across * 2 + warp.number % 2) * kSide;
      if (row >= tile.rows || column >= tile.columns) return;
      uint32_t* a = reinterpret_cast<uint32_t*>(shared) + warp.number * 2 * kSide * kPitch;  // [kSide, kPitch]
      uint32_t* b = a + kSide * kPitch;
      PerLane<Part> sums;
      warp.each_lane([&](int lane) {
        for (int m = 0; m < kDown; ++m)
          for (int n = 0; n < kAcross; ++n)
            for (int part = 0; part < 4; ++part) sums[lane].of[m][n].of[part] = 0;
      });
      for (int64_t k = 0; k < words; k += kWords) {
        stage(warp, rows_i + row * words, tile.rows - row, k, a);
        stage(warp, rows_j + column * words, tile.columns - column, k, b);
        warp.sync();
        for (int step = 0; step < kWords; step += 8) multiply(warp, a + step, b + step, sums);
        warp.sync();
      }
      warp.each_lane([&](int lane) {
        for (int m = 0; m < kDown; ++m)
          for (int n = 0; n < kAcross; ++n)
            for (int part = 0; part < 4; ++part) {
              const int64_t i = row + 16 * m + lane / 4 + part / 2 * 8, j = column + 8 * n + lane % 4 * 2 + part % 2;
              if (i < tile.rows && j < tile.columns) products[i * tile.pitch + j] = sums[lane].of[m][n].of[part];
            }
      });
    });
  }

  // Up to 64 rows of 32 features, zero beyond the rows and the features.
  REPSIM_DEVICE void stage(const Warp& warp, const uint32_t* rows, int64_t count, int64_t k, uint32_t* to) const {
    constexpr int kQuads = kWords / 4;
    warp.each_lane([&](int lane) {
      for (int at = lane; at < kSide * kQuads; at += kLanes) {
        const int row = at / kQuads, word = at % kQuads * 4;
        Quad quad{};
        if (row < count && k + word < words) quad = *reinterpret_cast<const Quad*>(rows + row * words + k + word);
        *reinterpret_cast<Quad*>(to + row * kPitch + word) = quad;
      }
    });
  }

  // 16 features of all rows and columns.
  REPSIM_DEVICE static void multiply(const Warp& warp, const uint32_t* a, const uint32_t* b, PerLane<Part>& sums) {
    PerLane<Four> left[kDown];
    warp.each_lane([&](int lane) {
      for (int m = 0; m < kDown; ++m)
        for (int part = 0; part < 4; ++part)
          left[m][lane].of[part] = a[(16 * m + lane / 4 + part % 2 * 8) * kPitch + lane % 4 + part / 2 * 4];
    });
    for (int n = 0; n < kAcross; ++n) {
      PerLane<uint32_t> first, second;
      warp.each_lane([&](int lane) {
        first[lane] = b[(8 * n + lane / 4) * kPitch + lane % 4];
        second[lane] = b[(8 * n + lane / 4) * kPitch + lane % 4 + 4];
      });
      for (int m = 0; m < kDown; ++m)
        multiply_add(warp, left[m], first, second, [&](int lane) -> Sums& { return sums[lane].of[m][n]; });
    }
  }
};

}  // namespace

void bfloat16_tile(const void* rows_i, const void* rows_j, int64_t width, const Tile& tile, float* products,
                   void* stream) {
  const auto blocks = [](int64_t rows) { return (rows + 2 * Bfloat16Tile::kSide - 1) / (2 * Bfloat16Tile::kSide); };
  launch(Bfloat16Tile{static_cast<const uint32_t*>(rows_i), static_cast<const uint32_t*>(rows_j), width / 2, tile,
                      products},
         blocks(tile.rows) * blocks(tile.columns), Bfloat16Tile::kShared, stream);
}

}  // namespace repsim::cuda
