// The vector code of one row or of two, compiled once for every instruction set and chosen at run time. All sums are
// of 32 interleaved parts that are added in one fixed order, without fused multiply-adds: the same bits everywhere.
#pragma once

#include <cstdint>

#include "../ops.h"

namespace repsim::cpu {

struct PackedRow {
  double squared_norm;      // of the packed row
  double squared_residual;  // |packed - exact|^2
};

// Every table is indexed by the DType of the row that is passed as void*.
struct RowOps {
  // a . b and |a - b|^2 in float64.
  double (*dot[4])(const double* a, const void* b, int64_t depth);
  double (*squared_distance[4])(const double* a, const void* b, int64_t depth);
  void (*widen[4])(const void* row, int64_t depth, double* to);
  // (row - shift) * scale - offset in float64, rounded to float32; of that rounding no residual is found.
  PackedRow (*pack_floats[4])(const void* row, int64_t depth, const double* shift, double scale, const double* offset,
                              float* words /* [depth] */);
  // The same as words of two bfloat16 each; subnormals, which the products would not see, and the feature that an odd
  // depth lacks are 0.
  PackedRow (*pack_pairs[4])(const void* row, int64_t depth, const double* shift, double scale, const double* offset,
                             uint32_t* words /* [ceil(depth / 2)] */);
  // Swaps the k largest of `count` different keys to the front, in no order; returns the smallest of them. k <= count.
  uint64_t (*keep_largest)(uint64_t* keys, int64_t count, int64_t k);
};

const RowOps& row_ops();

}  // namespace repsim::cpu
