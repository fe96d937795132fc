// The only file that knows nanobind: check what the types cannot say, release the GIL, forward.
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

#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Panels = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
// bfloat16 rows arrive as their uint16 bits, with the dtype said beside them.
using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

[[noreturn]] void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }

void expect(bool holds, const char* message) {
  if (!holds) refuse(message);
}

repsim::DType dtype_of(const AnyRows& x, const std::string& name) {
  struct Known {
    const char* name;
    nb::dlpack::dtype type;
    repsim::DType dtype;
  };
  static const Known known[] = {{"float16", {2, 16, 1}, repsim::DType::float16},
                                {"bfloat16", {1, 16, 1}, repsim::DType::bfloat16},
                                {"float32", {2, 32, 1}, repsim::DType::float32},
                                {"float64", {2, 64, 1}, repsim::DType::float64}};
  for (const Known& one : known)
    if (name == one.name) {
      expect(x.dtype() == one.type, "rows: expected memory of the dtype that is named, got another");
      return one.dtype;
    }
  refuse("dtype: expected float16, bfloat16, float32 or float64, got " + name);
}

repsim::Source source(const AnyRows& x, const std::string& dtype) {
  expect(x.shape(1) <= 1 || x.stride(1) == 1, "rows: expected features next to each other");
  return {x.data(), dtype_of(x, dtype), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
          x.stride(0)};
}

repsim::Metric metric_of(const std::string& name) {
  if (name == "cosine") return repsim::Metric::cosine;
  if (name == "inner_product") return repsim::Metric::inner_product;
  if (name == "euclidean") return repsim::Metric::euclidean;
  refuse("metric: expected cosine, inner_product or euclidean, got " + name);
}

int64_t panel_count(int64_t rows) {
  return (rows + repsim::kTile - 1) / repsim::kTile * (repsim::kTile / repsim::kPanel);
}

struct Block {
  Panels panels;
  Vector<float> halves;
  int64_t depth() const { return static_cast<int64_t>(panels.shape(1)); }
};

// Whole vectors are loaded and stored.
void check_aligned(const Panels& panels) {
  expect(reinterpret_cast<std::uintptr_t>(panels.data()) % 64 == 0, "panels: expected memory aligned to 64 bytes");
}

// The memory belongs to the caller's tuple: a conversion would make a copy that ends with the Block.
Block block_of(const nb::tuple& arrays, int64_t rows, const char* message) {
  Block block;
  expect(nb::len(arrays) == 2 && nb::try_cast(arrays[0], block.panels, false) &&
             nb::try_cast(arrays[1], block.halves, false),
         message);
  expect(static_cast<int64_t>(block.panels.shape(0)) == panel_count(rows) && block.panels.shape(1) > 0 &&
             block.panels.shape(2) == repsim::kPanel && static_cast<int64_t>(block.halves.shape(0)) == rows,
         message);
  check_aligned(block.panels);
  return block;
}

repsim::BlockPair block_pair(const nb::tuple& i, const nb::tuple& j, const repsim::BlockRange& range) {
  const Block left = block_of(i, range.rows_i, "block i: expected float32 panels and halves of its rows");
  const Block right = block_of(j, range.rows_j, "block j: expected float32 panels and halves of its rows");
  expect(left.depth() == right.depth(), "blocks: expected one depth");
  return {left.panels.data(), right.panels.data(), left.halves.data(), right.halves.data(), left.depth()};
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

repsim::Kernel kernel_of(const std::string& name) {
  if (name == "linear") return repsim::Kernel::linear;
  if (name == "polynomial") return repsim::Kernel::polynomial;
  if (name == "rbf") return repsim::Kernel::rbf;
  if (name == "laplacian_l2") return repsim::Kernel::laplacian_l2;
  if (name == "laplacian_l1") return repsim::Kernel::laplacian_l1;
  refuse("kernel: expected linear, polynomial, rbf, laplacian_l2 or laplacian_l1, got " + name);
}

// (block i, block j, kernel, gain, coefficients); (factors, shift, weight); terms.
using FactorTuple = std::tuple<nb::tuple, nb::tuple, std::string, float, std::vector<float>>;
using TermTuple = std::tuple<std::vector<FactorTuple>, float, float>;
using MatrixTuples = std::vector<std::vector<TermTuple>>;

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
    size_t next = 0;
    for (const auto& terms : given)
      for (const auto& [factors, shift, weight] : terms) {
        terms_.push_back({factors_.data() + next, static_cast<int64_t>(factors.size()), shift, weight});
        next += factors.size();
      }
    next = 0;
    for (const auto& terms : given) {
      matrices_.push_back({terms_.data() + next, static_cast<int64_t>(terms.size())});
      next += terms.size();
    }
  }
  Matrices(const Matrices&) = delete;
  const repsim::KernelMatrix* data() const { return matrices_.data(); }
  int64_t count() const { return static_cast<int64_t>(matrices_.size()); }

 private:
  void add(const FactorTuple& factor, const repsim::BlockRange& range) {
    const auto& [i, j, name, gain, coefficients] = factor;
    const repsim::Kernel kernel = kernel_of(name);
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
  expect(distance == "euclidean" || distance == "manhattan", "distance: expected euclidean or manhattan");
  const bool manhattan = distance == "manhattan";
  expect(dropped >= 0 && dropped < 32, "dropped: expected 0 to 31 bits");
  expect(bins.shape(0) > 0 && bins.shape(0) <= size_t{1} << 31, "bins: expected 1 to 2^31");
  nb::gil_scoped_release release;
  return repsim::distance_histogram(pair, manhattan ? repsim::Distance::manhattan : repsim::Distance::euclidean, range,
                                    dropped, first, bins.data(), static_cast<int64_t>(bins.shape(0)), threads);
}

repsim::Candidates candidates_of(const Matrix<uint64_t>& keys, const Vector<int32_t>& counts,
                                 const Vector<float>& thresholds, int64_t k) {
  expect(counts.shape(0) == keys.shape(0) && thresholds.shape(0) == keys.shape(0), "candidates: expected one length");
  expect(k >= 1 && static_cast<int64_t>(keys.shape(1)) > k, "candidates: expected room for more than k");
  return {keys.data(), counts.data(), thresholds.data(), static_cast<int64_t>(keys.shape(1))};
}

void nearest(const nb::tuple& block_i, const nb::tuple& block_j, const std::string& metric,
             const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, bool symmetric, int64_t k,
             Matrix<uint64_t> keys, Vector<int32_t> counts, Vector<float> thresholds, int threads) {
  const repsim::BlockRange range = block_range(where, symmetric);
  const repsim::BlockPair pair = block_pair(block_i, block_j, range);
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  const int64_t rows = static_cast<int64_t>(keys.shape(0));
  expect(range.first_i + range.rows_i <= rows && (!symmetric || range.first_j + range.rows_j <= rows),
         "candidates: expected every row of the blocks");
  const repsim::Metric kind = metric_of(metric);
  expect(kind != repsim::Metric::cosine,
         "metric: expected inner_product or euclidean; cosines are distances of unit rows");
  nb::gil_scoped_release release;
  repsim::nearest(pair, kind, range, symmetric, k, candidates, threads);
}

int64_t rank_neighbours(AnyRows x, const std::string& x_dtype, AnyRows base, const std::string& base_dtype,
                        const std::string& metric, Matrix<uint64_t> keys, Vector<int32_t> counts,
                        Vector<float> thresholds, Vector<float> halves, double unit, double longest,
                        Vector<int64_t> heavy, int64_t kept, int64_t first, Matrix<int64_t> indices,
                        Matrix<float> scores, int threads) {
  const repsim::Source rows = source(x, x_dtype), others = source(base, base_dtype);
  const int64_t k = static_cast<int64_t>(indices.shape(1));
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  expect(rows.depth == others.depth, "base: expected the depth of x");
  expect(static_cast<int64_t>(keys.shape(0)) == rows.rows && halves.shape(0) == keys.shape(0) &&
             indices.shape(0) == keys.shape(0) && scores.shape(0) == keys.shape(0) &&
             scores.shape(1) == indices.shape(1),
         "neighbours: expected [rows, k]");
  expect(first >= -1 && (first == -1 || first + rows.rows <= others.rows),
         "first: expected where x lies in the base, or -1");
  expect(kept >= k && kept < candidates.capacity, "kept: expected at least k, and less than the candidates' room");
  expect(k <= others.rows - (first >= 0), "indices: expected k of at most the rows there are");
  for (size_t i = 0; i < counts.shape(0); ++i)
    expect(counts(i) >= k && counts(i) <= candidates.capacity, "candidates: expected at least k in every row");
  for (size_t i = 0; i < heavy.shape(0); ++i)
    expect(heavy(i) >= 0 && heavy(i) < others.rows, "heavy: expected rows of the base");
  const repsim::Certificate certificate{
      halves.data(), unit, longest, heavy.data(), static_cast<int64_t>(heavy.shape(0)), kept};
  const repsim::Metric kind = metric_of(metric);
  nb::gil_scoped_release release;
  return repsim::rank_neighbours(rows, others, kind, k, candidates, certificate, first, indices.data(), scores.data(),
                                 threads);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "The native operations of repsim. csrc/ops.h states each one.";
  m.attr("TILE") = repsim::kTile;
  m.attr("PANEL") = repsim::kPanel;
  m.attr("PRODUCT_BITS") = repsim::kProductBits;
  m.def("instruction_set", &repsim::instruction_set);
  m.def("cuda_available", &repsim::cuda::available);
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
  m.def("nearest", &nearest, "block_i"_a, "block_j"_a, "metric"_a, "range"_a, "symmetric"_a, "k"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "threads"_a);
  m.def("rank_neighbours", &rank_neighbours, "x"_a, "x_dtype"_a, "base"_a, "base_dtype"_a, "metric"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "halves"_a.noconvert(), "unit"_a,
        "longest"_a, "heavy"_a.noconvert(), "kept"_a, "first"_a, "indices"_a.noconvert(), "scores"_a.noconvert(),
        "threads"_a);

  // Without CUDA these two say so, whatever they are given; cuda/ brings their typed arguments with it.
  m.def("cuda_kernel_sums", [](const nb::args&) {
    repsim::cuda::kernel_sums(nullptr, 0, 0, repsim::BlockRange{}, 0, 0, nullptr, nullptr, nullptr);
  });
  m.def("cuda_nearest", [](const nb::args&) {
    repsim::cuda::nearest(repsim::BlockPair{}, repsim::Metric::cosine, repsim::BlockRange{}, false, 0,
                          repsim::Candidates{}, nullptr);
  });
}
