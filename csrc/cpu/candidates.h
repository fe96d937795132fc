// Scores of one tile of a search, and the keys that order them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tile_grid.h"
#include "tiles.h"

namespace repsim::cpu {

// Larger is better: the score's bits in an order-preserving form, then the lower index.
inline uint64_t make_key(float score, int64_t index) {
  score += 0.0f;  // -0 and +0 are one score
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

inline int64_t key_index(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

inline float key_score(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

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
