// Scores of one tile of a search.
#pragma once

#include <cmath>
#include <cstdint>

#include "../keys.h"
#include "tile_grid.h"
#include "tiles.h"

namespace repsim::cpu {

// c = the scores of a tile, -infinity where there is no pair; the halves are scratch.
inline void scores(const TileOps& ops, const SearchPair& pair, Metric metric, const Tile& tile, bool symmetric,
                   float* half_i /* [192] */, float* half_j /* [192] */, float* c /* [192, 192] */) {
  const int64_t first_i = tile.i * pair.words, first_j = tile.j * pair.words;
  if (pair.filter == Filter::bfloat16)
    ops.multiply_pairs(static_cast<const uint32_t*>(pair.rows_i) + first_i,
                       static_cast<const uint32_t*>(pair.rows_j) + first_j, pair.words, tile.rows, c);
  else
    ops.multiply_rows(static_cast<const float*>(pair.rows_i) + first_i,
                      static_cast<const float*>(pair.rows_j) + first_j, pair.words, tile.rows, c);
  if (metric == Metric::euclidean) {
    copy_padded(pair.half_i + tile.i, tile.rows, half_i);
    copy_padded(pair.half_j + tile.j, tile.columns, half_j);
    ops.subtract_halves(c, half_i, half_j);
  }
  fill_absent(c, tile, symmetric, -INFINITY);
}

}  // namespace repsim::cpu
