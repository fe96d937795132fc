// One tile of float64 distances from the rows of its blocks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "row_ops.h"
#include "tile_grid.h"
#include "tiles.h"

namespace repsim::cpu {

// What the tiles of one thread are made in.
class DistanceTiles {
 public:
  // c[i][j] = D of the rows and columns that exist; what stands elsewhere, and below the diagonal of a diagonal tile,
  // has no meaning.
  void make(const Points& points, const Tile& tile, double* c) {
    const double* a = points.rows_i + tile.i * points.depth;
    const double* b = points.rows_j + tile.j * points.depth;
    squares(a, tile.rows, points.depth, squares_i_);
    squares(b, tile.columns, points.depth, squares_j_);
    std::fill(c, c + kTile * kTile, 0.0);
    for (int64_t k = 0; k < points.depth; k += kChunk) {
      const int64_t chunk = std::min(kChunk, points.depth - k);
      pack(a + k, tile.rows, points.depth, chunk, panels_i_.data());
      pack(b + k, tile.columns, points.depth, chunk, panels_j_.data());
      ops_.add_products(panels_i_.data(), panels_j_.data(), kChunk * kPanel, chunk, tile.rows, tile.columns, kTile, c);
    }
    ops_.squared_distances(c, squares_i_, squares_j_, kLost, lost_);
    for (int64_t i = 0; i < tile.rows; ++i) {
      if (!lost_[i]) continue;
      for (int64_t j = tile.diagonal ? i + 1 : 0; j < tile.columns; ++j)
        if (double& at = c[i * kTile + j]; at < kLost * (squares_i_[i] + squares_j_[j]))
          at = rows_.squared_distance[static_cast<int>(DType::float64)](a + i * points.depth, b + j * points.depth,
                                                                        points.depth);
    }
    if (points.root) ops_.roots(c);
  }

 private:
  // Below this share of both squares a difference of them has lost more than five of its sixteen digits.
  static constexpr double kLost = 1e-5;
  static constexpr int64_t kChunk = 128;  // features at a time, so that both operands stay in L2

  void squares(const double* rows, int64_t count, int64_t depth, double* to) const {
    std::fill(to, to + kTile, 0.0);
    for (int64_t i = 0; i < count; ++i)
      to[i] = rows_.dot[static_cast<int>(DType::float64)](rows + i * depth, rows + i * depth, depth);
  }

  // panels[p][k][r] = rows[16 p + r][k]; zero beyond the last row.
  static void pack(const double* rows, int64_t count, int64_t depth, int64_t chunk, double* panels) {
    for (int64_t p = 0; p < kTile / kPanel; ++p, panels += kChunk * kPanel)
      for (int64_t r = 0; r < kPanel; ++r) {
        const int64_t row = p * kPanel + r;
        for (int64_t k = 0; k < chunk; ++k) panels[k * kPanel + r] = row < count ? rows[row * depth + k] : 0.0;
      }
  }

  const TileOps& ops_ = tile_ops();
  const RowOps& rows_ = row_ops();
  Buffer<double> panels_i_{kTile * kChunk}, panels_j_{kTile * kChunk};
  alignas(64) double squares_i_[kTile], squares_j_[kTile];
  uint8_t lost_[kTile];
};

}  // namespace repsim::cpu
