// D between the rows of two blocks, in float64. Parallel axis: tiles. Bytes: 2 * 192 * depth * 8 in and 192^2 * 8 out
// of a tile.
#include <memory>

#include "distance_tiles.h"
#include "parallel.h"

namespace repsim {

void distances(const Points& points, int64_t rows_i, int64_t rows_j, double* distances, int threads) {
  const bool symmetric = points.rows_i == points.rows_j && rows_i == rows_j;
  const cpu::TileGrid grid({0, rows_i, 0, rows_j}, symmetric);
  struct Scratch {
    cpu::Buffer<double> tile{kTile * kTile};
    cpu::DistanceTiles make;
  };
  auto work = [&](int64_t number, std::unique_ptr<Scratch>& own) {
    const cpu::Tile tile = grid.at(number);
    const double* c = own->tile.data();
    own->make.make(points, tile, own->tile.data());
    for (int64_t i = 0; i < tile.rows; ++i) {
      double* row = distances + (tile.i + i) * rows_j + tile.j;
      const int64_t first = tile.diagonal ? i + 1 : 0;
      std::copy(c + i * kTile + first, c + i * kTile + tile.columns, row + first);
      if (tile.diagonal) row[i] = 0;
    }
    if (!symmetric) return;
    for (int64_t j = 0; j < tile.columns; ++j) {
      double* row = distances + (tile.j + j) * rows_j + tile.i;
      const int64_t count = tile.diagonal ? j : tile.rows;
      for (int64_t i = 0; i < count; ++i) row[i] = c[i * kTile + j];
    }
  };
  cpu::parallel(grid.count(), threads, [] { return std::make_unique<Scratch>(); }, work);
}

}  // namespace repsim
