// The fused operations for Hopper (sm_90a), on device memory and a stream. None of them synchronises. Errors of the
// driver and the runtime are thrown as std::runtime_error, arguments that are not as stated as std::invalid_argument.
#pragma once

#include <cstdint>

#include "hopper_split.h"
#include "ops.h"

namespace repsim::cuda::hopper {

// Rows as sums of bfloat16 parts: x_i = parts[0][i] + parts[1][i] + ... . Aligned to 16 bytes.
struct SplitRows {
  const uint16_t* parts;  // [parts, rows, row_stride]
  const float* half;      // [rows, half_stride] half the squared norm of the sum of the parts; null: 0
  int64_t rows, depth;
  int64_t row_stride;   // in elements: a multiple of 8
  int64_t part_stride;  // likewise
  int64_t half_stride = 1;
};

// How the copy engine reads boxes of `box_rows` rows and 64 features of one part: sizes and bytes between neighbours of
// the dimensions feature, row, part. Outside of the sizes it reads 0.
struct BoxForm {
  uint64_t sizes[3], strides[2];
  uint32_t box[3];
};
inline BoxForm box_form(const SplitRows& rows, int parts, int box_rows) {
  return {{static_cast<uint64_t>(rows.depth), static_cast<uint64_t>(rows.rows), static_cast<uint64_t>(parts)},
          {static_cast<uint64_t>(rows.row_stride) * 2, static_cast<uint64_t>(rows.part_stride) * 2},
          {64, static_cast<uint32_t>(box_rows), 1}};
}

// Splits float32 rows and takes their halves, in float64 and rounded once. residuals[i] is at least the distance
// between row i and the sum of its parts. Cost: one pass over the rows.
void split_rows(const float* x /* [rows, x_stride] */, int64_t rows, int64_t depth, int64_t x_stride,
                Precision precision, uint16_t* parts /* [parts, rows, row_stride] */, int64_t row_stride,
                float* half /* [rows] */, float* residuals /* [rows] or null */, void* stream);

// One kernel matrix between two blocks, with t = x_i . x_j as the precision takes it:
//   Kernel::linear gain t - shift ; Kernel::rbf exp(gain (t - half_i - half_j)) - shift
//   Kernel::polynomial gain t + sum_m coefficients[m] (t + half_i + half_j)^m - shift, whose halves are any numbers
// There is no clamp and nothing is mended: gain (half_i + half_j) must not exceed 128 for the rbf, or distances between
// near rows that lie far from the origin have lost their digits.
struct FusedKernel {
  SplitRows i, j;
  Kernel kernel;
  float gain, shift;
  const float* coefficients;  // [degree + 1], on the host: only for Kernel::polynomial
  int degree;                 // at most kMostDegree
};
constexpr int kMostDegree = 4;

// kernel_sums of ../ops.h for two matrices, one of them left. The three products are 0 with 0, 0 with 1 and 1 with 1,
// two limbs each; bits above 32 that stay in a lower limb are to be dropped. `first_i` = `first_j` says that both
// blocks are the same rows. Sums inside a tile are float32 in one order, beyond it integers: the bits depend neither on
// the number of multiprocessors, nor on the run, nor on how rows are cut into blocks that begin at multiples of 384.
// Cost: 2 rows_i rows_j (depth_0 + depth_1) flop a product of parts, half of it for the same rows.
void kernel_sums(const FusedKernel* matrices /* [2], on the host */, Precision precision, const BlockRange& range,
                 int64_t n, int row_bits, int64_t* row_sums /* [2, n] */,
                 int64_t* const* products /* [3] of [2], on the host */, void* stream);

// Two blocks of a search, and the scores t - half_i - half_j of their pairs: halves are there for the Euclidean metric
// and null for the inner product.
struct Search {
  SplitRows i, j;
  Precision precision;
};

// Which rows the blocks are. List row first_i + r is that of row r of block i; column c of block j is input index_j +
// step_j c.
//   triangle: the blocks are the same rows; only pairs r < c, and both find each other. step_j is 1
//   columns_too: the blocks are not the same rows, and both find each other. step_j is 1
//   own: a row's own input is no neighbour
struct Served {
  int64_t first_i, index_j, step_j;
  const int64_t* inputs_i;  // [rows of block i] what input each is; null: first_i + r
  bool triangle, columns_too, own;
};

// Appends the key of every score that reaches its row's floor, and its column's where both find each other. Counts go
// on beyond the capacity, but nothing is written there. What is appended does not depend on the order in which tiles
// come. Cost: 2 rows_i rows_j depth flop a product, half of it for the triangle.
void collect(const Search& search, const Served& served, const Candidates& candidates, void* stream);

// Keeps the `kept` best of every row that has more, and raises its floor to the last of them. Rows whose count exceeds
// the capacity are marked and left with an empty list; the others' marks stay as they are. Cost: a sort of every list.
void prune(int64_t rows, int64_t kept, const Candidates& candidates, uint8_t* overflowed /* [rows] */, void* stream);

// The `kept` best columns of every row: collect and prune in rounds of growing width. `certain` keeps rounds so narrow
// that no row can overflow. The capacity is at least 2 kept.
void search_rows(const Search& search, const Served& served, int64_t kept, bool certain, const Candidates& candidates,
                 uint8_t* overflowed, void* stream);

// The same among n rows, every pair once: floors from about `sampled` evenly spaced rows, then one pass over the upper
// triangle that appends about kept n / sampled keys a row. search.i and search.j are the same rows. The marks are set
// anew.
void search_all_pairs(const Search& search, int64_t kept, int64_t sampled, const Candidates& candidates,
                      uint8_t* overflowed, void* stream);

}  // namespace repsim::cuda::hopper
