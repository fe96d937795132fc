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

struct Place {
  int32_t row, column;
};

// What a distance is used in, which decides how many of its digits matter.
enum class Lost { distance, rbf, laplacian };

struct TileOps {
  const char* instruction_set;
  // c[i][j] = a_i . b_j
  void (*multiply)(const float* a /* 12 panels */, const float* b /* 12 panels */, int64_t depth,
                   float* c /* [192, 192] */);
  // c[i][j] += a_i . b_j in float64 for i < rows, j < columns, both rounded up to whole register blocks, and, of those,
  // at least where i <= above + j. Panels as those of float32, [.., depth, 16], `panel_stride` doubles apart.
  void (*add_products)(const double* a, const double* b, int64_t panel_stride, int64_t depth, int64_t rows,
                       int64_t columns, int64_t above, double* c /* [192, 192] */);
  // The first `rows` rows of c[i][j] = a_i . b_j, at least; the others are left as they are or filled alike.
  void (*multiply_rows)(const float* a, const float* b, int64_t depth, int64_t rows, float* c);
  // The same of bfloat16 pairs, summed in float32: word t of a row holds its features 2t (lower half) and 2t + 1. Null
  // where the instruction set has no such product.
  void (*multiply_pairs)(const uint32_t* a /* [12, words, 16] */, const uint32_t* b, int64_t words, int64_t rows,
                         float* c);
  // c[i][j] = -|a_i - b_j|^2 / 2 (squared) or -|a_i - b_j|_1, from the differences
  void (*differences)(const float* a, const float* b, int64_t depth, bool squared, float* c);
  // c[i][j] -= half_i[i] + half_j[j]
  void (*subtract_halves)(float* c, const float* half_i /* [192] */, const float* half_j /* [192] */);
  // Writes every (i, j) whose c = -|x_i - x_j|^2 / 2 has lost too many digits for what it is used in; returns how many.
  int32_t (*lost)(const float* c, const float* half_i, const float* half_j, Lost use, float gain,
                  Place* places /* [192 * 192] */);
  // c[i][j] = exp(gain min(c[i][j] - half_i[i] - half_j[j], 0)) - shift
  void (*rbf)(float* c, const float* half_i, const float* half_j, float gain, float shift);
  // c[i][j] = exp(gain min(c[i][j], 0)) - shift
  void (*exponential)(float* c, float gain, float shift);
  // c[i][j] = exp(-gain sqrt(max(-2 c[i][j], 0))) - shift
  void (*root_exponential)(float* c, float gain, float shift);
  // c[i][j] = gain c[i][j] + sum_m coefficients[m] (c[i][j] + bias_i[i] + bias_j[j])^m
  void (*polynomial)(float* c, const float* bias_i, const float* bias_j, float gain, const float* coefficients,
                     int degree);
  // c[i][j] = (c[i][j] - shift) scale
  void (*shift_and_scale)(float* c, float shift, float scale);
  // c[i][j] *= a[i][j]
  void (*multiply_by)(float* c, const float* a);
  // c[i][j] += a[i][j]
  void (*add)(float* c, const float* a);
  // rows[i] = sum_j c[i][j], columns[j] = sum_i c[i][j]
  void (*sums)(const float* c, double* rows /* [192] */, double* columns /* [192] */);
  // rows[i] = sum_j c[i][j] b[i][j], columns[j] = sum_i c[i][j] b[i][j]
  void (*product_sums)(const float* c, const float* b, double* rows, double* columns);
  // rows[i] = sum_j c[i][j] weight_j[j], columns[j] = sum_i c[i][j] weight_i[i]
  void (*weighted_sums)(const float* c, const float* weight_i, const float* weight_j, double* rows, double* columns);
  // sum_ij a[i][j] b[i][j]
  double (*dot)(const float* a, const float* b);
  // Finds every (i, j) with c >= row_threshold[i] or c >= column_threshold[j].
  void (*select)(const float* c, const float* row_threshold /* [192] */, const float* column_threshold /* [192] */,
                 Hits& hits);
  // With u the bits of -c[i][j] >= 0: writes (u >> dropped) - first where it is in [0, count), in any order; returns
  // how many. Where c is -infinity there is no pair. `below`: how many lie below the first.
  int32_t (*count_bits)(const float* c, int dropped, uint32_t first, uint32_t count, uint32_t* found /* [192 * 192] */,
                        int32_t* below);
  // Of products of float64 rows: c[i][j] = squares_i[i] + squares_j[j] - 2 c[i][j]. rows[i] = whether one of row i is
  // below `share` of its two squares, and so has lost digits.
  void (*squared_distances)(double* c /* [192, 192] */, const double* squares_i /* [192] */,
                            const double* squares_j /* [192] */, double share, uint8_t* rows /* [192] */);
  void (*roots)(double* c);
  // keys[i][j] = the bits of c[i][j] >= 0 to 24 significant ones: (bits + 2^28) >> 29
  void (*round_bits)(const double* c, uint64_t* keys /* [192, 192] */);
};

const TileOps& tile_ops();

}  // namespace repsim::cpu
