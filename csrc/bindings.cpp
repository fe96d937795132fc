// With cuda_bindings.cpp the only file that knows nanobind: check what the types cannot say, release the GIL, forward.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "named.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Panels = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using PairPanels = nb::ndarray<uint32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
// bfloat16 rows arrive as their uint16 bits, with the dtype said beside them.
using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

void expect(bool holds, const char* message) {
  if (!holds) throw nb::value_error(message);
}

repsim::DType dtype_of(const AnyRows& x, const std::string& name) {
  constexpr nb::dlpack::dtype memory[] = {{2, 16, 1}, {1, 16, 1}, {2, 32, 1}, {2, 64, 1}};  // as DType counts them
  const repsim::DType dtype = repsim::named("dtype", repsim::kDTypes, name);
  expect(x.dtype() == memory[static_cast<int>(dtype)], "rows: expected memory of the dtype that is named, got another");
  return dtype;
}

repsim::Source source(const AnyRows& x, const std::string& dtype) {
  expect(x.shape(1) <= 1 || x.stride(1) == 1, "rows: expected features next to each other");
  return {x.data(), dtype_of(x, dtype), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
          x.stride(0)};
}

int64_t panel_count(int64_t rows) {
  return (rows + repsim::kTile - 1) / repsim::kTile * (repsim::kTile / repsim::kPanel);
}

template <class Words>
struct Block {
  Words panels;
  Vector<float> halves;
  int64_t words() const { return static_cast<int64_t>(panels.shape(1)); }
};

// Whole vectors are loaded and stored.
template <class Words>
void check_aligned(const Words& panels) {
  expect(reinterpret_cast<std::uintptr_t>(panels.data()) % 64 == 0, "panels: expected memory aligned to 64 bytes");
}

// The memory belongs to the caller's tuple: a conversion would make a copy that ends with the Block.
template <class Words>
Block<Words> block_of(const nb::tuple& arrays, int64_t rows, const char* message) {
  Block<Words> block;
  expect(nb::len(arrays) >= 2 && nb::try_cast(arrays[0], block.panels, false) &&
             nb::try_cast(arrays[1], block.halves, false),
         message);
  expect(static_cast<int64_t>(block.panels.shape(0)) == panel_count(rows) && block.panels.shape(1) > 0 &&
             block.panels.shape(2) == repsim::kPanel && static_cast<int64_t>(block.halves.shape(0)) == rows,
         message);
  check_aligned(block.panels);
  return block;
}

repsim::BlockPair block_pair(const nb::tuple& i, const nb::tuple& j, const repsim::BlockRange& range) {
  const auto left = block_of<Panels>(i, range.rows_i, "block i: expected float32 panels and halves of its rows");
  const auto right = block_of<Panels>(j, range.rows_j, "block j: expected float32 panels and halves of its rows");
  expect(left.words() == right.words(), "blocks: expected one depth");
  return {left.panels.data(), right.panels.data(), left.halves.data(), right.halves.data(), left.words()};
}

constexpr repsim::Name<repsim::Filter> kFilters[] = {{"float32", repsim::Filter::float32},
                                                     {"bfloat16", repsim::Filter::bfloat16}};

repsim::Filter filter_of(const std::string& name) {
  const repsim::Filter filter = repsim::named("filter", kFilters, name);
  expect(filter == repsim::Filter::float32 || repsim::multiplies_bfloat16(),
         "filter: expected a CPU that multiplies bfloat16, got one without AVX512-BF16");
  return filter;
}

template <class Words>
repsim::SearchPair search_pair_of(const nb::tuple& i, const nb::tuple& j, repsim::Filter filter,
                                  const repsim::BlockRange& range) {
  const auto left = block_of<Words>(i, range.rows_i, "block i: expected panels of the filter and halves of its rows");
  const auto right = block_of<Words>(j, range.rows_j, "block j: expected panels of the filter and halves of its rows");
  expect(left.words() == right.words(), "blocks: expected one depth");
  return {left.panels.data(), right.panels.data(), left.halves.data(), right.halves.data(), left.words(), filter};
}

repsim::SearchPair search_pair(const nb::tuple& i, const nb::tuple& j, const std::string& name,
                               const repsim::BlockRange& range) {
  const repsim::Filter filter = filter_of(name);
  return filter == repsim::Filter::bfloat16 ? search_pair_of<PairPanels>(i, j, filter, range)
                                            : search_pair_of<Panels>(i, j, filter, range);
}

// `symmetric`: both blocks lie in the same rows, so they are one block or have no row in common.
repsim::BlockRange block_range(const std::tuple<int64_t, int64_t, int64_t, int64_t>& range, bool symmetric) {
  constexpr int64_t most = int64_t{1} << 32;
  const auto [first_i, rows_i, first_j, rows_j] = range;
  expect(first_i >= 0 && first_j >= 0 && first_i % repsim::kTile == 0 && first_j % repsim::kTile == 0,
         "range: expected blocks that begin at a multiple of 192");
  expect(rows_i > 0 && rows_j > 0, "range: expected rows");
  expect(first_i <= most && rows_i <= most && first_j <= most && rows_j <= most && first_j + rows_j <= most,
         "range: expected at most 2^32 rows");
  expect(!symmetric ||
             (first_i == first_j ? rows_i == rows_j : first_i + rows_i <= first_j || first_j + rows_j <= first_i),
         "range: expected one block twice, or two without a common row");
  return {first_i, rows_i, first_j, rows_j};
}

int64_t column_sums(AnyRows x, const std::string& dtype, Vector<double> sums, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(sums.shape(0)) == rows.depth, "sums: expected one number per column");
  nb::gil_scoped_release release;
  return repsim::column_sums(rows, sums.data(), threads);
}

void squared_norms(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift, Vector<double> norms,
                   int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(norms.shape(0)) == rows.rows, "norms: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  nb::gil_scoped_release release;
  repsim::squared_norms(rows, shift ? shift->data() : nullptr, norms.data(), threads);
}

void project_rows(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift,
                  Vector<const double> vector, Vector<double> products, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(products.shape(0)) == rows.rows, "products: expected one number per row");
  expect(static_cast<int64_t>(vector.shape(0)) == rows.depth, "vector: expected one number per column");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  nb::gil_scoped_release release;
  repsim::project_rows(rows, shift ? shift->data() : nullptr, vector.data(), products.data(), threads);
}

void pack_rows(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift,
               Vector<const double> scale, std::optional<Vector<const double>> offset, Panels panels,
               Vector<float> halves, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(scale.shape(0)) == rows.rows, "scale: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  expect(!offset || static_cast<int64_t>(offset->shape(0)) == rows.depth, "offset: expected one number per column");
  expect(static_cast<int64_t>(panels.shape(0)) == panel_count(rows.rows) &&
             static_cast<int64_t>(panels.shape(1)) == rows.depth && panels.shape(2) == repsim::kPanel,
         "panels: expected [12 ceil(rows / 192), depth, 16]");
  check_aligned(panels);
  expect(static_cast<int64_t>(halves.shape(0)) == rows.rows, "halves: expected one number per row");
  nb::gil_scoped_release release;
  repsim::pack_rows(rows, shift ? shift->data() : nullptr, scale.data(), offset ? offset->data() : nullptr,
                    panels.data(), halves.data(), threads);
}

void pack_pairs(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift,
                Vector<const double> scale, std::optional<Vector<const double>> offset, PairPanels panels,
                Vector<float> halves, Vector<float> residuals, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(scale.shape(0)) == rows.rows, "scale: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  expect(!offset || static_cast<int64_t>(offset->shape(0)) == rows.depth, "offset: expected one number per column");
  expect(static_cast<int64_t>(panels.shape(0)) == panel_count(rows.rows) &&
             static_cast<int64_t>(panels.shape(1)) == (rows.depth + 1) / 2 && panels.shape(2) == repsim::kPanel,
         "panels: expected [12 ceil(rows / 192), ceil(depth / 2), 16]");
  check_aligned(panels);
  expect(static_cast<int64_t>(halves.shape(0)) == rows.rows && residuals.shape(0) == halves.shape(0),
         "halves: expected one number per row, as residuals");
  nb::gil_scoped_release release;
  repsim::pack_pairs(rows, shift ? shift->data() : nullptr, scale.data(), offset ? offset->data() : nullptr,
                     panels.data(), halves.data(), residuals.data(), threads);
}

using Lifted = nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void check_lifted(const Lifted& panels, int64_t entries) {
  expect(static_cast<int64_t>(panels.shape(0)) == (entries + 47) / 48 * 3 && panels.shape(2) == repsim::kPanel,
         "panels: expected [3 ceil((depth + 2) / 48), room, 16]");
  expect(reinterpret_cast<uintptr_t>(panels.data()) % 64 == 0, "panels: expected memory aligned to 64 bytes");
}

std::pair<int64_t, double> lift_rows(AnyRows x, const std::string& dtype, Vector<const double> shift, int64_t first,
                                     Lifted panels, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(shift.shape(0)) == rows.depth, "shift: expected one number per column");
  check_lifted(panels, rows.depth + 2);
  const int64_t room = static_cast<int64_t>(panels.shape(1));
  expect(first >= 0 && rows.rows <= room - first, "panels: expected room for the rows");
  double largest = 0;
  nb::gil_scoped_release release;
  const int64_t bad = repsim::lift_rows(rows, shift.data(), first, panels.data(), room, &largest, threads);
  return {bad, largest};
}

void feature_products(const std::vector<std::tuple<Lifted, Lifted, Matrix<double>>>& matrices, int64_t rows,
                      int threads) {
  expect(!matrices.empty(), "pairs: expected at least one");
  const int64_t room = static_cast<int64_t>(std::get<0>(matrices[0]).shape(1));
  expect(rows > 0 && rows <= room, "rows: expected some of the rows of the panels");
  std::vector<repsim::LiftedPair> pairs;
  for (const auto& [left, right, products] : matrices) {
    const int64_t down = static_cast<int64_t>(products.shape(0)), across = static_cast<int64_t>(products.shape(1));
    check_lifted(left, down);
    check_lifted(right, across);
    expect(static_cast<int64_t>(left.shape(1)) == room && static_cast<int64_t>(right.shape(1)) == room,
           "panels: expected one room");
    pairs.push_back({left.data(), right.data(), down, across, products.data()});
  }
  nb::gil_scoped_release release;
  repsim::feature_products(pairs.data(), static_cast<int64_t>(pairs.size()), room, rows, threads);
}

// block i, block j, kernel, gain, coefficients
using FactorTuple = std::tuple<nb::tuple, nb::tuple, std::string, float, std::vector<float>>;
using MatrixTuples = repsim::MatrixTuples<FactorTuple>;

// Matrices as the operations take them, and the memory that they point to.
class Matrices {
 public:
  Matrices(const MatrixTuples& given, const repsim::BlockRange& range) {
    expect(!given.empty(), "matrices: expected at least one");
    for (const auto& terms : given) {
      expect(!terms.empty(), "matrices: expected every one with a term");
      for (const auto& term : terms) {
        expect(!std::get<0>(term).empty(), "terms: expected every one with a factor");
        for (const auto& factor : std::get<0>(term)) add(factor, range);
      }
    }
    repsim::nest(given, factors_, terms_, matrices_);
  }
  Matrices(const Matrices&) = delete;
  const repsim::KernelMatrix* data() const { return matrices_.data(); }
  int64_t count() const { return static_cast<int64_t>(matrices_.size()); }

 private:
  void add(const FactorTuple& factor, const repsim::BlockRange& range) {
    const auto& [i, j, name, gain, coefficients] = factor;
    const repsim::Kernel kernel = repsim::named("kernel", repsim::kKernels, name);
    expect((kernel == repsim::Kernel::polynomial) == !coefficients.empty(),
           "coefficients: expected some of a polynomial, and of nothing else");
    coefficients_.push_back(coefficients);  // moving the outer vector leaves the numbers where they are
    const std::vector<float>& kept = coefficients_.back();
    factors_.push_back({block_pair(i, j, range), kernel, gain, kept.data(), static_cast<int>(kept.size()) - 1});
  }

  std::vector<std::vector<float>> coefficients_;
  std::vector<repsim::Factor> factors_;
  std::vector<repsim::Term> terms_;
  std::vector<repsim::KernelMatrix> matrices_;
};

template <class T>
using Cube = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void check_sums(const Matrices& matrices, int64_t left, const repsim::BlockRange& range, int64_t n, int row_bits) {
  expect(left >= 0 && left <= matrices.count(), "left: expected some of the matrices");
  expect(range.first_i + range.rows_i <= n && range.first_j + range.rows_j <= n,
         "row_sums: expected every row of the blocks");
  expect(n <= repsim::kMaxSummedRows, "row_sums: expected at most 2^25 rows, whose sums fit their integers");
  expect(row_bits >= 0 && std::ldexp(static_cast<double>(n), row_bits) <= 0x1p62,
         "row_bits: expected n 2^row_bits of at most 2^62");
}

void kernel_sums(const MatrixTuples& given, int64_t left, const std::tuple<int64_t, int64_t, int64_t, int64_t>& where,
                 int row_bits, Matrix<int64_t> row_sums, Cube<int64_t> products, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  const Matrices matrices(given, range);
  const int64_t n = static_cast<int64_t>(row_sums.shape(1));
  check_sums(matrices, left, range, n, row_bits);
  expect(row_sums.shape(0) == given.size(), "row_sums: expected one row per matrix");
  expect(products.shape(0) == given.size() && products.shape(1) == given.size() && products.shape(2) == 2,
         "products: expected [matrices, matrices, 2]");
  nb::gil_scoped_release release;
  repsim::kernel_sums(matrices.data(), matrices.count(), left, range, n, row_bits, row_sums.data(), products.data(),
                      threads);
}

void kernel_row_terms(const MatrixTuples& given, int64_t left,
                      const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, int row_bits,
                      Matrix<const float> vectors, Cube<int64_t> pair_sums, Cube<int64_t> vector_sums, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  const Matrices matrices(given, range);
  const int64_t n = static_cast<int64_t>(vectors.shape(1));
  check_sums(matrices, left, range, n, row_bits);
  expect(vectors.shape(0) == given.size(), "vectors: expected one per matrix");
  for (const auto& sums : {pair_sums, vector_sums})
    expect(sums.shape(0) == given.size() && sums.shape(1) == given.size() && sums.shape(2) == vectors.shape(1),
           "sums: expected [matrices, matrices, n]");
  nb::gil_scoped_release release;
  repsim::kernel_row_terms(matrices.data(), matrices.count(), left, range, n, row_bits, vectors.data(),
                           pair_sums.data(), vector_sums.data(), threads);
}

int64_t distance_histogram(const nb::tuple& block_i, const nb::tuple& block_j, const std::string& distance,
                           const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, int dropped, uint32_t first,
                           Vector<int64_t> bins, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  const repsim::BlockPair pair = block_pair(block_i, block_j, range);
  const repsim::Distance kind = repsim::named("distance", repsim::kDistances, distance);
  expect(dropped >= 0 && dropped <= 23, "dropped: expected 0 to 23 bits");  // infinity then has a bin of its own
  expect(first < 0x7f800000u >> dropped, "first: expected a bin of finite distances");
  expect(bins.shape(0) > 0 && bins.shape(0) <= size_t{1} << 31, "bins: expected 1 to 2^31");
  nb::gil_scoped_release release;
  return repsim::distance_histogram(pair, kind, range, dropped, first, bins.data(), static_cast<int64_t>(bins.shape(0)),
                                    threads);
}

repsim::Points points_of(const Matrix<const double>& i, const Matrix<const double>& j, bool root) {
  expect(i.shape(1) == j.shape(1) && i.shape(1) > 0 && i.shape(0) > 0 && j.shape(0) > 0,
         "rows: expected some, of one depth");
  return {i.data(), j.data(), static_cast<int64_t>(i.shape(1)), root};
}

void distances(Matrix<const double> rows_i, Matrix<const double> rows_j, bool root, Matrix<double> found, int threads) {
  const repsim::Points points = points_of(rows_i, rows_j, root);
  expect(found.shape(0) == rows_i.shape(0) && found.shape(1) == rows_j.shape(0),
         "distances: expected one for every pair of rows");
  nb::gil_scoped_release release;
  repsim::distances(points, static_cast<int64_t>(rows_i.shape(0)), static_cast<int64_t>(rows_j.shape(0)), found.data(),
                    threads);
}

// (rows of block i, rows of block j, whether D is the root), as they lie in a range.
using PointTuple = std::tuple<Matrix<const double>, Matrix<const double>, bool>;

repsim::Points points_of(const PointTuple& given, const repsim::BlockRange& range) {
  const auto& [i, j, root] = given;
  expect(static_cast<int64_t>(i.shape(0)) == range.rows_i && static_cast<int64_t>(j.shape(0)) == range.rows_j,
         "rows: expected those of the range");
  return points_of(i, j, root);
}

const int32_t* lines_of(const Vector<const int32_t>& lines) {
  expect(static_cast<int64_t>(lines.shape(0)) == repsim::kPages, "lines: expected one for every page");
  return lines.data();
}

template <class T>
T* table_of(const Matrix<T>& table) {
  expect(table.shape(0) > 0 && table.shape(1) == size_t{1} << repsim::kPageBits, "table: expected pages of 1024");
  return table.data();
}

// As one whole number of Python's.
nb::int_ whole(const repsim::WideSum& sum) {
  return nb::int_((nb::int_(sum.high) << nb::int_(64)) | nb::int_(sum.low));
}

void distance_pages(const PointTuple& points, const std::tuple<int64_t, int64_t, int64_t, int64_t>& where,
                    Vector<uint8_t> seen, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  const repsim::Points side = points_of(points, range);
  expect(static_cast<int64_t>(seen.shape(0)) == repsim::kPages, "seen: expected one byte for every page");
  nb::gil_scoped_release release;
  repsim::distance_pages(side, range, seen.data(), threads);
}

void distance_counts(const PointTuple& points, const std::tuple<int64_t, int64_t, int64_t, int64_t>& where,
                     Vector<const int32_t> lines, Matrix<int64_t> counts, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  const repsim::Points side = points_of(points, range);
  const int32_t* pages = lines_of(lines);
  int64_t* table = table_of(counts);
  nb::gil_scoped_release release;
  repsim::distance_counts(side, range, pages, table, threads);
}

nb::int_ counts_to_ranks(Matrix<int64_t> counts) {
  int64_t* table = table_of(counts);
  repsim::WideSum squares;
  {
    nb::gil_scoped_release release;
    squares = repsim::counts_to_ranks(table, static_cast<int64_t>(counts.size()));
  }
  return whole(squares);
}

using RankTuple = std::tuple<Vector<const int32_t>, Matrix<const int64_t>>;

nb::int_ rank_products(const PointTuple& x, const RankTuple& x_ranks, const PointTuple& y, const RankTuple& y_ranks,
                       const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  const repsim::Points left = points_of(x, range), right = points_of(y, range);
  const repsim::RankTable of_left{lines_of(std::get<0>(x_ranks)), table_of(std::get<1>(x_ranks))};
  const repsim::RankTable of_right{lines_of(std::get<0>(y_ranks)), table_of(std::get<1>(y_ranks))};
  repsim::WideSum sum;
  {
    nb::gil_scoped_release release;
    sum = repsim::rank_products(left, of_left, right, of_right, range, threads);
  }
  return whole(sum);
}

repsim::Candidates candidates_of(const Matrix<uint64_t>& keys, const Vector<int32_t>& counts,
                                 const Vector<float>& thresholds, int64_t k) {
  expect(counts.shape(0) == keys.shape(0) && thresholds.shape(0) == keys.shape(0), "candidates: expected one length");
  expect(k >= 1 && static_cast<int64_t>(keys.shape(1)) > k, "candidates: expected room for more than k");
  return {keys.data(), counts.data(), thresholds.data(), static_cast<int64_t>(keys.shape(1))};
}

void nearest(const nb::tuple& block_i, const nb::tuple& block_j, const std::string& filter, const std::string& metric,
             const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, bool symmetric, int64_t k,
             Matrix<uint64_t> keys, Vector<int32_t> counts, Vector<float> thresholds, int threads) {
  const repsim::BlockRange range = block_range(where, symmetric);
  const repsim::SearchPair pair = search_pair(block_i, block_j, filter, range);
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  const int64_t rows = static_cast<int64_t>(keys.shape(0));
  expect(range.first_i + range.rows_i <= rows && (!symmetric || range.first_j + range.rows_j <= rows),
         "candidates: expected every row of the blocks");
  const repsim::Metric kind = repsim::named("metric", repsim::kMetrics, metric);
  expect(kind != repsim::Metric::cosine,
         "metric: expected inner_product or euclidean; cosines are distances of unit rows");
  nb::gil_scoped_release release;
  repsim::nearest(pair, kind, range, symmetric, k, candidates, threads);
}

// x, its dtype, base, its dtype, metric, squared norms of both (cosine), own, k
using RankingArguments =
    std::tuple<AnyRows, std::string, AnyRows, std::string, std::string, std::optional<Vector<const double>>,
               std::optional<Vector<const double>>, Vector<const int64_t>, int64_t>;

repsim::Ranking ranking_of(const RankingArguments& arguments) {
  const auto& [x, x_dtype, base, base_dtype, metric, squared, base_squared, own, k] = arguments;
  const repsim::Source rows = source(x, x_dtype), others = source(base, base_dtype);
  const repsim::Metric kind = repsim::named("metric", repsim::kMetrics, metric);
  expect(rows.depth == others.depth, "base: expected the depth of x");
  expect(
      kind != repsim::Metric::cosine || (squared && static_cast<int64_t>(squared->shape(0)) == rows.rows &&
                                         base_squared && static_cast<int64_t>(base_squared->shape(0)) == others.rows),
      "squared_norms: expected one number per row for the cosine metric");
  expect(static_cast<int64_t>(own.shape(0)) == rows.rows, "own: expected one row of the base per row, or -1");
  bool leaves_out = false;
  for (size_t i = 0; i < own.shape(0); ++i) {
    expect(own(i) >= -1 && own(i) < others.rows, "own: expected rows of the base, or -1");
    leaves_out |= own(i) >= 0;
  }
  expect(k >= 1 && k <= others.rows - leaves_out, "k: expected at most the rows there are");
  return {rows,       others, kind, squared ? squared->data() : nullptr, base_squared ? base_squared->data() : nullptr,
          own.data(), k};
}

// filter, halves, residuals, unit, ratio, floor, longest, coarsest, heavy, kept
using CertificateArguments = std::tuple<std::string, Vector<const float>, Vector<const float>, double, double, double,
                                        double, double, Vector<const int64_t>, int64_t>;

repsim::Certificate certificate_of(const CertificateArguments& arguments, const repsim::Ranking& ranking) {
  const auto& [filter, halves, residuals, unit, ratio, floor, longest, coarsest, heavy, kept] = arguments;
  expect(static_cast<int64_t>(halves.shape(0)) == ranking.x.rows && residuals.shape(0) == halves.shape(0),
         "certificate: expected one half and one residual per row");
  for (size_t i = 0; i < heavy.shape(0); ++i)
    expect(heavy(i) >= 0 && heavy(i) < ranking.base.rows, "heavy: expected rows of the base");
  return {filter_of(filter),
          halves.data(),
          residuals.data(),
          unit,
          ratio,
          floor,
          longest,
          coarsest,
          heavy.data(),
          static_cast<int64_t>(heavy.shape(0)),
          kept};
}

void check_lists(const repsim::Ranking& ranking, const Matrix<int64_t>& indices, const Matrix<double>& scores) {
  expect(static_cast<int64_t>(indices.shape(0)) == ranking.x.rows && scores.shape(0) == indices.shape(0) &&
             static_cast<int64_t>(indices.shape(1)) == ranking.k && scores.shape(1) == indices.shape(1),
         "neighbours: expected [rows, k]");
}

int64_t rank_neighbours(const RankingArguments& ranked, Matrix<uint64_t> keys, Vector<int32_t> counts,
                        Vector<float> thresholds, const CertificateArguments& certificate, Matrix<int64_t> indices,
                        Matrix<double> scores, Vector<uint8_t> open, int threads) {
  const repsim::Ranking ranking = ranking_of(ranked);
  const repsim::Certificate known = certificate_of(certificate, ranking);
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, ranking.k);
  expect(static_cast<int64_t>(keys.shape(0)) == ranking.x.rows && open.shape(0) == keys.shape(0),
         "candidates: expected one row for every row of x");
  check_lists(ranking, indices, scores);
  expect(known.kept >= ranking.k && 2 * known.kept <= candidates.capacity,
         "kept: expected at least k, and at most half of the candidates' room");
  for (size_t i = 0; i < counts.shape(0); ++i)
    expect(counts(i) >= ranking.k && counts(i) <= candidates.capacity, "candidates: expected at least k in every row");
  nb::gil_scoped_release release;
  return repsim::rank_neighbours(ranking, candidates, known, indices.data(), scores.data(), open.data(), threads);
}

void settle_neighbours(const nb::tuple& block_i, const nb::tuple& block_j, const std::string& filter,
                       const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, const RankingArguments& ranked,
                       const CertificateArguments& certificate, Matrix<int64_t> indices, Matrix<double> scores,
                       int threads) {
  const repsim::BlockRange range = block_range(where, false);
  const repsim::SearchPair pair = search_pair(block_i, block_j, filter, range);
  const repsim::Ranking ranking = ranking_of(ranked);
  const repsim::Certificate known = certificate_of(certificate, ranking);
  expect(pair.filter == known.filter, "filter: expected that of the certificate");
  check_lists(ranking, indices, scores);
  expect(range.first_i == 0 && range.rows_i == ranking.x.rows && range.first_j + range.rows_j <= ranking.base.rows,
         "range: expected every row of x against rows of the base");
  nb::gil_scoped_release release;
  repsim::settle_neighbours(pair, range, ranking, known, indices.data(), scores.data(), threads);
}

template <class T>
using Given = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using GivenVector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void expect_inputs(const int64_t* named, size_t count, int64_t n, const char* message) {
  bool inside = true;
  for (size_t at = 0; at < count; ++at) inside &= named[at] >= 0 && named[at] < n;
  expect(inside, message);
}

repsim::Lists lists_of(const Given<int64_t>& lists) {
  return {lists.data(), nullptr, static_cast<int64_t>(lists.shape(0)), static_cast<int64_t>(lists.shape(1))};
}

// Lists of inputs below n, of whom there are at most 2^31 - 1 to a list.
repsim::Lists checked_lists(const Given<int64_t>& lists) {
  const repsim::Lists all = lists_of(lists);
  expect(all.k >= 1 && all.k < int64_t{1} << 31, "lists: expected at least one input in a list");
  expect_inputs(lists.data(), lists.size(), all.n, "lists: expected inputs from 0 to n - 1");
  return all;
}

using Names = std::optional<Given<int64_t>>;

int64_t relabellings_of(const Names& names, int64_t n, size_t results) {
  const int64_t count = names ? static_cast<int64_t>(names->shape(0)) : 1;
  expect(!names || static_cast<int64_t>(names->shape(1)) == n, "names: expected one for every input");
  expect(static_cast<int64_t>(results) == count, "sums: expected one number per relabelling");
  if (names) expect_inputs(names->data(), names->size(), n, "names: expected inputs from 0 to n - 1");
  return count;
}

int64_t first_bad_list(Given<int64_t> lists, int64_t base_rows, bool excludes_self, int threads) {
  const repsim::Lists all = lists_of(lists);
  expect(all.k >= 1 && all.k < int64_t{1} << 31, "lists: expected at least one input in a list");
  nb::gil_scoped_release release;
  return repsim::first_bad_list(all, base_rows, excludes_self, threads);
}

void transpose_lists(Given<int64_t> lists, Vector<int64_t> offsets, Vector<int64_t> sources) {
  const repsim::Lists all = checked_lists(lists);
  expect(static_cast<int64_t>(offsets.shape(0)) == all.n + 1, "offsets: expected n + 1 numbers");
  expect(sources.shape(0) == lists.size(), "sources: expected one number per edge");
  nb::gil_scoped_release release;
  repsim::transpose_lists(all, offsets.data(), sources.data());
}

void list_statistics(GivenVector<int64_t> a, std::optional<GivenVector<int64_t>> offsets, Given<int64_t> b,
                     const std::string& statistic, Names names, Vector<double> sums,
                     std::optional<Vector<double>> terms, int threads) {
  const repsim::ListStatistic kind = repsim::named("statistic", repsim::kListStatistics, statistic);
  const repsim::Lists right = checked_lists(b);
  const int64_t n = right.n;
  expect(offsets || a.size() == b.size(), "a: expected lists like those of b, or offsets");
  expect(!offsets || kind != repsim::ListStatistic::edit_distance, "offsets: expected none for edit_distance");
  expect(!offsets || static_cast<int64_t>(offsets->shape(0)) == n + 1, "offsets: expected n + 1 numbers");
  expect(!terms || static_cast<int64_t>(terms->shape(0)) == n, "terms: expected one number per input");
  expect_inputs(a.data(), a.size(), n, "lists: expected inputs from 0 to n - 1");
  if (offsets) {
    const int64_t* starts = offsets->data();
    bool ascend = starts[0] == 0 && starts[n] == static_cast<int64_t>(a.size());
    for (int64_t i = 0; i < n; ++i) ascend &= starts[i] <= starts[i + 1];
    expect(ascend, "offsets: expected them to ascend from 0 to the number of edges");
  }
  const int64_t relabellings = relabellings_of(names, n, sums.shape(0));
  const repsim::Lists left{a.data(), offsets ? offsets->data() : nullptr, n, right.k};
  nb::gil_scoped_release release;
  repsim::list_statistics(left, right, kind, names ? names->data() : nullptr, relabellings, sums.data(),
                          terms ? terms->data() : nullptr, threads);
}

void masked_hsic(Given<int64_t> a, Given<float> a_weights, Given<int64_t> b, Given<float> b_weights, Names names,
                 Vector<double> hsic, int threads) {
  const repsim::Lists left = checked_lists(a), right = checked_lists(b);
  expect(left.n == right.n && left.k == right.k, "lists: expected one shape");
  for (const auto& weights : {a_weights, b_weights})
    expect(weights.shape(0) == a.shape(0) && weights.shape(1) == a.shape(1), "weights: expected one per edge");
  const int64_t relabellings = relabellings_of(names, left.n, hsic.shape(0));
  nb::gil_scoped_release release;
  repsim::masked_hsic(left, a_weights.data(), right, b_weights.data(), names ? names->data() : nullptr, relabellings,
                      hsic.data(), threads);
}

void edge_cosines(AnyRows x, const std::string& dtype, GivenVector<double> lengths, Given<int64_t> lists,
                  Matrix<double> cosines, int threads) {
  const repsim::Source rows = source(x, dtype);
  const repsim::Lists all = checked_lists(lists);
  expect(rows.rows == all.n && static_cast<int64_t>(lengths.shape(0)) == all.n, "x: expected one row per list");
  expect(cosines.shape(0) == lists.shape(0) && cosines.shape(1) == lists.shape(1), "cosines: expected one per edge");
  nb::gil_scoped_release release;
  repsim::edge_cosines(rows, lengths.data(), all, cosines.data(), threads);
}

using Listed = std::tuple<AnyRows, std::string, GivenVector<double>, Given<int64_t>, Given<double>>;

repsim::ListedRows listed_rows(const Listed& side) {
  const auto& [x, dtype, lengths, lists, cosines] = side;
  const repsim::ListedRows all{source(x, dtype), lengths.data(), checked_lists(lists), cosines.data()};
  expect(all.rows.rows == all.lists.n && static_cast<int64_t>(lengths.shape(0)) == all.lists.n,
         "x: expected one row per list");
  expect(cosines.shape(0) == lists.shape(0) && cosines.shape(1) == lists.shape(1), "cosines: expected one per edge");
  return all;
}

int64_t second_order_cosines(const Listed& a, const Listed& b, Names names, Vector<double> sums,
                             std::optional<Vector<double>> terms, int threads) {
  const repsim::ListedRows left = listed_rows(a), right = listed_rows(b);
  expect(left.lists.n == right.lists.n && left.lists.k == right.lists.k, "lists: expected one shape");
  expect(!terms || static_cast<int64_t>(terms->shape(0)) == left.lists.n, "terms: expected one number per input");
  const int64_t relabellings = relabellings_of(names, left.lists.n, sums.shape(0));
  nb::gil_scoped_release release;
  return repsim::second_order_cosines(left, right, names ? names->data() : nullptr, relabellings, sums.data(),
                                      terms ? terms->data() : nullptr, threads);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "The native operations of repsim. csrc/ops.h states each one.";
  m.attr("TILE") = repsim::kTile;
  m.attr("PANEL") = repsim::kPanel;
  m.attr("PRODUCT_BITS") = repsim::kProductBits;
  m.def("instruction_set", &repsim::instruction_set);
  m.def("column_sums", &column_sums, "x"_a, "dtype"_a, "sums"_a.noconvert(), "threads"_a);
  m.def("squared_norms", &squared_norms, "x"_a, "dtype"_a, "shift"_a.noconvert().none(), "norms"_a.noconvert(),
        "threads"_a);
  m.def("project_rows", &project_rows, "x"_a, "dtype"_a, "shift"_a.noconvert().none(), "vector"_a.noconvert(),
        "products"_a.noconvert(), "threads"_a);
  m.def("pack_rows", &pack_rows, "x"_a, "dtype"_a, "shift"_a.noconvert().none(), "scale"_a.noconvert(),
        "offset"_a.noconvert().none(), "panels"_a.noconvert(), "halves"_a.noconvert(), "threads"_a);
  m.attr("SUMMED_ROWS") = repsim::kSummedRows;
  m.def("lift_rows", &lift_rows, "x"_a, "dtype"_a, "shift"_a.noconvert(), "first"_a, "panels"_a.noconvert(),
        "threads"_a);
  m.def("feature_products", &feature_products, "pairs"_a.noconvert(), "rows"_a, "threads"_a);
  m.def("kernel_sums", &kernel_sums, "matrices"_a, "left"_a, "range"_a, "row_bits"_a, "row_sums"_a.noconvert(),
        "products"_a.noconvert(), "threads"_a);
  m.def("kernel_row_terms", &kernel_row_terms, "matrices"_a, "left"_a, "range"_a, "row_bits"_a, "vectors"_a.noconvert(),
        "pair_sums"_a.noconvert(), "vector_sums"_a.noconvert(), "threads"_a);
  m.def("distance_histogram", &distance_histogram, "block_i"_a, "block_j"_a, "distance"_a, "range"_a, "dropped"_a,
        "first"_a, "bins"_a.noconvert(), "threads"_a);
  m.attr("PAGES") = repsim::kPages;
  m.attr("PAGE") = int64_t{1} << repsim::kPageBits;
  m.def("distances", &distances, "rows_i"_a.noconvert(), "rows_j"_a.noconvert(), "root"_a, "distances"_a.noconvert(),
        "threads"_a);
  m.def("distance_pages", &distance_pages, "points"_a.noconvert(), "range"_a, "seen"_a.noconvert(), "threads"_a);
  m.def("distance_counts", &distance_counts, "points"_a.noconvert(), "range"_a, "lines"_a.noconvert(),
        "counts"_a.noconvert(), "threads"_a);
  m.def("counts_to_ranks", &counts_to_ranks, "counts"_a.noconvert());
  m.def("rank_products", &rank_products, "x"_a.noconvert(), "x_ranks"_a.noconvert(), "y"_a.noconvert(),
        "y_ranks"_a.noconvert(), "range"_a, "threads"_a);
  m.def("multiplies_bfloat16", &repsim::multiplies_bfloat16);
  m.def("pack_pairs", &pack_pairs, "x"_a, "dtype"_a, "shift"_a.noconvert().none(), "scale"_a.noconvert(),
        "offset"_a.noconvert().none(), "panels"_a.noconvert(), "halves"_a.noconvert(), "residuals"_a.noconvert(),
        "threads"_a);
  m.def("nearest", &nearest, "block_i"_a, "block_j"_a, "filter"_a, "metric"_a, "range"_a, "symmetric"_a, "k"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "threads"_a);
  m.def("rank_neighbours", &rank_neighbours, "ranking"_a, "keys"_a.noconvert(), "counts"_a.noconvert(),
        "thresholds"_a.noconvert(), "certificate"_a, "indices"_a.noconvert(), "scores"_a.noconvert(),
        "open"_a.noconvert(), "threads"_a);
  m.def("settle_neighbours", &settle_neighbours, "block_i"_a, "block_j"_a, "filter"_a, "range"_a, "ranking"_a,
        "certificate"_a, "indices"_a.noconvert(), "scores"_a.noconvert(), "threads"_a);

  m.def("first_bad_list", &first_bad_list, "lists"_a.noconvert(), "base_rows"_a, "excludes_self"_a, "threads"_a);
  m.def("transpose_lists", &transpose_lists, "lists"_a.noconvert(), "offsets"_a.noconvert(), "sources"_a.noconvert());
  m.def("list_statistics", &list_statistics, "a"_a.noconvert(), "offsets"_a.noconvert().none(), "b"_a.noconvert(),
        "statistic"_a, "names"_a.noconvert().none(), "sums"_a.noconvert(), "terms"_a.noconvert().none(), "threads"_a);
  m.def("masked_hsic", &masked_hsic, "a"_a.noconvert(), "a_weights"_a.noconvert(), "b"_a.noconvert(),
        "b_weights"_a.noconvert(), "names"_a.noconvert().none(), "hsic"_a.noconvert(), "threads"_a);
  m.def("edge_cosines", &edge_cosines, "x"_a, "dtype"_a, "lengths"_a.noconvert(), "lists"_a.noconvert(),
        "cosines"_a.noconvert(), "threads"_a);
  m.def("second_order_cosines", &second_order_cosines, "a"_a, "b"_a, "names"_a.noconvert().none(), "sums"_a.noconvert(),
        "terms"_a.noconvert().none(), "threads"_a);
}
