// The vector code of one 192 x 192 tile, compiled once for every instruction set and chosen at run time.
#pragma once

#include <cstdint>

#include "../ops.h"

namespace repsim::cpu {

// The scores that a row or a column of the tile asked for, row by row: those of row i lie before ends[i]. Whole vectors
// are stored, so there is room for one beyond the last.
struct Hits {
  int32_t columns[kTile * kTile + 16];
  float scores[kTile * kTile + 16];
  int32_t ends[kTile];
};

struct TileOps {
  const char* instruction_set;
  // c[i][j] = a_i . b_j
  void (*multiply)(const float* a /* 12 panels */, const float* b /* 12 panels */, int64_t depth,
                   float* c /* [192, 192] */);
  // c[i][j] += a_i . b_j in float64; panels as those of float32, [12, depth, 16]
  void (*add_products)(const double* a, const double* b, int64_t depth, double* c /* [192, 192] */);
  // The first `rows` rows of c[i][j] = a_i . b_j, at least; the others are left as they are or filled alike.
  void (*multiply_rows)(const float* a, const float* b, int64_t depth, int64_t rows, float* c);
  // The same of bfloat16 pairs, summed in float32: word t of a row holds its features 2t (lower half) and 2t + 1. Null
  // where the instruction set has no such product.
  void (*multiply_pairs)(const uint32_t* a /* [12, words, 16] */, const uint32_t* b, int64_t words, int64_t rows,
                         float* c);
  // c[i][j] = exp(min(c[i][j] - half_i[i] - half_j[j], 0)) - shift
  void (*rbf)(float* c, const float* half_i /* [192] */, const float* half_j /* [192] */, float shift);
  // c[i][j] -= half_i[i] + half_j[j]
  void (*subtract_halves)(float* c, const float* half_i, const float* half_j);
  // rows[i] = sum_j c[i][j], columns[j] = sum_i c[i][j]
  void (*sums)(const float* c, double* rows /* [192] */, double* columns /* [192] */);
  // sum_ij a[i][j] b[i][j]
  double (*dot)(const float* a, const float* b);
  // Finds every (i, j) with c >= row_threshold[i] or c >= column_threshold[j].
  void (*select)(const float* c, const float* row_threshold /* [192] */, const float* column_threshold /* [192] */,
                 Hits& hits);
};

const TileOps& tile_ops();

}  // namespace repsim::cpu
