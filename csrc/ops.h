// Every native operation of repsim on the CPU: formula, shapes, cost. Implemented by cpu/; cuda/ops.h states those of
// the GPU.
//
// Rows enter as raw memory (`Source`) and are packed once per block into `Panels`: float32, 16 rows
// interleaved so that one vector load brings one feature of 16 rows. All pair work runs on 192 x 192
// tiles of the n x n matrix, whose grid is fixed by the row numbers alone: results do not depend on
// the block size, the number of threads or the order of the blocks.
//
// From other C++: the installed package holds this header, a static library and its CMake files, found through
// -Drepsim_DIR=$(python -c "import repsim; print(repsim.cmake_dir())"):
//   find_package(repsim CONFIG REQUIRED)
//   target_link_libraries(mine PRIVATE repsim::core)   # and #include <repsim/ops.h>
// Pointers are taken as stated here and not checked; an operation may throw std::invalid_argument, std::range_error and
// std::bad_alloc. tests/cpp_api is an example.
#pragma once

#include <cstdint>

namespace repsim {

constexpr int64_t kPanel = 16;  // rows interleaved in a panel
constexpr int64_t kTile = 192;  // rows and columns of a tile: 12 panels

enum class DType : int { float16, bfloat16, float32, float64 };
enum class Kernel : int { linear, polynomial, rbf, laplacian_l2, laplacian_l1 };
enum class Distance : int { euclidean, manhattan };
enum class Metric : int { cosine, inner_product, euclidean };

// Rows of one representation, unit stride along the features.
struct Source {
  const void* data;  // [rows, depth]
  DType dtype;
  int64_t rows;
  int64_t depth;
  int64_t row_stride;  // in elements
};

// Sum of every column in float64, rows in order. Returns the first row with a NaN or an infinity, or -1.
// Cost: one pass over the rows.
int64_t column_sums(const Source& x, double* sums /* [depth] */, int threads);

// norms[i] = |x_i - shift|^2 in float64. Cost: one pass over the rows.
void squared_norms(const Source& x, const double* shift /* [depth] or null */, double* norms /* [rows] */, int threads);

// products[i] = (x_i - shift) . vector in float64. Cost: one pass over the rows.
void project_rows(const Source& x, const double* shift /* [depth] or null */, const double* vector /* [depth] */,
                  double* products /* [rows] */, int threads);

// panels, aligned to 64 bytes: panels[p][k][r] = float32((x[16 p + r][k] - shift[k]) * scale[16 p + r] - offset[k]),
// zero beyond the last row. halves[i] = half the squared norm of packed row i, so that distances between packed rows
// carry no rounding of the packing. Throws std::range_error where a squared norm leaves the range of float32.
void pack_rows(const Source& x, const double* shift /* [depth] or null */, const double* scale /* [rows] */,
               const double* offset /* [depth] or null */, float* panels /* [ceil(rows / 192) * 12, depth, 16] */,
               float* halves /* [rows] */, int threads);

// The same rows as bfloat16, two neighbouring features to a word, the first in the lower half. residuals[i] is at least
// the distance between packed row i and the row it stands for, which bounds what the scores of packed rows are off.
void pack_pairs(const Source& x, const double* shift /* [depth] or null */, const double* scale /* [rows] */,
                const double* offset /* [depth] or null */,
                uint32_t* panels /* [ceil(rows / 192) * 12, ceil(depth / 2), 16] */, float* halves /* [rows] */,
                float* residuals /* [rows] */, int threads);

// Lifted rows: z = (x', 1, |x'|^2) with x' = x - shift, all in float64. Products of two lifted matrices hold X'Y, both
// sums of rows and every sum of squared norms at once: what moving the origin and centring need is in them.
//   panels[p][first + i][r] = z_i[16 p + r], zero beyond z
// with panels of 16 entries of z, in whole threes: 3 ceil((depth + 2) / 48) of them; aligned to 64 bytes. `largest` =
// max_i |x'_i|^2. Returns the first row with a NaN or an infinity, or -1. Cost: one pass over the rows.
int64_t lift_rows(const Source& x, const double* shift /* [depth] */, int64_t first,
                  double* panels /* [3 ceil((depth + 2) / 48), room, 16] */, int64_t room, double* largest,
                  int threads);

// Two matrices of lifted rows.
struct LiftedPair {
  const double* left;   // panels
  const double* right;  // panels; the same as left: only products[i][j], i <= j, mean anything
  int64_t left_depth;   // entries of z
  int64_t right_depth;
  double* products;  // [left_depth, right_depth]
};

// products[i][j] += sum_r left_z[r][i] right_z[r][j] over the first `rows` rows of the panels. 512 rows are summed at a
// time, in their order, and added whole: calls that begin at multiples of 512 rows give the same bits however the rows
// are cut and whatever the threads. Cost: 2 rows left_depth right_depth flop a pair, half of that where left is right.
void feature_products(const LiftedPair* pairs, int64_t count, int64_t room, int64_t rows, int threads);

constexpr int64_t kSummedRows = 512;

// One representation inside a pair of blocks.
struct BlockPair {
  const float* rows_i;  // panels of block i
  const float* rows_j;  // panels of block j
  const float* half_i;  // [rows_i] h = |x_i|^2 / 2 of the packed rows; for Kernel::polynomial what is added to x.y
  const float* half_j;  // [rows_j]
  int64_t depth;
};

// One kernel of a product, with t = x_i . x_j and q = t - h_i - h_j = -|x_i - x_j|^2 / 2:
//   linear t ; polynomial gain t + sum_m coefficients[m] (t + half_i + half_j)^m ; rbf exp(gain q) ;
//   laplacian_l2 exp(-gain sqrt(-2 q)) ; laplacian_l1 exp(-gain |x_i - x_j|_1)
// Distances that float32 products would lose to rounding are taken from the differences of the rows instead.
struct Factor {
  BlockPair pair;
  Kernel kernel;
  float gain;
  const float* coefficients;  // [degree + 1]: only for Kernel::polynomial
  int degree;
};

// weight (product of the factors - shift). A single factor takes its shift with all digits.
struct Term {
  const Factor* factors;  // [count]
  int64_t count;
  float shift;
  float weight;
};

// K - shift = the sum of its terms.
struct KernelMatrix {
  const Term* terms;  // [count]
  int64_t count;
};

// Where a pair of blocks lies in the n x n matrix. first_* are multiples of 192. When the two blocks are the
// same rows only their upper triangle is visited; otherwise every pair counts for (i, j) and (j, i).
struct BlockRange {
  int64_t first_i, rows_i, first_j, rows_j;
};

// Over the pairs i != j of one pair of blocks:
//   row_sums[p][i]  += sum_j (K_p - shift_p)_ij            int64, fixed point, 2^row_bits units to one
//   products[p][q]  += sum_ij (K_p - shift_p)_ij (K_q - shift_q)_ij   two int64 limbs (value = hi 2^32 + lo,
//   0 <= lo < 2^32), 2^45 units to one
// for p = q and for p < left <= q; the other products stay as they are. |K - shift| must not exceed 1, nor n 2^25, nor
// n 2^row_bits 2^62: no sum then overflows. Integer sums do not depend on their order, so neither do the results. Cost:
// 2 rows_i rows_j sum(depth) flop. Memory: one tile per matrix and thread, and three more for sums and products of
// kernels.
void kernel_sums(const KernelMatrix* matrices /* [count] */, int64_t count, int64_t left, const BlockRange& range,
                 int64_t n, int row_bits, int64_t* row_sums /* [count, n] */, int64_t* products /* [count, count, 2] */,
                 int threads);

// What leaving one input out of those sums needs, over the same pairs:
//   pair_sums[p][q][i]   += sum_j (K_p - shift_p)_ij (K_q - shift_q)_ij   for p = q and p < left <= q
//   vector_sums[p][q][i] += sum_j (K_p - shift_p)_ij vectors[q][j]        for p = q, p < left <= q and q < left <= p
// in the fixed point of the row sums; |vectors| must not exceed 1. Cost: as kernel_sums.
void kernel_row_terms(const KernelMatrix* matrices, int64_t count, int64_t left, const BlockRange& range, int64_t n,
                      int row_bits, const float* vectors /* [count, n] */, int64_t* pair_sums /* [count, count, n] */,
                      int64_t* vector_sums /* [count, count, n] */, int threads);

// Order statistics of distances. Over the pairs i != j of one pair of blocks, with u the bits of the float32
// |x_i - x_j|^2 / 2 (Euclidean) or |x_i - x_j|_1 (Manhattan), which ascend with the distance:
//   bins[(u >> dropped) - first] += 1   where that is in [0, bin_count)
// `dropped` is at most 23, and `first` a place of finite distances. Pairs count both as (i, j) and (j, i). Returns how
// many lie below the first bin. Cost: 2 rows_i rows_j depth flop.
int64_t distance_histogram(const BlockPair& pair, Distance distance, const BlockRange& range, int dropped,
                           uint32_t first, int64_t* bins /* [bin_count] */, int64_t bin_count, int threads);

// Rows z of two blocks in float64, of which the dissimilarity of two inputs is a function: D = |z_i - z_j|, or its
// square. From products of the rows; where these leave less than 1e-5 of |z_i|^2 + |z_j|^2, from the differences. Equal
// rows are equally far from every other, to the last bit, wherever they stand.
struct Points {
  const double* rows_i;  // [rows_i, depth]
  const double* rows_j;  // [rows_j, depth]
  int64_t depth;
  bool root;
};

// distances[i][j] = D between row i of the one block and row j of the other. Where both are the same rows in the same
// memory, half of it is found, and mirrored. Cost: 2 rows_i rows_j depth flop.
void distances(const Points& points, int64_t rows_i, int64_t rows_j, double* distances /* [rows_i, rows_j] */,
               int threads);

// Ranks of the m = n (n - 1) / 2 distances D_ij, i < j, without holding them. What is ranked is D rounded to 24
// significant bits: D's bits plus 2^28, over 2^29, a whole number `key` below 2^34 that ascends with D. The numbers
// that occur lie in few of the 2^24 pages of 2^10 keys each; a table holds a line for every page that is not empty.
constexpr int64_t kPageBits = 10;
constexpr int64_t kPages = int64_t{1} << 24;

// seen[page] = 1 for every page that a distance of the blocks falls in. Cost: as distances.
void distance_pages(const Points& points, const BlockRange& range, uint8_t* seen /* [2^24] */, int threads);

// counts[lines[key >> 10]][key % 1024] += 1 for every pair of the blocks; no page that occurs may lack a line. Cost: as
// distances, and a place of the table for each pair.
void distance_counts(const Points& points, const BlockRange& range, const int32_t* lines /* [2^24] */,
                     int64_t* counts /* [pages, 1024] */, int threads);

// A sum that may need more than 64 bits: high 2^64 + low.
struct WideSum {
  int64_t high;
  uint64_t low;
};

// In the place of the counts, ascending: 2 rank - (m + 1), twice the rank less the mean of all, ties at their mean; 0
// where nothing was counted. Returns sum_ij of its square. Cost: one pass.
WideSum counts_to_ranks(int64_t* counts /* [size] */, int64_t size);

// Lines and ranks of one side, as above.
struct RankTable {
  const int32_t* lines;
  const int64_t* ranks;
};

// sum_ij (2 rank_ij - (m + 1)) (2 rank'_ij - (m + 1)) over the pairs i < j of the blocks, an exact integer. Cost: as
// distances of both sides, and a place of both tables for each pair.
WideSum rank_products(const Points& x, const RankTable& x_table, const Points& y, const RankTable& y_table,
                      const BlockRange& range, int threads);

constexpr int kProductBits = 45;
constexpr int64_t kMaxSummedRows = int64_t{1} << 25;

// The candidates of every row, best first once finished. key = (score, rank of the index) in 64 order-preserving bits.
struct Candidates {
  uint64_t* keys;     // [rows, capacity]
  int32_t* counts;    // [rows], zero at the start
  float* thresholds;  // [rows], -FLT_MAX at the start: the k-th best score seen so far
  int64_t capacity;   // > k; at least 2 k for rank_neighbours, which keeps scores beside candidates
};

// What the scores of a search are computed from: panels of pack_rows, or of pack_pairs. On Hopper GPUs alone: sums of
// two or three bfloat16 parts, by three or six products (Precision::high and highest of cuda/hopper_split.h).
enum class Filter : int { float32, bfloat16, bfloat16x3, bfloat16x6 };

// The rows of two blocks, packed for a filter.
struct SearchPair {
  const void* rows_i;
  const void* rows_j;
  const float* half_i;  // [rows_i]
  const float* half_j;  // [rows_j]
  int64_t words;        // of a row: depth, or ceil(depth / 2)
  Filter filter;
};

// Offers the scores of one pair of blocks to the k best of every row.
//   score_ij = x_i . y_j  (- half_i - half_j for the Euclidean metric; cosines are asked for as distances of unit rows)
// `symmetric`: x and y are the same rows, pairs i = j are left out, and every score serves rows i and rows j.
// The k best by (score, lower index) are exact for the scores of the packed rows, whatever the order. Cost: 2 rows_i
// rows_j depth flop.
void nearest(const SearchPair& pair, Metric metric, const BlockRange& range, bool symmetric, int64_t k,
             const Candidates& candidates, int threads);

// What is known of the packed rows that a search sees, to bound how far its scores are off. Everything is in the units
// of the packed rows.
struct Certificate {
  Filter filter;
  const float* halves;       // [rows] half the squared norms of the packed rows of x
  const float* residuals;    // [rows] at least |packed - exact| of each
  double unit;               // packed rows are the rows (cosine: the unit rows) times this, less a common offset
  double ratio, floor;       // of every row of the base: residual <= ratio |exact row| + floor
  double longest, coarsest;  // the largest packed norm and residual in the base; inner product: but for `heavy`
  const int64_t* heavy;      // inner product: rows of the base that are candidates of every row
  int64_t heavy_count;
  int64_t kept;  // the k that `nearest` was given: at least the k that is asked for now
};

// Rows to rank, and those among whom: the rows themselves, in float64.
struct Ranking {
  Source x, base;
  Metric metric;
  const double* squared_norms;       // [x.rows], only for the cosine
  const double* base_squared_norms;  // [base.rows], only for the cosine
  const int64_t* own;                // [x.rows] the row of the base that is this row, left out of its list; or -1
  int64_t k;
};

// The k best rows of the base for every row of x by their float64 scores: cosine, inner product, or minus the Euclidean
// distance; ties to the lower index. The `kept` best candidates are scored in float64. A row is
// decided when its k-th best lies above all that was turned away by more than the filter can have erred; open[i] = 1
// marks the others, whose lists are the best of their candidates. Returns how many they are. Throws std::range_error
// where a score leaves the range of float64. The candidates are used up. Cost: 2 rows kept depth flop.
int64_t rank_neighbours(const Ranking& ranking, const Candidates& candidates, const Certificate& certificate,
                        int64_t* indices /* [rows, k] */, double* scores /* [rows, k] */, uint8_t* open /* [rows] */,
                        int threads);

// Improves lists of k neighbours, best first, by one block of the base until nothing better is left in it: every score
// of the tiles that could reach a row's k-th best, by more than the filter can have erred, is found in float64. Lists
// that have met all blocks are exact. Cost: 2 rows_i rows_j depth flop, and 2 depth for each score found.
void settle_neighbours(const SearchPair& pair, const BlockRange& range, const Ranking& ranking,
                       const Certificate& certificate, int64_t* indices /* [rows, k] */, double* scores /* [rows, k] */,
                       int threads);

// The neighbour lists of n inputs. The list of input i is targets[i k .. i k + k), best first; where there are offsets,
// targets[offsets[i] .. offsets[i + 1]). No list names an input twice.
struct Lists {
  const int64_t* targets;  // [n, k], or [offsets[n]]
  const int64_t* offsets;  // [n + 1] or null
  int64_t n, k;
};

// The first row whose list names an input outside [0, base_rows), an input twice or, with `excludes_self`, its own row;
// -1 where there is none. Cost: one pass over the lists.
int64_t first_bad_list(const Lists& a, int64_t base_rows, bool excludes_self, int threads);

// Who lists j: sources[offsets[j] .. offsets[j + 1]), ascending. Cost: two passes over the lists.
void transpose_lists(const Lists& a, int64_t* offsets /* [n + 1] */, int64_t* sources /* [n, k] */);

// What two lists A, B have in common: with C their common inputs, r and r' the ranks of one in A and in B, from 1 on,
//   shared              |C|
//   meets               1 if |C| > 0, else 0
//   jaccard             |C| / |A or B|
//   ranks               sum over C of 2 / ((1 + |r - r'|) (r + r'))  /  sum_(m <= |C|) 1 / m, 0 for no C
//   jaccard_ranks       the product of the last two
//   common_subsequence  length of the longest common subsequence
//   edit_distance       Levenshtein distance; both lists of length k
enum class ListStatistic { shared, meets, jaccard, ranks, jaccard_ranks, common_subsequence, edit_distance };

// sums[t] = sum_i statistic(list of i in a, list of i in b once relabelled): by names[t], input r of b becomes
// names[t][r], its list with it and every input that a list names. `names` null leaves b as it is (one sum). `terms`,
// where not null, takes the statistic of every input of a, of the last relabelling. Sums are integers in units of 2^-60
// until all are added: they do not depend on the order. Cost per relabelling: n k probes of a hash table of O(k);
// common_subsequence c log c more for c common inputs, edit_distance min(c^2, k ceil(k / 64)). Memory: O(k) per thread.
void list_statistics(const Lists& a, const Lists& b, ListStatistic statistic,
                     const int64_t* names /* [relabellings, n] or null */, int64_t relabellings,
                     double* sums /* [relabellings] */, double* terms /* [n] or null */, int threads);

// hsic[t] = HSIC_1 of the weights of a and of b, once relabelled as above, on the edges that both have. With A, B these
// matrices: (tr AB + 1'A1 1'B1 / ((n-1)(n-2)) - 2 / (n-2) 1'AB1) / (n(n-3)). The lists of a ascend. Cost per
// relabelling: n k probes, and log k steps for each shared edge. Memory: [n, k] float32 and [n] float64.
void masked_hsic(const Lists& a, const float* a_weights /* [n, k] */, const Lists& b,
                 const float* b_weights /* [n, k] */, const int64_t* names /* [relabellings, n] or null */,
                 int64_t relabellings, double* hsic /* [relabellings] */, int threads);

// One side of second_order_cosines.
struct ListedRows {
  Source rows;
  const double* lengths;  // [n] |row|, not 0
  Lists lists;
  const double* cosines;  // [n, k] of every edge
};

// cosines[i][r] = cos(x_i, x_j) in float64, j the neighbour of i of rank r. Cost: 2 n k depth flop.
void edge_cosines(const Source& x, const double* lengths /* [n] */, const Lists& lists, double* cosines /* [n, k] */,
                  int threads);

// sums[t] = sum_i cos(s, s'): s the cosines of row i of a to the rows that its list in a or in b, relabelled as above,
// names, s' the cosines of row i of b, relabelled, to the same. `terms` and sums as of list_statistics. Returns the
// first input of a for which s or s' is 0, or -1. Cost per relabelling: 2 n k (depth_a + depth_b) flop at the most.
// Memory: [n] int64.
int64_t second_order_cosines(const ListedRows& a, const ListedRows& b,
                             const int64_t* names /* [relabellings, n] or null */, int64_t relabellings,
                             double* sums /* [relabellings] */, double* terms /* [n] or null */, int threads);

// The instruction set chosen for this CPU: "avx512bf16", "avx512", "avx2" or "generic".
const char* instruction_set();

// Whether it has products of bfloat16 pairs, without which there is no Filter::bfloat16.
bool multiplies_bfloat16();

}  // namespace repsim
