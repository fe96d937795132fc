// Every native operation on the GPU: formula, shapes, cost. ../ops.h states the CPU's; what is named alike is alike.
//
// All pointers are device memory, but for those that are said to be on the host. Work is queued on `stream` (a
// cudaStream_t) of the current device, and nothing waits. No memory is allocated.
//
// Rows are packed once per block, row-major. The products of two blocks are left to the caller's framework, whose GEMM
// writes a tile of them; the operations here read that tile once and reduce it. The grid of tiles is fixed by the row
// numbers and by n, and all sums are integers: results do not depend on the block size or on the order of work.
#pragma once

#include <cstdint>

#include "../ops.h"

namespace repsim::cuda {

// How many GPUs the driver shows; 0 without one.
int device_count();

// Makes a device the current one of this thread.
void set_device(int number);

// norms[i] = |(x_i - shift) scale[i] - offset|^2 in float64: the bits of the CPU. Cost: one pass over the rows.
void squared_norms(const Source& x, const double* shift /* [depth] or null */, const double* scale /* [rows] or null */,
                   const double* offset /* [depth] or null */, double* norms /* [rows] */, void* stream);

// products[i] = (x_i - shift) . vector in float64. Cost: one pass over the rows.
void project_rows(const Source& x, const double* shift /* [depth] or null */, const double* vector /* [depth] */,
                  double* products /* [rows] */, void* stream);

// What rows are packed as: float32; float32 rounded to the 11 significant bits of tf32; bfloat16.
enum class Words : int { float32, tfloat32, bfloat16 };

// packed[i][k] = (x_i - shift)[k] scale[i] - offset[k], rounded; zero beyond the features, up to `width`, and beyond
// the rows, up to `room`. halves[i] = half the squared norm of packed row i; residuals[i] is at least the distance
// between it and the row it stands for. Squared norms must be in the range of float32. Cost: one pass over the rows.
void pack_rows(const Source& x, const double* shift /* [depth] or null */, const double* scale /* [rows] */,
               const double* offset /* [depth] or null */, Words words, void* packed /* [room, width] */, int64_t room,
               int64_t width, float* halves /* [rows] */, float* residuals /* [rows] or null */, void* stream);

// A tile of an n x n matrix: rows first_i .. first_i + rows against columns first_j .. first_j + columns. In memory it
// has `pitch` columns, a multiple of 192. `diagonal`: its rows are its columns, and it holds both (i, j) and (j, i);
// otherwise every pair of it counts for both.
struct Tile {
  int64_t first_i, rows, first_j, columns, pitch;
  bool diagonal;
};

// The packed rows of one representation on both sides of a tile, and their products.
struct TilePair {
  const float* products;  // [rows, pitch] x_i . x_j; for Kernel::laplacian_l1 and Distance::manhattan -|x_i - x_j|_1
  const void* rows_i;     // [rows, width]
  const void* rows_j;     // [columns, width]
  Words words;
  int64_t width;
  const float* half_i;  // [rows] h = |x_i|^2 / 2 of the packed rows; for Kernel::polynomial what is added to x.y
  const float* half_j;  // [columns]
};

// One kernel of a product, as repsim::Factor.
struct TileFactor {
  TilePair pair;
  Kernel kernel;
  float gain;
  const float* coefficients;  // [degree + 1], on the host
  int degree;
};

struct TileTerm {
  const TileFactor* factors;  // [count], on the host
  int64_t count;
  float shift;
  float weight;
};

// K - shift = the sum of its terms. At most kMostFactors factors and kMostCoefficients coefficients in one call.
struct TileMatrix {
  const TileTerm* terms;  // [count], on the host
  int64_t count;
};

constexpr int kMostFactors = 16;
constexpr int kMostCoefficients = 64;

// distances[i][j] = -|x_i - x_j|_1 for the rows and columns of a tile, from packed float32 rows. Cost: 2 rows columns
// width operations on float32 units, about as much as a product without tensor cores.
void manhattan_tile(const float* rows_i /* [rows, width] */, const float* rows_j /* [columns, width] */, int64_t width,
                    const Tile& tile, float* distances /* [rows, pitch] */, void* stream);

// products[i][j] = x_i . x_j of bfloat16 rows, summed in float32 on tensor cores: for a framework whose GEMM rounds
// such products to bfloat16. Cost: 2 rows columns width flop.
void bfloat16_tile(const void* rows_i /* [rows, width] */, const void* rows_j /* [columns, width] */,
                   int64_t width /* a multiple of 8 */, const Tile& tile, float* products /* [rows, pitch] */,
                   void* stream);

// Where the sums of kernel_sums go; null: nowhere. Only what stands here is written.
struct SumsOut {
  float* values;         // [rows, pitch] K - shift of the only matrix, 0 where there is no pair of two inputs
  int64_t* row_sums[2];  // [n] each, 2^row_bits units to one
  int64_t* products[3];  // of 0 and 0, 0 and 1, 1 and 1: [kSlots, 2] two limbs, 2^45 units to one
};
constexpr int kSlots = 32;  // whose sum is the product: blocks do not wait for each other

// The sums of repsim::kernel_sums over one tile, of one or two matrices. Cost: the tile is read once.
void kernel_sums(const TileMatrix* matrices /* on the host */, int count, const Tile& tile, int row_bits,
                 const SumsOut& out, void* stream);

// pair_sums[..][i] += sum_j (K_p - shift_p)_ij (K_q - shift_q)_ij of 0 and 0, 0 and 1, 1 and 1, in the fixed point of
// the row sums; null: not asked for.
void kernel_pair_sums(const TileMatrix* matrices, int count, const Tile& tile, int row_bits,
                      int64_t* const* pair_sums /* [3] of [n], on the host */, void* stream);

// vector_sums[2 p + q][i] += sum_j (K_p - shift_p)_ij vectors[q][j], likewise.
void kernel_vector_sums(const TileMatrix* matrices, int count, const Tile& tile, int row_bits,
                        const float* const* vectors /* [count] of [n], on the host */,
                        int64_t* const* vector_sums /* [4] of [n], on the host */, void* stream);

// bins and below as of repsim::distance_histogram, over one tile. Cost: the tile is read once.
void distance_histogram(const TilePair& pair, Distance distance, const Tile& tile, int dropped, uint32_t first,
                        int64_t* bins /* [bin_count] */, int64_t bin_count, int64_t* below /* [1] */, void* stream);

// The candidates of every row. keys are in any order; floors[i] is the key of the `kept`-th best that row i has known,
// kNoFloor at first: no row whose key is below it is among the `kept` best.
struct Candidates {
  uint64_t* keys;    // [rows, capacity]
  int32_t* counts;   // [rows], zero at first
  uint64_t* floors;  // [rows]
  int64_t capacity;  // a power of two, at least kept + kLeastSpare
};
constexpr uint64_t kNoFloor = uint64_t{0x00800000u} << 32;  // the key of -FLT_MAX, in the last place
constexpr int64_t kLeastSpare = 64;
constexpr int64_t kMostCapacity = 2048;

// Offers the scores of one tile to the `kept` best of each of its rows: score_ij = products_ij (- half_i - half_j where
// there are halves). `same_rows`: pairs of equal numbers are left out. Cost: the tile is read once.
void nearest(const float* products /* [rows, pitch] */, const float* half_i /* [rows] or null */,
             const float* half_j /* [columns] or null */, const Tile& tile, bool same_rows, int64_t kept,
             const Candidates& candidates /* of rows first_i on */, void* stream);

// As repsim::rank_neighbours and settle_neighbours, for rows on the GPU; everything that Ranking and Certificate point
// to is device memory. open[i] = 1 marks rows that are not decided; *unbounded becomes 1 where a score leaves the range
// of float64. The candidates are used up. Cost: 2 rows kept depth flop.
void rank_neighbours(const Ranking& ranking, const Candidates& candidates, const Certificate& certificate,
                     int64_t* indices /* [rows, k] */, double* scores /* [rows, k] */, uint8_t* open /* [rows] */,
                     int32_t* unbounded /* [1] */, void* stream);

// Improves lists by one tile, whose rows are those of x and whose columns are rows of the base. Cost: the tile is read
// once, and 2 depth flop for each score found.
void settle_neighbours(const float* products /* [rows, pitch] */, const float* half_i /* [rows] or null */,
                       const float* half_j /* [columns] or null */, const Tile& tile, const Ranking& ranking,
                       const Certificate& certificate, int64_t* indices /* [rows, k] */, double* scores /* [rows, k] */,
                       int32_t* unbounded /* [1] */, void* stream);

}  // namespace repsim::cuda
